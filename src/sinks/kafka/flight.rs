//! One window in flight: its messages are queued in order and reported in any order.

use std::sync::Arc;

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::BaseRecord;

use super::client::{Live, Ticket};
use super::record;
use super::reports::Reports;
use crate::message::Message;
use crate::sinks::Outcome;

/// What of a window is queued, and what became of it.
pub(super) struct KafkaFlight {
    /// Where librdkafka's thread tells of them.
    pub(super) reports: Arc<Reports>,
    /// One for each message. `None` while it is open.
    outcomes: Vec<Option<Outcome>>,
    /// The place of the first message that was neither queued nor skipped.
    next: usize,
    /// How many are queued and not yet reported.
    unreported: usize,
}

impl KafkaFlight {
    /// Of a window of which nothing is queued. What has an outcome is not sent.
    pub(super) fn new(outcomes: Vec<Option<Outcome>>) -> Self {
        Self { reports: Arc::default(), outcomes, next: 0, unreported: 0 }
    }

    /// Asserts that this flight is of `window`: windows are published in the order in which they were begun.
    pub(super) fn of(self, window: &[Message]) -> Self {
        assert_eq!(self.outcomes.len(), window.len(), "this is not the oldest window that was begun");
        self
    }

    /// Queues what is open, in order. An error is librdkafka's, about the message at [`KafkaFlight::next`]; the messages
    /// after it are not queued.
    pub(super) fn queue(&mut self, live: &Live, window: &[Message]) -> Result<(), Code> {
        while let Some(outcome) = self.outcomes.get(self.next) {
            if outcome.is_none() {
                self.send(live, &window[self.next])?;
                self.unreported += 1;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn send(&self, live: &Live, message: &Message) -> Result<(), Code> {
        let value = record::value(message);
        let ticket = Box::new(Ticket { place: self.next, reports: Arc::clone(&self.reports) });
        let record = BaseRecord::with_opaque_to(message.topic.as_str(), ticket)
            .key(message.partition_key.as_bytes())
            .payload(value.as_ref())
            .timestamp(i64::try_from(message.recorded.as_millis()).unwrap_or(0))
            .headers(record::headers(message));
        live.producer.send(record).map_err(|(error, _)| error.rdkafka_error_code().unwrap_or(Code::InvalidArgument))
    }

    /// The place of the message that is queued next.
    pub(super) const fn next(&self) -> usize {
        self.next
    }

    /// Gives the message at [`KafkaFlight::next`] an outcome in the place of sending it.
    pub(super) fn skip(&mut self, outcome: Outcome) {
        self.outcomes[self.next] = Some(outcome);
        self.next += 1;
    }

    /// Whether every message was queued or given an outcome.
    pub(super) const fn is_queued(&self) -> bool {
        self.next == self.outcomes.len()
    }

    /// How many are queued and not yet reported.
    pub(super) const fn unreported(&self) -> usize {
        self.unreported
    }

    /// Notes a report. With `None`, the message stays open.
    pub(super) fn settle(&mut self, place: usize, outcome: Option<Outcome>) {
        self.unreported -= 1;
        self.outcomes[place] = outcome;
    }

    /// The same window for another attempt at the messages that are still open. `None` if there are none.
    pub(super) fn again(&self) -> Option<Self> {
        self.outcomes.contains(&None).then(|| Self::new(self.outcomes.clone()))
    }

    /// Returns one outcome for each message. Panics if one is still open.
    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
            .into_iter()
            .map(|outcome| outcome.expect("the last attempt gives each message an outcome"))
            .collect()
    }
}
