//! The files of one sink's dead letters, and an index of them in memory. Every call may block on the disk.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{self, FILE_HEADER, STATE_AT, Seed};
use super::{DeadLetter, DeadLetterError, LetterId, LetterInfo, ListedLetter, Summary};
use crate::clock::Timestamp;
use crate::journal::{Disk, DiskFile, Offset, create_dirs, remove_if_there};
use crate::ownership::explain;
use crate::sinks::{Failure, Reason};

/// A file that has so many bytes gets no further letter.
const ROLL: u64 = 8 << 20;
pub(super) const SUFFIX: &str = ".letters";

/// 48 bytes a letter, so that a full store of small letters stays below 100 MB of memory.
struct Slot {
    id: LetterId,
    offset: Offset,
    received: Timestamp,
    at: u64,
    length: u32,
    topic: u32,
    reason: Reason,
    gone: bool,
}

pub(super) struct LetterFile {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    seed: Seed,
    pub(super) size: u64,
    slots: Vec<Slot>,
    live: usize,
    pub(super) damaged: u64,
    /// Whether all of it was synced by this process. What was found at the start may be in the page cache only: of a
    /// process that was killed before its sync, or whose sync failed.
    proven: bool,
}

impl LetterFile {
    /// A file that was found.
    pub(super) fn new(path: PathBuf, seed: Seed, size: u64) -> Self {
        Self { path, file: None, seed, size, slots: Vec::new(), live: 0, damaged: 0, proven: false }
    }

    /// Makes sure that all of it is durable: it is written anew, for a sync of pages that count as clean says nothing.
    fn prove(&mut self, disk: &dyn Disk) -> Result<(), DeadLetterError> {
        if !self.proven {
            let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
            self.with_file(disk, |file| {
                let read = file.read_at(&mut bytes, 0)?;
                file.write_at(&bytes[..read], 0)?;
                file.sync_data()
            })?;
            self.proven = true;
        }
        Ok(())
    }

    /// A handle for reading and marking, kept only for the file that is written.
    pub(super) fn with_file<T>(
        &self,
        disk: &dyn Disk,
        work: impl FnOnce(&dyn DiskFile) -> io::Result<T>,
    ) -> Result<T, DeadLetterError> {
        let done = match &self.file {
            Some(file) => work(&**file),
            None => disk.open(&self.path, true).and_then(|file| work(&*file)),
        };
        done.map_err(at(&self.path))
    }

    fn read(&self, disk: &dyn Disk, slot: &Slot) -> Result<DeadLetter, DeadLetterError> {
        let mut frame = vec![0; slot.length as usize];
        let read = self.with_file(disk, |file| file.read_at(&mut frame, slot.at))?;
        if read < frame.len() {
            return Err(at(&self.path)(io::ErrorKind::UnexpectedEof.into()));
        }
        let letter = self.seed.payload(&frame).and_then(format::decode);
        letter.ok_or(DeadLetterError::Damaged(slot.id))
    }
}

pub(super) struct Store {
    pub(super) disk: Arc<dyn Disk>,
    dir: PathBuf,
    pub(super) files: BTreeMap<u64, LetterFile>,
    /// The file that takes letters.
    active: Option<u64>,
    pub(super) next_file: u64,
    last_id: u64,
    /// Added to the names that are given.
    skipped_ids: u64,
    /// No letter's offset is above it: what is cannot be a repeat.
    max_offset: u64,
    topics: Vec<Arc<str>>,
    counts: Vec<BTreeMap<Reason, u64>>,
    pub(super) damaged: u64,
}

pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> DeadLetterError {
    let path = path.to_owned();
    move |error| DeadLetterError::Io { error: explain(&path, error), path }
}

impl Store {
    /// Without files yet.
    pub(super) const fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            files: BTreeMap::new(),
            active: None,
            next_file: 1,
            last_id: 0,
            skipped_ids: 0,
            max_offset: 0,
            topics: Vec::new(),
            counts: Vec::new(),
            damaged: 0,
        }
    }

    /// Leaves out so many names of letters.
    pub(super) fn skip_ids(&mut self, count: u64) {
        self.skipped_ids += count;
    }

    /// Notes a letter that is durable at a place of a file.
    pub(super) fn index(&mut self, file: &mut LetterFile, letter: &DeadLetter, at: u64, length: usize, gone: bool) {
        self.last_id = self.last_id.max(letter.id.0);
        self.max_offset = self.max_offset.max(letter.offset.0);
        let topic = self.topic(&letter.topic);
        let reason = letter.failure.reason;
        if !gone {
            file.live += 1;
            *self.counts[topic].entry(reason).or_default() += 1;
        }
        file.slots.push(Slot {
            id: letter.id,
            offset: letter.offset,
            received: letter.event.received,
            at,
            length: u32::try_from(length).expect("a frame is shorter than 4 GiB"),
            topic: u32::try_from(topic).expect("fewer topics than letters"),
            reason,
            gone,
        });
    }

    fn topic(&mut self, name: &Arc<str>) -> usize {
        if let Some(known) = self.topics.iter().position(|topic| topic == name) {
            return known;
        }
        self.topics.push(Arc::clone(name));
        self.counts.push(BTreeMap::new());
        self.topics.len() - 1
    }

    pub(super) fn append_new(&mut self, letters: Vec<DeadLetter>, max_size: u64) -> Result<(), DeadLetterError> {
        let may_be_kept = letters.iter().any(|letter| letter.offset.0 <= self.max_offset);
        let place = |letter: &DeadLetter| (letter.offset, letter.event.received);
        let mut kept = HashSet::new();
        if may_be_kept {
            let again: HashSet<_> = letters.iter().map(place).collect();
            for file in self.files.values_mut() {
                let live = file.slots.iter().filter(|slot| !slot.gone).map(|slot| (slot.offset, slot.received));
                let found: Vec<_> = live.filter(|place| again.contains(place)).collect();
                if !found.is_empty() {
                    file.prove(&*self.disk)?;
                    kept.extend(found);
                }
            }
        }
        let is_new = |letter: &DeadLetter| !kept.contains(&place(letter));
        self.append(letters.into_iter().filter(is_new).collect(), max_size)
    }

    fn append(&mut self, mut letters: Vec<DeadLetter>, max_size: u64) -> Result<(), DeadLetterError> {
        if letters.is_empty() {
            return Ok(());
        }
        for letter in &mut letters {
            // Offsets are never given twice, so that neither is an id, also where all files are gone in between.
            self.last_id = (self.last_id + 1).max(letter.offset.0 + self.skipped_ids);
            letter.id = LetterId(self.last_id);
        }
        let payloads: Vec<_> = letters.iter().map(format::encode).collect();
        let more = payloads.iter().map(|payload| payload.len() as u64 + 64).sum();
        let bytes = self.bytes();
        if bytes + more > max_size {
            return Err(DeadLetterError::Full { bytes, more, max_size });
        }
        let number = self.writable()?;
        let mut file = self.files.remove(&number).expect("the active file is among the files");
        let start = file.size;
        let mut frames = Vec::new();
        let lengths: Vec<_> = payloads
            .iter()
            .map(|payload| {
                let frame = file.seed.frame(payload);
                frames.extend_from_slice(&frame);
                frame.len()
            })
            .collect();
        let written = file.with_file(&*self.disk, |open| open.write_at(&frames, start).and_then(|()| open.sync_data()));
        if let Err(error) = written {
            self.give_up(number, file);
            return Err(error);
        }
        for (letter, length) in letters.iter().zip(lengths) {
            let place = file.size;
            self.index(&mut file, letter, place, length, false);
            file.size += length as u64;
        }
        self.files.insert(number, file);
        Ok(())
    }

    /// The file that takes the next letters; a new one where there is none or it is full.
    fn writable(&mut self) -> Result<u64, DeadLetterError> {
        if let Some(number) = self.active.filter(|number| self.files.get(number).is_some_and(|file| file.size < ROLL)) {
            return Ok(number);
        }
        if let Some(full) = self.active.take().and_then(|number| self.files.get_mut(&number)) {
            full.file = None;
        }
        let number = self.next_file;
        self.next_file += 1;
        let path = self.dir.join(format!("{number:016}{SUFFIX}"));
        let seed = Seed(fastrand::u32(..));
        create_dirs(&*self.disk, &self.dir).map_err(at(&self.dir))?;
        let file = self.disk.create(&path).map_err(at(&path))?;
        let begun = file
            .write_at(&seed.file_header(), 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| self.disk.sync_dir(&self.dir));
        // A header alone is no harm, but one a try of a failing disk would be many.
        begun.map_err(at(&path)).inspect_err(|_| drop(self.disk.remove(&path)))?;
        let entry = LetterFile { file: Some(file), proven: true, ..LetterFile::new(path, seed, FILE_HEADER as u64) };
        self.files.insert(number, entry);
        self.active = Some(number);
        Ok(number)
    }

    /// A write or fsync failed: what was durable before stays, what is behind it is cut off if the disk lets us, and
    /// nothing is written to the file again.
    fn give_up(&mut self, number: u64, mut file: LetterFile) {
        self.active = None;
        if let Some(open) = file.file.take() {
            // Should it fail, the letters behind are published once more: they are appended to another file too.
            drop(open.set_size(file.size).and_then(|()| open.sync_data()));
        }
        self.files.insert(number, file);
        if let Err(error) = self.remove_if_done(number) {
            tracing::debug!(%error, "an empty file of dead letters stays until the next start");
        }
    }

    pub(super) fn reclassify(
        &mut self,
        id: LetterId,
        failure: Failure,
        died: Timestamp,
        max_size: u64,
    ) -> Result<(), DeadLetterError> {
        let Some(letter) = self.get(id)? else { return Ok(()) };
        self.append(vec![DeadLetter { died, failure, ..letter }], max_size)?;
        self.remove(&[id]).map(drop)
    }

    pub(super) fn remove(&mut self, ids: &[LetterId]) -> Result<u64, DeadLetterError> {
        let ids: HashSet<_> = ids.iter().copied().collect();
        let touched: Vec<u64> = self
            .files
            .iter()
            .filter(|(_, file)| file.slots.iter().any(|slot| !slot.gone && ids.contains(&slot.id)))
            .map(|(number, _)| *number)
            .collect();
        let mut removed = 0;
        for number in touched {
            let file = self.files.get_mut(&number).expect("found above");
            let going: Vec<_> =
                (0..file.slots.len()).filter(|at| !file.slots[*at].gone && ids.contains(&file.slots[*at].id)).collect();
            // A file that loses its last letters is removed as a whole: its marks need not be durable.
            if going.len() < file.live || file.damaged > 0 {
                file.with_file(&*self.disk, |open| {
                    for at in &going {
                        open.write_at(&file.seed.gone(), file.slots[*at].at + STATE_AT as u64)?;
                    }
                    open.sync_data()
                })?;
            } else {
                self.disk.remove(&file.path).map_err(at(&file.path))?;
            }
            for at in going {
                let slot = &mut file.slots[at];
                slot.gone = true;
                file.live -= 1;
                removed += 1;
                if let Some(count) = self.counts[slot.topic as usize].get_mut(&slot.reason) {
                    *count -= 1;
                }
            }
            self.remove_if_done(number)?;
        }
        Ok(removed)
    }

    /// Removes a file without letters, durably; one with damage goes to `damaged/`.
    pub(super) fn remove_if_done(&mut self, number: u64) -> Result<(), DeadLetterError> {
        if self.files.get(&number).is_none_or(|file| file.live > 0) {
            return Ok(());
        }
        let Some(file) = self.files.remove(&number) else { return Ok(()) };
        if self.active == Some(number) {
            self.active = None;
        }
        if file.damaged > 0 {
            return self.set_aside(&file.path);
        }
        remove_if_there(&*self.disk, &file.path).map_err(at(&file.path))?;
        self.disk.sync_dir(&self.dir).map_err(at(&self.dir))
    }

    pub(super) fn set_aside(&self, path: &Path) -> Result<(), DeadLetterError> {
        let damaged = self.dir.join("damaged");
        create_dirs(&*self.disk, &damaged).map_err(at(&damaged))?;
        if let Some(name) = path.file_name() {
            self.disk.rename(path, &damaged.join(name)).map_err(at(path))?;
        }
        self.disk.sync_dir(&damaged).and_then(|()| self.disk.sync_dir(&self.dir)).map_err(at(&self.dir))
    }

    pub(super) fn get(&self, id: LetterId) -> Result<Option<DeadLetter>, DeadLetterError> {
        self.live().find(|(_, slot)| slot.id == id).map(|(file, slot)| file.read(&*self.disk, slot)).transpose()
    }

    pub(super) fn list(&self) -> Vec<LetterInfo> {
        self.live().map(|(_, slot)| self.info(slot)).collect()
    }

    /// See [`super::DeadLetters::page`].
    pub(super) fn page(&self, after: Option<LetterId>, max: usize, max_bytes: u64) -> Vec<ListedLetter> {
        let mut bytes = 0;
        self.live()
            .filter(|(_, slot)| after.is_none_or(|after| slot.id > after))
            .take(max)
            .take_while(|(_, slot)| {
                let first = bytes == 0;
                bytes += u64::from(slot.length);
                first || bytes <= max_bytes
            })
            .map(|(file, slot)| {
                let event = file.read(&*self.disk, slot).ok().map(|letter| letter.event.id());
                ListedLetter { info: self.info(slot), event }
            })
            .collect()
    }

    fn info(&self, slot: &Slot) -> LetterInfo {
        LetterInfo {
            id: slot.id,
            offset: slot.offset,
            received: slot.received,
            topic: Arc::clone(&self.topics[slot.topic as usize]),
            reason: slot.reason,
            bytes: u64::from(slot.length),
        }
    }

    /// See [`super::DeadLetters::next_of`]. A letter that can't be read any more is passed over, loudly, and kept.
    pub(super) fn next_of(
        &mut self,
        topic: &str,
        fits: &dyn Fn(Reason) -> bool,
        after: Option<LetterId>,
        max: usize,
        max_bytes: usize,
    ) -> Result<Vec<DeadLetter>, DeadLetterError> {
        let Some(topic) = self.topics.iter().position(|known| &**known == topic) else { return Ok(Vec::new()) };
        let mut bytes = 0;
        let mut unreadable = Vec::new();
        let letters = self
            .live()
            .filter(|(_, slot)| slot.topic as usize == topic && fits(slot.reason))
            .filter(|(_, slot)| after.is_none_or(|after| slot.id > after))
            .take(max)
            .take_while(|(_, slot)| {
                let first = bytes == 0;
                bytes += slot.length as usize;
                first || bytes <= max_bytes
            })
            .filter_map(|(file, slot)| match file.read(&*self.disk, slot) {
                Err(DeadLetterError::Damaged(id)) => {
                    unreadable.push(id);
                    None
                }
                read => Some(read),
            })
            .collect();
        for id in unreadable {
            self.lose(id);
        }
        letters
    }

    /// A letter was whole when it was indexed and is not now: it leaves the index, and its file is kept.
    fn lose(&mut self, id: LetterId) {
        tracing::error!(letter = %id, dir = %self.dir.display(), "dead letter is damaged; its bytes are kept");
        for file in self.files.values_mut() {
            for slot in file.slots.iter_mut().filter(|slot| slot.id == id && !slot.gone) {
                slot.gone = true;
                file.live -= 1;
                file.damaged += 1;
                self.damaged += 1;
                if let Some(count) = self.counts[slot.topic as usize].get_mut(&slot.reason) {
                    *count -= 1;
                }
            }
        }
    }

    fn live(&self) -> impl Iterator<Item = (&LetterFile, &Slot)> {
        self.files.values().flat_map(|file| file.slots.iter().map(move |slot| (file, slot))).filter(|(_, s)| !s.gone)
    }

    fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    pub(super) fn summary(&self) -> Summary {
        let mut summary = Summary { bytes: self.bytes(), damaged: self.damaged, ..Summary::default() };
        for (topic, counts) in self.topics.iter().zip(&self.counts) {
            for (reason, count) in counts.iter().filter(|(_, count)| **count > 0) {
                *summary.by_reason.entry(*reason).or_default() += count;
                summary.by_topic.entry(Arc::clone(topic)).or_default().insert(*reason, *count);
            }
        }
        summary
    }
}
