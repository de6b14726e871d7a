//! Apache Kafka, by librdkafka: an idempotent producer, confirmed by all in-sync replicas.
//!
//! The sink queues a window at once and awaits its delivery reports. A message that is not confirmed within the
//! delivery time-out counts as unknown, and the pump sends it again. A large window, as in a backlog, is queued while
//! the previous one is in flight: an idempotent producer sends a partition no further request while one with five or
//! more messages is not confirmed, and then has the next one ready. A missing topic is created with its first event, or
//! reported. A new connection is a new producer: it reads credentials and certificates again, and nothing of an old
//! attempt is left. Purging an idempotent producer leaves a gap in its sequence numbers. That is harmless, because a
//! purged producer is never used again.
//!
//! A confirm is a delivery report with an offset. A report without one is librdkafka's conclusion from sequence
//! numbers, which can be wrong: on a partition that was just created, it reported events as delivered that were in no
//! log.
//!
//! # Error codes
//!
//! The names are those of the Kafka protocol. Names that begin with an underscore are librdkafka's own.
//!
//! | code | reason |
//! |---|---|
//! | `_TRANSPORT`, `_ALL_BROKERS_DOWN`, `_RESOLVE`, `BROKER_NOT_AVAILABLE`, `NETWORK_EXCEPTION`, `LEADER_NOT_AVAILABLE`, `NOT_LEADER_FOR_PARTITION`, and every code that is not listed here | unreachable |
//! | `_AUTHENTICATION`, `_SSL`, `SASL_AUTHENTICATION_FAILED`, `UNSUPPORTED_SASL_MECHANISM`, `ILLEGAL_SASL_STATE`, `SECURITY_DISABLED` | login |
//! | `_MSG_TIMED_OUT`, `_TIMED_OUT`, `_TIMED_OUT_QUEUE`, `REQUEST_TIMED_OUT`, `_PURGE_QUEUE`, `_PURGE_INFLIGHT`, `OUT_OF_ORDER_SEQUENCE_NUMBER` and what else befalls a producer id, a second report without an offset | timeout; unreachable or login if all brokers are known to be down |
//! | `_QUEUE_FULL`, `_ISR_INSUFF`, `NOT_ENOUGH_REPLICAS`, `NOT_ENOUGH_REPLICAS_AFTER_APPEND`, `KAFKA_STORAGE_ERROR`, `THROTTLING_QUOTA_EXCEEDED` | busy |
//! | `MSG_SIZE_TOO_LARGE`, `RECORD_LIST_TOO_LARGE` | too large |
//! | `INVALID_MSG`, `INVALID_MSG_SIZE`, `INVALID_RECORD` (librdkafka also says so of each of several invalid records of a batch, whatever is wrong with them), `_INVALID_DIFFERENT_RECORD`, `UNSUPPORTED_FOR_MESSAGE_FORMAT`, `UNSUPPORTED_COMPRESSION_TYPE`, `_BAD_MSG`, `_BAD_COMPRESSION` | malformed |
//! | `INVALID_TIMESTAMP`: `recordedtime` is outside `message.timestamp.after.max.ms` or `message.timestamp.before.max.ms` | clock |
//! | `TOPIC_AUTHORIZATION_FAILED`, `CLUSTER_AUTHORIZATION_FAILED` (no right to write anywhere, or none to create topics) | rights |
//! | `UNKNOWN_TOPIC_OR_PART`, `_UNKNOWN_TOPIC`, `_UNKNOWN_PARTITION`, `INVALID_TOPIC_EXCEPTION` (a name that collides), `INVALID_REPLICATION_FACTOR`, `INVALID_PARTITIONS`, `INVALID_CONFIG`, `POLICY_VIOLATION` | missing; unreachable, and therefore created again, if it vanished and may be created |
//!
//! A fatal error ends a producer for ever. Its messages fail with the fatal code, and a new producer replaces it before
//! the next window that was not begun.

mod client;
mod errors;
mod flight;
mod hints;
pub mod probe;
mod ready;
mod record;
mod reports;
mod survey;
pub mod tail;
mod topics;

#[cfg(test)]
mod mocked;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::producer::Producer as _;
use tokio::time::timeout;

use client::{DELIVERY_TIMEOUT, Live, NO_OFFSET, blocking, message_limit};
use flight::KafkaFlight;
use reports::{Report, Reports};
use topics::READY_TIMEOUT;

use super::tools::{Check, TailOptions};
use super::{Failure, LOOK, Outcome, Outcomes, Reason, Sink, SinkType, Windows};
use crate::config::{self, SinkName};
use crate::message::Message;

/// How long [`Sink::close`] waits for what is still queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Two windows at a time. A window has as many events of 1.5 KiB, with their envelopes, as fit into one request to a
/// partition: librdkafka's `batch.size` of 1,000,000 bytes, which a topic with Kafka's default limit accepts.
const WINDOWS: Windows = Windows { events: 480, ..Windows::HALVES };

/// How many milliseconds an empty queue may take to release its room.
const ROOM_WAITS: usize = 1_000;

impl SinkType for config::KafkaSink {
    fn build(&self, sink: &config::Sink, max_body: usize) -> Box<dyn Sink> {
        Box::new(KafkaSink::new(&sink.name, self, max_body))
    }

    fn tail<'a>(&'a self, sink: &'a config::Sink, options: TailOptions) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(tail::tail(self, sink.topic.prefix(), options))
    }

    fn probe<'a>(&'a self, _: &'a config::Sink, max_body: usize, topics: &'a [String]) -> BoxFuture<'a, Vec<Check>> {
        Box::pin(probe::probe(self, max_body, topics))
    }
}

/// Publishes events to Kafka topics.
pub struct KafkaSink {
    name: SinkName,
    settings: config::KafkaSink,
    limit: usize,
    /// The producer's properties.
    config: ClientConfig,
    /// `None` before the first connection and after a connection has ended.
    live: Option<Live>,
    /// Windows that were queued and are to be published next, the oldest first.
    begun: VecDeque<KafkaFlight>,
    /// Topics that were seen; others are looked for, and created, before their first event is sent.
    known: BTreeSet<String>,
    /// Topics whose settings were checked. Each is checked once, because that needs its own connection.
    described: BTreeSet<String>,
    /// The brokers' defaults were checked. That happens once per process, because it needs its own connection.
    surveyed: bool,
}

impl KafkaSink {
    /// A sink that is not connected. `max_body` is the largest body in bytes, and determines the limit of messages.
    pub fn new(name: &SinkName, settings: &config::KafkaSink, max_body: usize) -> Self {
        Self {
            name: name.clone(),
            settings: settings.clone(),
            limit: message_limit(max_body),
            config: client::producing(settings, max_body),
            live: None,
            begun: VecDeque::new(),
            known: BTreeSet::new(),
            described: BTreeSet::new(),
            surveyed: false,
        }
    }

    async fn start(&self) -> Result<Live, Failure> {
        let (name, config) = (self.name.clone(), self.config.clone());
        blocking(move || Live::start(name.as_str(), &config)).await?
    }

    async fn connect_anew(&mut self) -> Result<Vec<String>, Failure> {
        self.end().await;
        let live = self.start().await?;
        live.reached().await?;
        self.live = Some(live);
        if self.surveyed {
            return Ok(Vec::new());
        }
        self.surveyed = true;
        Ok(self.shortcomings().await)
    }

    /// Ends the producer. It sends nothing afterwards.
    async fn end(&mut self) {
        self.begun.clear();
        if let Some(live) = &self.live {
            live.purge().await;
        }
        self.live = None;
    }

    async fn publish_window(&mut self, window: &[Message], outcomes: &mut Outcomes) {
        let mut flight = match self.begun.pop_front() {
            Some(flight) => flight.of(window),
            None => match self.prepare(window).await {
                Ok(flight) => flight,
                Err(failure) => return outcomes.fail_open(&failure),
            },
        };
        self.fly(window, &mut flight, true, outcomes).await;
        // What a new partition refused is reported as delivered, without an offset. Sent again, it arrives.
        if let Some(again) = flight.again() {
            flight = again;
            self.fly(window, &mut flight, false, outcomes).await;
        }
        for (place, outcome) in flight.into_outcomes().into_iter().enumerate() {
            outcomes.set(place, outcome);
        }
    }

    /// Makes ready what a window needs, and fails those of its messages that can't be sent.
    async fn prepare(&mut self, window: &[Message]) -> Result<KafkaFlight, Failure> {
        self.replace_if_fatal().await;
        if self.live.is_none() {
            return Err(Failure::new(Reason::Unreachable, "not connected"));
        }
        let not_ready = self.ready_topics(window).await;
        let failed = |message: &Message| not_ready.get(message.topic.as_str()).cloned().map(Outcome::Failed);
        Ok(KafkaFlight::new(window.iter().map(failed).collect()))
    }

    /// Queues a window where that needs no wait.
    fn queue_ahead(&mut self, window: &[Message]) -> Option<KafkaFlight> {
        self.live.as_ref().filter(|live| live.fatal().is_none())?;
        let is_known = |message: &Message| self.known.contains(message.topic.as_str());
        if !is_large(window) || !window.iter().all(is_known) || self.begun.iter().any(|ahead| !ahead.is_queued()) {
            return None;
        }
        let mut flight = KafkaFlight::new(vec![None; window.len()]);
        // What finds no room is queued once it is published.
        self.queue(window, &mut flight);
        Some(flight)
    }

    /// Queues all messages that have no outcome yet, and awaits the report of each. One without an offset is no outcome
    /// where it can be tried again.
    async fn fly(&mut self, window: &[Message], flight: &mut KafkaFlight, try_again: bool, outcomes: &mut Outcomes) {
        let mut waits = 0;
        while !self.queue(window, flight) {
            if flight.unreported() > 0 {
                // The operator's properties limit the queue. Each report makes room.
                self.settle(window, flight, 1, try_again, outcomes).await;
                waits = 0;
            } else if waits < ROOM_WAITS {
                // A report arrives shortly before its room is free.
                waits += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            } else {
                flight.skip(self.outcome(&window[flight.next()], Err(Code::QueueFull)));
                waits = 0;
            }
        }
        self.settle(window, flight, flight.unreported(), try_again, outcomes).await;
    }

    /// Queues what there is room for; whether that was all.
    fn queue(&mut self, window: &[Message], flight: &mut KafkaFlight) -> bool {
        loop {
            let queued =
                self.live.as_ref().map_or(Err(Code::BrokerTransportFailure), |live| flight.queue(live, window));
            match queued {
                Ok(()) => return true,
                Err(Code::QueueFull) => return false,
                Err(code) => flight.skip(self.outcome(&window[flight.next()], Err(code))),
            }
        }
    }

    /// Waits for `wanted` reports, and turns all reports into outcomes as they arrive.
    async fn settle(
        &mut self,
        window: &[Message],
        flight: &mut KafkaFlight,
        mut wanted: usize,
        try_again: bool,
        outcomes: &mut Outcomes,
    ) {
        loop {
            let came = self.reported(&flight.reports, wanted).await;
            wanted = wanted.saturating_sub(came.len());
            for (place, report) in came {
                let is_open = try_again && report == Err(NO_OFFSET);
                let outcome = (!is_open).then(|| self.outcome(&window[place], report));
                if let Some(outcome) = &outcome {
                    outcomes.set(place, outcome.clone());
                }
                flight.settle(place, outcome);
            }
            if wanted == 0 {
                return;
            }
        }
    }

    /// Waits briefly for `wanted` reports, and returns all that arrived. If every broker refuses the login, librdkafka
    /// would keep trying until the delivery time-out and delay a reload that brings the new password. What is in flight
    /// is purged instead.
    async fn reported(&self, reports: &Reports, wanted: usize) -> Vec<Report> {
        let refused = async {
            match &self.live {
                Some(live) => live.log_in_refused().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            came = timeout(LOOK, reports.take(wanted)) => {
                if let Ok(came) = came {
                    return came;
                }
            }
            () = refused => {
                if let Some(live) = &self.live {
                    live.purge().await;
                }
            }
        }
        reports.take(0).await
    }

    fn outcome(&mut self, message: &Message, report: Result<(), Code>) -> Outcome {
        let code = match report {
            Ok(()) => return Outcome::CONFIRMED,
            Err(code) => code,
        };
        let failure = errors::failure(code);
        let live = self.live.as_ref();
        Outcome::Failed(match failure.reason {
            // Messages that were purged because of a fatal error failed for that error.
            _ if live.is_some_and(|live| live.fatal().is_some()) => live.and_then(Live::fatal).unwrap_or(failure),
            Reason::Timeout if code == NO_OFFSET => Failure::new(
                Reason::Timeout,
                "reported as delivered without an offset: whether the broker has it is unknown, so it is sent again",
            ),
            Reason::Timeout => live.and_then(|live| live.context.down()).unwrap_or(failure),
            Reason::Rights => {
                // From now on, librdkafka refuses the topic by itself until it asks the broker again. That can be 5
                // minutes after the right was granted, unless the next lookup makes it ask.
                self.known.remove(message.topic.as_str());
                failure
            }
            Reason::Missing => {
                self.known.remove(message.topic.as_str());
                if self.settings.create_topics {
                    Failure::new(Reason::Unreachable, format!("{}; the topic is created again", failure.detail))
                } else {
                    failure
                }
            }
            Reason::Clock => Failure::new(
                Reason::Clock,
                format!(
                    "{}: recordedtime is further from the broker's clock than the topic's message.timestamp.after.max.ms \
                     (the bridge's clock is ahead) or message.timestamp.before.max.ms (the event is old) allows; compare \
                     the clocks of the bridge and the broker",
                    failure.detail
                ),
            ),
            Reason::TooLarge => Failure::new(
                Reason::TooLarge,
                format!("{}; the topic's max.message.bytes should be {}", failure.detail, self.limit),
            ),
            _ => failure,
        })
    }

    /// Replaces a producer that has had a fatal error, because it sends nothing any more. Only before a window: after
    /// it, the new producer would fail the same way before an operator could correct the cause.
    async fn replace_if_fatal(&mut self) {
        let Some(failure) = self.live.as_ref().and_then(Live::fatal) else { return };
        tracing::warn!(sink = self.name.as_str(), error = %failure, "the Kafka producer ended for good, a new one is made");
        self.end().await;
        self.live = self.start().await.ok();
    }
}

impl Sink for KafkaSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        self.connect_anew().boxed()
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        self.publish_window(window, outcomes).boxed()
    }

    fn windows(&self) -> Windows {
        WINDOWS
    }

    fn begin(&mut self, window: &[Message]) -> bool {
        let flight = self.queue_ahead(window);
        let has_begun = flight.is_some();
        self.begun.extend(flight);
        has_begun
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        self.end().boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async {
            if let Some(live) = &self.live {
                let producer = Arc::clone(&live.producer);
                let _ = blocking(move || producer.flush(CLOSE_TIMEOUT)).await;
            }
            self.end().await;
        }
        .boxed()
    }

    fn deadline(&self) -> Duration {
        READY_TIMEOUT + DELIVERY_TIMEOUT + Duration::from_secs(10)
    }

    fn is_up(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.context.is_up())
    }
}

/// Whether it is worth queueing a window while another is in flight. A small window arrives sooner alone, and
/// librdkafka polls without a pause while anything waits for a request. Never a window with one message: a broker
/// refuses a whole request for one of its messages, and if two windows share it, that message would be taken for the
/// cause.
fn is_large(window: &[Message]) -> bool {
    let bytes: usize = window.iter().map(|message| message.data.len()).sum();
    window.len() > 1 && (window.len() >= WINDOWS.events / 4 || bytes >= WINDOWS.bytes / 4)
}
