//! Apache Kafka, by librdkafka: an idempotent producer, confirmed by all in-sync replicas.
//!
//! A window is queued at once and its delivery reports are awaited; what is not confirmed within the delivery
//! time-out counts as unknown and is sent again by the pump. A large window, as of a backlog, is queued behind the one on
//! its way: librdkafka sends a partition no other request of an idempotent producer while one with five messages or more
//! is not confirmed, and has the next at hand then. A missing topic is created with its first event, or reported. A new
//! connection is a new producer: credentials and certificates are read again, and nothing of an old attempt is left.
//! Purging an idempotent producer leaves a gap in its sequence numbers; that is harmless, because a purged producer is
//! never used again.
//!
//! A confirm is a delivery report with an offset. One without is librdkafka's conclusion from sequence numbers, which
//! has been seen to be wrong: on a partition that was just created, events were called delivered that were in no log.
//!
//! # Error codes
//!
//! By the names of the Kafka protocol; those that begin with an underscore are librdkafka's own.
//!
//! | code | reason |
//! |---|---|
//! | `_TRANSPORT`, `_ALL_BROKERS_DOWN`, `_RESOLVE`, `BROKER_NOT_AVAILABLE`, `NETWORK_EXCEPTION`, `LEADER_NOT_AVAILABLE`, `NOT_LEADER_FOR_PARTITION`, and every code that is not listed here | unreachable |
//! | `_AUTHENTICATION`, `_SSL`, `SASL_AUTHENTICATION_FAILED`, `UNSUPPORTED_SASL_MECHANISM`, `ILLEGAL_SASL_STATE`, `SECURITY_DISABLED` | login |
//! | `_MSG_TIMED_OUT`, `_TIMED_OUT`, `_TIMED_OUT_QUEUE`, `REQUEST_TIMED_OUT`, `_PURGE_QUEUE`, `_PURGE_INFLIGHT`, `OUT_OF_ORDER_SEQUENCE_NUMBER` and what else befalls a producer id, a second report without an offset | timeout; unreachable or login where all brokers are known to be down |
//! | `_QUEUE_FULL`, `_ISR_INSUFF`, `NOT_ENOUGH_REPLICAS`, `NOT_ENOUGH_REPLICAS_AFTER_APPEND`, `KAFKA_STORAGE_ERROR`, `THROTTLING_QUOTA_EXCEEDED` | busy |
//! | `MSG_SIZE_TOO_LARGE`, `RECORD_LIST_TOO_LARGE` | too large |
//! | `INVALID_MSG`, `INVALID_MSG_SIZE`, `INVALID_RECORD` (librdkafka also says so of each of several invalid records of a batch, whatever is wrong with them), `_INVALID_DIFFERENT_RECORD`, `UNSUPPORTED_FOR_MESSAGE_FORMAT`, `UNSUPPORTED_COMPRESSION_TYPE`, `_BAD_MSG`, `_BAD_COMPRESSION` | malformed |
//! | `INVALID_TIMESTAMP`: `recordedtime` is outside `message.timestamp.after.max.ms` or `message.timestamp.before.max.ms` | clock |
//! | `TOPIC_AUTHORIZATION_FAILED`, `CLUSTER_AUTHORIZATION_FAILED` (no right to write anywhere, or none to create topics) | rights |
//! | `UNKNOWN_TOPIC_OR_PART`, `_UNKNOWN_TOPIC`, `_UNKNOWN_PARTITION`, `INVALID_TOPIC_EXCEPTION` (a name that collides), `INVALID_REPLICATION_FACTOR`, `INVALID_PARTITIONS`, `INVALID_CONFIG`, `POLICY_VIOLATION` | missing; unreachable, and so created again, where it vanished and may be created |
//!
//! A fatal error ends a producer for ever: its messages fail with the fatal code, and a new one takes its place before
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

/// Two at a time. As many events of 1.5 KiB as go in one request to a partition, with what is around their bodies: it has
/// librdkafka's `batch.size` of 1,000,000 bytes, which a topic with Kafka's own limit takes.
const WINDOWS: Windows = Windows { events: 480, ..Windows::HALVES };

/// How many milliseconds an empty queue may take to give back its room.
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

/// Events into Kafka topics.
pub struct KafkaSink {
    name: SinkName,
    settings: config::KafkaSink,
    limit: usize,
    /// The producer's properties.
    config: ClientConfig,
    /// None before the first connection and after one has ended.
    live: Option<Live>,
    /// Windows that were queued and are to be published next, the oldest first.
    begun: VecDeque<KafkaFlight>,
    /// Topics that were seen; others are looked for, and created, before their first event is sent.
    known: BTreeSet<String>,
    /// Topics whose settings were looked at: once each, because it takes a connection of its own.
    described: BTreeSet<String>,
    /// The brokers' defaults were looked at: once a process, because it takes a connection of its own.
    surveyed: bool,
}

impl KafkaSink {
    /// A sink that is not connected. `max_body` is the largest body in bytes; the limit of messages follows it.
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

    /// Ends the producer; nothing of it is sent afterwards.
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
        // What a new partition refused comes back called delivered; once more, and it is there.
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
                // The queue is bounded by the operator's properties: each report makes room.
                self.settle(window, flight, 1, try_again, outcomes).await;
                waits = 0;
            } else if waits < ROOM_WAITS {
                // A report comes a moment before its room.
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

    /// Waits for that many reports and makes all that came outcomes, as they come.
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

    /// Waits for that many reports, but not for long, and gives all that came. Where no broker takes the log-in any more, librdkafka would go on trying until the delivery
    /// time-out, and hold up a reload that brings the new password: what is on its way is taken back instead.
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
            // What was purged because of a fatal error failed for that error.
            _ if live.is_some_and(|live| live.fatal().is_some()) => live.and_then(Live::fatal).unwrap_or(failure),
            Reason::Timeout if code == NO_OFFSET => Failure::new(
                Reason::Timeout,
                "called delivered without an offset: whether the broker has it is unknown, it is sent again",
            ),
            Reason::Timeout => live.and_then(|live| live.context.down()).unwrap_or(failure),
            Reason::Rights => {
                // librdkafka denies the topic by itself from now on, until it has asked for it again: up to 5 minutes
                // after the right was given, if the next look did not make it ask.
                self.known.remove(message.topic.as_str());
                failure
            }
            Reason::Missing => {
                self.known.remove(message.topic.as_str());
                if self.settings.create_topics {
                    Failure::new(Reason::Unreachable, format!("{}; the topic is made again", failure.detail))
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

    /// A producer after a fatal error sends nothing any more; a new one takes its place. Only before a window: one made
    /// behind it would go the same way before an operator could mend what was wrong.
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

/// Whether it is worth queueing behind another: what is small goes sooner by itself, and librdkafka polls without a pause
/// for as long as anything waits behind a request. Never a window of one: a broker condemns a request for one of its
/// messages, and where two windows share one, the only message of its window would be taken for the culprit.
fn is_large(window: &[Message]) -> bool {
    let bytes: usize = window.iter().map(|message| message.data.len()).sum();
    window.len() > 1 && (window.len() >= WINDOWS.events / 4 || bytes >= WINDOWS.bytes / 4)
}
