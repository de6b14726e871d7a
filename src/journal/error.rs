//! The error of opening a journal.

use std::io;
use std::path::{Path, PathBuf};

use super::format::VERSION;
use crate::ownership::explain;

/// Why the journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalOpenError {
    /// Another version of the program wrote it. Nothing was changed.
    #[error(
        "the journal's format is unknown: {path} has {found:?}, expected version {VERSION}; \
         run the version of alma-bridge that wrote it, or move the folder away"
    )]
    UnknownFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version that it names.
        found: String,
    },
    /// The file system returned an error.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl JournalOpenError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, source: explain(&path, source), path }
    }
}
