//! Why a bridge can't take events.

use std::io;
use std::path::PathBuf;

use crate::delivery::DeliveryError;
use crate::journal;

/// Why a bridge can't take events.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process holds the journal.
    #[error("another process has held the journal {0} for 30 s: one bridge per data_dir")]
    Locked(PathBuf),
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::JournalOpenError),
    /// `listeners.json` can't be written.
    #[error("{path}: {error}")]
    Publish {
        /// The folder that the file belongs in.
        path: String,
        /// The operating system's error.
        error: io::Error,
    },
    /// A sink can't be started.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// Opening the journal panicked. The log says where.
    #[error("a panic, see the log")]
    Panicked,
}
