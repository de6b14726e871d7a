//! A disk that does what it is told on the real one and writes it all down; and what a crash makes of the record.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use super::ram::{Contents, RamDisk};
use crate::storage::{Disk, DiskFile, RealDisk};
use crate::testing::disk::{write, write_torn};

/// What was done, in order; `M` is what a test notes between.
pub(super) enum Op<M> {
    MakeDir(PathBuf),
    Create(PathBuf, usize),
    Write(usize, u64, Vec<u8>),
    Resize(usize, u64),
    Sync(usize),
    SyncDir(PathBuf),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
    Note(M),
}

pub(super) struct Record<M> {
    pub(super) ops: Vec<Op<M>>,
    names: HashMap<PathBuf, usize>,
    files: usize,
}

/// The disk of one process; the record goes on over several.
pub(super) struct Recorder<M> {
    record: Arc<Mutex<Record<M>>>,
    dead: Arc<AtomicBool>,
}

impl<M> Clone for Recorder<M> {
    fn clone(&self) -> Self {
        Self { record: Arc::clone(&self.record), dead: Arc::clone(&self.dead) }
    }
}

struct RecordedFile<M> {
    disk: Recorder<M>,
    id: usize,
    file: Arc<dyn DiskFile>,
}

impl<M: Send + 'static> Recorder<M> {
    pub(super) fn new() -> Self {
        let record = Record { ops: Vec::new(), names: HashMap::new(), files: 0 };
        Self { record: Arc::new(Mutex::new(record)), dead: Arc::default() }
    }

    /// The disk of the next process; this one's can do nothing more.
    pub(super) fn kill(&self) -> Self {
        let _wait = self.lock();
        self.dead.store(true, Ordering::SeqCst);
        Self { record: Arc::clone(&self.record), dead: Arc::default() }
    }

    pub(super) fn note(&self, note: M) {
        self.lock().ops.push(Op::Note(note));
    }

    pub(super) fn take(self) -> Vec<Op<M>> {
        std::mem::take(&mut self.lock().ops)
    }

    fn lock(&self) -> MutexGuard<'_, Record<M>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does it and writes it down before anyone else does anything: the order of the record is that of the disk.
    fn does<T>(&self, act: impl FnOnce() -> io::Result<T>, op: impl FnOnce(&mut Record<M>) -> Op<M>) -> io::Result<T> {
        let mut record = self.lock();
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other("the process is dead"));
        }
        let done = act()?;
        let op = op(&mut record);
        record.ops.push(op);
        Ok(done)
    }
}

impl<M: Send + 'static> Disk for Recorder<M> {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.does(|| RealDisk.create_dir(dir), |_| Op::MakeDir(dir.to_owned()))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut id = 0;
        let file = self.does(
            || RealDisk.create(path),
            |record| {
                id = record.files;
                record.files += 1;
                record.names.insert(path.to_owned(), id);
                Op::Create(path.to_owned(), id)
            },
        )?;
        Ok(Arc::new(RecordedFile { disk: self.clone(), id, file }))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path, write)?;
        let id = *self.lock().names.get(path).expect("made by the record");
        Ok(Arc::new(RecordedFile { disk: self.clone(), id, file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.does(
            || RealDisk.rename(from, to),
            |record| {
                let id = record.names.remove(from).expect("made by the record");
                record.names.insert(to.to_owned(), id);
                Op::Rename(from.to_owned(), to.to_owned(), id)
            },
        )
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let forget = |record: &mut Record<M>| {
            record.names.remove(path);
            Op::Remove(path.to_owned())
        };
        self.does(|| RealDisk.remove(path), forget)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.does(|| RealDisk.sync_dir(dir), |_| Op::SyncDir(dir.to_owned()))
    }

    fn free(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free(dir)
    }
}

impl<M: Send + 'static> DiskFile for RecordedFile<M> {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.disk.does(|| self.file.write_at(bytes, at), |_| Op::Write(self.id, at, bytes.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.does(|| self.file.sync_data(), |_| Op::Sync(self.id))
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.disk.does(|| self.file.set_size(size), |_| Op::Resize(self.id, size))
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Dropped,
    /// The process was killed, the machine runs on.
    Kept,
    /// Each write and each entry has a fate of its own.
    Mixed,
}

/// The disk after a crash that came behind the last of these operations.
pub(super) fn after_crash<M>(ops: &[Op<M>], fate: Fate, random: &mut Rng) -> RamDisk {
    let (dirs, now) = left_of(ops, fate, random);
    let synced = match fate {
        // The machine ran on: a power cut may still follow.
        Fate::Kept => left_of(ops, Fate::Dropped, random).1,
        Fate::Dropped | Fate::Mixed => now.clone(),
    };
    RamDisk::with(dirs, now, synced)
}

fn left_of<M>(ops: &[Op<M>], fate: Fate, random: &mut Rng) -> (BTreeSet<PathBuf>, Contents) {
    let (mut synced_files, mut synced_dirs) = (HashMap::new(), HashMap::new());
    for (index, op) in ops.iter().enumerate() {
        match op {
            Op::Sync(id) => drop(synced_files.insert(*id, index)),
            Op::SyncDir(dir) => drop(synced_dirs.insert(dir.as_path(), index)),
            _ => {}
        }
    }
    let is_synced = |path: &Path, index: usize| {
        path.parent().and_then(|dir| synced_dirs.get(dir)).is_some_and(|synced| *synced > index)
    };
    let mut contents: HashMap<usize, Vec<u8>> = HashMap::new();
    let mut entries: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut dirs = BTreeSet::new();
    for (index, op) in ops.iter().enumerate() {
        let mut survives = |durable: bool| durable || fate == Fate::Kept || (fate == Fate::Mixed && random.bool());
        match op {
            Op::MakeDir(dir) if survives(is_synced(dir, index)) => _ = dirs.insert(dir.clone()),
            Op::Create(path, id) if survives(is_synced(path, index)) => drop(entries.insert(path.clone(), *id)),
            Op::Remove(path) if survives(is_synced(path, index)) => drop(entries.remove(path)),
            Op::Rename(from, to, id) if survives(is_synced(from, index) && is_synced(to, index)) => {
                if entries.get(from) == Some(id) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *id);
            }
            Op::Resize(id, size) if survives(synced_files.get(id).is_some_and(|synced| *synced > index)) => {
                contents.entry(*id).or_default().resize(usize::try_from(*size).expect("fits"), 0);
            }
            Op::Write(id, at, bytes) => {
                let durable = fate == Fate::Kept || synced_files.get(id).is_some_and(|synced| *synced > index);
                let content = contents.entry(*id).or_default();
                let at = usize::try_from(*at).expect("fits");
                match fate {
                    _ if durable => write(content, at, bytes),
                    Fate::Mixed => write_torn(content, at, bytes, random),
                    Fate::Dropped | Fate::Kept => {}
                }
            }
            _ => {}
        }
    }
    let reachable = entries.into_iter().filter(|(path, _)| path.parent().is_some_and(|dir| dirs.contains(dir)));
    let files = reachable.map(|(path, id)| (path, contents.get(&id).cloned().unwrap_or_default())).collect();
    (dirs, files)
}
