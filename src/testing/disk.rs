//! A disk in memory that keeps apart what is written and what is durable, and fails as it is told.
//!
//! What was not synced has a fate of its own at a power cut: each write is dropped, kept, cut short, or torn by sectors;
//! each entry of a folder stays or goes. A sync that fails leaves its writes in the page cache, clean, and on the disk
//! by chance: a later sync does not write them. A process that is killed loses nothing of what it wrote.

mod contents;
mod rot;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contents::{Change, Contents, Entry, File, parent};
pub(crate) use contents::{write, write_torn};
use fastrand::Rng;
pub(crate) use rot::Spot;

use crate::storage::{Disk, DiskFile};

/// What the disk says is free where nothing is wrong.
const PLENTY: u64 = 1 << 40;

/// What an operation does: faults are told by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Sync,
    Create,
    SyncDir,
    Rename,
    Remove,
    Read,
    Open,
}

/// Operations of a kind that fail: so many pass, then so many fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fail {
    pub(crate) kind: Kind,
    pub(crate) after: u32,
    pub(crate) times: u32,
}

/// What is wrong with the disk.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    /// No new file and no growth.
    pub(crate) full: bool,
    /// It says that nearly nothing is free.
    pub(crate) low: bool,
    pub(crate) fail: Option<Fail>,
    /// A part of a file that can't be read.
    pub(crate) bad_spot: Option<Spot>,
    /// The process dies in or behind the operation after so many.
    pub(crate) crash: Option<u32>,
    /// A file that can't be read, and whether it can't even be opened.
    pub(crate) unreadable: Option<(PathBuf, bool)>,
}

struct Inner {
    contents: Contents,
    faults: Faults,
    dead: bool,
    random: Rng,
    trace: u64,
}

/// The disk; a clone is the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

struct Opened {
    disk: SimDisk,
    id: usize,
    /// As it was when it was opened.
    path: PathBuf,
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            contents: Contents::default(),
            faults: Faults::default(),
            dead: false,
            random: Rng::with_seed(0),
            trace: 0xcbf2_9ce4_8422_2325,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
    }

    /// Chance goes on from here: so it does not hang on the steps before.
    pub(crate) fn reseed(&self, seed: u64) {
        self.lock().random = Rng::with_seed(seed);
    }

    /// Whether the process that uses it is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    pub(crate) fn kill(&self) {
        self.lock().dead = true;
    }

    /// A number that tells the run: every operation is in it.
    pub(crate) fn trace(&self) -> u64 {
        self.lock().trace
    }

    /// The next process comes. With the power gone, only what is durable is left, and what chance gives.
    pub(crate) fn restart(&self, power: bool) {
        let mut inner = self.lock();
        inner.dead = false;
        inner.faults.crash = None;
        if power {
            let Inner { contents, random, .. } = &mut *inner;
            contents.cut_power(random);
        }
    }

    /// The files at or under a path.
    pub(crate) fn files(&self, under: &Path) -> Vec<PathBuf> {
        self.lock().contents.now.files.keys().filter(|path| path.starts_with(under)).cloned().collect()
    }

    /// Whether a fault is to come, or is there, but for a file that can't be read.
    pub(crate) fn is_faulty(&self) -> bool {
        let Faults { full, low, fail, crash, .. } = &self.lock().faults;
        *full || *low || fail.is_some() || crash.is_some()
    }

    /// Whether a file that is durably in a folder has these bytes durably.
    pub(crate) fn has_durably(&self, dir: &Path, needle: &[u8]) -> bool {
        self.lock().contents.has_durably(dir, needle)
    }

    /// An operation begins: whether it is to fail.
    fn begin(&self, kind: Kind, path: &Path) -> io::Result<(MutexGuard<'_, Inner>, bool)> {
        let mut inner = self.lock();
        if inner.dead {
            return Err(io::Error::other("the process is dead"));
        }
        let mut trace = inner.trace;
        for byte in path.as_os_str().as_encoded_bytes().iter().chain(&[kind as u8]) {
            trace = (trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        inner.trace = trace;
        let mut fails = false;
        if let Some(fail) = inner.faults.fail.as_mut().filter(|fail| fail.kind == kind) {
            if fail.after > 0 {
                fail.after -= 1;
            } else {
                fails = true;
                fail.times -= 1;
                if fail.times == 0 {
                    inner.faults.fail = None;
                }
            }
        }
        match &mut inner.faults.crash {
            Some(0) => {
                inner.dead = true;
                // In the middle of it, or right behind it.
                fails |= inner.random.bool();
            }
            Some(after) => *after -= 1,
            None => {}
        }
        Ok((inner, fails))
    }
}

fn failed() -> io::Error {
    io::Error::other("simulated failure")
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, fails) = self.begin(Kind::Create, dir)?;
        if fails {
            return Err(failed());
        }
        if dir == Path::new("/") || inner.contents.now.dirs.contains(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let above = parent(dir);
        if above != Path::new("/") && !inner.contents.now.dirs.contains(&above) {
            return Err(not_found());
        }
        inner.contents.note(Entry::Dir(dir.to_owned()));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let (mut inner, fails) = self.begin(Kind::Create, path)?;
        if fails {
            return Err(failed());
        }
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
        inner.contents.files.push(File::default());
        inner.contents.note(Entry::Create(path.to_owned(), id));
        Ok(Arc::new(Opened { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let (inner, fails) = self.begin(Kind::Open, path)?;
        if fails || inner.faults.unreadable.as_ref().is_some_and(|(bad, opening)| *opening && bad == path) {
            return Err(failed());
        }
        let id = *inner.contents.now.files.get(path).ok_or_else(not_found)?;
        Ok(Arc::new(Opened { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let (inner, fails) = self.begin(Kind::Open, dir)?;
        if fails {
            return Err(failed());
        }
        if !inner.contents.now.dirs.contains(dir) {
            return Err(not_found());
        }
        let tree = &inner.contents.now;
        let here = tree.files.keys().chain(&tree.dirs).filter(|path| path.parent() == Some(dir));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut inner, fails) = self.begin(Kind::Rename, from)?;
        if fails {
            return Err(failed());
        }
        let id = *inner.contents.now.files.get(from).ok_or_else(not_found)?;
        inner.contents.note(Entry::Rename(from.to_owned(), to.to_owned(), id));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut inner, fails) = self.begin(Kind::Remove, path)?;
        if fails {
            return Err(failed());
        }
        if !inner.contents.now.files.contains_key(path) {
            return Err(not_found());
        }
        inner.contents.note(Entry::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, fails) = self.begin(Kind::SyncDir, dir)?;
        if fails {
            return Err(failed());
        }
        inner.contents.sync_dir(dir);
        Ok(())
    }

    fn free(&self, _dir: &Path) -> io::Result<u64> {
        let inner = self.lock();
        if inner.dead { Err(failed()) } else { Ok(if inner.faults.low { 1 } else { PLENTY }) }
    }
}

impl DiskFile for Opened {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let (inner, fails) = self.disk.begin(Kind::Read, Path::new(""))?;
        if fails || inner.faults.unreadable.as_ref().is_some_and(|(bad, _)| *bad == self.path) {
            return Err(failed());
        }
        let content = &inner.contents.files[self.id].now;
        let at = usize::try_from(at).expect("fits").min(content.len());
        let read = buffer.len().min(content.len() - at);
        let bad = inner.faults.bad_spot.as_ref().filter(|spot| spot.id == self.id);
        if bad.is_some_and(|spot| spot.bytes.start < at + read && at < spot.bytes.end) {
            return Err(failed());
        }
        buffer[..read].copy_from_slice(&content[at..at + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut inner, fails) = self.disk.begin(Kind::Write, Path::new(""))?;
        let at = usize::try_from(at).expect("fits");
        let full = inner.faults.full && at + bytes.len() > inner.contents.files[self.id].now.len();
        // What fails was written as far as it went.
        let written = if fails || full { &bytes[..inner.random.usize(0..=bytes.len())] } else { bytes };
        let file = &mut inner.contents.files[self.id];
        write(&mut file.now, at, written);
        file.pending.push(Change::Write(at, written.to_owned()));
        match (fails, full) {
            (true, _) => Err(failed()),
            (_, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, fails) = self.disk.begin(Kind::Sync, Path::new(""))?;
        let Inner { contents: Contents { files, .. }, random, dead, .. } = &mut *inner;
        match fails {
            // A process that was killed in it leaves its writes as they were.
            true if *dead => Err(failed()),
            true => {
                files[self.id].lose_sync(random);
                Err(failed())
            }
            false => {
                files[self.id].sync();
                Ok(())
            }
        }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let (mut inner, fails) = self.disk.begin(Kind::Write, Path::new(""))?;
        if fails {
            return Err(failed());
        }
        let size = usize::try_from(size).expect("fits");
        let file = &mut inner.contents.files[self.id];
        file.now.resize(size, 0);
        file.pending.push(Change::Size(size));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let (inner, fails) = self.disk.begin(Kind::Read, Path::new(""))?;
        if fails { Err(failed()) } else { Ok(inner.contents.files[self.id].now.len() as u64) }
    }
}
