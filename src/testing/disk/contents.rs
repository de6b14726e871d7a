//! What is on a simulated disk, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Disks lose and keep sectors of this many bytes.
const SECTOR: usize = 512;

/// The bytes of files, by path.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Changes since the last sync.
    pub(super) pending: Vec<FileChange>,
}

/// A change of the disk. Files are named by their index in [`Contents::files`].
#[derive(Clone)]
pub(crate) enum DiskOp {
    Entry(FolderChange),
    SyncDir(PathBuf),
    Change(usize, FileChange),
    Sync(usize),
}

#[derive(Clone)]
pub(crate) enum FileChange {
    Write(usize, Vec<u8>),
    Size(usize),
}

#[derive(Clone)]
pub(crate) enum FolderChange {
    Dir(PathBuf),
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

/// Folders and the files in them.
#[derive(Clone, Default)]
pub(super) struct Tree {
    pub(super) dirs: BTreeSet<PathBuf>,
    pub(super) files: BTreeMap<PathBuf, usize>,
}

impl Tree {
    fn apply(&mut self, entry: &FolderChange) {
        match entry {
            FolderChange::Dir(dir) => _ = self.dirs.insert(dir.clone()),
            FolderChange::Create(path, id) => _ = self.files.insert(path.clone(), *id),
            FolderChange::Rename(from, to, id) => {
                if self.files.get(from) == Some(id) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *id);
            }
            FolderChange::Remove(path) => _ = self.files.remove(path),
        }
    }
}

/// Files and folders, as written and as durable.
#[derive(Clone, Default)]
pub(super) struct Contents {
    pub(super) files: Vec<File>,
    pub(super) now: Tree,
    durable: Tree,
    /// Entries that are not durable, each with the folders that must still be synced for it.
    pending: Vec<(FolderChange, Vec<PathBuf>)>,
}

pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

impl Contents {
    /// Whether a file that is durably in a folder has these bytes durably.
    pub(super) fn has_durably(&self, dir: &Path, needle: &[u8]) -> bool {
        let pending = self.pending.iter().filter(|(_, open)| open.is_empty());
        let mut tree = self.durable.clone();
        pending.for_each(|(entry, _)| tree.apply(entry));
        let folder_stays = dir.ancestors().all(|dir| dir == Path::new("/") || tree.dirs.contains(dir));
        let here = tree.files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let found = |id: &usize| memchr::memmem::find(&self.files[*id].durable, needle).is_some();
        folder_stays && here.map(|(_, id)| id).any(found)
    }

    pub(super) fn apply(&mut self, op: DiskOp) {
        match op {
            DiskOp::Entry(entry) => self.note(entry),
            DiskOp::SyncDir(dir) => self.sync_dir(&dir),
            DiskOp::Change(id, change) => {
                change.apply(&mut self.files[id].now);
                self.files[id].pending.push(change);
            }
            DiskOp::Sync(id) => self.files[id].sync(),
        }
    }

    fn note(&mut self, entry: FolderChange) {
        if let FolderChange::Create(..) = &entry {
            self.files.push(File::default());
        }
        self.now.apply(&entry);
        let open = match &entry {
            FolderChange::Dir(path) | FolderChange::Create(path, _) | FolderChange::Remove(path) => vec![parent(path)],
            FolderChange::Rename(from, to, _) => vec![parent(from), parent(to)],
        };
        self.pending.push((entry, open));
    }

    fn sync_dir(&mut self, dir: &Path) {
        for (_, open) in &mut self.pending {
            open.retain(|other| other != dir);
        }
        let settled = self.pending.iter().take_while(|(_, open)| open.is_empty()).count();
        for (entry, _) in self.pending.drain(..settled) {
            self.durable.apply(&entry);
        }
    }

    /// Leaves what is durable, and what chance adds.
    pub(super) fn cut_power(&mut self, mut random: Option<&mut Rng>) {
        for (entry, open) in std::mem::take(&mut self.pending) {
            if open.is_empty() || random.as_deref_mut().is_some_and(Rng::bool) {
                self.durable.apply(&entry);
            }
        }
        let Tree { dirs, files } = &mut self.durable;
        loop {
            let orphans = dirs.len();
            let there = dirs.clone();
            dirs.retain(|dir| dir.parent().is_none_or(|above| above == Path::new("/") || there.contains(above)));
            if dirs.len() == orphans {
                break;
            }
        }
        files.retain(|path, _| dirs.contains(&parent(path)));
        self.now = self.durable.clone();
        for file in &mut self.files {
            file.lose_sync(random.as_deref_mut());
            file.now.clone_from(&file.durable);
        }
    }
}

impl File {
    fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// Leaves it to chance how much of what was not synced reaches the disk; without chance, nothing does. From then on
    /// it counts as clean.
    pub(super) fn lose_sync(&mut self, mut random: Option<&mut Rng>) {
        for change in std::mem::take(&mut self.pending) {
            let Some(random) = random.as_deref_mut() else { continue };
            match change {
                FileChange::Write(at, bytes) => write_torn(&mut self.durable, at, &bytes, random),
                FileChange::Size(size) if random.bool() => self.durable.resize(size, 0),
                FileChange::Size(_) => {}
            }
        }
    }
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => write(content, *at, bytes),
            Self::Size(size) => content.resize(*size, 0),
        }
    }
}

/// Writes into a file, which grows if it must.
fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes what a power cut may leave of a write: nothing, all of it, its beginning, or any of its sectors.
fn write_torn(content: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut Rng) {
    match random.u8(0..4) {
        0 => {}
        1 => write(content, at, bytes),
        2 => write(content, at, &bytes[..random.usize(0..=bytes.len())]),
        _ => {
            let mut from = 0;
            while from < bytes.len() {
                // Up to the next boundary of a sector of the file.
                let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                if random.bool() {
                    write(content, at + from, &bytes[from..to]);
                }
                from = to;
            }
            // The file may have the new length without the bytes.
            if random.bool() && content.len() < at + bytes.len() {
                content.resize(at + bytes.len(), 0);
            }
        }
    }
}
