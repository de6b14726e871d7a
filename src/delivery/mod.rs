//! From the journal to the sinks: a pump per sink, its dead letters, its parked topics.
//!
//! # The way of a window
//! A pump ([`Pump`]) takes a window from its feed (up to 512 events or 4 MiB, one event at least), makes each event into
//! a message, gives the messages to its sink and awaits all outcomes under the sink's deadline. The cursor moves up to
//! the oldest event that is not settled; settled is what is confirmed, what the sink does not ask for, and what is a
//! durable dead letter. The next window is read and made while one is in flight.
//!
//! After a missed deadline windows are half as large, down to one event. They double again after a full one that was
//! confirmed within a quarter of its deadline. So a slow link makes progress as long as one event can be confirmed in time.
//!
//! A sink may have them smaller, and overlap ([`crate::sinks::Windows`]): then the next is begun before the one in flight
//! is awaited; its own outcomes are awaited next, before anything but the window behind it is given to the sink. They
//! overlap while nothing fails, nobody asks for a turn, and there is more to be read; what is sent alone stays alone, so
//! that no other can be to blame for its outcome.
//!
//! # What becomes of a failure
//! | what | then |
//! |---|---|
//! | not connected, deadline passed, an outcome of class retry, no outcome | what is confirmed counts, the attempt is ended ([`crate::sinks::Sink::abandon`]), back-off ([`BackOff`]), connect, and what is not confirmed is sent again, same ids, in order; for ever |
//! | refused for what it is, or a panic while sending | what was refused is sent apart from the others, in halves where all were refused; what is refused alone is a dead letter |
//! | a panic while making | dead letter |
//! | an operator must mend it | each such topic is sent by itself under a back-off of its own, and the others flow meanwhile, up to 8,192 events or 16 MiB past its oldest; when that fails after `setup_grace`, it is parked: its events go to the dead letters |
//! | one topic more than `max_topics` (counted since the start) | dead letter |
//! | a dead letter can't be kept (full, disk) | the sink waits as if unreachable; parked topics and asked-for letters are tried meanwhile, since they make room |
//!
//! A parked topic is tried every minute, at the start and on [`PumpHandle::retry_parked`]: its oldest letter alone, then
//! the rest in order; each is removed once it is confirmed, and the topic flows again when none is left that can be
//! read. If the connection is lost meanwhile, the topic is tried again once there is one. Which topics are parked is
//! read from the letters at the start.
//!
//! Where `unroutable = "dead"`, an unroutable event is refused for what it is.
//!
//! # Letters tried again, and replays
//! Both are asked for by a [`PumpHandle`] and take turns with live windows; neither moves the cursor. A replay's messages
//! come made, window by window; what is refused of them is told, not set aside. Letters are tried one by one until a
//! deadline; they may be those of another sink, one that was taken out of the configuration for instance.
//!
//! A sink that continues another one takes over its letters before its pump starts ([`Delivery::adopt_letters`]).
//!
//! # Without a journal
//! [`Direct`] publishes before Alma gets its answer.

mod backoff;
mod batch;
mod claims;
pub mod dead_letters;
mod direct;
mod guarded_sink;
mod handles;
mod in_flight;
mod parking;
mod publisher;
mod pump;
mod reader;
mod requests;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use backoff::{BackOff, Delays, InvalidBackOff};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, LetterBox, LetterId, LetterInfo, ListedLetter};
pub use direct::Direct;
pub use handles::{Handles, PumpHandle, Replayed, Retried, Stopped};
pub use pump::{Pump, PumpOptions};
pub use reader::{Filters, MakeMessage};
pub use status::{ParkedTopic, SinkState, SinkStatus};

use crate::clock::Clock;
use crate::config::{self, SinkName};
use crate::journal::Feed;
use crate::sinks::Sink;
use crate::telemetry::Metrics;

/// A sink as [`Delivery`] and [`Direct`] start it.
pub struct SinkSetup {
    /// As configured.
    pub config: config::Sink,
    /// The sink itself, not yet connected.
    pub sink: Box<dyn Sink>,
    /// Makes its messages.
    pub make: Arc<dyn MakeMessage>,
}

/// What all pumps share.
#[derive(Clone)]
pub struct DeliveryOptions {
    /// Where its sinks' dead letters are kept.
    pub letters: LetterBox,
    /// Counted and set as things happen.
    pub metrics: Metrics,
    /// Gives the moments of status and letters.
    pub clock: Arc<dyn Clock>,
}

/// All pumps of a bridge. Its changes are made one at a time, by what starts, reloads and stops; everybody else holds
/// its [`Handles`].
pub struct Delivery<F> {
    options: DeliveryOptions,
    filters: Filters,
    handles: Handles,
    pumps: BTreeMap<SinkName, Running<F>>,
}

struct Running<F> {
    /// Settle what is in flight, then end.
    stop: CancellationToken,
    /// End now.
    end: CancellationToken,
    task: JoinHandle<F>,
}

/// Why a sink was not started or replaced.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A sink of this name runs already.
    #[error("sink {0} runs already")]
    Running(SinkName),
    /// No sink of this name runs.
    #[error("sink {0} does not run")]
    NotRunning(SinkName),
    /// Its dead letters can't be opened.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
}

impl<F: Feed + 'static> Delivery<F> {
    /// Without sinks yet.
    pub fn new(options: DeliveryOptions) -> Self {
        let (filters, handles) = (Filters::default(), Handles::default());
        Self { options, filters, handles, pumps: BTreeMap::new() }
    }

    /// The sinks, for the admin listener.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Starts a sink. Needs tokio's runtime; blocks for as long as its dead letters take to be looked through.
    pub fn add(&mut self, setup: SinkSetup, feed: F) -> Result<PumpHandle, DeliveryError> {
        let name = setup.config.name.clone();
        if self.pumps.contains_key(&name) {
            return Err(DeliveryError::Running(name));
        }
        let letters = self.options.letters.open(&name)?;
        let (mut pump, handle) = Pump::new(PumpOptions {
            config: setup.config,
            sink: setup.sink,
            feed,
            make: setup.make,
            dead_letters: letters,
            filters: self.filters.clone(),
            metrics: self.options.metrics.clone(),
            clock: Arc::clone(&self.options.clock),
            back_off: BackOff::SINK,
            rng: fastrand::Rng::new(),
        });
        self.handles.set(&name, handle.clone());
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, ended) = (stop.clone(), end.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = pump.run(&stopped) => {}
                () = ended.cancelled() => pump.abandon().await,
            }
            pump.into_feed()
        });
        self.pumps.insert(name, Running { stop, end, task });
        Ok(handle)
    }

    /// `sink`, which does not run yet, takes over the dead letters of `other`, whose place in the journal it has. Blocks.
    pub fn adopt_letters(&self, sink: &SinkName, other: &SinkName) {
        self.options.metrics.sink_forgotten(other);
        if let Err(error) = self.options.letters.adopt(sink, other) {
            tracing::error!(
                %sink, continues = %other, %error,
                "dead letters of the sink that is continued can't be taken over; the next start tries again"
            );
        }
    }

    /// Puts another sink in the place of the one of that name, whatever their types: the old one settles what is in
    /// flight, at most `within`, and the new one goes on from its cursor.
    pub async fn replace(&mut self, setup: SinkSetup, within: Duration) -> Result<PumpHandle, DeliveryError> {
        let name = setup.config.name.clone();
        let feed = self.remove(&name, within).await?;
        self.add(setup, feed)
    }

    /// Ends a sink and gives its place in the journal back: it settles what is in flight, at most `within`.
    pub async fn remove(&mut self, name: &SinkName, within: Duration) -> Result<F, DeliveryError> {
        let running = self.pumps.remove(name).ok_or_else(|| DeliveryError::NotRunning(name.clone()))?;
        self.handles.unset(name);
        self.filters.unset(name);
        let (feed, _) = running.stop(within).await;
        feed.ok_or_else(|| DeliveryError::NotRunning(name.clone()))
    }

    /// Ends all sinks at once, at most `within`; says which were cut off.
    pub async fn stop(&mut self, within: Duration) -> Vec<SinkName> {
        let pumps = std::mem::take(&mut self.pumps);
        let stopped = join_all(pumps.into_iter().map(|(name, running)| async move {
            let (_, settled) = running.stop(within).await;
            (name, settled)
        }));
        stopped.await.into_iter().filter(|(_, settled)| !settled).map(|(name, _)| name).collect()
    }
}

impl<F> Running<F> {
    /// The feed, and whether the pump settled in time.
    async fn stop(mut self, within: Duration) -> (Option<F>, bool) {
        self.stop.cancel();
        if let Ok(joined) = timeout(within, &mut self.task).await {
            return (joined.ok(), true);
        }
        self.end.cancel();
        (self.task.await.ok(), false)
    }
}

impl<F> Drop for Delivery<F> {
    /// A bridge that goes without [`Delivery::stop`] leaves no pump behind.
    fn drop(&mut self) {
        self.pumps.values().for_each(|running| running.end.cancel());
    }
}
