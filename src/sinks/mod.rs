//! Where events are published: the contract, and a folder for each type of sink.
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

/// Largest message in bytes for bodies of up to `max_body`: Base64's 4/3 and 64 KiB of attributes.
pub fn message_limit(max_body: usize) -> usize {
    (max_body.saturating_mul(4) / 3).saturating_add(64 * 1024)
}

/// How a sink takes windows of live events. Replays and letters that are tried again come in windows of up to
/// [`Windows::WHOLE`]. All are smaller for a while after one missed its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Most events of one.
    pub events: usize,
    /// Most bytes of bodies of one, but that it has one event at least.
    pub bytes: usize,
    /// Whether the next may be begun while the one before is on its way, so that the broker is never without work between
    /// two.
    pub overlap: bool,
}

impl Windows {
    /// One after the other, as large as windows get.
    pub const WHOLE: Self = Self { events: 512, bytes: 4 << 20, overlap: false };
    /// Two at a time, each half as large.
    pub const HALVES: Self = Self { events: 256, bytes: 2 << 20, overlap: true };

    /// Halved so many times, to one event at least; what is halved does not overlap.
    #[must_use]
    pub const fn halved(self, times: u32) -> Self {
        let events = if self.events >> times == 0 { 1 } else { self.events >> times };
        Self { events, bytes: self.bytes >> times, overlap: self.overlap && times == 0 }
    }
}

/// What a pump drives. All methods are called from one task, never two at a time.
///
/// Futures are boxed once a window of up to 512 events, not once an event.
pub trait Sink: Send + Sync {
    /// Connects, logs in, and makes ready what must exist before the first event (exchange, stream).
    ///
    /// Called before the first window and again after [`Outcome`]s or errors of class [`Class::Retry`]. An earlier
    /// connection is ended first. On success it returns warnings about what falls short (limits, replication), each
    /// one sentence without personal data.
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>>;

    /// Publishes a window, awaits the broker's confirm of each message, and puts each outcome into `outcomes` once it is
    /// known.
    ///
    /// The window is never empty, and `outcomes` has a place for each of its messages, all open. The pump's deadline may
    /// drop the future at any await point. [`Sink::abandon`] follows then, and what is in `outcomes` counts: on a slow
    /// link, what was confirmed is not sent again. A confirm may be put in up to [`LOOK`] after it arrived.
    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()>;

    /// The same without a deadline. Returns one outcome for each message, in the window's order.
    fn publish<'a>(&'a mut self, window: &'a [Message]) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            let mut outcomes = Outcomes::open(window.len());
            self.publish_into(window, &mut outcomes).await;
            outcomes.close(&Failure::new(Reason::Timeout, "the sink gave no outcome"))
        })
    }

    /// How large its windows are, and whether they overlap.
    fn windows(&self) -> Windows {
        Windows::WHOLE
    }

    /// Sends a window, or as much of it as there is room for, and awaits nothing; whether it has begun.
    ///
    /// What was begun is published next, in that order and with the same messages: [`Sink::publish_into`] then awaits what
    /// is on its way. Or it is ended, all of it, by [`Sink::connect`] or [`Sink::abandon`]. Called where the sink is up
    /// and [`Windows::overlap`].
    fn begin(&mut self, _window: &[Message]) -> bool {
        false
    }

    /// Ends whatever an unfinished [`Sink::publish_into`] or a [`Sink::begin`] left behind (producer purged, channel closed),
    /// so that nothing of the old attempt is still being sent when the window is sent again.
    fn abandon(&mut self) -> BoxFuture<'_, ()>;

    /// Closes the connection in good order; bounded in time by the caller.
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

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Confirmed {
        /// It had it before (a `PubAck` marked duplicate).
        duplicate: bool,
    },
    /// It has not, or it is not known.
    Failed(Failure),
}

impl Outcome {
    /// Confirmed for the first time.
    pub const CONFIRMED: Self = Self::Confirmed { duplicate: false };
}

/// How often a sink that collects confirms in bulk looks for those that have arrived.
pub const LOOK: Duration = Duration::from_millis(100);

/// What became of a window so far: a place for each message, in the window's order.
#[derive(Debug)]
pub struct Outcomes {
    places: Vec<Option<Outcome>>,
    /// Whoever does not wait for the whole window.
    confirmed: Option<mpsc::UnboundedSender<usize>>,
}

impl Outcomes {
    /// Of so many messages, none of which has an outcome yet.
    pub fn open(messages: usize) -> Self {
        Self { places: vec![None; messages], confirmed: None }
    }

    /// The same, and the places of those that are confirmed, at once.
    pub fn telling(messages: usize) -> (Self, mpsc::UnboundedReceiver<usize>) {
        // Holds a number for each message at most.
        let (confirmed, told) = mpsc::unbounded_channel();
        (Self { confirmed: Some(confirmed), ..Self::open(messages) }, told)
    }

    /// One is known. It replaces what was known before.
    pub fn set(&mut self, place: usize, outcome: Outcome) {
        let is_news = matches!(outcome, Outcome::Confirmed { .. }) && self.places[place].as_ref() != Some(&outcome);
        if let Some(confirmed) = self.confirmed.as_ref().filter(|_| is_news) {
            // Nobody may listen any more.
            let _ = confirmed.send(place);
        }
        self.places[place] = Some(outcome);
    }

    /// A message is sent again: what was known of it does not count any more.
    pub fn reopen(&mut self, place: usize) {
        self.places[place] = None;
    }

    /// What is known of one message.
    pub fn get(&self, place: usize) -> Option<&Outcome> {
        self.places[place].as_ref()
    }

    /// How many messages have no outcome.
    pub fn count_open(&self) -> usize {
        self.places.iter().filter(|outcome| outcome.is_none()).count()
    }

    /// Gives this failure to each message that has no outcome.
    pub fn fail_open(&mut self, failure: &Failure) {
        for outcome in &mut self.places {
            outcome.get_or_insert_with(|| Outcome::Failed(failure.clone()));
        }
    }

    /// One outcome for each message: this failure for those that have none.
    pub fn close(mut self, failure: &Failure) -> Vec<Outcome> {
        self.fail_open(failure);
        self.places.into_iter().flatten().collect()
    }
}

/// Why a message, or a connection, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Failure {
    /// The class and the label of metrics.
    pub reason: Reason,
    /// What the broker or the client said, for `/status` and the log: no personal data, no secret, no payload.
    pub detail: String,
}

impl Failure {
    /// A failure with the words of the broker or client.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// Why, in one word: the `reason` of `publish_errors_total` and `dead_letters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The broker can't be reached or went away.
    Unreachable,
    /// It refuses the log-in or the certificate.
    Login,
    /// It did not answer in time; whether it has the message is unknown.
    Timeout,
    /// It has no room just now: blocked connection, full disk, full stream, throttled.
    Busy,
    /// The message is larger than the broker takes.
    TooLarge,
    /// The message is refused for what else it is.
    Malformed,
    /// No right to publish there.
    Rights,
    /// Topic, exchange or stream does not exist and may not be created.
    Missing,
    /// No queue is bound for it.
    Unroutable,
    /// A queue that is bound for it refuses it: it is full, and its policy is to refuse.
    Nacked,
    /// Its timestamp is outside what the broker allows, because the clocks of bridge and broker differ.
    Clock,
    /// One topic more than `max_topics`.
    TooManyTopics,
    /// Making or sending it panicked.
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

    /// What the pump does about it.
    pub const fn class(self) -> Class {
        match self {
            Self::Unreachable | Self::Login | Self::Timeout | Self::Busy => Class::Retry,
            Self::TooLarge | Self::Malformed | Self::TooManyTopics | Self::Panic => Class::Refused,
            Self::Rights | Self::Missing | Self::Unroutable | Self::Nacked | Self::Clock => Class::NeedsOperator,
        }
    }

    /// The label.
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
    /// Back off, connect again, send again, for ever.
    Retry,
    /// Send alone; refused again, it is a dead letter.
    Refused,
    /// An operator must fix it. After `setup_grace` the topic is parked, and tried again every minute.
    NeedsOperator,
}
