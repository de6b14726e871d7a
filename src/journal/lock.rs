//! One process writes a journal; the lock says which.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::disk::{RealDisk, create_dirs};
use super::open::{OpenError, check_format};

/// Held for as long as this process may write the journal; the system frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct JournalLock {
    _file: File,
}

impl JournalLock {
    /// Tries once. None: another process holds it; try again later.
    ///
    /// Makes the folder where it is missing. A journal of an unknown format is refused before anything is touched.
    pub fn acquire(dir: &Path) -> Result<Option<Self>, OpenError> {
        check_format(&RealDisk, dir)?;
        create_dirs(&RealDisk, dir).map_err(OpenError::io("create", dir))?;
        let path = dir.join("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(OpenError::io("lock", &path)(error)),
        }
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
    fn an_unknown_format_is_not_touched() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::write(temp.path().join("format"), "alma-bridge journal 2\n").expect("written");
        let error = JournalLock::acquire(temp.path()).expect_err("unknown");
        assert!(matches!(error, OpenError::UnknownFormat { .. }), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).expect("listed").count(), 1);
    }
}
