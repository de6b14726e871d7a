//! The end of the last segment while it may be in the page cache only.

use std::io;
use std::path::PathBuf;

use crate::storage::Disk;

/// A tail that is whole, and may be in the page cache only.
#[derive(Clone, Debug)]
pub(super) struct UnprovenTail {
    pub(super) path: PathBuf,
    pub(super) from: u64,
    /// The segment's length and end, once it is sure.
    pub(super) to: u64,
    pub(super) end: u64,
}

impl UnprovenTail {
    /// What is in the page cache only, and may be there because a sync of it failed, is written anew: a sync of pages
    /// that count as clean would say nothing.
    pub(super) fn make_durable(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(&self.path, true)?;
        let mut bytes = vec![0; usize::try_from(self.to - self.from).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, self.from)?;
        if file.size()? > self.to {
            file.set_size(self.to)?;
        }
        file.write_at(&bytes[..read], self.from)?;
        file.sync_data()
    }
}
