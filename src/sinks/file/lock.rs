//! A folder belongs to one sink: two would take each other's half-written line for a torn write and cut it off.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::files::{Identity, identity};

/// Held while a sink may write to its folder. The system frees it when the process ends, however it ends.
///
/// The lock is on the folder itself, so there is no lock file that somebody could remove. It does not keep anybody from
/// reading.
pub(super) struct FolderLock {
    _dir: File,
    identity: Identity,
}

impl FolderLock {
    /// Tries once. `None` if another process or sink holds it.
    pub(super) fn acquire(path: &Path) -> io::Result<Option<Self>> {
        let dir = File::open(path)?;
        match dir.try_lock() {
            Ok(()) => Ok(Some(Self { identity: identity(&dir.metadata()?), _dir: dir })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Whether the path still leads to the folder that is locked: somebody may have removed or replaced it.
    pub(super) fn is_on(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| identity(&found) == self.identity)
    }
}
