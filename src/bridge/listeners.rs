//! The addresses in effect, written into the data folder, so that commands find a bridge whose ports the system chose.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
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

    /// For [`Listeners::read`]. Replaced at once, so that a reader never sees half of it.
    pub(super) fn write(self, data_dir: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(&serde_json::to_vec(&self)?)?;
        file.persist(Self::path(data_dir))?;
        Ok(())
    }

    /// Takes it away at a clean stop; what a kill leaves behind is replaced by the next start.
    pub(super) fn remove(data_dir: &Path) {
        // Nothing depends on it.
        let _ = fs::remove_file(Self::path(data_dir));
    }

    fn path(data_dir: &Path) -> PathBuf {
        data_dir.join("listeners.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_there_while_the_bridge_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = Listeners { ingress: ([127, 0, 0, 1], 4_000).into(), admin: ([127, 0, 0, 1], 4_001).into() };
        here.write(folder.path()).expect("written");
        assert_eq!(Listeners::read(folder.path()).expect("read"), here);
        Listeners::remove(folder.path());
        assert_eq!(Listeners::read(folder.path()).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
