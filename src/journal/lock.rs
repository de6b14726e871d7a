//! One process writes a journal; the lock says which.
//!
//! Two locks make it sure: that of the file `lock`, which every version takes, and that of the folder, which is still
//! held if somebody deletes the file.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::error::JournalOpenError;
use super::open::check_format;
use crate::storage::{RealDisk, create_dirs, is_unreadable};

/// Held for as long as this process may write the journal; the system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct JournalLock {
    /// The file's and the folder's; a file that can't be opened, or a folder that can't be locked, is left out.
    _held: Vec<File>,
}

impl JournalLock {
    /// Tries once. None: another process holds it; try again later.
    ///
    /// Makes the folder where it is missing. A journal of an unknown format is refused before anything is touched.
    pub fn acquire(dir: &Path) -> Result<Option<Self>, JournalOpenError> {
        check_format(&RealDisk, dir)?;
        create_dirs(&RealDisk, dir).map_err(JournalOpenError::io("create", dir))?;
        let folder = File::open(dir).map_err(JournalOpenError::io("open", dir))?;
        let path = dir.join("lock");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = match opened {
            Err(error) if is_unreadable(&error) => {
                tracing::error!(%error, path = %path.display(), "the lock file can't be opened; only the folder is locked");
                None
            }
            file => Some(file.map_err(JournalOpenError::io("open", &path))?),
        };
        let mut held = Vec::new();
        for (file, path) in file.into_iter().map(|file| (file, &*path)).chain([(folder, dir)]) {
            match file.try_lock() {
                Ok(()) => held.push(file),
                Err(TryLockError::WouldBlock) => return Ok(None),
                // NFS locks only what is open for writing, which no folder is.
                Err(TryLockError::Error(error)) if path == dir && !held.is_empty() => {
                    tracing::debug!(%error, "the journal's folder can't be locked; its lock file is");
                }
                Err(TryLockError::Error(error)) => return Err(JournalOpenError::io("lock", path)(error)),
            }
        }
        Ok(Some(Self { _held: held }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_holds_it() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("data/journal");
        let lock = JournalLock::acquire(&dir).expect("a lock").expect("free");
        assert!(JournalLock::acquire(&dir).expect("tried").is_none());
        drop(lock);
        assert!(JournalLock::acquire(&dir).expect("tried").is_some());
    }

    #[test]
    fn without_the_file_the_folder_is_still_locked() {
        let temp = tempfile::tempdir().expect("a folder");
        let lock = JournalLock::acquire(temp.path()).expect("a lock").expect("free");
        std::fs::remove_file(temp.path().join("lock")).expect("removed");
        assert!(JournalLock::acquire(temp.path()).expect("tried").is_none());
        assert!(JournalLock::acquire(temp.path()).expect("tried").is_none(), "the file is there again");
        drop(lock);
        assert!(JournalLock::acquire(temp.path()).expect("tried").is_some());
    }

    #[test]
    fn an_unknown_format_is_not_touched() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::write(temp.path().join("format"), "alma-bridge journal 2\n").expect("written");
        let error = JournalLock::acquire(temp.path()).expect_err("unknown");
        assert!(matches!(error, JournalOpenError::UnknownFormat { .. }), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).expect("listed").count(), 1);
    }
}
