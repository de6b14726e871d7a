//! Where events are published: the contract of a sink, and a folder for each type.
//!
//! A [`Sink`] takes a window of messages and returns the outcome of each. One pump owns it ([`crate::delivery`]): it
//! connects the sink, sets deadlines, backs off, and decides what to do about failures. A sink never retries for longer
//! than its client does, and never waits forever.
//!
//! A type of sink implements [`SinkType`]. The table of all types is in `src/config/sinks/mod.rs`; how to add one is in
//! CONTRIBUTING.md.

#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
pub mod tools;

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::config;
use crate::message::Message;
use tools::{Check, TailOptions};

/// This binary was built without the sink's cargo feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this binary was built without the sink type {0}")]
pub struct NotBuiltIn(pub &'static str);

/// What a type of sink can do, implemented for its settings.
pub trait SinkType: Sync {
    /// Makes a sink, without connecting it. `max_body`, in bytes, bounds what the client must be able to send.
    fn build(&self, sink: &config::Sink, max_body: usize) -> Box<dyn Sink>;

    /// Reads back what arrives at a sink, until the reader has had enough.
    fn tail<'a>(&'a self, sink: &'a config::Sink, options: TailOptions) -> BoxFuture<'a, Result<(), Failure>>;

    /// Checks everything that publishing to these topics needs, for `check --connect`. Publishes nothing.
    fn probe<'a>(&'a self, sink: &'a config::Sink, max_body: usize, topics: &'a [String]) -> BoxFuture<'a, Vec<Check>>;
}

macro_rules! sink_type {
    ($($variant:ident($module:ident::$settings:ident) = $name:literal,)*) => {
        /// The implementation of a sink's type, if this binary has it.
        fn sink_type(sink: &config::Sink) -> Result<&dyn SinkType, NotBuiltIn> {
            match &sink.kind {
                $(
                    #[cfg(feature = $name)]
                    config::SinkKind::$variant(settings) => Ok(settings),
                    #[cfg(not(feature = $name))]
                    config::SinkKind::$variant(_) => Err(NotBuiltIn($name)),
                )*
            }
        }
    };
}
config::sink_types!(sink_type);

/// [`SinkType::build`] of the sink's type.
pub fn build(sink: &config::Sink, max_body: usize) -> Result<Box<dyn Sink>, NotBuiltIn> {
    Ok(sink_type(sink)?.build(sink, max_body))
}

/// [`SinkType::tail`] of the sink's type.
pub async fn tail(sink: &config::Sink, options: TailOptions) -> Result<(), Failure> {
    let failed = |missing: NotBuiltIn| Failure::new(Reason::Malformed, missing.to_string());
    sink_type(sink).map_err(failed)?.tail(sink, options).await
}

/// [`SinkType::probe`] of the sink's type.
pub async fn probe(sink: &config::Sink, max_body: usize, topics: &[String]) -> Vec<Check> {
    match sink_type(sink) {
        Ok(sink_type) => sink_type.probe(sink, max_body, topics).await,
        Err(missing) => vec![Check::bad("type", missing.to_string(), "use a build that has it")],
    }
}

/// The largest message in bytes for bodies of up to `max_body`: 4/3 of it for Base64, and 64 KiB for attributes.
pub fn message_limit(max_body: usize) -> usize {
    (max_body.saturating_mul(4) / 3).saturating_add(64 * 1024)
}

/// The windows of live events that a sink asks for. Replays and retried dead letters come in windows of up to
/// [`Windows::WHOLE`]. After a window missed its deadline, all are smaller for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Maximum events in a window.
    pub events: usize,
    /// Maximum bytes of bodies in a window. A window has at least one event, however large.
    pub bytes: usize,
    /// Whether the next window may be sent while the previous one is in flight, so that the broker always has work.
    pub overlap: bool,
}

impl Windows {
    /// Windows of the maximum size, one after the other.
    pub const WHOLE: Self = Self { events: 512, bytes: 4 << 20, overlap: false };
    /// Windows of half that size, two in flight.
    pub const HALVES: Self = Self { events: 256, bytes: 2 << 20, overlap: true };

    /// Windows halved this many times, but with at least one event. Halved windows do not overlap.
    #[must_use]
    pub const fn halved(self, times: u32) -> Self {
        let events = if self.events >> times == 0 { 1 } else { self.events >> times };
        Self { events, bytes: self.bytes >> times, overlap: self.overlap && times == 0 }
    }
}

/// A sink, as its pump uses it. All methods are called from one task, one at a time.
///
/// Futures are boxed once per window of up to 512 events, not once per event.
pub trait Sink: Send + Sync {
    /// Connects, logs in, and prepares what must exist before the first event (exchange, stream).
    ///
    /// Called before the first window, and again after an [`Outcome`] or error of class [`Class::Retry`]. Ends an
    /// earlier connection first. Returns warnings about limits or replication that fall short, each one sentence
    /// without personal data.
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>>;

    /// Publishes a window, awaits the broker's confirm of each message, and puts each outcome into `outcomes` once it
    /// is known.
    ///
    /// The window is never empty, and `outcomes` has a place for each of its messages, all open. The pump's deadline
    /// may drop the future at any await point. [`Sink::abandon`] follows then, and the outcomes so far count, so that
    /// confirmed messages are not sent again on a slow link. A confirm may be noted up to [`LOOK`] after it arrived.
    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()>;

    /// Like [`Sink::publish_into`], without a deadline. Returns one outcome for each message, in the window's order.
    fn publish<'a>(&'a mut self, window: &'a [Message]) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            let mut outcomes = Outcomes::open(window.len());
            self.publish_into(window, &mut outcomes).await;
            outcomes.close(&Failure::new(Reason::Timeout, "the sink gave no outcome"))
        })
    }

    /// How large the sink's windows are, and whether they overlap.
    fn windows(&self) -> Windows {
        Windows::WHOLE
    }

    /// Starts to send a window, or as much of it as there is room for, without awaiting anything. Returns whether it
    /// did.
    ///
    /// Windows that were begun are published next, in the same order and with the same messages: [`Sink::publish_into`]
    /// then awaits what is in flight. [`Sink::connect`] and [`Sink::abandon`] end all of them. Called only while the
    /// sink is up, and only if [`Windows::overlap`].
    fn begin(&mut self, _window: &[Message]) -> bool {
        false
    }

    /// Ends what an unfinished [`Sink::publish_into`] or a [`Sink::begin`] left in flight (purges the producer, closes
    /// the channel), so that nothing of the old attempt is still being sent when the window is sent again.
    fn abandon(&mut self) -> BoxFuture<'_, ()>;

    /// Closes the connection gracefully. The caller sets the time limit.
    fn close(&mut self) -> BoxFuture<'_, ()>;

    /// Whether it publishes to a broker, which may come back by itself. Nothing else mends a folder than a person.
    fn has_broker(&self) -> bool {
        true
    }

    /// How long a window may take: longer than the client's own delivery time-out.
    fn deadline(&self) -> Duration;

    /// Whether the connection is known to be up, for the gauge `sink_up` between windows.
    fn is_up(&self) -> bool {
        true
    }
}

/// The outcome of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Confirmed {
        /// The broker already had it (a `PubAck` marked duplicate).
        duplicate: bool,
    },
    /// The broker does not have it, or it is not known.
    Failed(Failure),
}

impl Outcome {
    /// Confirmed, and not a duplicate.
    pub const CONFIRMED: Self = Self::Confirmed { duplicate: false };
}

/// How often a sink that collects confirms in bulk notes those that have arrived.
pub const LOOK: Duration = Duration::from_millis(100);

/// The outcomes of a window so far: a place for each message, in the window's order.
#[derive(Debug)]
pub struct Outcomes {
    places: Vec<Option<Outcome>>,
    /// Gets the places of confirmed messages before the whole window is done.
    confirmed: Option<mpsc::UnboundedSender<usize>>,
}

impl Outcomes {
    /// Outcomes for this many messages, all open.
    pub fn open(messages: usize) -> Self {
        Self { places: vec![None; messages], confirmed: None }
    }

    /// Like [`Outcomes::open`], with a receiver that gets the place of each message as soon as it is confirmed.
    pub fn telling(messages: usize) -> (Self, mpsc::UnboundedReceiver<usize>) {
        // Bounded in fact: it holds at most one number for each message.
        let (confirmed, told) = mpsc::unbounded_channel();
        (Self { confirmed: Some(confirmed), ..Self::open(messages) }, told)
    }

    /// Sets the outcome of one message. Replaces an earlier one.
    pub fn set(&mut self, place: usize, outcome: Outcome) {
        let is_news = matches!(outcome, Outcome::Confirmed { .. }) && self.places[place].as_ref() != Some(&outcome);
        if let Some(confirmed) = self.confirmed.as_ref().filter(|_| is_news) {
            // The receiver may be gone.
            let _ = confirmed.send(place);
        }
        self.places[place] = Some(outcome);
    }

    /// Opens the place of a message that is sent again.
    pub fn reopen(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// The outcome of one message, if it has one.
    pub fn get(&self, place: usize) -> Option<&Outcome> {
        self.places[place].as_ref()
    }

    /// How many messages have no outcome yet.
    pub fn count_open(&self) -> usize {
        self.places.iter().filter(|outcome| outcome.is_none()).count()
    }

    /// Gives this failure to each message that has no outcome.
    pub fn fail_open(&mut self, failure: &Failure) {
        for outcome in &mut self.places {
            outcome.get_or_insert_with(|| Outcome::Failed(failure.clone()));
        }
    }

    /// Returns one outcome for each message, which is this failure if it had none.
    pub fn close(mut self, failure: &Failure) -> Vec<Outcome> {
        self.fail_open(failure);
        self.places.into_iter().flatten().collect()
    }
}

/// Why a message, or a connection, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Failure {
    /// Determines the class, and is the label of metrics.
    pub reason: Reason,
    /// What the broker or the client said, for `/status` and the log: no personal data, no secret, no payload.
    pub detail: String,
}

impl Failure {
    /// A failure with the message of the broker or client.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// The reason in one word: the label `reason` of `publish_errors_total` and `dead_letters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The broker can't be reached or went away.
    Unreachable,
    /// The login or a certificate was refused.
    Login,
    /// The broker did not answer in time. Whether it has the message is not known.
    Timeout,
    /// The broker has no room now: blocked connection, full disk, full stream, throttling.
    Busy,
    /// The message is larger than the broker accepts.
    TooLarge,
    /// The message is refused for another property.
    Malformed,
    /// The bridge has no right to publish there.
    Rights,
    /// The topic, exchange or stream does not exist and may not be created.
    Missing,
    /// No queue is bound for the message.
    Unroutable,
    /// A bound queue refuses the message: it is full, and its policy is to refuse.
    Nacked,
    /// The broker does not allow the message's timestamp, because the clocks of bridge and broker differ.
    Clock,
    /// The topic would exceed `max_topics`.
    TooManyTopics,
    /// Making or sending the message panicked.
    Panic,
}

impl Reason {
    /// All reasons, so that metrics have every label from the start.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::Login,
        Self::Timeout,
        Self::Busy,
        Self::TooLarge,
        Self::Malformed,
        Self::Rights,
        Self::Missing,
        Self::Unroutable,
        Self::Nacked,
        Self::Clock,
        Self::TooManyTopics,
        Self::Panic,
    ];

    /// What the pump does about a failure with this reason.
    pub const fn class(self) -> Class {
        match self {
            Self::Unreachable | Self::Login | Self::Timeout | Self::Busy => Class::Retry,
            Self::TooLarge | Self::Malformed | Self::TooManyTopics | Self::Panic => Class::Refused,
            Self::Rights | Self::Missing | Self::Unroutable | Self::Nacked | Self::Clock => Class::NeedsOperator,
        }
    }

    /// The label of metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Login => "login",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Rights => "rights",
            Self::Missing => "missing",
            Self::Unroutable => "unroutable",
            Self::Nacked => "nacked",
            Self::Clock => "clock",
            Self::TooManyTopics => "too_many_topics",
            Self::Panic => "panic",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the pump does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Backs off, connects again, and sends again, for ever.
    Retry,
    /// Sends the message alone. If it is refused again, it becomes a dead letter.
    Refused,
    /// Needs an operator. After `setup_grace`, the topic is parked and retried every minute.
    NeedsOperator,
}
