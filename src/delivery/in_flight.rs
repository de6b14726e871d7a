//! The windows that are not settled yet: what is to be sent, what waits, and what is to be set aside.
//!
//! What is sent or set aside is claimed from the feed first, so that no event counts both as given up and as settled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{Batch, Judge};
use super::reader::Reader;
use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::dead_letters::{DeadLetter, LetterId};
use crate::journal::{Feed, Offset};
use crate::message::{Message, StoredEvent, Topic};
use crate::sinks::{Failure, Reason, Windows};

/// An event's number, counted from the first.
pub(super) type SlotId = usize;

/// How many events the newest may be ahead of the oldest that is not settled. While a topic waits for an operator, the
/// others flow this far, and a crash publishes them again.
const MOST_OPEN: usize = 16 * Windows::WHOLE.events;

/// The same in bytes of events that are not settled.
const MOST_BYTES: usize = 4 * Windows::WHOLE.bytes;

/// A waiting event's body of up to this many bytes is copied: otherwise it would hold the whole block that it was read
/// with.
const COPIED: usize = 128 * 1024;

struct Slot {
    offset: Offset,
    /// `None` once the event is settled.
    event: Option<StoredEvent>,
    /// Whether the body has memory of its own.
    detached: bool,
}

impl Slot {
    /// Copies the body out of the block that it was read with.
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
struct Burial {
    slot: SlotId,
    topic: Arc<str>,
    failure: Failure,
    /// `None` if making it panicked.
    message: Option<Message>,
}

/// The end of a window.
struct End {
    /// The slot after the window's last event.
    slot: SlotId,
    offset: Offset,
    unwanted: u64,
}

/// The windows that are not settled, in order. Each slot is settled, being sent, or in exactly one of `begun`, `queue`,
/// `waiting` and `burials`.
#[derive(Default)]
pub(super) struct InFlight {
    /// The events from the oldest that is not settled.
    slots: VecDeque<Slot>,
    /// The number of the first slot.
    first: SlotId,
    /// The size of the events that are not settled.
    bytes: usize,
    /// The ends of the windows that are not settled.
    ends: VecDeque<End>,
    /// The window that was begun after the one that is being sent.
    pub(super) begun: Option<Batch<SlotId>>,
    /// The batches that are to be sent, in this order.
    pub(super) queue: VecDeque<Batch<SlotId>>,
    /// The messages that wait until their topic is due.
    waiting: BTreeMap<Topic, Batch<SlotId>>,
    /// What is to be set aside before the cursor passes it.
    burials: Vec<Burial>,
}

impl InFlight {
    /// Adds an event. Call it in the order of offsets.
    pub(super) fn add(&mut self, offset: Offset, event: StoredEvent) -> SlotId {
        self.bytes += event.body.len();
        self.slots.push_back(Slot { offset, event: Some(event), detached: false });
        self.first + self.slots.len() - 1
    }

    /// Ends the window whose events were added. `unwanted` of them count as unwanted.
    pub(super) fn end_window(&mut self, offset: Offset, unwanted: u64) {
        self.ends.push_back(End { slot: self.first + self.slots.len(), offset, unwanted });
    }

    pub(super) fn settle(&mut self, slot: SlotId) {
        if let Some(event) = self.slots[slot - self.first].event.take() {
            self.bytes -= event.body.len();
        }
    }

    /// Whether all events are settled.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether another window may be added.
    pub(super) fn has_room(&self) -> bool {
        self.slots.len() < MOST_OPEN && self.bytes < MOST_BYTES
    }

    /// The topics that have messages waiting.
    pub(super) fn waiting_topics(&self) -> impl Iterator<Item = &Topic> {
        self.waiting.keys()
    }

    /// Makes messages of a topic wait until the topic is due, in the order of arrival.
    pub(super) fn wait(&mut self, topic: &Topic, mut batch: Batch<SlotId>) {
        for (slot, message) in batch.keys.iter().zip(&mut batch.messages) {
            self.slots[slot - self.first].detach(message);
        }
        batch.extend(self.waiting.remove(topic).unwrap_or_else(Batch::new));
        self.waiting.insert(topic.clone(), batch.in_order());
    }

    /// Makes a message that is newer than all others wait until its topic is due.
    pub(super) fn wait_one(&mut self, slot: SlotId, mut message: Message) {
        self.slots[slot - self.first].detach(&mut message);
        self.waiting.entry(message.topic.clone()).or_insert_with(Batch::new).push(slot, message);
    }

    /// Whether nothing is left of the window except what is being sent.
    pub(super) fn is_clear(&self) -> bool {
        self.begun.is_none() && self.queue.is_empty() && self.burials.is_empty()
    }

    /// The batch that is sent next: what was begun, else what is queued, else what waited and is due.
    pub(super) fn next(&mut self, is_due: impl Fn(&Topic) -> bool) -> Option<Batch<SlotId>> {
        self.begun.take().or_else(|| self.queue.pop_front()).or_else(|| {
            let due = self.waiting.iter().filter(|(topic, _)| is_due(topic));
            let oldest = due.min_by_key(|(_, batch)| batch.keys.first().copied())?.0.clone();
            self.waiting.remove(&oldest)
        })
    }

    /// The offsets of these slots.
    fn offsets(&self, slots: &[SlotId]) -> Vec<Offset> {
        slots.iter().map(|slot| self.slots[slot - self.first].offset).collect()
    }

    /// The offsets of what is to be set aside.
    fn burial_offsets(&self) -> Vec<Offset> {
        self.burials.iter().map(|burial| self.slots[burial.slot - self.first].offset).collect()
    }

    /// Sets a message aside, for `failure`.
    pub(super) fn bury(&mut self, slot: SlotId, message: Message, failure: Failure) {
        let topic = message.topic.as_str().into();
        self.burials.push(Burial { slot, topic, failure, message: Some(message) });
    }

    /// Sets an event aside that has no message.
    pub(super) fn bury_unmade(&mut self, slot: SlotId, failure: Failure) {
        self.burials.push(Burial { slot, topic: "".into(), failure, message: None });
    }

    /// The dead letters of what is to be set aside, in the order of arrival.
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

    /// Logs what is set aside by reason, except for parked topics: a line told when the topic was parked.
    pub(super) fn tell_of_burials(&self, sink: &SinkName, judge: Judge) {
        let mut by_reason: BTreeMap<Reason, (u64, &str)> = BTreeMap::new();
        for failure in self.burials.iter().map(|burial| &burial.failure).filter(|why| !judge.parks(why.reason)) {
            by_reason.entry(failure.reason).or_insert((0, &failure.detail)).0 += 1;
        }
        for (reason, (letters, detail)) in by_reason {
            tracing::warn!(%sink, %reason, letters, detail, "dead letters set aside");
        }
    }

    /// Settles what was to be set aside, now that its letters are durable.
    pub(super) fn settle_burials(&mut self) {
        for burial in std::mem::take(&mut self.burials) {
            self.settle(burial.slot);
        }
    }

    /// Queues what was to be set aside and `fits`.
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

    /// Removes a topic's messages from the queue and from those that wait.
    pub(super) fn take_topic(&mut self, topic: &Topic) -> Batch<SlotId> {
        let mut taken = self.waiting.remove(topic).unwrap_or_else(Batch::new);
        for batch in &mut self.queue {
            taken.extend(batch.take_topic(topic));
        }
        self.queue.retain(|batch| !batch.is_empty());
        taken
    }

    /// Claims what is about to be sent, and drops what the journal has given up.
    pub(super) fn claim<F: Feed>(&mut self, batch: &mut Batch<SlotId>, reader: &mut Reader<F>) {
        let offsets = self.offsets(&batch.keys);
        let cursor = reader.claim(&offsets);
        if offsets.iter().all(|offset| *offset >= cursor) {
            return;
        }
        let all = std::mem::replace(batch, Batch::new());
        for ((slot, message), offset) in all.into_iter().zip(offsets) {
            if offset < cursor { self.settle(slot) } else { batch.push(slot, message) }
        }
    }

    /// Ends the claims on events that the pump will not send now.
    pub(super) fn unclaim<F: Feed>(&self, batch: &Batch<SlotId>, reader: &mut Reader<F>) {
        reader.release(&[], &self.offsets(&batch.keys));
    }

    /// Ends the claim on what was sent. `confirmed` are some of `sent`, in the same order.
    pub(super) fn release<F: Feed>(
        &self,
        sent: &[SlotId],
        confirmed: impl Iterator<Item = SlotId>,
        reader: &mut Reader<F>,
    ) {
        let mut confirmed = confirmed.peekable();
        let (settled, waiting): (Vec<_>, Vec<_>) = sent.iter().partition(|slot| confirmed.next_if_eq(*slot).is_some());
        reader.release(&self.offsets(&settled), &self.offsets(&waiting));
    }

    /// Claims what is about to become dead letters, and drops what the journal has given up.
    pub(super) fn claim_burials<F: Feed>(&mut self, reader: &mut Reader<F>) -> Vec<Offset> {
        let cursor = reader.claim(&self.burial_offsets());
        for burial in std::mem::take(&mut self.burials) {
            if self.slots[burial.slot - self.first].offset < cursor {
                self.settle(burial.slot);
            } else {
                self.burials.push(burial);
            }
        }
        self.burial_offsets()
    }

    /// Queues the window that was begun, now that it is no longer on its way.
    pub(super) fn recall<F: Feed>(&mut self, reader: &mut Reader<F>) {
        if let Some(begun) = self.begun.take() {
            self.unclaim(&begun, reader);
            self.queue.push_back(begun);
        }
    }

    /// Drops the settled prefix. Returns the new cursor, or `None` if there is none, and how many events of the windows
    /// that end before it count as unwanted.
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
