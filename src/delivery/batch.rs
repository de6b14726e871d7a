//! A piece of a window that is sent at once, and how its outcomes are told apart.

use crate::config::{SinkKind, Unroutable};
use crate::message::{Message, Topic};
use crate::sinks::{Class, Failure, Outcome, Reason, Windows};

/// Messages to be sent at once, each with the key of what it was made from. Both vectors are of one length.
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

    /// In the order of their keys.
    pub(super) fn in_order(self) -> Self
    where
        K: Ord + Copy,
    {
        let mut all: Vec<(K, Message)> = self.into_iter().collect();
        all.sort_by_key(|(key, _)| *key);
        let (keys, messages) = all.into_iter().unzip();
        Self { keys, messages }
    }

    /// The topic of all messages, where they have but one.
    pub(super) fn topic(&self) -> Option<&Topic> {
        let (first, rest) = self.messages.split_first()?;
        rest.iter().all(|message| message.topic == first.topic).then_some(&first.topic)
    }

    /// What is sent next of messages that were refused among `sent`, in order: themselves where others were sent with
    /// them, else their halves, so that a bad one among `n` is alone after `log2 n` steps. None where it was alone.
    pub(super) fn bisect(mut self, sent: usize) -> Result<Vec<Self>, Box<(K, Message)>> {
        if self.len() == 1 && sent == 1 {
            return Err(Box::new((self.keys.remove(0), self.messages.remove(0))));
        }
        if self.len() < sent {
            return Ok(vec![self]);
        }
        let middle = self.len() / 2;
        let behind = Self { keys: self.keys.split_off(middle), messages: self.messages.split_off(middle) };
        Ok(vec![self, behind])
    }

    /// Leaves no more than fits one of these windows, at least one message, and gives the rest.
    pub(super) fn cut(&mut self, windows: Windows) -> Option<Self> {
        let mut bytes = 0;
        let over = self.messages.iter().position(|message| {
            bytes += message.data.len();
            bytes > windows.bytes
        });
        let at = over.unwrap_or(usize::MAX).min(windows.events).max(1);
        (at < self.len()).then(|| Self { keys: self.keys.split_off(at), messages: self.messages.split_off(at) })
    }

    /// Takes the messages of a topic out.
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

    /// Tells the outcomes apart; there is one a message.
    pub(super) fn sort(self, outcomes: Vec<Outcome>, judge: Judge) -> Sorted<K> {
        let mut sorted = Sorted {
            confirmed: Vec::new(),
            retry: (Self::new(), None),
            refused: (Self::new(), None),
            needs_operator: Vec::new(),
        };
        for ((key, message), outcome) in self.into_iter().zip(outcomes) {
            let failure = match outcome {
                Outcome::Confirmed { .. } => {
                    sorted.confirmed.push((key, message.topic));
                    continue;
                }
                Outcome::Failed(failure) => failure,
            };
            let (batch, why) = match judge.class(failure.reason) {
                Class::NeedsOperator => {
                    sorted.needs_operator.push((key, message, failure));
                    continue;
                }
                Class::Retry => &mut sorted.retry,
                Class::Refused => &mut sorted.refused,
            };
            batch.push(key, message);
            why.get_or_insert(failure);
        }
        sorted
    }
}

/// Outcomes told apart, each part in the order of the batch.
pub(super) struct Sorted<K> {
    pub(super) confirmed: Vec<(K, Topic)>,
    /// What is sent again once the connection is made again, with the first failure.
    pub(super) retry: (Batch<K>, Option<Failure>),
    /// What is judged when it was sent alone, with the first failure.
    pub(super) refused: (Batch<K>, Option<Failure>),
    /// What an operator mends.
    pub(super) needs_operator: Vec<(K, Message, Failure)>,
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

    /// The reason's own class, but that `unroutable = "dead"` has nothing to wait for.
    pub(super) const fn class(self, reason: Reason) -> Class {
        match reason {
            Reason::Unroutable if self.unroutable_is_dead => Class::Refused,
            _ => reason.class(),
        }
    }

    /// Whether letters of this reason are tried again by themselves.
    pub(super) fn parks(self, reason: Reason) -> bool {
        self.class(reason) == Class::NeedsOperator
    }
}
