//! Moves the letters of one sink to another that continues it.
//!
//! A whole file is renamed if its letters fit behind those that are there. Otherwise its letters are appended under new
//! ids, and then removed where they were.

use std::collections::HashSet;

use super::letter_file::{LetterSlot, at};
use super::letter_files::{LetterFiles, SUFFIX};
use super::{DeadLetterError, LetterId};
use crate::storage::create_dirs;

impl LetterFiles {
    /// See [`super::DeadLetters::adopt`].
    pub(super) fn adopt(&mut self, other: &mut Self) -> Result<u64, DeadLetterError> {
        let mut adopted = 0;
        for number in other.files.keys().copied().collect::<Vec<_>>() {
            adopted += other.files[&number].live as u64;
            if self.fits_behind(&other.files[&number].slots) {
                self.take_file(other, number)?;
            } else {
                self.copy_letters(other, number)?;
            }
        }
        Ok(adopted)
    }

    /// Whether ids go on growing with these letters, and none of their events is kept already.
    fn fits_behind(&self, slots: &[LetterSlot]) -> bool {
        let kept: HashSet<_> = self.live().map(|(_, slot)| slot.place()).collect();
        slots.iter().filter(|slot| !slot.gone).all(|slot| slot.id.0 > self.last_id && !kept.contains(&slot.place()))
    }

    fn take_file(&mut self, other: &mut Self, number: u64) -> Result<(), DeadLetterError> {
        create_dirs(&*self.disk, &self.dir).map_err(at(&self.dir))?;
        let path = self.dir.join(format!("{:016}{SUFFIX}", self.next_file));
        let old = &other.files[&number].path;
        self.disk.rename(old, &path).map_err(at(old))?;
        let mut file = other.files.remove(&number).expect("it is among the files");
        other.active = other.active.filter(|active| *active != number);
        (file.path, file.file) = (path, None);
        for slot in &mut file.slots {
            self.last_id = self.last_id.max(slot.id.0);
            self.max_offset = self.max_offset.max(slot.offset.0);
            let topic = self.topic(&other.topics[slot.topic as usize]);
            if !slot.gone {
                *self.counts[topic].entry(slot.reason).or_default() += 1;
                if let Some(count) = other.counts[slot.topic as usize].get_mut(&slot.reason) {
                    *count -= 1;
                }
            }
            slot.topic = u32::try_from(topic).expect("fewer topics than letters");
            self.unreadable.extend(other.unreadable.take(&slot.id));
        }
        self.files.insert(self.next_file, file);
        self.next_file += 1;
        (self.dir_unsure, other.dir_unsure) = (true, true);
        self.settle_dir()?;
        other.settle_dir()
    }

    fn copy_letters(&mut self, other: &mut Self, number: u64) -> Result<(), DeadLetterError> {
        let live = other.files[&number].slots.iter().filter(|slot| !slot.gone);
        let (mut letters, mut copied): (Vec<_>, Vec<LetterId>) = (Vec::new(), Vec::new());
        for id in live.map(|slot| slot.id) {
            match other.get(id) {
                Ok(letter) => {
                    letters.extend(letter);
                    copied.push(id);
                }
                Err(error) => {
                    tracing::error!(letter = %id, dir = %other.dir.display(), %error, "dead letter can't be moved; it stays");
                }
            }
        }
        // They were kept before, so they may exceed the bound here too.
        self.append_new(letters, u64::MAX)?;
        other.remove(&copied).map(drop)
    }
}
