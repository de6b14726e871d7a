//! What is on a simulated disk, and what of it is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Disks lose and keep sectors of so many bytes.
const SECTOR: usize = 512;

#[derive(Default)]
pub(super) struct File {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Written since the last sync.
    pub(super) pending: Vec<Change>,
}

pub(super) enum Change {
    Write(usize, Vec<u8>),
    Size(usize),
}

pub(super) enum Entry {
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
    fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Dir(dir) => _ = self.dirs.insert(dir.clone()),
            Entry::Create(path, id) => _ = self.files.insert(path.clone(), *id),
            Entry::Rename(from, to, id) => {
                if self.files.get(from) == Some(id) {
                    self.files.remove(from);
                }
                self.files.insert(to.clone(), *id);
            }
            Entry::Remove(path) => _ = self.files.remove(path),
        }
    }
}

/// Files and folders, as written and as durable.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) files: Vec<File>,
    pub(super) now: Tree,
    durable: Tree,
    /// Entries since, and which folders of each were not synced yet.
    pending: Vec<(Entry, Vec<PathBuf>)>,
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

    pub(super) fn note(&mut self, entry: Entry) {
        self.now.apply(&entry);
        let open = match &entry {
            Entry::Dir(path) | Entry::Create(path, _) | Entry::Remove(path) => vec![parent(path)],
            Entry::Rename(from, to, _) => vec![parent(from), parent(to)],
        };
        self.pending.push((entry, open));
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        for (_, open) in &mut self.pending {
            open.retain(|other| other != dir);
        }
        let settled = self.pending.iter().take_while(|(_, open)| open.is_empty()).count();
        for (entry, _) in self.pending.drain(..settled) {
            self.durable.apply(&entry);
        }
    }

    /// What is left without power: what is durable, and what chance gives.
    pub(super) fn cut_power(&mut self, random: &mut Rng) {
        for (entry, open) in std::mem::take(&mut self.pending) {
            if open.is_empty() || random.bool() {
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
            file.lose_sync(random);
            file.now.clone_from(&file.durable);
        }
    }
}

impl File {
    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(at, bytes) => write(&mut self.durable, at, &bytes),
                Change::Size(size) => self.durable.resize(size, 0),
            }
        }
    }

    /// What was not synced comes to the disk by chance, and counts as clean.
    pub(super) fn lose_sync(&mut self, random: &mut Rng) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write(at, bytes) => write_torn(&mut self.durable, at, &bytes, random),
                Change::Size(size) if random.bool() => self.durable.resize(size, 0),
                Change::Size(_) => {}
            }
        }
    }
}

/// Writes into a file, which grows as it must.
pub(crate) fn write(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if content.len() < at + bytes.len() {
        content.resize(at + bytes.len(), 0);
    }
    content[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Writes what a power cut may leave of a write: nothing, all, its beginning, or any of its sectors.
pub(crate) fn write_torn(content: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut Rng) {
    match random.u8(0..4) {
        0 => {}
        1 => write(content, at, bytes),
        2 => write(content, at, &bytes[..random.usize(0..=bytes.len())]),
        _ => {
            let mut from = 0;
            while from < bytes.len() {
                // To the next border of a sector of the file.
                let to = (from + SECTOR - (at + from) % SECTOR).min(bytes.len());
                if random.bool() {
                    write(content, at + from, &bytes[from..to]);
                }
                from = to;
            }
            // The length may be there without the bytes.
            if random.bool() && content.len() < at + bytes.len() {
                content.resize(at + bytes.len(), 0);
            }
        }
    }
}
