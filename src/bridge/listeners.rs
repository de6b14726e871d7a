//! The addresses in effect, written into the data folder, so that commands find a bridge whose ports the system chose.
//!
//! A second process on the same folder must not hide the first: the process that holds the journal writes the file, and
//! removes only its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Addresses of the two listeners of a running bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// For Alma.
    pub ingress: SocketAddr,
    /// For operators.
    pub admin: SocketAddr,
}

impl Listeners {
    /// Of the bridge that runs on this data folder.
    pub fn read(data_dir: &Path) -> io::Result<Self> {
        let path = Self::path(data_dir);
        serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
    }

    /// For [`Listeners::read`]. Replaced at once, so that a reader never sees half of it. What a kill leaves behind is
    /// replaced by the next start.
    pub(super) fn publish(self, data_dir: &Path) -> io::Result<Published> {
        let path = Self::path(data_dir);
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        // Without locks (some network file systems) only the journal's lock keeps a second process away.
        let _ = file.as_file().try_lock();
        let file = file.persist(&path)?;
        Ok(Published { path, file })
    }

    /// Whether a process that still runs has published its addresses here.
    pub(super) fn are_published(data_dir: &Path) -> bool {
        let found = File::open(Self::path(data_dir));
        found.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("listeners.json")
    }
}

/// The file, locked for as long as this process publishes its addresses, and removed at the end.
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
            // Nothing depends on it.
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
