//! The sinks of a running bridge: started, replaced and stopped while events go on being taken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::engine::OpenError;
use crate::clock::SystemClock;
use crate::config::{Config, Sink, SinkName};
use crate::delivery::{Delivery, DeliveryOptions, Direct, Handles, SinkSetup};
use crate::journal::{Journal, Reader, RealDisk, Registration};
use crate::message::{Messages, StoredEvent};
use crate::sinks;
use crate::telemetry::Metrics;

/// For a sink that is replaced or taken out to settle what it is sending: longer than any sink's own deadline.
const REPLACE_PATIENCE: Duration = Duration::from_secs(45);

/// All sinks. Changes are made one at a time.
pub(super) struct Pumps {
    handles: Handles,
    running: Mutex<Running>,
}

struct Running {
    way: Way,
    /// As they are in effect.
    sinks: BTreeMap<SinkName, Sink>,
}

/// How events reach the sinks.
pub(super) enum Way {
    /// By the journal.
    Journal(Journal, Delivery<Reader>),
    /// With `storage = "none"`, before Alma gets its answer.
    Direct(Arc<Direct>),
}

impl Way {
    /// By the journal; dead letters are kept beside it.
    pub(super) fn journal(journal: Journal, config: &Config, metrics: &Metrics) -> Self {
        let options = DeliveryOptions {
            disk: RealDisk::shared(),
            dead_dir: config.journal_dir().join("dead"),
            dead_max_size: config.journal.dead_max_size,
            metrics: metrics.clone(),
            clock: SystemClock::shared(),
        };
        Self::Journal(journal, Delivery::new(options))
    }
}

impl Pumps {
    /// Starts every sink of the configuration.
    pub(super) async fn start(way: Way, config: &Config) -> Result<Self, OpenError> {
        let handles = match &way {
            Way::Journal(_, delivery) => delivery.handles(),
            Way::Direct(direct) => direct.handles(),
        };
        let mut running = Running { way, sinks: BTreeMap::new() };
        for sink in &config.sinks {
            running.set(sink, config).await?;
        }
        Ok(Self { handles, running: Mutex::new(running) })
    }

    /// The sinks, seen from outside.
    pub(super) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Puts the sinks of a newer configuration in effect; gives what did not go. `remake`: what messages are made from
    /// changed for all.
    ///
    /// A sink that keeps its name keeps its place. One that is gone keeps its place and its events until it returns or
    /// is forgotten.
    pub(super) async fn apply(&self, config: &Config, remake: bool) -> Vec<String> {
        let mut running = self.running.lock().await;
        let mut problems = Vec::new();
        let names: Vec<SinkName> = running.sinks.keys().cloned().collect();
        for name in names.iter().filter(|name| !config.sinks.iter().any(|sink| sink.name == **name)) {
            running.remove(name).await;
        }
        for sink in &config.sinks {
            if remake || running.sinks.get(&sink.name) != Some(sink) {
                match running.set(sink, config).await {
                    Ok(()) => tracing::info!(sink = %sink.name, kind = sink.kind.as_str(), "sink in effect"),
                    Err(error) => problems.push(format!("sink {}: {error}", sink.name)),
                }
            }
        }
        self.handles.retry_parked();
        problems
    }

    /// Stops all sinks at once, at the latest at `deadline`; gives those that were cut off.
    pub(super) async fn stop(&self, deadline: Instant) -> Vec<SinkName> {
        let mut running = self.running.lock().await;
        let within = deadline.saturating_duration_since(Instant::now());
        match &mut running.way {
            Way::Journal(_, delivery) => delivery.stop(within).await,
            Way::Direct(direct) => {
                direct.stop(within).await;
                Vec::new()
            }
        }
    }
}

impl Running {
    /// Starts a sink, or puts it in the place of the one of its name.
    async fn set(&mut self, sink: &Sink, config: &Config) -> Result<(), OpenError> {
        let messages = Messages::new(sink, &config.sources, &config.privacy);
        let setup = SinkSetup {
            config: sink.clone(),
            sink: sinks::build(sink, config.ingress.max_body)?,
            make: Arc::new(move |event: &StoredEvent| messages.make(event, None)),
        };
        match &mut self.way {
            Way::Direct(direct) => direct.set(setup, REPLACE_PATIENCE).await,
            Way::Journal(journal, delivery) => {
                journal.register(&Registration::from(sink)).map_err(OpenError::Register)?;
                if self.sinks.contains_key(&sink.name) {
                    delivery.replace(setup, REPLACE_PATIENCE).await?;
                } else {
                    let feed = journal.reader(&sink.name).ok_or_else(|| OpenError::NoPlace(sink.name.clone()))?;
                    delivery.add(setup, feed)?;
                }
            }
        }
        self.sinks.insert(sink.name.clone(), sink.clone());
        Ok(())
    }

    async fn remove(&mut self, name: &SinkName) {
        self.sinks.remove(name);
        match &mut self.way {
            Way::Direct(direct) => direct.remove(name, REPLACE_PATIENCE).await,
            Way::Journal(journal, delivery) => {
                if let Err(error) = delivery.remove(name, REPLACE_PATIENCE).await {
                    tracing::error!(sink = %name, %error, "the sink could not be ended in good order");
                }
                journal.retire(name);
                tracing::warn!(
                    sink = %name,
                    "taken out: it keeps its place and what waits for it, until it returns or is forgotten"
                );
            }
        }
    }
}
