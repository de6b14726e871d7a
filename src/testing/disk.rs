//! The fake disk: it keeps apart what is written and what is durable, and fails as a test tells it to.
//!
//! A power cut takes what was not synced. Without a seed it takes all of it, which is the worst case and the same every
//! time. With a seed ([`SimDisk::reseed`]) each write is dropped, kept, cut short, or torn by sectors, and each entry of a
//! folder stays or goes. A sync that fails leaves its writes in the page cache, marked clean: a later sync does not write
//! them. A process that is killed loses nothing that it wrote.

mod contents;
mod hands;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use contents::DiskOp;
use contents::{Contents, FileChange, FolderChange, parent};
use fastrand::Rng;
pub(crate) use hands::Spot;
use rustix::io::Errno;

use crate::storage::{Disk, DiskFile};

/// The free space that the disk reports unless a fault says otherwise, in bytes.
const PLENTY: u64 = 1 << 40;

/// The kinds of operations. A failure applies to one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Sync,
    Create,
    SyncDir,
    Rename,
    Remove,
    Read,
    /// Opens a file, asks for its size, or lists a folder.
    Open,
}

/// Operations that fail: of one kind, at or under one path. The first `after` of them succeed, the next `times` fail.
#[derive(Clone, Debug)]
pub(crate) struct Fail {
    pub(crate) kind: Kind,
    pub(crate) under: PathBuf,
    after: u32,
    times: u32,
    errno: Errno,
}

impl Fail {
    /// The next `times` operations of this kind fail with `EIO`, whatever their path.
    pub(crate) fn new(kind: Kind, times: u32) -> Self {
        Self { kind, under: "/".into(), after: 0, times, errno: Errno::IO }
    }

    /// Every operation of this kind fails at or under a path.
    pub(crate) fn every(kind: Kind, under: impl Into<PathBuf>) -> Self {
        Self::new(kind, u32::MAX).under(under)
    }

    pub(crate) fn under(self, under: impl Into<PathBuf>) -> Self {
        Self { under: under.into(), ..self }
    }

    pub(crate) fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }

    pub(crate) fn with(self, errno: Errno) -> Self {
        Self { errno, ..self }
    }
}

/// What is wrong with the disk.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// No file can be created and none can grow.
    pub(crate) full: bool,
    /// The free space that the disk reports, in bytes.
    pub(crate) free: Option<u64>,
    pub(crate) fails: Vec<Fail>,
    /// A part of a file that can't be read.
    pub(crate) bad_spot: Option<Spot>,
    /// After so many operations the process dies, during the next one or right after it.
    pub(crate) crash: Option<u32>,
    /// The thread of this name panics at its next operation.
    pub(crate) panics: Option<&'static str>,
}

#[derive(Clone)]
struct Inner {
    contents: Contents,
    faults: Faults,
    dead: bool,
    /// `None`: whatever may be lost is lost.
    random: Option<Rng>,
    trace: u64,
    /// What changed the disk, in order, if a test records it.
    record: Option<Vec<DiskOp>>,
}

/// The disk. A clone is the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

struct SimFile {
    disk: SimDisk,
    id: usize,
    /// The path by which the file was opened. It may have been renamed since.
    path: PathBuf,
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            contents: Contents::default(),
            faults: Faults::default(),
            dead: false,
            random: None,
            trace: 0xcbf2_9ce4_8422_2325,
            record: None,
        })))
    }

    /// A new disk that records what changes it.
    pub(crate) fn recording() -> Self {
        let disk = Self::new();
        disk.lock().record = Some(Vec::new());
        disk
    }

    /// A disk on which these operations were done.
    pub(crate) fn replay(ops: &[DiskOp]) -> Self {
        let disk = Self::new();
        for op in ops {
            disk.lock().contents.apply(op.clone());
        }
        disk
    }

    /// This disk, as the journal takes it.
    pub(crate) fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    pub(crate) fn fail(&self, fail: Fail) {
        self.lock().faults.fails.push(fail);
    }

    /// No operation fails any more.
    pub(crate) fn stop_failing(&self) {
        self.lock().faults.fails.clear();
    }

    /// Sets the seed from which all chance is drawn from here on. So chance does not depend on the steps before.
    pub(crate) fn reseed(&self, seed: u64) {
        self.lock().random = Some(Rng::with_seed(seed));
    }

    /// Whether the process that uses this disk is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// A hash of every operation so far. Two runs that did the same in the same order have the same one.
    pub(crate) fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// How many operations are recorded.
    pub(crate) fn recorded(&self) -> usize {
        self.lock().record.as_ref().map_or(0, Vec::len)
    }

    /// Takes the record.
    pub(crate) fn take_record(&self) -> Vec<DiskOp> {
        self.lock().record.take().unwrap_or_default()
    }

    /// The next process uses the disk. If the power was cut, only what is durable is left, and what chance adds.
    pub(crate) fn restart(&self, power: bool) {
        let mut inner = self.lock();
        inner.dead = false;
        inner.faults.crash = None;
        if power {
            let Inner { contents, random, .. } = &mut *inner;
            contents.cut_power(random.as_mut());
        }
    }

    /// Kills the process, with or without the power, and returns the disk for the next one. Threads of the old process
    /// that still run keep a disk on which everything fails.
    pub(crate) fn crash(&self, power: bool) -> Self {
        let mut inner = self.lock();
        inner.dead = true;
        let next = Self(Arc::new(Mutex::new(inner.clone())));
        next.restart(power);
        next
    }

    /// Whether anything is wrong with the disk or will be, except for a bad spot.
    pub(crate) fn is_faulty(&self) -> bool {
        let Faults { full, free, fails, crash, .. } = &self.lock().faults;
        *full || free.is_some() || !fails.is_empty() || crash.is_some()
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        let panics = inner.faults.panics;
        assert!(panics.is_none() || panics != std::thread::current().name(), "the test makes this thread panic");
        if inner.dead { Err(io::Error::other("the process is dead")) } else { Ok(inner) }
    }

    /// Starts an operation. Returns the error with which it must fail, if any.
    fn begin(&self, kind: Kind, path: &Path) -> io::Result<(MutexGuard<'_, Inner>, Option<io::Error>)> {
        let mut inner = self.alive()?;
        let mut trace = inner.trace;
        for byte in path.as_os_str().as_encoded_bytes().iter().chain(&[kind as u8]) {
            trace = (trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        inner.trace = trace;
        let mut errno = None;
        inner.faults.fails.retain_mut(|fail| {
            if fail.kind == kind && path.starts_with(&fail.under) {
                if fail.after > 0 {
                    fail.after -= 1;
                } else {
                    (errno, fail.times) = (Some(fail.errno), fail.times - 1);
                }
            }
            fail.times > 0
        });
        match &mut inner.faults.crash {
            Some(0) => {
                inner.dead = true;
                if inner.random.as_mut().is_some_and(Rng::bool) {
                    errno = Some(Errno::IO);
                }
            }
            Some(after) => *after -= 1,
            None => {}
        }
        Ok((inner, errno.map(Into::into)))
    }

    /// Starts an operation that does nothing if it fails.
    fn whole(&self, kind: Kind, path: &Path) -> io::Result<MutexGuard<'_, Inner>> {
        match self.begin(kind, path)? {
            (_, Some(error)) => Err(error),
            (inner, None) => Ok(inner),
        }
    }
}

impl Inner {
    fn apply(&mut self, op: DiskOp) {
        if let Some(record) = &mut self.record {
            record.push(op.clone());
        }
        self.contents.apply(op);
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        self.contents.now.files.get(path).copied().ok_or_else(not_found)
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.whole(Kind::Create, dir)?;
        if dir == Path::new("/") || inner.contents.now.dirs.contains(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let above = parent(dir);
        if above != Path::new("/") && !inner.contents.now.dirs.contains(&above) {
            return Err(not_found());
        }
        inner.apply(DiskOp::Entry(FolderChange::Dir(dir.to_owned())));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.whole(Kind::Create, path)?;
        if inner.faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if inner.contents.now.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !inner.contents.now.dirs.contains(&parent(path)) {
            return Err(not_found());
        }
        let id = inner.contents.files.len();
        inner.apply(DiskOp::Entry(FolderChange::Create(path.to_owned(), id)));
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.whole(Kind::Open, path)?.file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.whole(Kind::Open, dir)?;
        let tree = &inner.contents.now;
        if !tree.dirs.contains(dir) {
            return Err(not_found());
        }
        let here = tree.files.keys().chain(&tree.dirs).filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.whole(Kind::Rename, from)?;
        let id = inner.file(from)?;
        inner.apply(DiskOp::Entry(FolderChange::Rename(from.to_owned(), to.to_owned(), id)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.whole(Kind::Remove, path)?;
        inner.file(path)?;
        inner.apply(DiskOp::Entry(FolderChange::Remove(path.to_owned())));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.whole(Kind::SyncDir, dir)?.apply(DiskOp::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn free(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.alive()?.faults.free.unwrap_or(PLENTY))
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let inner = self.disk.whole(Kind::Read, &self.path)?;
        let content = &inner.contents.files[self.id].now;
        let at = usize::try_from(at).expect("fits").min(content.len());
        let read = buffer.len().min(content.len() - at);
        let bad = inner.faults.bad_spot.as_ref().filter(|spot| spot.id == self.id);
        if bad.is_some_and(|spot| spot.bytes.start < at + read && at < spot.bytes.end) {
            return Err(Errno::IO.into());
        }
        buffer[..read].copy_from_slice(&content[at..at + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut inner, error) = self.disk.begin(Kind::Write, &self.path)?;
        let at = usize::try_from(at).expect("fits");
        let grows = at + bytes.len() > inner.contents.files[self.id].now.len();
        let error = error.or_else(|| (inner.faults.full && grows).then(|| io::ErrorKind::StorageFull.into()));
        // A write that fails may have written a part.
        let written = match &error {
            Some(_) => inner.random.as_mut().map_or(0, |random| random.usize(0..=bytes.len())),
            None => bytes.len(),
        };
        inner.apply(DiskOp::Change(self.id, FileChange::Write(at, bytes[..written].to_owned())));
        error.map_or(Ok(()), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, error) = self.disk.begin(Kind::Sync, &self.path)?;
        let Some(error) = error else {
            inner.apply(DiskOp::Sync(self.id));
            return Ok(());
        };
        // A process that was killed during the sync leaves its writes in the page cache as they were.
        if !inner.dead {
            let Inner { contents, random, .. } = &mut *inner;
            contents.files[self.id].lose_sync(random.as_mut());
        }
        Err(error)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut inner = self.disk.whole(Kind::Write, &self.path)?;
        inner.apply(DiskOp::Change(self.id, FileChange::Size(usize::try_from(size).expect("fits"))));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.whole(Kind::Open, &self.path)?.contents.files[self.id].now.len() as u64)
    }
}
