//! Where each file of the journal is.

use std::path::{Path, PathBuf};

use super::format::file_name;

/// The paths in the journal's folder.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) dir: PathBuf,
    pub(super) format: PathBuf,
    pub(super) sinks: PathBuf,
    pub(super) segments: PathBuf,
    pub(super) cursors: PathBuf,
    pub(super) digests: PathBuf,
    pub(super) damaged: PathBuf,
}

impl Paths {
    pub(super) fn new(dir: &Path) -> Self {
        let [format, sinks, segments, cursors, digests, damaged] =
            ["format", "sinks", "segments", "cursors", "digests", "damaged"].map(|name| dir.join(name));
        Self { dir: dir.to_owned(), format, sinks, segments, cursors, digests, damaged }
    }

    pub(super) fn segment(&self, first: u64) -> PathBuf {
        self.segments.join(file_name(first, ".log"))
    }
}
