//! Locks a folder for one sink. Two sinks would take each other's incomplete lines for torn writes, and cut them off.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use super::files::{Identity, identity};

/// Held while a sink may write to its folder. The system releases it when the process ends, however it ends.
///
/// The lock is on the folder itself, so there is no lock file that somebody could remove. Readers need no lock.
pub(super) struct FolderLock {
    _dir: File,
    identity: Identity,
}

impl FolderLock {
    /// Tries to lock the folder once. Returns `None` if another process or sink holds the lock.
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
