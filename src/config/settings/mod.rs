//! What the operator wrote: TOML and environment variables, merged, and read key by key.
//!
//! A section asks its [`Table`] for each key once, with the default as it would be written in the file. The [`Walk`] notes
//! the value in effect and its origin, and everything that is wrong. From these notes come the errors about unknown keys,
//! `check --show`, and the test that the reference is complete.

mod environment;
mod error;
mod merge;
mod salvage;
mod table;
pub(super) mod values;
mod walk;

pub(super) use environment::judge as judge_variables;
pub use error::{ConfigError, ConfigErrors};
pub(super) use merge::{default_file, merge, named_in, read_file};
pub(super) use salvage::salvaged;
pub(super) use table::Table;
pub(super) use values::Expected;
pub(super) use walk::Walk;
pub use walk::{ENV_PREFIX, Effective};
