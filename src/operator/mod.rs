//! What operators ask of a bridge beyond its status: which sinks it knows, dead letters, replays.
//!
//! - `requests`: what can be asked, and the shape of each answer.
//! - `execute`: carries requests out on an open journal. `replay`: publishes retained events again.
//! - `offline`: the journal of a bridge that does not run.
//!
//! A running bridge is asked by `POST /tools` on the listener for operators; the commands ask it that way. If no bridge
//! runs, they carry their requests out on the journal themselves, under its lock.

mod error;
mod execute;
mod offline;
mod replay;
mod requests;

pub use error::OperatorError;
pub use execute::Operator;
pub use offline::{OfflineError, OfflineJournal};
pub use requests::*;
