//! What a window has come to so far, over the rounds that it takes.

use std::collections::BTreeMap;

use super::errors::{max_message_size, refused_topic};
use super::publication::Publication;
use super::window::Fate;
use crate::config::{SinkName, Unroutable};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Reason};

/// One entry a message of the window, in its order.
pub(super) struct Ledger(Vec<Entry>);

enum Entry {
    Open(Publication),
    Confirmed,
    /// To this routing key no queue is bound.
    Returned(String),
    Failed(Failure),
}

impl Ledger {
    /// All open, but what can't be written at all.
    pub(super) fn new(window: &[Message]) -> Self {
        Self(window.iter().map(|message| Publication::of(message).map_or_else(Entry::Failed, Entry::Open)).collect())
    }

    pub(super) fn is_settled(&self) -> bool {
        self.publications().next().is_none()
    }

    /// What is open, in the window's order.
    pub(super) fn publications(&self) -> impl Iterator<Item = &Publication> {
        self.0.iter().filter_map(|entry| match entry {
            Entry::Open(publication) => Some(publication),
            _ => None,
        })
    }

    /// One fate of each that is open, in their order. What is unknown stays open.
    pub(super) fn settle(&mut self, fates: &[Fate]) {
        let mut fates = fates.iter();
        self.replace_open(|publication| match fates.next()? {
            Fate::Confirmed => Some(Entry::Confirmed),
            Fate::Returned => Some(Entry::Returned(publication.routing_key.to_string())),
            Fate::Nacked => Some(failed(Reason::Busy, "a queue refused it (basic.nack): it is full, or has an error")),
            Fate::NotRequested => Some(failed(Reason::Timeout, "the channel is not in confirm mode")),
            Fate::Unknown => None,
        });
    }

    /// Refuses what the broker has said it does not take.
    pub(super) fn refuse_larger_than(&mut self, limit: Option<usize>) {
        let Some(limit) = limit else { return };
        self.replace_open(|publication| {
            let size = publication.body.len();
            let detail = || format!("{size} bytes, the broker's max_message_size is {limit} (rabbitmq.conf)");
            (size > limit).then(|| failed(Reason::TooLarge, detail()))
        });
    }

    /// Fails those that the broker's words point at; none where they point at none.
    pub(super) fn pin(&mut self, failure: &Failure) -> bool {
        let open = self.publications().count();
        match failure.reason {
            Reason::TooLarge => self.refuse_larger_than(max_message_size(&failure.detail)),
            Reason::Rights => {
                let topic = refused_topic(&failure.detail);
                self.replace_open(|publication| {
                    (Some(publication.routing_key.as_str()) == topic).then(|| Entry::Failed(failure.clone()))
                });
            }
            _ => {}
        }
        self.publications().count() < open
    }

    /// Fails all that is open.
    pub(super) fn fail_open(&mut self, failure: &Failure) {
        self.replace_open(|_| Some(Entry::Failed(failure.clone())));
    }

    /// One outcome a message, in the window's order.
    pub(super) fn into_outcomes(self, sink: &SinkName, unroutable: Unroutable) -> Vec<Outcome> {
        let mut dropped: BTreeMap<String, u64> = BTreeMap::new();
        let outcome = |entry| match entry {
            Entry::Confirmed => Outcome::CONFIRMED,
            Entry::Returned(topic) if unroutable == Unroutable::Drop => {
                *dropped.entry(topic).or_default() += 1;
                Outcome::CONFIRMED
            }
            Entry::Returned(topic) => Outcome::Failed(Failure::new(
                Reason::Unroutable,
                format!("312 no queue is bound for {topic}, and there is no alternate exchange"),
            )),
            Entry::Failed(failure) => Outcome::Failed(failure),
            Entry::Open(_) => Outcome::Failed(Failure::new(Reason::Timeout, "it was not settled")),
        };
        let outcomes = self.0.into_iter().map(outcome).collect();
        for (topic, events) in dropped {
            tracing::warn!(sink = %sink, topic, events, "dropped: no queue is bound for them");
        }
        outcomes
    }

    fn replace_open(&mut self, mut with: impl FnMut(&Publication) -> Option<Entry>) {
        for entry in &mut self.0 {
            if let Entry::Open(publication) = entry
                && let Some(settled) = with(publication)
            {
                *entry = settled;
            }
        }
    }
}

fn failed(reason: Reason, detail: impl Into<String>) -> Entry {
    Entry::Failed(Failure::new(reason, detail))
}
