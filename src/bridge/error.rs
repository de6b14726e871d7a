//! Why a bridge can't take events at all.

use std::io;
use std::path::PathBuf;

use crate::delivery::DeliveryError;
use crate::journal;

/// Why events can't be taken at all.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process writes the same journal.
    #[error("another process has held the journal {0} for 30 s: one bridge per data_dir")]
    Locked(PathBuf),
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The addresses can't be written down for the commands.
    #[error("{path}: {error}")]
    Publish {
        /// The folder.
        path: String,
        /// The system's word.
        error: io::Error,
    },
    /// A sink can't be started.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// Opening panicked; the log says where.
    #[error("a panic, see the log")]
    Panicked,
}
