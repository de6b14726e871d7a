//! What operators see of the running bridge: [`logs`] and [`metrics`]. Read by all, reads only the names of things.
//!
//! Personal data (patron ids, names, titles, bodies) reaches neither, at no level.

pub mod logs;
pub mod metrics;
mod process;
mod stderr;
mod strangers;

pub use metrics::Metrics;
pub use strangers::{LineKind, StrangersLines};
