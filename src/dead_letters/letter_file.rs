//! One file of dead letters, and the place of each letter in it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{FILE_HEADER, Seed};
use super::{DeadLetterError, LetterId};
use crate::clock::Timestamp;
use crate::journal::Offset;
use crate::ownership::explain;
use crate::sinks::Reason;
use crate::storage::{Disk, DiskFile};

/// A letter's index entry of 48 bytes, so that a full store of small letters takes less than 100 MB of memory.
pub(super) struct LetterSlot {
    pub(super) id: LetterId,
    pub(super) offset: Offset,
    pub(super) received: Timestamp,
    pub(super) at: u64,
    pub(super) length: u32,
    pub(super) topic: u32,
    pub(super) reason: Reason,
    pub(super) gone: bool,
}

impl LetterSlot {
    /// What identifies the event.
    pub(super) const fn place(&self) -> (Offset, Timestamp) {
        (self.offset, self.received)
    }
}

pub(super) struct LetterFile {
    pub(super) path: PathBuf,
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) seed: Seed,
    pub(super) size: u64,
    pub(super) slots: Vec<LetterSlot>,
    pub(super) live: usize,
    /// Bytes of the letters that are not gone.
    pub(super) live_bytes: u64,
    pub(super) damaged: u64,
    /// Whether all of it was synced by this process. What was found at the start may be in the page cache only: of a
    /// process that was killed before its sync, or whose sync failed.
    pub(super) proven: bool,
}

impl LetterFile {
    /// A file that was found at the start.
    pub(super) fn new(path: PathBuf, seed: Seed, size: u64) -> Self {
        Self { path, file: None, seed, size, slots: Vec::new(), live: 0, live_bytes: 0, damaged: 0, proven: false }
    }

    /// Makes the whole file durable. It is written again, because a sync does not write pages that count as clean.
    pub(super) fn prove(&mut self, disk: &dyn Disk) -> Result<(), DeadLetterError> {
        if !self.proven {
            let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
            self.with_file(disk, |file| {
                let read = file.read_at(&mut bytes, 0)?;
                file.write_at(&bytes[..read], 0)?;
                file.sync_data()
            })?;
            self.proven = true;
        }
        Ok(())
    }

    /// Opens the file for `work`. The handle is kept only for the file that takes letters.
    pub(super) fn with_file<T>(
        &self,
        disk: &dyn Disk,
        work: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
    ) -> Result<T, DeadLetterError> {
        let done = match &self.file {
            Some(file) => work(&**file),
            None => disk.open(&self.path, true).and_then(|file| work(&*file)),
        };
        done.map_err(at(&self.path))
    }

    /// Reads a letter's frame.
    pub(super) fn read_frame(&self, disk: &dyn Disk, slot: &LetterSlot) -> Result<Vec<u8>, DeadLetterError> {
        let mut frame = vec![0; slot.length as usize];
        let read = self.with_file(disk, |file| file.read_at(&mut frame, slot.at))?;
        if read < frame.len() {
            return Err(at(&self.path)(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(frame)
    }

    /// Bytes of letters that are gone.
    pub(super) fn dead_bytes(&self) -> u64 {
        self.size.saturating_sub(FILE_HEADER as u64 + self.live_bytes)
    }

    /// Counts a letter as gone. Its bytes stay in the file.
    pub(super) fn let_go(&mut self, at: usize, counts: &mut [BTreeMap<Reason, u64>]) {
        let slot = &mut self.slots[at];
        slot.gone = true;
        self.live -= 1;
        self.live_bytes -= u64::from(slot.length);
        if let Some(count) = counts[slot.topic as usize].get_mut(&slot.reason) {
            *count -= 1;
        }
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> DeadLetterError {
    let path = path.to_owned();
    move |error| DeadLetterError::Io { error: explain(&path, error), path }
}
