//! The topic files. Every call may block on the disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::lock::FolderLock;
use super::{failure, folders};
use crate::config;
use crate::message::Topic;
use crate::sinks::{Failure, Reason};

/// Maximum open files, however many topics there are.
pub(super) const MAX_OPEN: usize = 64;
const SUFFIX: &str = ".jsonl";
/// How much of a file is searched at a time for the end of its last complete line.
const LOOK_BACK: u64 = 64 << 10;

/// The topic files of one sink.
pub(super) struct Files {
    dir: PathBuf,
    rotate: u64,
    keep: usize,
    /// Nothing is written without the lock.
    lock: Option<FolderLock>,
    /// At most [`MAX_OPEN`] files, the least recently used first.
    open: Vec<TopicFile>,
    /// Topics whose last write or fsync failed, with the identity and the durable length of their file.
    suspect: HashMap<Topic, (Identity, u64)>,
    /// Makes a file's data and length durable. Tests replace it with a disk that fails.
    pub(super) sync: fn(&File) -> io::Result<()>,
}

/// Device and inode. They show when a path leads to another file.
pub(super) type Identity = (u64, u64);

struct TopicFile {
    topic: Topic,
    path: PathBuf,
    file: File,
    identity: Identity,
    size: u64,
    /// The length that is known to be durable.
    durable: u64,
}

impl Files {
    pub(super) fn new(settings: &config::FileSink) -> Self {
        Self {
            dir: settings.dir.clone(),
            rotate: settings.rotate,
            keep: settings.keep,
            lock: None,
            open: Vec::new(),
            suspect: HashMap::new(),
            sync: File::sync_data,
        }
    }

    /// Creates and locks the folder. Returns `false` if another process or sink holds the lock.
    pub(super) fn begin(&mut self) -> Result<bool, Failure> {
        self.open.clear();
        let failed = |error| failure(&self.dir, &error);
        folders::create_dirs(&self.dir).map_err(failed)?;
        if !self.is_locked() {
            self.lock = FolderLock::acquire(&self.dir).map_err(failed)?;
        }
        Ok(self.lock.is_some())
    }

    fn is_locked(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| lock.is_on(&self.dir))
    }

    /// The failure if another process or sink uses the folder.
    pub(super) fn in_use(&self) -> Failure {
        let why = "another bridge or sink writes to this folder, and a folder belongs to one sink: set another dir for \
                   this sink, or stop the other process";
        Failure::new(Reason::Unreachable, format!("{}: {why}", self.dir.display()))
    }

    /// Closes the files and unlocks the folder.
    pub(super) fn close(&mut self) {
        self.open.clear();
        self.lock = None;
    }

    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        self.open.len()
    }

    /// Appends each line to its topic's file and makes all of them durable. Calls `tell` for each topic when it is
    /// done, with the places of its lines.
    pub(super) fn append(&mut self, lines: &[(Topic, Bytes)], tell: impl Fn(Vec<usize>, Result<(), Failure>)) {
        if !self.is_locked() {
            let why = format!("{}: the folder was removed or replaced", self.dir.display());
            return tell((0..lines.len()).collect(), Err(Failure::new(Reason::Unreachable, why)));
        }
        let mut by_topic: BTreeMap<&Topic, Vec<usize>> = BTreeMap::new();
        for (at, (topic, _)) in lines.iter().enumerate() {
            by_topic.entry(topic).or_default().push(at);
        }
        for (topic, places) in by_topic {
            let appended = self.append_topic(topic, places.iter().map(|at| &*lines[*at].1));
            tell(places, appended);
        }
    }

    fn append_topic<'a>(&mut self, topic: &Topic, lines: impl Iterator<Item = &'a [u8]>) -> Result<(), Failure> {
        let path = self.path(topic);
        let mut file = self.take(topic, &path).map_err(|error| failure(&path, &error))?;
        match self.write(&mut file, lines) {
            Ok(()) => {
                if self.open.len() >= MAX_OPEN {
                    self.open.remove(0);
                }
                self.open.push(file);
                Ok(())
            }
            Err(error) => {
                self.suspect.insert(topic.clone(), (file.identity, file.durable));
                Err(failure(&path, &error))
            }
        }
    }

    fn write<'a>(&self, file: &mut TopicFile, lines: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut pending = Vec::new();
        for line in lines {
            let size = file.size + pending.len() as u64;
            if size > 0 && size + line.len() as u64 > self.rotate {
                self.flush(file, &mut pending)?;
                self.rotate(file)?;
            }
            pending.extend_from_slice(line);
        }
        self.flush(file, &mut pending)
    }

    fn flush(&self, file: &mut TopicFile, pending: &mut Vec<u8>) -> io::Result<()> {
        if !pending.is_empty() {
            file.file.write_all(pending)?;
            file.size += pending.len() as u64;
            pending.clear();
        }
        if file.size > file.durable {
            (self.sync)(&file.file)?;
            file.durable = file.size;
        }
        Ok(())
    }

    /// Moves a full file to the rotated ones, deletes the oldest of these, and starts a new file.
    fn rotate(&self, file: &mut TopicFile) -> io::Result<()> {
        let dir = self.dir.join("rotated").join(file.topic.as_str());
        folders::create_dirs(&dir)?;
        let mut numbers = rotated(&dir)?;
        let next = numbers.last().map_or(1, |newest| newest + 1);
        fs::rename(&file.path, dir.join(rotated_name(next)))?;
        numbers.push(next);
        for old in &numbers[..numbers.len().saturating_sub(self.keep)] {
            fs::remove_file(dir.join(rotated_name(*old)))?;
        }
        folders::sync_dir(&dir)?;
        // If this fails, the name is free, and the next write opens the topic again.
        *file = self.open(&file.topic, &file.path)?;
        Ok(())
    }

    fn path(&self, topic: &Topic) -> PathBuf {
        self.dir.join(format!("{topic}{SUFFIX}"))
    }

    /// Opens the topic's file or takes it out of `self.open`, so that a file that fails is not used again.
    fn take(&mut self, topic: &Topic, path: &Path) -> io::Result<TopicFile> {
        if let Some(at) = self.open.iter().position(|file| file.topic == *topic) {
            let file = self.open.remove(at);
            // Somebody may have removed, replaced or truncated it.
            if fs::metadata(path).is_ok_and(|found| identity(&found) == file.identity && found.len() == file.size) {
                return Ok(file);
            }
        }
        let mut file = self.open(topic, path)?;
        if let Some((identity, durable)) = self.suspect.get(topic) {
            if file.identity == *identity && file.size > *durable {
                self.cut(&mut file, *durable)?;
            }
            self.suspect.remove(topic);
        }
        Ok(file)
    }

    /// Opens or creates a file, and cuts an incomplete line off its end.
    fn open(&self, topic: &Topic, path: &Path) -> io::Result<TopicFile> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o600);
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let created = options.create_new(true).open(path)?;
                folders::sync_dir(&self.dir)?;
                created
            }
            opened => opened?,
        };
        let found = file.metadata()?;
        let size = found.len();
        let (topic, path) = (topic.clone(), path.to_owned());
        let mut file = TopicFile { topic, path, file, identity: identity(&found), size, durable: size };
        let whole = whole_lines(&file.file, size)?;
        if whole < size {
            tracing::warn!(path = %file.path.display(), bytes = size - whole, "cut a half line off a topic file");
            self.cut(&mut file, whole)?;
        }
        Ok(file)
    }

    fn cut(&self, file: &mut TopicFile, size: u64) -> io::Result<()> {
        file.file.set_len(size)?;
        (self.sync)(&file.file)?;
        file.size = size;
        file.durable = size;
        Ok(())
    }
}

pub(super) fn identity(metadata: &fs::Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// The length of all complete lines in a file of `size` bytes.
fn whole_lines(file: &File, size: u64) -> io::Result<u64> {
    let mut end = size;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(if end == size { 1 } else { LOOK_BACK });
        block.resize(usize::try_from(end - start).expect("a block fits memory"), 0);
        file.read_exact_at(&mut block, start)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn rotated_name(number: u64) -> String {
    format!("{number:010}{SUFFIX}")
}

/// The numbers of a topic's rotated files, oldest first.
fn rotated(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number: Option<u64> = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
