//! The state of a window over the rounds that it takes.

use std::collections::BTreeMap;

use super::errors::{max_message_size, refused_topic};
use super::flight::Fate;
use super::publication::Publication;
use crate::config::{SinkName, Unroutable};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Outcomes, Reason};

/// RabbitMQ does not say which queue refused a message, or why.
const NACKED: &str = "a bound queue refused it (basic.nack); probably the queue is full and its policy has overflow = \
                      reject-publish: drain the queue, or use drop-head";

/// One entry for each message, in the window's order.
pub(super) struct Ledger(Vec<Entry>);

#[allow(clippy::large_enum_variant, reason = "all begin open; a box each would be one allocation an event")]
enum Entry {
    Open(Publication),
    Confirmed,
    /// No queue is bound for this routing key.
    Returned(String),
    Failed(Failure),
}

impl Ledger {
    /// A ledger in which every message is open, except those that can't be encoded.
    pub(super) fn new(window: &[Message]) -> Self {
        Self(window.iter().map(|message| Publication::of(message).map_or_else(Entry::Failed, Entry::Open)).collect())
    }

    pub(super) fn is_settled(&self) -> bool {
        self.publications().next().is_none()
    }

    /// The open messages, in the window's order.
    pub(super) fn publications(&self) -> impl Iterator<Item = &Publication> {
        self.0.iter().filter_map(|entry| match entry {
            Entry::Open(publication) => Some(publication),
            _ => None,
        })
    }

    /// The places of the open messages in the window.
    pub(super) fn open_places(&self) -> Vec<usize> {
        let is_open = |(place, entry): (usize, &Entry)| matches!(entry, Entry::Open(_)).then_some(place);
        self.0.iter().enumerate().filter_map(is_open).collect()
    }

    /// Notes the messages that are confirmed so far.
    pub(super) fn tell_confirmed(&self, outcomes: &mut Outcomes) {
        for (place, entry) in self.0.iter().enumerate() {
            if matches!(entry, Entry::Confirmed) {
                outcomes.set(place, Outcome::CONFIRMED);
            }
        }
    }

    /// Applies one fate to each open message, in their order. A message with an unknown fate stays open.
    pub(super) fn settle(&mut self, fates: &[Fate]) {
        let mut fates = fates.iter();
        self.replace_open(|publication| match fates.next()? {
            Fate::Confirmed => Some(Entry::Confirmed),
            Fate::Returned => Some(Entry::Returned(publication.routing_key.to_string())),
            Fate::Nacked => Some(failed(Reason::Nacked, NACKED)),
            Fate::NotRequested => Some(failed(Reason::Timeout, "the channel is not in confirm mode")),
            Fate::Unknown => None,
        });
    }

    /// Refuses messages that exceed the limit that the broker has reported.
    pub(super) fn refuse_larger_than(&mut self, limit: Option<usize>) {
        let Some(limit) = limit else { return };
        self.replace_open(|publication| {
            let size = publication.body.len();
            let detail = || format!("{size} bytes, but the broker's max_message_size is {limit} (rabbitmq.conf)");
            (size > limit).then(|| failed(Reason::TooLarge, detail()))
        });
    }

    /// Fails the messages that the broker's error refers to. Returns whether there are any.
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

    /// Fails all open messages.
    pub(super) fn fail_open(&mut self, failure: &Failure) {
        self.replace_open(|_| Some(Entry::Failed(failure.clone())));
    }

    /// Returns one outcome for each message, in the window's order.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::message::Topic;

    fn ledger() -> Ledger {
        let message = |topic: &str, id: &str, size| Message::sample(topic, id, &vec![b'1'; size], Timestamp::default());
        let mut window = [message("alma.loan", "1", 1), message("alma.bib", "2", 2_000), message("alma.loan", "3", 1)];
        window[2].topic = Topic::from_name(&"l".repeat(249));
        Ledger::new(&window)
    }

    fn reasons(ledger: Ledger, unroutable: Unroutable) -> Vec<Option<Reason>> {
        let reason = |outcome| match outcome {
            Outcome::Confirmed { .. } => None,
            Outcome::Failed(failure) => Some(failure.reason),
        };
        let sink = "main".parse().expect("a name");
        ledger.into_outcomes(&sink, unroutable).into_iter().map(reason).collect()
    }

    #[test]
    fn each_fate_goes_to_its_message_over_several_rounds() {
        let mut ledger = ledger();
        ledger.settle(&[Fate::Confirmed, Fate::Unknown, Fate::Returned]);
        assert_eq!(ledger.publications().count(), 1);
        ledger.settle(&[Fate::Nacked]);
        assert!(ledger.is_settled());
        assert_eq!(reasons(ledger, Unroutable::Keep), [None, Some(Reason::Nacked), Some(Reason::Unroutable)]);
    }

    #[test]
    fn returned_messages_are_dropped_only_if_so_configured() {
        for (unroutable, expected) in [
            (Unroutable::Keep, Some(Reason::Unroutable)),
            (Unroutable::Dead, Some(Reason::Unroutable)),
            (Unroutable::Drop, None),
        ] {
            let mut ledger = ledger();
            ledger.settle(&[Fate::Returned, Fate::Returned, Fate::Returned]);
            assert_eq!(reasons(ledger, unroutable), [expected; 3]);
        }
    }

    #[test]
    fn a_refusal_fails_the_message_that_it_names() {
        let said = |reason, text: &str| Failure::new(reason, text);
        let mut sized = ledger();
        assert!(sized.pin(&said(Reason::TooLarge, "406 message size 9 is larger than configured max size 1000")));
        sized.settle(&[Fate::Confirmed, Fate::Confirmed]);
        assert_eq!(reasons(sized, Unroutable::Keep), [None, Some(Reason::TooLarge), None]);
        let mut topic = ledger();
        assert!(topic.pin(&said(Reason::Rights, "403 write access to topic 'alma.bib' in exchange 'alma' refused")));
        topic.settle(&[Fate::Confirmed, Fate::Confirmed]);
        assert_eq!(reasons(topic, Unroutable::Keep), [None, Some(Reason::Rights), None]);
    }

    #[test]
    fn a_refusal_that_names_no_message_fails_all_open_ones() {
        for (reason, text) in [
            (Reason::Rights, "403 write access to exchange 'alma' refused"),
            (Reason::TooLarge, "406 message size 9 is larger than configured max size 90000"),
            (Reason::Missing, "404 no exchange 'alma'"),
        ] {
            let mut ledger = ledger();
            ledger.settle(&[Fate::Confirmed, Fate::Unknown, Fate::Unknown]);
            let failure = Failure::new(reason, text);
            assert!(!ledger.pin(&failure), "{text}");
            ledger.fail_open(&failure);
            assert_eq!(reasons(ledger, Unroutable::Keep), [None, Some(reason), Some(reason)]);
        }
    }

    #[test]
    fn a_channel_that_confirms_nothing_is_a_failure() {
        let mut ledger = ledger();
        ledger.settle(&[Fate::NotRequested, Fate::NotRequested, Fate::Unknown]);
        assert_eq!(reasons(ledger, Unroutable::Keep), [Some(Reason::Timeout); 3]);
    }

    #[test]
    fn a_message_that_cannot_be_encoded_is_refused_without_being_sent() {
        let mut message = Message::sample("alma.loan", "1", b"{}", Timestamp::default());
        message.topic = Topic::from_name(&"l".repeat(256));
        let ledger = Ledger::new(&[message]);
        assert!(ledger.is_settled());
        assert_eq!(reasons(ledger, Unroutable::Keep), [Some(Reason::Malformed)]);
    }
}
