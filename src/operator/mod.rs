//! What operators ask of a bridge beyond its status: its sinks, dead letters and replays.
//!
//! - `requests`: what can be asked, and the shape of each answer.
//! - `execute`: carries requests out on an open journal. `replay`: publishes retained events again.
//! - `offline`: the journal of a stopped bridge.
//!
//! The commands send requests to a running bridge with `POST /tools` on the listener for operators. If no bridge runs,
//! they carry out their requests on the journal themselves, under its lock.

mod error;
mod execute;
mod offline;
mod replay;
mod requests;

pub use error::OperatorError;
pub use execute::Operator;
pub use offline::{OfflineError, OfflineJournal};
pub use requests::*;
