//! `listeners.json` in `data_dir`: the addresses in effect. With it, commands find a bridge whose ports the operating
//! system chose.
//!
//! A second process on the same folder must not hide the first. Only the process that holds the journal writes the file,
//! and it removes only its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The addresses of the two listeners of a running bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// The listener for Alma.
    pub ingress: SocketAddr,
    /// The listener for operators.
    pub admin: SocketAddr,
}

impl Listeners {
    /// Reads the addresses of the bridge that runs with this `data_dir`.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let path = Self::path(data_dir);
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
    }

    /// Writes the file for [`Listeners::read`], atomically, so that a reader never sees half of it. If the process is
    /// killed, the file stays until the next start replaces it.
    pub(super) fn publish(self, data_dir: &Path) -> io::Result<Published> {
        let path = Self::path(data_dir);
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        // Some network file systems have no locks. There, only the journal's lock keeps a second process away.
        let _ = file.as_file().try_lock();
        let file = file.persist(&path)?;
        Ok(Published { path, file })
    }

    /// Whether a running process has published its addresses here.
    pub(super) fn are_published(data_dir: &Path) -> bool {
        let found = File::open(Self::path(data_dir));
        found.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("listeners.json")
    }
}

/// The published file. It stays locked while this process runs, and is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Published {
    path: PathBuf,
    file: File,
}

impl Drop for Published {
    fn drop(&mut self) {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(identity).ok();
        if own.is_some() && own == fs::metadata(&self.path).map(identity).ok() {
            // If this fails, the next start replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_there_while_the_bridge_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let here = Listeners { ingress: ([127, 0, 0, 1], 4_000).into(), admin: ([127, 0, 0, 1], 4_001).into() };
        assert!(!Listeners::are_published(folder));
        let published = here.publish(folder).expect("written");
        assert_eq!(Listeners::read(folder).expect("read"), here);
        assert!(Listeners::are_published(folder));
        drop(published);
        assert_eq!(Listeners::read(folder).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_file_of_another_process_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let [first, second] = [4_000, 5_000]
            .map(|port| Listeners { ingress: ([127, 0, 0, 1], port).into(), admin: ([127, 0, 0, 1], port + 1).into() });
        let old = first.publish(folder).expect("written");
        let _new = second.publish(folder).expect("written");
        drop(old);
        assert_eq!(Listeners::read(folder).expect("read"), second);
    }
}
