//! Windows while they are worked on: what is settled, what is to be sent, what is to be set aside.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::Batch;
use super::dead_letters::{DeadLetter, LetterId};
use crate::clock::Timestamp;
use crate::journal::Offset;
use crate::message::{Message, StoredEvent, Topic};
use crate::sinks::{Failure, Windows};

/// An event's number, counted from the first.
pub(super) type SlotId = usize;

/// How far the newest event may be from the oldest that is not settled, in events: while a topic waits for an operator,
/// the others flow so far, and a crash publishes them again.
const MOST_OPEN: usize = 16 * Windows::WHOLE.events;

/// The same in bytes of events that are not settled.
const MOST_BYTES: usize = 4 * Windows::WHOLE.bytes;

/// The body of an event that waits is copied if it has no more bytes: it would hold the whole block that it was read with.
const COPIED: usize = 128 * 1024;

struct Slot {
    offset: Offset,
    /// `None` once it is settled.
    event: Option<StoredEvent>,
    /// Whether its body holds nothing but itself.
    detached: bool,
}

impl Slot {
    /// Lets go of the block that the body was read with.
    fn detach(&mut self, message: &mut Message) {
        let Some(event) = self.event.as_mut().filter(|_| !self.detached) else { return };
        self.detached = true;
        if event.body.len() <= COPIED {
            event.body = Bytes::copy_from_slice(&event.body);
            message.data = event.body.clone();
        }
    }
}

/// An event that is to become a dead letter.
pub(super) struct Burial {
    slot: SlotId,
    topic: Arc<str>,
    pub(super) failure: Failure,
    /// None where making it panicked.
    message: Option<Message>,
}

/// The end of a window.
struct End {
    /// The number of the slot behind it.
    slot: SlotId,
    offset: Offset,
    unwanted: u64,
}

/// Windows in work, each behind the other. Every slot is settled, being sent, in `begun`, in `queue`, in `waiting` or in
/// `burials`.
#[derive(Default)]
pub(super) struct InFlight {
    /// From the oldest that is not settled.
    slots: VecDeque<Slot>,
    /// The number of the first of them.
    first: SlotId,
    /// Of the events that are not settled.
    bytes: usize,
    /// Of the windows that are not settled.
    ends: VecDeque<End>,
    /// What is on its way already, behind what is being sent.
    pub(super) begun: Option<Batch<SlotId>>,
    /// What is to be sent, in this order.
    pub(super) queue: VecDeque<Batch<SlotId>>,
    /// What waits until its topic is due.
    waiting: Vec<(Topic, Batch<SlotId>)>,
    /// What is to be set aside before the cursor passes it.
    pub(super) burials: Vec<Burial>,
}

impl InFlight {
    /// One more event, in the order of offsets.
    pub(super) fn add(&mut self, offset: Offset, event: StoredEvent) -> SlotId {
        self.bytes += event.body.len();
        self.slots.push_back(Slot { offset, event: Some(event), detached: false });
        self.first + self.slots.len() - 1
    }

    /// The window whose events were added ends here; `unwanted` of them count as wanted by nobody.
    pub(super) fn end_window(&mut self, offset: Offset, unwanted: u64) {
        self.ends.push_back(End { slot: self.first + self.slots.len(), offset, unwanted });
    }

    pub(super) fn settle(&mut self, slot: SlotId) {
        if let Some(event) = self.slots[slot - self.first].event.take() {
            self.bytes -= event.body.len();
        }
    }

    /// Whether all is settled.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether one more window may be added though not all is settled.
    pub(super) fn has_room(&self) -> bool {
        self.slots.len() < MOST_OPEN && self.bytes < MOST_BYTES
    }

    /// The topics of which something waits.
    pub(super) fn waiting_topics(&self) -> impl Iterator<Item = &Topic> {
        self.waiting.iter().map(|(topic, _)| topic)
    }

    fn waiting_of(&mut self, topic: &Topic) -> &mut Batch<SlotId> {
        let known = self.waiting.iter().position(|(waiting, _)| waiting == topic);
        let at = known.unwrap_or_else(|| {
            self.waiting.push((topic.clone(), Batch::new()));
            self.waiting.len() - 1
        });
        &mut self.waiting[at].1
    }

    /// Messages of a topic wait until it is due, in the order of arrival.
    pub(super) fn wait(&mut self, topic: &Topic, mut batch: Batch<SlotId>) {
        for (slot, message) in batch.keys.iter().zip(&mut batch.messages) {
            self.slots[slot - self.first].detach(message);
        }
        let waiting = self.waiting_of(topic);
        batch.extend(std::mem::replace(waiting, Batch::new()));
        *waiting = batch.in_order();
    }

    /// One more message, newer than all others, waits until its topic is due.
    pub(super) fn wait_one(&mut self, slot: SlotId, mut message: Message) {
        self.slots[slot - self.first].detach(&mut message);
        self.waiting_of(&message.topic.clone()).push(slot, message);
    }

    /// Whether nothing waits behind what is being sent: no failure was met, none is to be set aside.
    pub(super) fn is_clear(&self) -> bool {
        self.begun.is_none() && self.queue.is_empty() && self.burials.is_empty()
    }

    /// What is sent next: first what is on its way, last what waited and whose topic is due.
    pub(super) fn next(&mut self, is_due: impl Fn(&Topic) -> bool) -> Option<Batch<SlotId>> {
        self.begun.take().or_else(|| self.queue.pop_front()).or_else(|| {
            let due = self.waiting.iter().position(|(topic, _)| is_due(topic))?;
            Some(self.waiting.remove(due).1)
        })
    }

    /// The places in the journal of events that are not settled.
    pub(super) fn offsets(&self, slots: &[SlotId]) -> Vec<Offset> {
        slots.iter().map(|slot| self.slots[slot - self.first].offset).collect()
    }

    /// The places in the journal of what is to be set aside.
    pub(super) fn burial_offsets(&self) -> Vec<Offset> {
        self.burials.iter().map(|burial| self.slots[burial.slot - self.first].offset).collect()
    }

    /// Drops what was to be set aside and is before `cursor`, because the journal gave it up.
    pub(super) fn give_up_burials(&mut self, cursor: Offset) {
        for burial in std::mem::take(&mut self.burials) {
            if self.slots[burial.slot - self.first].offset < cursor {
                self.settle(burial.slot);
            } else {
                self.burials.push(burial);
            }
        }
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
            let slot = &self.slots[burial.slot - self.first];
            Some(DeadLetter {
                id: LetterId(0),
                offset: slot.offset,
                died,
                topic: Arc::clone(&burial.topic),
                failure: burial.failure.clone(),
                event: slot.event.clone()?,
            })
        };
        self.burials.iter().filter_map(letter).collect()
    }

    /// What was to be set aside is durable.
    pub(super) fn settle_burials(&mut self) {
        for burial in std::mem::take(&mut self.burials) {
            self.settle(burial.slot);
        }
    }

    /// Sends after all what was to be set aside and `fits`.
    pub(super) fn unbury(&mut self, fits: impl Fn(&str, &Failure) -> bool) {
        let mut batch = Batch::new();
        for burial in std::mem::take(&mut self.burials) {
            match burial.message {
                Some(message) if fits(&burial.topic, &burial.failure) => batch.push(burial.slot, message),
                message => self.burials.push(Burial { message, ..burial }),
            }
        }
        if !batch.is_empty() {
            self.queue.push_back(batch);
        }
    }

    /// Takes the messages of a topic out of the queue, and those that wait.
    pub(super) fn take_topic(&mut self, topic: &Topic) -> Batch<SlotId> {
        let waiting = self.waiting.iter().position(|(waiting, _)| waiting == topic);
        let mut taken = waiting.map_or_else(Batch::new, |at| self.waiting.remove(at).1);
        for batch in &mut self.queue {
            taken.extend(batch.take_topic(topic));
        }
        self.queue.retain(|batch| !batch.is_empty());
        taken
    }

    /// Lets go of what is settled: up to where everything is, none where nothing is new, and how many events of the
    /// windows that end there count as wanted by nobody.
    pub(super) fn pass(&mut self) -> (Option<Offset>, u64) {
        while self.slots.pop_front_if(|slot| slot.event.is_none()).is_some() {
            self.first += 1;
        }
        let (mut passed, mut unwanted) = (None, 0);
        let first = self.first;
        while let Some(end) = self.ends.pop_front_if(|end| end.slot <= first) {
            passed = Some(end.offset);
            unwanted += end.unwanted;
        }
        (self.slots.front().map(|slot| slot.offset).or(passed), unwanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_lets_go_of_the_block_that_it_was_read_with() {
        let block = Bytes::from(vec![7; 256 * 1024]);
        let event = StoredEvent {
            source: "alma".parse().expect("a name"),
            received: Timestamp::from_micros(1),
            recorded: Timestamp::from_micros(2),
            body: block.slice(..1_000),
        };
        let message = Message::sample("alma.t", "1", &event.body, event.received);
        let mut in_flight = InFlight::default();
        let slot = in_flight.add(Offset(1), event);
        in_flight.wait_one(slot, message);
        assert!(block.is_unique(), "nothing holds the block any more");
        let waited = in_flight.next(|_| true).expect("it is due");
        assert_eq!(waited.messages[0].data, block.slice(..1_000));
    }
}
