//! The files of one sink's dead letters, and an index of them in memory. Every call may block on the disk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::format::{self, FILE_HEADER, STATE_AT, Seed};
use super::letter_file::{LetterFile, LetterSlot, at};
use super::{DeadLetter, DeadLetterError, LetterId, LetterSummary};
use crate::clock::Timestamp;
use crate::sinks::{Failure, Reason};
use crate::storage::{Disk, create_dirs, remove_if_there};

/// A file with this many bytes takes no further letter.
const ROLL: u64 = 8 << 20;
pub(super) const SUFFIX: &str = ".letters";

pub(super) struct LetterFiles {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) files: BTreeMap<u64, LetterFile>,
    /// The file that takes letters.
    pub(super) active: Option<u64>,
    pub(super) next_file: u64,
    pub(super) last_id: u64,
    /// Added to the next ids.
    skipped_ids: u64,
    /// The highest offset of a letter. An event above it can't be kept already.
    pub(super) max_offset: u64,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) counts: Vec<BTreeMap<Reason, u64>>,
    pub(super) damaged: u64,
    /// Letters whose last read failed, though they may be whole.
    pub(super) unreadable: BTreeSet<LetterId>,
    /// A file was renamed, and a power cut may still undo it.
    pub(super) dir_unsure: bool,
}

impl LetterFiles {
    /// Makes an empty store.
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
            unreadable: BTreeSet::new(),
            dir_unsure: false,
        }
    }

    /// Skips this many ids.
    pub(super) fn skip_ids(&mut self, count: u64) {
        self.skipped_ids += count;
    }

    /// Indexes a letter that is durable at this place of a file.
    pub(super) fn index(&mut self, file: &mut LetterFile, letter: &DeadLetter, at: u64, length: usize, gone: bool) {
        self.last_id = self.last_id.max(letter.id.0);
        self.max_offset = self.max_offset.max(letter.offset.0);
        let topic = self.topic(&letter.topic);
        let reason = letter.failure.reason;
        if !gone {
            file.live += 1;
            file.live_bytes += length as u64;
            *self.counts[topic].entry(reason).or_default() += 1;
        }
        file.slots.push(LetterSlot {
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

    pub(super) fn topic(&mut self, name: &Arc<str>) -> usize {
        if let Some(known) = self.topics.iter().position(|topic| topic == name) {
            return known;
        }
        self.topics.push(Arc::clone(name));
        self.counts.push(BTreeMap::new());
        self.topics.len() - 1
    }

    pub(super) fn append_new(&mut self, letters: Vec<DeadLetter>, max_size: u64) -> Result<(), DeadLetterError> {
        self.settle_dir()?;
        let may_be_kept = letters.iter().any(|letter| letter.offset.0 <= self.max_offset);
        let mut kept = HashSet::new();
        if may_be_kept {
            let again: HashSet<_> = letters.iter().map(DeadLetter::place).collect();
            for file in self.files.values_mut() {
                let live = file.slots.iter().filter(|slot| !slot.gone).map(LetterSlot::place);
                let found: Vec<_> = live.filter(|place| again.contains(place)).collect();
                if !found.is_empty() {
                    file.prove(&*self.disk)?;
                    kept.extend(found);
                }
            }
        }
        let is_new = |letter: &DeadLetter| !kept.contains(&letter.place());
        self.append(letters.into_iter().filter(is_new).collect(), max_size)
    }

    fn append(&mut self, mut letters: Vec<DeadLetter>, max_size: u64) -> Result<(), DeadLetterError> {
        if letters.is_empty() {
            return Ok(());
        }
        for letter in &mut letters {
            // Offsets are never assigned twice, so neither are ids, even if all files were gone in between.
            self.last_id = (self.last_id + 1).max(letter.offset.0 + self.skipped_ids);
            letter.id = LetterId(self.last_id);
        }
        let payloads: Vec<_> = letters.iter().map(format::encode).collect();
        let more = payloads.iter().map(|payload| payload.len() as u64 + 64).sum();
        let bytes = self.live_bytes();
        if bytes.saturating_add(more) > max_size {
            return Err(DeadLetterError::Full { bytes, more, max_size });
        }
        self.make_room(more, max_size);
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

    /// Returns the file that takes the next letters. Creates one if there is none or it is full.
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
        // A lone header does no harm, but a failing disk would leave one for each try.
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
            // If that fails, the letters after it are published twice, because they are appended to another file too.
            drop(open.set_size(file.size).and_then(|()| open.sync_data()));
        }
        self.files.insert(number, file);
        if let Err(error) = self.remove_if_done(number) {
            tracing::debug!(%error, "an empty file of dead letters stays until the next start");
        }
    }

    /// See [`super::DeadLetters::reclassify`]. The copy may exceed the bound: the letter that it replaces goes at once.
    pub(super) fn reclassify(
        &mut self,
        id: LetterId,
        failure: Failure,
        died: Timestamp,
    ) -> Result<(), DeadLetterError> {
        let Some(letter) = self.get(id)? else { return Ok(()) };
        // A crash or a failed removal may have left the copy of an earlier call.
        let is_copy = |slot: &LetterSlot| !slot.gone && slot.place() == letter.place() && slot.id != id;
        match self.files.values_mut().find(|file| file.slots.iter().any(is_copy)) {
            // The copy may be in the page cache only.
            Some(file) => file.prove(&*self.disk)?,
            None => self.append(vec![DeadLetter { died, failure, ..letter }], u64::MAX)?,
        }
        self.remove(&[id]).map(drop)
    }

    pub(super) fn remove(&mut self, ids: &[LetterId]) -> Result<u64, DeadLetterError> {
        // A power cut must not bring removed letters back with an old file.
        self.settle_dir()?;
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
            // A file that loses its last letters is removed as a whole, so its marks need not be durable.
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
                self.unreadable.remove(&file.slots[at].id);
                file.let_go(at, &mut self.counts);
                removed += 1;
            }
            self.remove_if_done(number)?;
            self.compact_if_worth_it(number);
        }
        Ok(removed)
    }

    /// Removes a file without letters durably, or moves it to `damaged/` if something in it is damaged.
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

    /// Drops a letter from the index that has become damaged since the start. Its file is kept.
    pub(super) fn lose(&mut self, id: LetterId) {
        tracing::error!(letter = %id, dir = %self.dir.display(), "dead letter is damaged; its bytes are kept");
        self.unreadable.remove(&id);
        for file in self.files.values_mut() {
            let lost = file.slots.iter().position(|slot| slot.id == id && !slot.gone);
            if let Some(at) = lost {
                file.let_go(at, &mut self.counts);
                file.damaged += 1;
                self.damaged += 1;
            }
        }
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (&LetterFile, &LetterSlot)> {
        self.files.values().flat_map(|file| file.slots.iter().map(move |slot| (file, slot))).filter(|(_, s)| !s.gone)
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    /// Bytes of the letters that are not gone, which `dead_max_size` bounds.
    fn live_bytes(&self) -> u64 {
        self.files.values().map(|file| FILE_HEADER as u64 + file.live_bytes).sum()
    }

    pub(super) fn summary(&self) -> LetterSummary {
        let mut summary = LetterSummary { bytes: self.bytes(), damaged: self.damaged, ..LetterSummary::default() };
        summary.unreadable = self.unreadable.len() as u64;
        for (topic, counts) in self.topics.iter().zip(&self.counts) {
            for (reason, count) in counts.iter().filter(|(_, count)| **count > 0) {
                *summary.by_reason.entry(*reason).or_default() += count;
                summary.by_topic.entry(Arc::clone(topic)).or_default().insert(*reason, *count);
            }
        }
        summary
    }
}
