//! Reads letters.

use std::sync::Arc;

use super::letter_file::{LetterFile, LetterSlot};
use super::letter_files::LetterFiles;
use super::{DeadLetter, DeadLetterError, LetterId, LetterInfo, ListedLetter, NextLetters, format};
use crate::sinks::Reason;

/// `next_of` gives up after this many letters that can't be read, because each may take the disk seconds.
const MAX_UNREAD: usize = 16;

impl LetterFiles {
    pub(super) fn get(&self, id: LetterId) -> Result<Option<DeadLetter>, DeadLetterError> {
        self.live().find(|(_, slot)| slot.id == id).map(|(file, slot)| self.read(file, slot)).transpose()
    }

    fn read(&self, file: &LetterFile, slot: &LetterSlot) -> Result<DeadLetter, DeadLetterError> {
        let frame = file.read_frame(&*self.disk, slot)?;
        let letter = file.seed.payload(&frame).and_then(format::decode);
        letter.ok_or(DeadLetterError::Damaged(slot.id))
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
                let event = self.read(file, slot).ok().map(|letter| letter.event.id());
                ListedLetter { info: self.info(slot), event }
            })
            .collect()
    }

    fn info(&self, slot: &LetterSlot) -> LetterInfo {
        LetterInfo {
            id: slot.id,
            offset: slot.offset,
            received: slot.received,
            topic: Arc::clone(&self.topics[slot.topic as usize]),
            reason: slot.reason,
            bytes: u64::from(slot.length),
        }
    }

    /// See [`super::DeadLetters::next_of`]. A letter that can't be read does not stop the others: a damaged one leaves
    /// the index and its bytes are kept; one that the disk does not give this time stays and is counted.
    pub(super) fn next_of(
        &mut self,
        topic: &str,
        fits: &dyn Fn(Reason) -> bool,
        after: Option<LetterId>,
        max: usize,
        max_bytes: usize,
    ) -> NextLetters {
        let mut found = NextLetters::default();
        let Some(topic) = self.topics.iter().position(|known| &**known == topic) else { return found };
        let (mut bytes, mut damaged, mut unread) = (0, Vec::new(), Vec::new());
        let of_topic = self.live().filter(|(_, slot)| slot.topic as usize == topic && fits(slot.reason));
        for (file, slot) in of_topic.filter(|(_, slot)| after.is_none_or(|after| slot.id > after)) {
            bytes += slot.length as usize;
            let is_full = found.letters.len() == max || (bytes > max_bytes && !found.letters.is_empty());
            if is_full || unread.len() == MAX_UNREAD {
                break;
            }
            found.last = Some(slot.id);
            match self.read(file, slot) {
                Ok(letter) => found.letters.push(letter),
                Err(DeadLetterError::Damaged(id)) => damaged.push(id),
                Err(error) => unread.push((slot.id, error)),
            }
        }
        for id in damaged {
            self.lose(id);
        }
        found.unread = unread.len();
        for letter in &found.letters {
            self.unreadable.remove(&letter.id);
        }
        for (id, error) in unread {
            if self.unreadable.insert(id) {
                tracing::error!(letter = %id, %error, "dead letter can't be read; the bridge tries again every minute");
            }
        }
        found
    }
}
