//! Why a bridge can't take events at all.

use std::io;
use std::path::PathBuf;

use crate::config::SinkName;
use crate::delivery::DeliveryError;
use crate::journal;
use crate::sinks::NotBuiltIn;

/// Why events can't be taken at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes the same journal.
    #[error("another process has held the journal {0} for 30 s: one bridge per data_dir")]
    Locked(PathBuf),
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::JournalOpenError),
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
    /// The journal can't write down a sink's name.
    #[error("the journal can't write its list of sinks: {0}")]
    Register(io::Error),
    /// A sink's type is not in this binary.
    #[error(transparent)]
    NotBuiltIn(#[from] NotBuiltIn),
    /// The journal gave no place to a sink that it was opened with.
    #[error("the journal has no place for sink {0}, or it is read already")]
    NoPlace(SinkName),
    /// Opening panicked; the log says where.
    #[error("a panic, see the log")]
    Panicked,
}
