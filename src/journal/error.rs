//! Why a journal can't be opened.

use std::io;
use std::path::{Path, PathBuf};

use super::format::VERSION;
use crate::ownership::explain;

/// Why the journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalOpenError {
    /// It was written by another version of the program. Nothing was touched.
    #[error(
        "the journal's format is unknown: {path} has {found:?}, expected version {VERSION}; \
         run the version of alma-bridge that wrote it, or move the folder away"
    )]
    UnknownFormat {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// The file system refuses.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
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
