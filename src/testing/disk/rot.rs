//! What a disk does to bytes that were durable: it gives others, or none.

use std::ops::Range;
use std::path::Path;

use super::SimDisk;

/// A place of a file.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// Of the file.
    pub(super) id: usize,
    pub(crate) bytes: Range<usize>,
}

impl SimDisk {
    /// Where a file of this folder has these bytes durably.
    pub(crate) fn find(&self, dir: &Path, needle: &[u8]) -> Option<Spot> {
        let inner = self.lock();
        let here = inner.contents.now.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        here.map(|(_, id)| *id).find_map(|id| {
            let file = &inner.contents.files[id];
            let at = memchr::memmem::find(&file.now, needle)?;
            (file.pending.is_empty() && file.durable == file.now).then(|| Spot { id, bytes: at..at + needle.len() })
        })
    }

    /// Flips a bit of a byte of the file that the spot is in.
    pub(crate) fn flip(&self, spot: &Spot, at: usize) {
        let file = &mut self.lock().contents.files[spot.id];
        file.now[at] ^= 0x10;
        file.durable[at] ^= 0x10;
    }

    /// What is at a spot now.
    pub(crate) fn at(&self, spot: &Spot) -> Vec<u8> {
        self.lock().contents.files[spot.id].now[spot.bytes.clone()].to_vec()
    }
}
