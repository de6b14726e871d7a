//! A batch of messages that is sent at once, and what became of each of them.
//!
//! Pumps, parked topics, requested retries, replays and `storage = "none"` all work the same way: they send a batch,
//! halve what was refused until the message to blame is alone, and decide about the rest. The first two steps are here
//! and in [`super::guarded_sink::GuardedSink::send`]; a [`Sent`] holds what is left to decide.

use std::collections::VecDeque;

use crate::config::{SinkKind, Unroutable};
use crate::message::{Message, Topic};
use crate::sinks::{Class, Failure, Outcome, Reason, Windows};

/// Messages that are sent at once, each with the key of what it was made from. Both vectors have the same length.
pub(super) struct Batch<K> {
    pub(super) keys: Vec<K>,
    pub(super) messages: Vec<Message>,
}

impl<K> Batch<K> {
    pub(super) const fn new() -> Self {
        Self { keys: Vec::new(), messages: Vec::new() }
    }

    pub(super) fn push(&mut self, key: K, message: Message) {
        self.keys.push(key);
        self.messages.push(message);
    }

    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.messages.extend(other.messages);
    }

    /// Sorts the messages by their keys.
    pub(super) fn in_order(self) -> Self
    where
        K: Ord + Copy,
    {
        let mut all: Vec<(K, Message)> = self.into_iter().collect();
        all.sort_by_key(|(key, _)| *key);
        let (keys, messages) = all.into_iter().unzip();
        Self { keys, messages }
    }

    /// The topic of all messages, if they share one.
    pub(super) fn topic(&self) -> Option<&Topic> {
        let (first, rest) = self.messages.split_first()?;
        rest.iter().all(|message| message.topic == first.topic).then_some(&first.topic)
    }

    fn split_off(&mut self, at: usize) -> Self {
        Self { keys: self.keys.split_off(at), messages: self.messages.split_off(at) }
    }

    /// Queues messages that were refused in a batch of `sent` so that they are sent next: as they are if other messages
    /// were in that batch, else in halves. One bad message among `n` is alone after `log2 n` steps. Returns the message
    /// that was alone already.
    fn bisect(mut self, sent: usize, queue: &mut VecDeque<Self>) -> Option<(K, Message)> {
        if sent == 1 {
            return self.keys.pop().zip(self.messages.pop());
        }
        if self.len() == sent {
            queue.push_front(self.split_off(sent / 2));
        }
        queue.push_front(self);
        None
    }

    /// Shortens the batch to what fits into one of these windows, at least one message, and returns the rest.
    pub(super) fn cut(&mut self, windows: Windows) -> Option<Self> {
        let mut bytes = 0;
        let over = self.messages.iter().position(|message| {
            bytes += message.data.len();
            bytes > windows.bytes
        });
        let at = over.unwrap_or(usize::MAX).min(windows.events).max(1);
        (at < self.len()).then(|| self.split_off(at))
    }

    /// Removes the messages of a topic and returns them.
    pub(super) fn take_topic(&mut self, topic: &Topic) -> Self {
        let mut taken = Self::new();
        if self.messages.iter().any(|message| message.topic == *topic) {
            for (key, message) in std::mem::replace(self, Self::new()).into_iter() {
                if message.topic == *topic { &mut taken } else { &mut *self }.push(key, message);
            }
        }
        taken
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (K, Message)> {
        self.keys.into_iter().zip(self.messages)
    }

    /// Sorts the messages by their outcomes, of which there is one for each. What was refused among others goes to the
    /// front of `queue`.
    pub(super) fn sort(self, outcomes: Vec<Outcome>, judge: Judge, queue: &mut VecDeque<Self>) -> Sent<K> {
        let mut sent = Sent {
            confirmed: Vec::new(),
            duplicates: 0,
            refused_alone: None,
            needs_operator: Vec::new(),
            retry: Self::new(),
            lost: None,
        };
        let (length, mut refused, mut why) = (self.len(), Self::new(), None);
        for ((key, message), outcome) in self.into_iter().zip(outcomes) {
            let failure = match outcome {
                Outcome::Confirmed { duplicate } => {
                    sent.duplicates += u64::from(duplicate);
                    sent.confirmed.push((key, message.topic));
                    continue;
                }
                Outcome::Failed(failure) => failure,
            };
            let class = judge.class(failure.reason);
            // A sink that panicked is in an unknown state, though the message is to blame.
            if class == Class::Retry || failure.reason == Reason::Panic {
                sent.lost.get_or_insert_with(|| failure.clone());
            }
            match class {
                Class::NeedsOperator => sent.needs_operator.push((key, message, failure)),
                Class::Retry => sent.retry.push(key, message),
                Class::Refused => {
                    refused.push(key, message);
                    why.get_or_insert(failure);
                }
            }
        }
        if let Some(failure) = why {
            let alone = refused.bisect(length, queue);
            sent.refused_alone = alone.map(|(key, message)| (key, message, failure));
        }
        sent
    }
}

/// What became of a batch. Messages that were refused among others are in none of the parts but in the queue; the parts
/// keep the order of the batch.
pub(super) struct Sent<K> {
    pub(super) confirmed: Vec<(K, Topic)>,
    /// Of the confirmed messages, those that the broker had before.
    pub(super) duplicates: u64,
    /// The only message of the batch, if it was refused. Brokers reject whole batches for one message, so only this
    /// one is known to be bad.
    pub(super) refused_alone: Option<(K, Message, Failure)>,
    pub(super) needs_operator: Vec<(K, Message, Failure)>,
    /// Messages whose fate is unknown, to be sent again over a new connection.
    pub(super) retry: Batch<K>,
    /// Why the connection can't be used any more. Pass it to [`super::guarded_sink::GuardedSink::lost`].
    pub(super) lost: Option<Failure>,
}

/// What a reason means for one sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    unroutable_is_dead: bool,
}

impl Judge {
    pub(super) const fn of(kind: &SinkKind) -> Self {
        Self {
            unroutable_is_dead: matches!(kind, SinkKind::RabbitMq(rabbit) if matches!(rabbit.unroutable, Unroutable::Dead)),
        }
    }

    /// The class of the reason, except that `unroutable = "dead"` does not wait for an operator.
    pub(super) const fn class(self, reason: Reason) -> Class {
        match reason {
            Reason::Unroutable if self.unroutable_is_dead => Class::Refused,
            _ => reason.class(),
        }
    }

    /// Whether the bridge publishes letters of this reason again by itself.
    pub(super) fn parks(self, reason: Reason) -> bool {
        self.class(reason) == Class::NeedsOperator
    }
}
