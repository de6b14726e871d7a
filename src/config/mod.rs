//! The configuration as the program uses it: complete, validated, typed.
//!
//! [`load()`] merges what the operator wrote (built-in defaults, then the file, then `ALMA_BRIDGE__…` variables) and
//! turns it into a [`Config`], or lists everything that is wrong with it. No other module has to ask whether a value is
//! set.
//!
//! Each section has a file with its type and its reader, and so has each type of sink (`sinks`). They read their keys
//! through `settings`, which knows TOML and environment variables. The bridge watches every other file that they read,
//! such as secrets and certificates ([`Config::files`]). Imports run downwards only: `load` → `root` → sections →
//! `settings` → `secrets`, `names`.

mod admin;
mod changes;
mod filter;
mod folders;
mod generated;
mod ingress;
mod journal;
mod load;
mod log;
pub mod names;
mod privacy;
mod root;
mod secrets;
mod settings;
mod sinks;
mod sources;
mod template;
#[cfg(test)]
mod tests;

pub use admin::{Admin, ToolsFrom};
pub use changes::Changes;
pub use filter::{ActionFilter, Filter, parse_action};
pub use generated::{Renewed, fresh_secret, has_previous, renew_generated, revoke_previous};
pub use ingress::{Ingress, ServerTls};
pub use journal::{Journal, Storage};
pub use load::{Loaded, load, load_defaults, reload, salvage};
pub use log::{Log, LogFormat};
pub use names::{SinkName, SourceName};
pub use privacy::Privacy;
pub use root::{BuiltIn, Config};
pub use secrets::{Secret, SecretFrom};
pub use settings::{ConfigError, ConfigErrors, ENV_PREFIX, Effective};
// A glob, so that a new type of sink needs no line here.
pub(crate) use sinks::sink_types;
pub use sinks::*;
pub use sources::{MAX_SECRETS, NamedSecret, Source, built_in_sources};
pub use template::{TopicPart, TopicTemplate};
