//! The sinks of a running bridge: started, replaced and stopped while events go on being taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::error::OpenError;
use crate::clock::SystemClock;
use crate::config::{Config, Privacy, Sink, SinkName, SourceName};
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{Delivery, DeliveryMetrics, DeliveryOptions, Direct, Handles, SinkSetup};
use crate::journal::{Journal, JournalReader, Registration};
use crate::sinks::NotBuiltIn;
use crate::storage::blocking;

/// For a sink that is replaced or taken out to settle what it is sending: longer than any sink's own deadline.
const REPLACE_PATIENCE: Duration = Duration::from_secs(45);

/// All sinks. Changes are made one at a time.
pub(crate) struct Pumps {
    handles: Handles,
    running: Mutex<Running>,
}

struct Running {
    way: Way,
    build: Build,
    /// What each sink that runs was started with.
    sinks: BTreeMap<SinkName, Made>,
}

/// How events reach the sinks.
pub(crate) enum Way {
    /// By the journal.
    Journal(Journal, Delivery<JournalReader>),
    /// With `storage = "none"`, before Alma gets its answer.
    Direct(Arc<Direct>),
}

/// Makes what a sink of a configuration is started with. A simulation makes sinks of its own.
pub(crate) type Build = Arc<dyn Fn(&Sink, &Config) -> Result<SinkSetup, NotBuiltIn> + Send + Sync>;

impl Way {
    /// By the journal; dead letters are kept beside it.
    pub(super) fn journal(journal: Journal, letters: DeadLetterStores, metrics: &DeliveryMetrics) -> Self {
        let options = DeliveryOptions { letters, metrics: metrics.clone(), clock: SystemClock::shared() };
        Self::Journal(journal, Delivery::new(options))
    }
}

/// Everything of a configuration that a sink and its messages are made from. A sink that runs is replaced if this
/// changes.
#[derive(Clone, PartialEq, Eq)]
struct Made {
    sink: Sink,
    institutions: Vec<(SourceName, Option<String>)>,
    privacy: Privacy,
}

impl Made {
    fn new(sink: &Sink, config: &Config) -> Self {
        let institutions = config.sources.iter().map(|source| (source.name.clone(), source.institution.clone()));
        Self { sink: sink.clone(), institutions: institutions.collect(), privacy: config.privacy.clone() }
    }
}

impl Pumps {
    /// Starts every sink of the configuration.
    pub(crate) async fn start(way: Way, build: Build, config: &Config) -> Result<Self, OpenError> {
        let handles = match &way {
            Way::Journal(_, delivery) => delivery.handles(),
            Way::Direct(direct) => direct.handles(),
        };
        let mut running = Running { way, build, sinks: BTreeMap::new() };
        match &running.way {
            Way::Journal(..) => {
                for sink in &config.sinks {
                    running.set(sink, config).await?;
                }
            }
            Way::Direct(_) => drop(running.apply(config).await),
        }
        Ok(Self { handles, running: Mutex::new(running) })
    }

    /// The sinks, seen from outside.
    pub(crate) fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Puts the sinks of a newer configuration in effect, as far as they are not yet; gives those that could not be
    /// started, and why. To be called again for these.
    ///
    /// A sink that keeps its name keeps its place. One that is gone keeps its place and its events until it returns or
    /// is forgotten.
    pub(crate) async fn apply(&self, config: &Config) -> BTreeMap<SinkName, String> {
        self.running.lock().await.apply(config).await
    }

    /// Stops all sinks at once, at the latest at `deadline`; gives those that were cut off.
    pub(crate) async fn stop(&self, deadline: Instant) -> Vec<SinkName> {
        let Ok(mut running) = timeout_at(deadline, self.running.lock()).await else {
            // A reload still waits for a sink; the sinks end with the process.
            return self.handles.statuses().into_iter().map(|sink| sink.name).collect();
        };
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
    async fn apply(&mut self, config: &Config) -> BTreeMap<SinkName, String> {
        let gone: Vec<SinkName> =
            self.sinks.keys().filter(|name| !config.sinks.iter().any(|sink| sink.name == **name)).cloned().collect();
        let mut problems = BTreeMap::new();
        if let Way::Direct(direct) = &self.way {
            let direct = Arc::clone(direct);
            self.apply_direct(&direct, config, &mut problems).await;
            return problems;
        }
        // New sinks start before old ones stop, so that no event comes while neither is there. Only a sink that
        // continues another waits for that one's end: it takes over the cursor, and the place keeps what comes meanwhile.
        let waits = |sink: &&Sink| sink.continues.as_ref().is_some_and(|name| gone.contains(name));
        let (continuing, others): (Vec<&Sink>, Vec<&Sink>) = config.sinks.iter().partition(waits);
        let (stay, new): (Vec<&Sink>, Vec<&Sink>) =
            others.into_iter().partition(|sink| self.sinks.contains_key(&sink.name));
        self.set_all(&new, config, &mut problems).await;
        self.set_all(&stay, config, &mut problems).await;
        for name in &gone {
            self.remove(name).await;
        }
        self.set_all(&continuing, config, &mut problems).await;
        problems
    }

    /// All sinks in one change.
    async fn apply_direct(&mut self, direct: &Direct, config: &Config, problems: &mut BTreeMap<SinkName, String>) {
        let all: BTreeSet<SinkName> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        self.sinks.retain(|name, _| all.contains(name));
        let mut new = Vec::new();
        for sink in &config.sinks {
            if self.is_in_effect(sink, config) {
                continue;
            }
            match (self.build)(sink, config) {
                Ok(setup) => {
                    new.push(setup);
                    self.sinks.insert(sink.name.clone(), Made::new(sink, config));
                    in_effect(sink);
                }
                Err(error) => drop(problems.insert(sink.name.clone(), error.to_string())),
            }
        }
        direct.apply(new, all, REPLACE_PATIENCE).await;
    }

    fn is_in_effect(&self, sink: &Sink, config: &Config) -> bool {
        self.sinks.get(&sink.name) == Some(&Made::new(sink, config))
    }

    async fn set_all(&mut self, sinks: &[&Sink], config: &Config, problems: &mut BTreeMap<SinkName, String>) {
        for sink in sinks.iter().filter(|sink| !self.is_in_effect(sink, config)).collect::<Vec<_>>() {
            match self.set(sink, config).await {
                Ok(()) => in_effect(sink),
                Err(error) => drop(problems.insert(sink.name.clone(), error.to_string())),
            }
        }
    }

    /// Starts a sink at its place in the journal, or puts it in the place of the one of its name.
    async fn set(&mut self, sink: &Sink, config: &Config) -> Result<(), OpenError> {
        let name = &sink.name;
        let setup = (self.build)(sink, config)?;
        let Way::Journal(journal, delivery) = &mut self.way else { return Ok(()) };
        register(journal, sink).await?;
        let mut feed = None;
        if self.sinks.remove(name).is_some() {
            feed = delivery.remove(name, REPLACE_PATIENCE).await.ok();
        } else if let Some(other) = sink.continues.as_ref().filter(|other| !journal.knows(other)) {
            // As long as the other one has a place, its letters stay with it.
            delivery.adopt_letters(name, other);
        }
        // A pump that died leaves its place free.
        let feed = feed.or_else(|| journal.reader(name)).ok_or_else(|| OpenError::NoPlace(name.clone()))?;
        delivery.add(setup, feed)?;
        self.sinks.insert(name.clone(), Made::new(sink, config));
        Ok(())
    }

    /// Takes a sink out; the journal keeps its place.
    async fn remove(&mut self, name: &SinkName) {
        self.sinks.remove(name);
        let Way::Journal(journal, delivery) = &mut self.way else { return };
        if let Err(error) = delivery.remove(name, REPLACE_PATIENCE).await {
            tracing::error!(sink = %name, %error, "the sink could not be ended in good order");
        }
        journal.retire(name);
        tracing::warn!(
            sink = %name,
            "removed from the configuration: it keeps its place and what waits for it until it returns or is forgotten"
        );
    }
}

fn in_effect(sink: &Sink) {
    tracing::info!(sink = %sink.name, kind = sink.kind.as_str(), "sink in effect");
}

/// Makes the journal keep a place for a sink. It waits for the disk.
async fn register(journal: &Journal, sink: &Sink) -> Result<(), OpenError> {
    let (journal, registration) = (journal.clone(), Registration::from(sink));
    let registered = blocking(move || journal.register(&registration)).await.map_err(|_| OpenError::Panicked)?;
    registered.map_err(OpenError::Register)
}
