//! A disk in memory that knows what was synced, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::{Disk, DiskFile};

/// The disk; a clone is the same disk.
#[derive(Clone, Default)]
pub(super) struct RamDisk(Arc<Mutex<Ram>>);

#[derive(Default)]
struct Ram {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, RamFile>,
    /// Entries that a power cut leaves.
    synced: BTreeMap<PathBuf, RamFile>,
    faults: Faults,
}

/// What is in files.
pub(super) type Contents = BTreeMap<PathBuf, Vec<u8>>;

/// What goes wrong.
#[derive(Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(super) struct Faults {
    /// The next so many syncs of segments fail.
    pub(super) syncs: usize,
    /// Syncs of cursors fail.
    pub(super) cursors: bool,
    /// No new file and no growth.
    pub(super) full: bool,
    /// Reads fail that begin at this place of a segment or behind it.
    pub(super) reads_behind: Option<u64>,
    /// This file can be opened, not read.
    pub(super) unreadable: Option<(PathBuf, i32)>,
    /// This folder can't be synced.
    pub(super) dir_syncs: Option<PathBuf>,
    /// The thread of this name panics at its next operation.
    pub(super) panics: Option<&'static str>,
    /// Nothing goes any more: the process that has this disk is dead.
    pub(super) dead: bool,
    /// What the disk says of its free space; 0: plenty.
    pub(super) free: u64,
}

#[derive(Clone)]
struct RamFile {
    disk: RamDisk,
    /// Under which it was made.
    path: PathBuf,
    content: Arc<Mutex<Content>>,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    /// What a power cut leaves.
    synced: Vec<u8>,
    /// Written since the last sync, failed or not: a failed one forgets what it should have written.
    dirty: Vec<Range<usize>>,
}

impl RamDisk {
    fn ram(&self) -> MutexGuard<'_, Ram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    pub(super) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.ram().faults);
    }

    /// A disk as a crash leaves it, and this one is dead: with the power gone too, only what was synced.
    pub(super) fn crash(&self, power: bool) -> Self {
        let mut ram = self.ram();
        ram.faults.dead = true;
        let after = Self::default();
        let entries = if power { &ram.synced } else { &ram.files };
        let files: BTreeMap<_, _> = entries
            .iter()
            .map(|(path, file)| {
                let content = file.content().clone();
                let now = if power { content.synced.clone() } else { content.now };
                let content = Content { now, ..content };
                let file = RamFile { disk: after.clone(), path: path.clone(), content: Arc::new(Mutex::new(content)) };
                (path.clone(), file)
            })
            .collect();
        let dirs = ram.dirs.clone();
        let faults = Faults { dead: false, syncs: 0, ..ram.faults.clone() };
        let synced = if power {
            files.clone()
        } else {
            files
                .iter()
                .filter(|(path, _)| ram.synced.contains_key(*path))
                .map(|(p, f)| (p.clone(), f.clone()))
                .collect()
        };
        *after.ram() = Ram { dirs, files, synced, faults };
        after
    }

    /// A disk with these folders and files; `synced` is what a power cut leaves of them. The rest counts as clean, so
    /// that syncing it does nothing.
    pub(super) fn with(dirs: BTreeSet<PathBuf>, now: Contents, mut synced: Contents) -> Self {
        let disk = Self::default();
        let mut ram = disk.ram();
        ram.dirs = dirs;
        let file = |path: &Path, now: Vec<u8>, synced: Vec<u8>| {
            let content = Content { now, synced, dirty: Vec::new() };
            RamFile { disk: disk.clone(), path: path.to_owned(), content: Arc::new(Mutex::new(content)) }
        };
        for (path, now) in now {
            let left = synced.remove(&path);
            let file = file(&path, now, left.clone().unwrap_or_default());
            ram.synced.extend(left.map(|_| (path.clone(), file.clone())));
            ram.files.insert(path, file);
        }
        ram.synced.extend(synced.into_iter().map(|(path, left)| (path.clone(), file(&path, Vec::new(), left))));
        drop(ram);
        disk
    }

    /// Puts a file there by another's hand.
    pub(super) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let content = Content { now: bytes.clone(), synced: bytes, dirty: Vec::new() };
        let file = RamFile { disk: self.clone(), path: path.to_owned(), content: Arc::new(Mutex::new(content)) };
        let mut ram = self.ram();
        ram.files.insert(path.to_owned(), file.clone());
        ram.synced.insert(path.to_owned(), file);
    }

    pub(super) fn get(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.ram().files.get(path).cloned()?;
        Some(file.content().now.clone())
    }

    /// Takes a file away by another's hand.
    pub(super) fn take(&self, path: &Path) {
        let mut ram = self.ram();
        ram.files.remove(path);
        ram.synced.remove(path);
    }

    /// Changes the bytes of a file by another's hand, synced.
    pub(super) fn damage(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let file = self.ram().files.get(path).cloned().expect("a file to damage");
        let mut content = file.content();
        change(&mut content.now);
        change(&mut content.synced);
    }

    /// Paths of all files under a folder.
    pub(super) fn files(&self, under: &str) -> Vec<PathBuf> {
        self.ram().files.keys().filter(|path| path.starts_with(under)).cloned().collect()
    }

    /// Everything, to compare.
    pub(super) fn contents(&self) -> Contents {
        let files: Vec<_> = self.ram().files.iter().map(|(path, file)| (path.clone(), file.clone())).collect();
        files.into_iter().map(|(path, file)| (path, file.content().now.clone())).collect()
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Ram>> {
        let ram = self.ram();
        let thread = std::thread::current();
        assert!(ram.faults.panics.is_none_or(|panics| thread.name() != Some(panics)), "as the test wants it");
        if ram.faults.dead { Err(io::Error::other("the process is dead")) } else { Ok(ram) }
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for RamDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut ram = self.alive()?;
        if dir == Path::new("/") || !ram.dirs.insert(dir.to_owned()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut ram = self.alive()?;
        if ram.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if ram.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = RamFile { disk: self.clone(), path: path.to_owned(), content: Arc::default() };
        ram.files.insert(path.to_owned(), file.clone());
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.alive()?.files.get(path).cloned();
        Ok(Arc::new(RamFile { path: path.to_owned(), ..file.ok_or_else(not_found)? }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let ram = self.alive()?;
        if !ram.dirs.contains(dir) {
            return Err(not_found());
        }
        let names = ram.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut ram = self.alive()?;
        let file = ram.files.remove(from).ok_or_else(not_found)?;
        ram.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.alive()?.files.remove(path).map(drop).ok_or_else(not_found)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut ram = self.alive()?;
        if ram.faults.dir_syncs.as_deref() == Some(dir) {
            return Err(io::Error::other("sync failed"));
        }
        let Ram { files, synced, .. } = &mut *ram;
        synced.retain(|path, _| path.parent() != Some(dir));
        let here = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        synced.extend(here.map(|(path, file)| (path.clone(), file.clone())));
        Ok(())
    }

    fn free(&self, _dir: &Path) -> io::Result<u64> {
        let free = self.alive()?.faults.free;
        Ok(if free == 0 { 1 << 40 } else { free })
    }
}

impl RamFile {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for RamFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let faults = self.disk.alive()?.faults.clone();
        if let Some((_, errno)) = faults.unreadable.filter(|(path, _)| *path == self.path) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let fails = faults.reads_behind.is_some_and(|from| at >= from);
        if fails && self.path.starts_with("/journal/segments") {
            return Err(io::Error::other("bad sector"));
        }
        let content = self.content();
        let at = usize::try_from(at).expect("fits").min(content.now.len());
        let read = buffer.len().min(content.now.len() - at);
        buffer[..read].copy_from_slice(&content.now[at..at + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let full = self.disk.alive()?.faults.full;
        let mut content = self.content();
        let at = usize::try_from(at).expect("fits");
        if at + bytes.len() > content.now.len() {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content.now.resize(at + bytes.len(), 0);
        }
        content.now[at..at + bytes.len()].copy_from_slice(bytes);
        content.dirty.push(at..at + bytes.len());
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut ram = self.disk.alive()?;
        let mut content = self.content();
        let dirty = std::mem::take(&mut content.dirty);
        if self.path.starts_with("/journal/cursors") && ram.faults.cursors {
            return Err(io::Error::other("sync failed"));
        }
        if self.path.starts_with("/journal/segments") && ram.faults.syncs > 0 {
            ram.faults.syncs -= 1;
            return Err(io::Error::other("sync failed"));
        }
        let Content { now, synced, .. } = &mut *content;
        synced.resize(now.len(), 0);
        for range in dirty {
            let range = range.start.min(now.len())..range.end.min(now.len());
            synced[range.clone()].copy_from_slice(&now[range]);
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        drop(self.disk.alive()?);
        self.content().now.resize(usize::try_from(size).expect("fits"), 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        drop(self.disk.alive()?);
        Ok(self.content().now.len() as u64)
    }
}
