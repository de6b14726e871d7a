//! The journal of a bridge that does not run, held for the tools.

use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::engine::{OpenError, journal_options, letter_box};
use super::metrics::Metrics;
use super::pumps;
use super::tools::{NO_JOURNAL, Tools};
use crate::admin::Order;
use crate::clock::SystemClock;
use crate::config::{Config, SinkName, Storage};
use crate::delivery::{Delivery, DeliveryOptions};
use crate::journal::{Backlog, Feed, FeedClosed, Journal, JournalLock, Offset, Registration, Window};

/// For the sinks to close, and the journal.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// A stopped bridge's journal, opened under its lock: a bridge that starts meanwhile waits for it. Nothing is delivered
/// but what an order publishes.
pub struct Stopped {
    config: Config,
    tools: Tools,
    /// Sinks that an order publishes to.
    delivery: Delivery<NoFeed>,
}

impl Stopped {
    /// None: another process, most likely the bridge, holds it. Makes the journal where there is none. Blocks, and
    /// needs tokio's runtime.
    pub fn open(config: &Config) -> Result<Option<Self>, OpenError> {
        let Some(lock) = JournalLock::acquire(&config.journal_dir())? else { return Ok(None) };
        let metrics = Metrics::new();
        // Without the configured sinks: one that is new to the journal begins when the bridge runs, not now.
        let journal = Journal::open(journal_options(config, &metrics.journal, lock))?;
        for place in journal.sinks() {
            let sink = config.sinks.iter().find(|sink| sink.name == place.name);
            if let Some(sink) = sink {
                journal.register(&Registration::from(sink)).map_err(OpenError::Register)?;
            }
        }
        let letters = letter_box(config, &metrics.dead_letters);
        let options = DeliveryOptions {
            letters: letters.clone(),
            metrics: metrics.delivery.clone(),
            clock: SystemClock::shared(),
        };
        let delivery = Delivery::new(options);
        let tools = Tools::new(journal, delivery.handles(), letters, metrics.delivery);
        Ok(Some(Self { config: config.clone(), tools, delivery }))
    }

    /// Carries out an order, as a running bridge does.
    pub async fn operate(&mut self, order: Order) -> Result<Value, String> {
        if self.config.journal.storage == Storage::None {
            return Err(NO_JOURNAL.to_owned());
        }
        let publishes_to = match &order {
            Order::Retry { sink, to, .. } => Some(to.as_ref().unwrap_or(sink).clone()),
            Order::Replay(replay) if !replay.dry_run => Some(replay.sink.clone()),
            _ => None,
        };
        if let Some(name) = publishes_to {
            self.start(&name)?;
        }
        self.tools.operate(order, &self.config).await
    }

    /// Starts a sink that is configured, without its events.
    fn start(&mut self, name: &SinkName) -> Result<(), String> {
        let sink = self.config.sinks.iter().find(|sink| sink.name == *name);
        let Some(sink) = sink.filter(|_| self.tools.handles.get(name).is_none()) else { return Ok(()) };
        let setup = pumps::setup(sink, &self.config).map_err(|error| error.to_string())?;
        self.delivery.add(setup, NoFeed).map(drop).map_err(|error| error.to_string())
    }

    /// Closes the sinks, then the journal, and lets go of the lock.
    pub async fn close(mut self) {
        let deadline = Instant::now() + CLOSE_WITHIN;
        self.delivery.stop(CLOSE_WITHIN).await;
        // What it holds was durable before; a disk that hangs is left to the end of the process.
        let _ = tokio::time::timeout_at(deadline + CLOSE_WITHIN, self.tools.journal.close()).await;
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
