//! A window while it is worked on: what is settled, what is to be sent, what is to be set aside.

use std::collections::VecDeque;
use std::sync::Arc;

use super::chunk::Chunk;
use super::dead_letters::{DeadLetter, LetterId};
use crate::clock::Timestamp;
use crate::journal::Offset;
use crate::message::{Message, StoredEvent, Topic};
use crate::sinks::Failure;

/// An event's number in its window.
pub(super) type SlotId = usize;

struct Slot {
    offset: Offset,
    event: StoredEvent,
    settled: bool,
}

/// An event that is to become a dead letter.
pub(super) struct Burial {
    slot: SlotId,
    topic: Arc<str>,
    pub(super) failure: Failure,
    /// None where making it panicked.
    message: Option<Message>,
}

/// A window in work. Every slot is settled, in `queue` or in `burials`.
pub(super) struct Work {
    slots: Vec<Slot>,
    first_open: SlotId,
    end: Offset,
    /// What is to be sent, in this order.
    pub(super) queue: VecDeque<Chunk<SlotId>>,
    /// What is to be set aside before the cursor passes it.
    pub(super) burials: Vec<Burial>,
}

impl Work {
    pub(super) const fn new(end: Offset) -> Self {
        Self { slots: Vec::new(), first_open: 0, end, queue: VecDeque::new(), burials: Vec::new() }
    }

    /// One more event, in the order of offsets.
    pub(super) fn add(&mut self, offset: Offset, event: StoredEvent) -> SlotId {
        self.slots.push(Slot { offset, event, settled: false });
        self.slots.len() - 1
    }

    pub(super) fn settle(&mut self, slot: SlotId) {
        self.slots[slot].settled = true;
    }

    /// To be set aside: a message, for `failure`.
    pub(super) fn bury(&mut self, slot: SlotId, message: Message, failure: Failure) {
        let topic = message.topic.as_str().into();
        self.burials.push(Burial { slot, topic, failure, message: Some(message) });
    }

    /// To be set aside: an event that has no message.
    pub(super) fn bury_unmade(&mut self, slot: SlotId, failure: Failure) {
        self.burials.push(Burial { slot, topic: "".into(), failure, message: None });
    }

    /// The letters of what is to be set aside, in the order of arrival.
    pub(super) fn letters(&mut self, died: Timestamp) -> Vec<DeadLetter> {
        self.burials.sort_by_key(|burial| burial.slot);
        let letter = |burial: &Burial| {
            let slot = &self.slots[burial.slot];
            DeadLetter {
                id: LetterId(0),
                offset: slot.offset,
                died,
                topic: Arc::clone(&burial.topic),
                failure: burial.failure.clone(),
                event: slot.event.clone(),
            }
        };
        self.burials.iter().map(letter).collect()
    }

    /// What was to be set aside is durable.
    pub(super) fn settle_burials(&mut self) {
        for burial in std::mem::take(&mut self.burials) {
            self.settle(burial.slot);
        }
    }

    /// Sends after all what was to be set aside and `fits`.
    pub(super) fn unbury(&mut self, fits: impl Fn(&str, &Failure) -> bool) {
        let mut chunk = Chunk::new();
        for burial in std::mem::take(&mut self.burials) {
            match burial.message {
                Some(message) if fits(&burial.topic, &burial.failure) => chunk.push(burial.slot, message),
                message => self.burials.push(Burial { message, ..burial }),
            }
        }
        if !chunk.is_empty() {
            self.queue.push_back(chunk);
        }
    }

    /// Takes the messages of a topic out of the queue, in their order.
    pub(super) fn take_topic(&mut self, topic: &Topic) -> Chunk<SlotId> {
        let mut taken = Chunk::new();
        for chunk in &mut self.queue {
            taken.extend(chunk.take_topic(topic));
        }
        self.queue.retain(|chunk| !chunk.is_empty());
        taken
    }

    /// Up to where everything is settled.
    pub(super) fn settled_until(&mut self) -> Offset {
        while self.slots.get(self.first_open).is_some_and(|slot| slot.settled) {
            self.first_open += 1;
        }
        self.slots.get(self.first_open).map_or(self.end, |slot| slot.offset)
    }
}
