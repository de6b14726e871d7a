//! The sink for NATS JetStream, by async-nats.
//!
//! One stream has a subject for each topic, and confirms each message with a `PubAck`. `Nats-Msg-Id` lets the stream
//! drop duplicates within its duplicate window. A `PubAck` for a duplicate is a confirm, and is counted. A replay has
//! its own message ids, because the stream drops an id that it knows even if the message was purged.
//! `Nats-Expected-Stream` prevents an event from landing in another stream that somebody configured for the subject.
//!
//! The client may reconnect by itself only briefly, because it buffers messages meanwhile, and acknowledgements that
//! were pending when the server died end only as time-outs. A lost connection therefore fails the window at once, and
//! the pump connects again.
//!
//! # Errors of the server and their reasons
//! | error | reason |
//! |---|---|
//! | connection lost, refused, DNS | [`Reason::Unreachable`] |
//! | authorization violation, nkey or certificate refused, TLS | [`Reason::Login`] |
//! | no `PubAck` in time | [`Reason::Timeout`] |
//! | permissions violation for publish to a subject | [`Reason::Rights`] |
//! | no stream listens on the subject (no responders), 10059, 10060 (another stream does) | [`Reason::Missing`] |
//! | over `max_payload`, 10054 (`max_msg_size`), 10097 (headers) | [`Reason::TooLarge`] |
//! | 10003 (bad request), 10052 | [`Reason::Malformed`] |
//! | anything else from JetStream: no leader, no room (10077, 10047, 10002, 10023), too many requests | [`Reason::Busy`] |

mod client;
mod flight;
mod probe;
mod stream;
mod subjects;
mod tail;

use std::collections::HashSet;
use std::str::FromStr as _;
use std::time::Duration;

use async_nats::HeaderValue;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::tools::{Check, TailOptions};
use super::{Failure, Outcome, Outcomes, Reason, Sink, SinkType};
use crate::config::{self, Format, NatsSink as Settings, SinkName};
use crate::message::{Message, Replay, Topic};
use client::Connection;
use flight::NatsFlight;

pub use probe::probe;
pub use subjects::Subjects;
pub use tail::tail;

/// After this long without any `PubAck`, the outcomes of the messages in flight count as unknown. On a slow link, a
/// whole window may take longer.
const ACK_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit for a whole window, until its last acknowledgement.
const WINDOW_DEADLINE: Duration = Duration::from_secs(30);

/// Media type of structured mode (CloudEvents NATS binding).
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

impl SinkType for Settings {
    fn build(&self, sink: &config::Sink, max_body: usize) -> Box<dyn Sink> {
        Box::new(NatsSink::new(sink.name.clone(), self.clone(), Subjects::of(&sink.topic), max_body))
    }

    fn tail<'a>(&'a self, sink: &'a config::Sink, options: TailOptions) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { tail(&sink.name, self, &Subjects::of(&sink.topic), options).await })
    }

    fn probe<'a>(&'a self, sink: &'a config::Sink, max_body: usize, topics: &'a [String]) -> BoxFuture<'a, Vec<Check>> {
        Box::pin(async move { probe(&sink.name, self, &Subjects::of(&sink.topic), max_body, topics).await })
    }
}

/// Publishes to one stream.
pub struct NatsSink {
    name: SinkName,
    settings: Settings,
    subjects: Subjects,
    max_body: usize,
    connection: Option<Connection>,
    /// Topics that the connection's user may publish to, because the server answered. At most `max_topics`.
    answered: HashSet<Topic>,
}

impl NatsSink {
    /// A sink that is not connected. `subjects` are those that the stream must accept, and `max_body` is the largest
    /// body in bytes.
    pub fn new(name: SinkName, settings: Settings, subjects: Subjects, max_body: usize) -> Self {
        Self { name, settings, subjects, max_body, connection: None, answered: HashSet::new() }
    }

    fn prepare(&self, message: &Message) -> Result<PublishMessage, Failure> {
        let mut id = format!("{}/{}/{}", self.name, message.source_name, message.id);
        if let Some(Replay::Again(run)) = &message.replay {
            // The stream drops an id that it knows, even if the message itself was purged.
            id = format!("{id}/replay-{run}");
        }
        let mut publish = PublishMessage::build().expected_stream(&self.settings.stream);
        publish = publish.header("Nats-Msg-Id", header_value(&id)?);
        Ok(match message.format {
            Format::CloudEvents => {
                publish.header("Content-Type", header_value(STRUCTURED)?).payload(message.structured())
            }
            Format::CloudEventsBinary => {
                for (name, value) in &message.attributes {
                    let value = header_value(&crate::message::percent_encode(value))?;
                    publish = publish.header(format!("ce-{name}"), value);
                }
                publish.payload(message.data.clone())
            }
        })
    }

    async fn publish_window(&mut self, window: &[Message], outcomes: &mut Outcomes) {
        let all: Vec<usize> = (0..window.len()).collect();
        self.publish_once(window, &all, outcomes).await;
        let is_missing = |place: &usize| outcomes.get(*place).and_then(reason_in) == Some(Reason::Missing);
        let missing: Vec<usize> = all.into_iter().filter(is_missing).collect();
        if !self.settings.create_stream || missing.is_empty() {
            return;
        }
        // The stream was deleted meanwhile, and may be created again. If it is still missing, an operator is needed.
        let Some(connection) = &self.connection else { return };
        match connection.create_stream(&self.settings, &self.subjects).await {
            Ok(true) => {
                tracing::warn!(sink = %self.name, stream = self.settings.stream, "the stream was gone and is created again");
            }
            // The stream exists: it does not accept these subjects, or somebody else created it.
            Ok(false) => {}
            Err(failure) => {
                tracing::warn!(sink = %self.name, stream = self.settings.stream, %failure, "can't create the stream again");
                return;
            }
        }
        for place in &missing {
            outcomes.reopen(*place);
        }
        self.publish_once(window, &missing, outcomes).await;
    }

    /// Sends the messages at `places` and awaits all of them. Sends the first message of each topic alone.
    ///
    /// That message shows whether the user may publish to the topic. The server answers each denied message with an
    /// error. If there are many at once, the client drops some (its queue has 128 places), and the denial of another
    /// topic could be lost.
    async fn publish_once(&mut self, window: &[Message], places: &[usize], outcomes: &mut Outcomes) {
        let Some(connection) = &self.connection else {
            return outcomes.fail_open(&Failure::new(Reason::Unreachable, "not connected"));
        };
        connection.forget_denials();
        let mut flight = NatsFlight::new(connection, &self.settings.stream, window, outcomes);
        for &place in places {
            let message = &window[place];
            let publish = connection.hopeless(message.topic.as_str()).map_or_else(|| self.prepare(message), Err);
            let was_sent = match publish {
                Ok(publish) => flight.send(place, publish).await,
                Err(failure) => flight.fail(place, failure),
            };
            if self.answered.contains(&message.topic) {
                continue;
            }
            flight.land(Some(place)).await;
            let failure = flight.failure(place).cloned();
            let reason = failure.as_ref().map(|failure| failure.reason);
            if let Some(failure) = failure.filter(|failure| SILENT.contains(&failure.reason)) {
                // If the server does not answer, it is not tried again with the other topics.
                flight.land(None).await;
                return outcomes.fail_open(&failure);
            }
            if was_sent && reason != Some(Reason::Rights) {
                self.answered.insert(message.topic.clone());
            }
        }
        flight.land(None).await;
    }
}

impl Sink for NatsSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        async move {
            self.connection = None;
            self.answered.clear();
            let connection = Connection::open(&self.name, &self.settings).await?;
            let warnings = connection.prepare_stream(&self.settings, &self.subjects, self.max_body).await?;
            self.connection = Some(connection);
            Ok(warnings)
        }
        .boxed()
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        self.publish_window(window, outcomes).boxed()
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        // Dropping the last handle ends the client. It either sends what it still held, under ids that the stream
        // knows, in its only round of attempts to reconnect, or drops it.
        self.connection = None;
        std::future::ready(()).boxed()
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if let Some(connection) = self.connection.take() {
                connection.close().await;
            }
        }
        .boxed()
    }

    fn deadline(&self) -> Duration {
        WINDOW_DEADLINE
    }

    fn is_up(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_up)
    }
}

/// The reasons of a message that got no answer.
const SILENT: [Reason; 2] = [Reason::Timeout, Reason::Unreachable];

fn reason_in(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Confirmed { .. } => None,
        Outcome::Failed(failure) => Some(failure.reason),
    }
}

/// A header's value. The client's own conversion panics on a line break.
fn header_value(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text).map_err(|_| Failure::new(Reason::Malformed, "a header contains a line break"))
}

/// The failure for an error, by the table at the top of this file.
fn sort(error: &PublishError) -> Failure {
    use std::error::Error as _;
    let reason = match error.kind() {
        PublishErrorKind::StreamNotFound => Reason::Missing,
        PublishErrorKind::TimedOut => Reason::Timeout,
        PublishErrorKind::BrokenPipe => Reason::Unreachable,
        PublishErrorKind::MaxPayloadExceeded => Reason::TooLarge,
        PublishErrorKind::MaxAckPending => Reason::Busy,
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            match error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                Some(said) => reason_of(said.error_code()),
                None => Reason::Unreachable,
            }
        }
    };
    let detail = match error.source() {
        Some(source) if error.kind() == PublishErrorKind::Other => source.to_string(),
        _ => error.to_string(),
    };
    Failure::new(reason, detail)
}

/// The reason for a code of JetStream's API.
fn reason_of(code: ErrorCode) -> Reason {
    match code {
        ErrorCode::STREAM_NOT_FOUND | ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_MISMATCH => Reason::Missing,
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => Reason::TooLarge,
        ErrorCode::BAD_REQUEST | ErrorCode::STREAM_INVALID_CONFIG => Reason::Malformed,
        _ => Reason::Busy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u64) -> PublishError {
        let body = format!(r#"{{"code":400,"err_code":{code},"description":"as the server words it"}}"#);
        let error: jetstream::Error = serde_json::from_str(&body).expect("an API error");
        PublishError::with_source(PublishErrorKind::Other, error)
    }

    #[test]
    fn each_error_has_its_reason() {
        for (code, reason) in [
            (10_059, Reason::Missing),
            (10_060, Reason::Missing),
            (10_054, Reason::TooLarge),
            (10_097, Reason::TooLarge),
            (10_077, Reason::Busy),
            (10_047, Reason::Busy),
            (10_008, Reason::Busy),
            (10_003, Reason::Malformed),
        ] {
            let failure = sort(&said(code));
            assert_eq!(failure.reason, reason, "{code}");
            assert!(failure.detail.contains("as the server words it"), "{failure}");
        }
        let kinds = [
            (PublishErrorKind::StreamNotFound, Reason::Missing),
            (PublishErrorKind::TimedOut, Reason::Timeout),
            (PublishErrorKind::BrokenPipe, Reason::Unreachable),
            (PublishErrorKind::MaxPayloadExceeded, Reason::TooLarge),
        ];
        for (kind, reason) in kinds {
            assert_eq!(sort(&PublishError::new(kind)).reason, reason, "{kind}");
        }
    }

    #[test]
    fn a_line_break_in_a_header_is_refused_and_does_not_panic() {
        assert_eq!(header_value("a\r\nb").expect_err("refused").reason, Reason::Malformed);
        assert_eq!(header_value("a b").expect("fits").as_str(), "a b");
    }
}
