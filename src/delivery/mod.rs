//! From the journal to the sinks: a pump per sink, its parked topics and its dead letters.
//!
//! # A window
//! A pump ([`Pump`]) takes a window from its feed (up to 512 events or 4 MiB, at least one event), makes each event into
//! a message, gives the messages to its sink and awaits all outcomes under the sink's deadline. Then it moves the cursor
//! to the oldest event that is not settled. An event is settled once it is confirmed, not wanted by the sink, or a durable
//! dead letter. The next window is read and made while one is in flight.
//!
//! After a missed deadline, windows are half as large, down to one event. They double again after a full one that was
//! confirmed within a quarter of its deadline. So a slow link makes progress if it can confirm one event in time.
//!
//! A sink may ask for smaller windows and allow two in flight ([`crate::sinks::Windows`]). The second is then begun before
//! the first is awaited; outcomes are still awaited in order. Windows overlap only while nothing fails, nothing waits for
//! a turn, and there is more to read. A message that is sent alone stays alone, so that no other can be to blame for its
//! outcome.
//!
//! # Failures
//! | what | then |
//! |---|---|
//! | not connected, deadline missed, an outcome of class retry, no outcome | what is confirmed counts; the pump ends the attempt ([`crate::sinks::Sink::abandon`]), backs off ([`BackOff`]), connects, and sends the rest again in order and under the same ids, for ever |
//! | refused for what it is, or a panic while sending | what was refused is sent without the others, or in halves if all were refused; what is refused alone becomes a dead letter |
//! | a panic while making the message | dead letter |
//! | needs an operator | each such topic is sent by itself under a back-off of its own, and the others flow up to 8,192 events or 16 MiB past its oldest event; if it still fails after `setup_grace`, it is parked: its events go to the dead letters |
//! | one topic more than `max_topics` (counted since the start) | dead letter; a retry keeps it until `max_topics` is raised |
//! | a dead letter can't be kept (store full, disk) | the sink waits as if unreachable; parked topics and requested letters are tried meanwhile, because they make room |
//!
//! A parked topic is tried every minute, at the start and on [`PumpHandle::retry_parked`]: its oldest letter alone, then
//! the rest in order, in turns with live events. A letter is removed once it is confirmed, and the topic flows again when
//! no letter is left that can be read. If the connection is lost meanwhile, the topic is tried again over the next one.
//! The letters tell at the start which topics are parked.
//!
//! With `unroutable = "dead"`, an unroutable event counts as refused for what it is.
//!
//! # Requests
//! A [`PumpHandle`] takes requests to publish dead letters again and to publish the windows of a replay. Both take turns
//! with live windows, and neither moves the cursor. Letters are tried one by one until a deadline, and may belong to
//! another sink, for example one that was removed from the configuration. What is refused of a replay is reported, but
//! does not become a dead letter.
//!
//! A sink that continues another one takes over its letters before its pump starts ([`Delivery::adopt_letters`]).
//!
//! # Without a journal
//! [`Direct`] publishes before Alma gets its answer.
//!
//! # Files
//! `batch`, `guarded_sink`: how anything is sent. `reader`, `publisher`: what a pump sends with. `parking`, `requests`,
//! `pump` with `in_flight`: who sends. `status`, `handles`: what others see and may ask.

mod backoff;
mod batch;
mod direct;
mod guarded_sink;
mod handles;
mod in_flight;
mod metrics;
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
pub use direct::Direct;
pub use handles::{Handles, PumpHandle, Replayed, Retried, Stopped};
pub use metrics::DeliveryMetrics;
pub use pump::{Pump, PumpOptions};
pub use reader::{Filters, MakeMessage};
pub use status::{ParkedTopic, SinkState, SinkStatus};

use crate::clock::Clock;
use crate::config::{self, Config, SinkName};
use crate::dead_letters::{DeadLetterError, DeadLetterStores};
use crate::journal::Feed;
use crate::message::Messages;
use crate::sinks::{self, NotBuiltIn, Sink};

/// A sink as [`Delivery`] and [`Direct`] start it.
pub struct SinkSetup {
    /// The sink as configured.
    pub config: config::Sink,
    /// The sink itself, not yet connected.
    pub sink: Box<dyn Sink>,
    /// Makes events into the sink's messages.
    pub make: Arc<dyn MakeMessage>,
}

impl SinkSetup {
    /// A sink of the configuration.
    pub fn of(sink: &config::Sink, config: &Config) -> Result<Self, NotBuiltIn> {
        let make = Arc::new(Messages::new(sink, &config.sources, &config.privacy));
        Ok(Self { config: sink.clone(), sink: sinks::build(sink, config.ingress.max_body)?, make })
    }
}

/// What all pumps share.
#[derive(Clone)]
pub struct DeliveryOptions {
    /// Where the dead letters of all sinks are kept.
    pub letters: DeadLetterStores,
    /// Where the pumps count.
    pub metrics: DeliveryMetrics,
    /// The clock for status and dead letters.
    pub clock: Arc<dyn Clock>,
}

/// All pumps of a bridge. Only what starts, reloads and stops the bridge changes it; everybody else holds its
/// [`Handles`].
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
    /// A sink of this name is running.
    #[error("sink {0} runs already")]
    Running(SinkName),
    /// No sink of this name is running.
    #[error("sink {0} does not run")]
    NotRunning(SinkName),
    /// The sink's dead letters can't be opened.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
}

impl<F: Feed + 'static> Delivery<F> {
    /// Makes a delivery without sinks.
    pub fn new(options: DeliveryOptions) -> Self {
        let (filters, handles) = (Filters::default(), Handles::default());
        Self { options, filters, handles, pumps: BTreeMap::new() }
    }

    /// The sinks, for the admin listener.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Starts a sink. Needs tokio's runtime. Blocks while it looks through the sink's dead letters.
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

    /// Moves the dead letters of `other` to `sink`, which continues it and does not run yet. Blocks.
    pub fn adopt_letters(&self, sink: &SinkName, other: &SinkName) {
        self.options.metrics.sink_forgotten(other);
        if let Err(error) = self.options.letters.adopt(sink, other) {
            tracing::error!(
                %sink, continues = %other, %error,
                "dead letters of the sink that is continued can't be taken over; the next start tries again"
            );
        }
    }

    /// Replaces the sink of the same name, whatever their types. The old one settles what is in flight, at most for
    /// `within`, and the new one goes on from its cursor.
    pub async fn replace(&mut self, setup: SinkSetup, within: Duration) -> Result<PumpHandle, DeliveryError> {
        let name = setup.config.name.clone();
        let feed = self.remove(&name, within).await?;
        self.add(setup, feed)
    }

    /// Ends a sink, which settles what is in flight, at most for `within`. Returns its place in the journal.
    pub async fn remove(&mut self, name: &SinkName, within: Duration) -> Result<F, DeliveryError> {
        let running = self.pumps.remove(name).ok_or_else(|| DeliveryError::NotRunning(name.clone()))?;
        self.handles.unset(name);
        self.filters.unset(name);
        let (feed, _) = running.stop(within).await;
        feed.ok_or_else(|| DeliveryError::NotRunning(name.clone()))
    }

    /// Ends all sinks at once, at most for `within`. Returns those that were cut off.
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
    /// No pump outlives the bridge, even without [`Delivery::stop`].
    fn drop(&mut self) {
        self.pumps.values().for_each(|running| running.end.cancel());
    }
}
