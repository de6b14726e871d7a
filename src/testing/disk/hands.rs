//! What happens to files without the process: a test looks at them, puts, takes or damages them, and bytes rot.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::contents::{DiskOp, File, Files, FolderChange, parent};
use super::{Inner, SimDisk};

/// A part of a file.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The file, by its index on the disk.
    pub(super) id: usize,
    pub(crate) bytes: Range<usize>,
}

impl SimDisk {
    /// The paths of the files at or under a path.
    pub(crate) fn files(&self, under: impl AsRef<Path>) -> Vec<PathBuf> {
        let under = under.as_ref();
        self.lock().contents.now.files.keys().filter(|path| path.starts_with(under)).cloned().collect()
    }

    /// All files, to compare.
    pub(crate) fn contents(&self) -> Files {
        let inner = self.lock();
        let files = inner.contents.now.files.iter();
        files.map(|(path, id)| (path.clone(), inner.contents.files[*id].now.clone())).collect()
    }

    /// Returns the bytes of a file, or `None` if there is none.
    pub(crate) fn get(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let inner = self.lock();
        let id = inner.file(path.as_ref()).ok()?;
        Some(inner.contents.files[id].now.clone())
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) {
        let (path, bytes) = (path.as_ref(), bytes.into());
        let mut inner = self.lock();
        let id = inner.contents.files.len();
        inner.apply(DiskOp::Entry(FolderChange::Create(path.to_owned(), id)));
        inner.apply(DiskOp::SyncDir(parent(path)));
        inner.contents.files[id] = File { now: bytes.clone(), durable: bytes, pending: Vec::new() };
    }

    /// Takes a file away, durably.
    pub(crate) fn take(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        let mut inner = self.lock();
        inner.apply(DiskOp::Entry(FolderChange::Remove(path.to_owned())));
        inner.apply(DiskOp::SyncDir(parent(path)));
    }

    /// Changes the bytes of a file, those in the page cache and those on the disk.
    pub(crate) fn damage(&self, path: impl AsRef<Path>, change: impl Fn(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let file = inner.file_mut(path.as_ref());
        change(&mut file.now);
        change(&mut file.durable);
    }

    /// Leaves the bytes of a file in the page cache alone, marked clean, as after a sync that failed.
    pub(crate) fn unsync(&self, path: impl AsRef<Path>) {
        let mut inner = self.lock();
        let file = inner.file_mut(path.as_ref());
        file.pending.clear();
        file.durable.clear();
    }

    /// A part of a file.
    pub(crate) fn spot(&self, path: impl AsRef<Path>, bytes: Range<usize>) -> Spot {
        Spot { id: self.lock().file(path.as_ref()).expect("there is such a file"), bytes }
    }

    /// Whether a file that is durably in a folder has these bytes durably.
    pub(crate) fn has_durably(&self, dir: &Path, needle: &[u8]) -> bool {
        self.lock().contents.has_durably(dir, needle)
    }

    /// Finds these bytes in a file of this folder that is durable as it is.
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

    /// The bytes that a spot has now.
    pub(crate) fn at(&self, spot: &Spot) -> Vec<u8> {
        self.lock().contents.files[spot.id].now[spot.bytes.clone()].to_vec()
    }
}

impl Inner {
    fn file_mut(&mut self, path: &Path) -> &mut File {
        let id = self.file(path).expect("there is such a file");
        &mut self.contents.files[id]
    }
}
