//! The journal of a stopped bridge.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::error::OperatorError;
use super::execute::Operator;
use super::requests::OperatorRequest;
use crate::clock::SystemClock;
use crate::config::{self, Config, SinkName, Storage};
use crate::dead_letters::{DeadLetterMetrics, DeadLetterStores};
use crate::delivery::{DeliveryMetrics, DeliveryOptions, Places, SinkSetup, Supervisor, Way};
use crate::journal::{
    self, Backlog, Feed, FeedClosed, Journal, JournalLock, JournalMetrics, JournalOptions, Offset, Registration, Window,
};
use crate::telemetry::Registry;

/// How long the sinks may take to close, and then the journal.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Why the journal of a stopped bridge can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::JournalOpenError),
    /// The journal can't write a sink's name.
    #[error("the journal can't write its list of sinks: {0}")]
    Register(io::Error),
}

/// The journal of a stopped bridge, opened under its lock. A bridge that starts meanwhile waits for the lock. Events are
/// not delivered; only requests publish anything.
pub struct OfflineJournal {
    config: Config,
    operator: Operator,
    /// The sinks that a request publishes to.
    sinks: Supervisor<WithoutEvents>,
}

impl OfflineJournal {
    /// Opens the journal, or creates it if there is none. Returns `None` if another process holds it, most likely the
    /// bridge. Blocks, and needs tokio's runtime.
    pub fn open(config: &Config) -> Result<Option<Self>, OfflineError> {
        let Some(lock) = JournalLock::acquire(&config.journal_dir())? else { return Ok(None) };
        let mut registry = Registry::default();
        // The configured sinks are left out: a sink that is new to the journal starts when the bridge runs, not now.
        let journal = Journal::open(JournalOptions::of(config, &JournalMetrics::register(&mut registry), lock))?;
        for place in journal.sinks() {
            let sink = config.sinks.iter().find(|sink| sink.name == place.name);
            if let Some(sink) = sink {
                journal.register(&Registration::from(sink)).map_err(OfflineError::Register)?;
            }
        }
        let letters = DeadLetterStores::of(config, &DeadLetterMetrics::register(&mut registry));
        let metrics = DeliveryMetrics::register(&mut registry);
        let options =
            DeliveryOptions { letters: letters.clone(), metrics: metrics.clone(), clock: SystemClock::shared() };
        let sinks = Supervisor::new(Way::Journal(WithoutEvents), Arc::new(SinkSetup::of), options);
        let operator = Operator::new(journal, sinks.handles().clone(), letters, metrics);
        Ok(Some(Self { config: config.clone(), operator, sinks }))
    }

    /// Carries out a request, as a running bridge does.
    pub async fn operate(&self, request: OperatorRequest) -> Result<Value, OperatorError> {
        if self.config.journal.storage == Storage::None {
            return Err(OperatorError::NoJournal);
        }
        let publishes_to = match &request {
            OperatorRequest::Retry { sink, to, .. } => Some(to.as_ref().unwrap_or(sink).clone()),
            OperatorRequest::Replay(replay) if !replay.dry_run => Some(replay.sink.clone()),
            _ => None,
        };
        if let Some(name) = publishes_to {
            self.start(&name).await?;
        }
        self.operator.operate(request, &self.config).await
    }

    /// Starts a sink that is configured, without its events.
    async fn start(&self, name: &SinkName) -> Result<(), OperatorError> {
        let runs = |sink: &&config::Sink| sink.name == *name || self.operator.handles.get(&sink.name).is_some();
        let sinks = self.config.sinks.iter().filter(runs).cloned().collect();
        let mut problems = self.sinks.apply(&Config { sinks, ..self.config.clone() }).await;
        problems.remove(name).map_or(Ok(()), |error| Err(error.into()))
    }

    /// Closes the sinks and then the journal, and releases the lock.
    pub async fn close(self) {
        let deadline = Instant::now() + CLOSE_WITHIN;
        self.sinks.stop(deadline).await;
        // Everything in it is durable already. If the disk hangs, the end of the process releases the lock.
        let _ = tokio::time::timeout_at(deadline + CLOSE_WITHIN, self.operator.journal.close()).await;
    }
}

/// Gives every sink a feed that has nothing to deliver, and leaves the journal's list of sinks alone.
#[derive(Clone)]
struct WithoutEvents;

impl Places for WithoutEvents {
    type Feed = NoFeed;

    fn register(&self, _: &Registration) -> io::Result<()> {
        Ok(())
    }

    fn knows(&self, _: &SinkName) -> bool {
        true
    }

    fn feed(&self, _: &SinkName) -> Option<NoFeed> {
        Some(NoFeed)
    }

    fn retire(&self, _: &SinkName) {}
}

/// A feed without events.
struct NoFeed;

impl Feed for NoFeed {
    async fn next_window(&mut self, _: usize, _: usize) -> Result<Window, FeedClosed> {
        std::future::pending().await
    }

    fn has_more(&mut self) -> bool {
        false
    }

    fn claim(&mut self, _: &[Offset]) -> Offset {
        Offset(0)
    }

    fn release(&mut self, _: &[Offset], _: &[Offset]) {}

    fn advance(&mut self, _: Offset) {}

    fn rewind(&mut self) {}

    fn backlog(&self) -> Backlog {
        Backlog::default()
    }
}
