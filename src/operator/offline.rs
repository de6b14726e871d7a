//! The journal of a bridge that does not run.

use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::error::OperatorError;
use super::execute::Operator;
use super::requests::OperatorRequest;
use crate::clock::SystemClock;
use crate::config::{Config, SinkName, Storage};
use crate::dead_letters::{DeadLetterMetrics, DeadLetterStores};
use crate::delivery::{Delivery, DeliveryMetrics, DeliveryOptions, SinkSetup};
use crate::journal::{
    self, Backlog, Feed, FeedClosed, Journal, JournalLock, JournalMetrics, JournalOptions, Offset, Registration, Window,
};
use crate::telemetry::Registry;

/// For the sinks to close, and the journal.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// Why the journal of a bridge that does not run can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The journal can't be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The journal can't write down a sink's name.
    #[error("the journal cannot write its list of sinks: {0}")]
    Register(std::io::Error),
}

/// A stopped bridge's journal, opened under its lock: a bridge that starts meanwhile waits for it. Nothing is delivered
/// but what a request publishes.
pub struct OfflineJournal {
    config: Config,
    operator: Operator,
    /// Sinks that a request publishes to.
    delivery: Delivery<NoFeed>,
}

impl OfflineJournal {
    /// None: another process, most likely the bridge, holds it. Makes the journal where there is none. Blocks, and
    /// needs tokio's runtime.
    pub fn open(config: &Config) -> Result<Option<Self>, OfflineError> {
        let Some(lock) = JournalLock::acquire(&config.journal_dir())? else { return Ok(None) };
        let mut registry = Registry::default();
        // Without the configured sinks: one that is new to the journal begins when the bridge runs, not now.
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
        let delivery = Delivery::new(options);
        let operator = Operator::new(journal, delivery.handles(), letters, metrics);
        Ok(Some(Self { config: config.clone(), operator, delivery }))
    }

    /// Carries out a request, as a running bridge does.
    pub async fn operate(&mut self, request: OperatorRequest) -> Result<Value, OperatorError> {
        if self.config.journal.storage == Storage::None {
            return Err(OperatorError::NoJournal);
        }
        let publishes_to = match &request {
            OperatorRequest::Retry { sink, to, .. } => Some(to.as_ref().unwrap_or(sink).clone()),
            OperatorRequest::Replay(replay) if !replay.dry_run => Some(replay.sink.clone()),
            _ => None,
        };
        if let Some(name) = publishes_to {
            self.start(&name)?;
        }
        self.operator.operate(request, &self.config).await
    }

    /// Starts a sink that is configured, without its events.
    fn start(&mut self, name: &SinkName) -> Result<(), OperatorError> {
        let sink = self.config.sinks.iter().find(|sink| sink.name == *name);
        let Some(sink) = sink.filter(|_| self.operator.handles.get(name).is_none()) else { return Ok(()) };
        let setup = SinkSetup::of(sink, &self.config)?;
        self.delivery.add(setup, NoFeed)?;
        Ok(())
    }

    /// Closes the sinks, then the journal, and lets go of the lock.
    pub async fn close(mut self) {
        let deadline = Instant::now() + CLOSE_WITHIN;
        self.delivery.stop(CLOSE_WITHIN).await;
        // What it holds was durable before; a disk that hangs is left to the end of the process.
        let _ = tokio::time::timeout_at(deadline + CLOSE_WITHIN, self.operator.journal.close()).await;
    }
}

/// Nothing to be delivered, ever.
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
