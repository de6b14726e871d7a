//! The sinks of a bridge: started, replaced and stopped while events go on arriving.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backoff::BackOff;
use super::direct::Direct;
use super::handles::Handles;
use super::metrics::DeliveryMetrics;
use super::pump::{Pump, PumpOptions};
use super::reader::Filters;
use super::setup::SinkSetup;
use crate::alma::Verified;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Config, Privacy, SinkName, SourceName};
use crate::dead_letters::{DeadLetterError, DeadLetterStores};
use crate::journal::{Feed, Intake, Journal, JournalReader, NotTaken, Registration, Taken};
use crate::sinks::NotBuiltIn;
use crate::storage::blocking;

/// How long a sink that is replaced or removed may take to settle what is in flight: longer than any sink's own deadline.
const REPLACE_PATIENCE: Duration = Duration::from_secs(45);

/// Starts, replaces and stops the sinks, one change at a time. Everybody else holds its [`Handles`].
pub struct Supervisor<P: Places = Journal> {
    handles: Handles,
    running: Mutex<RunningSinks<P>>,
}

/// How events reach the sinks.
#[derive(Clone)]
pub enum Way<P = Journal> {
    /// Through the journal, which keeps the place of each sink.
    Journal(P),
    /// With `storage = "none"`: the sinks confirm an event before Alma gets its answer.
    Direct(Arc<Direct>),
}

/// What the supervisor asks of the journal. The tests and the journal of a stopped bridge give sinks other feeds.
pub trait Places: Clone + Send + Sync + 'static {
    /// Reads on from a sink's place.
    type Feed: Feed + 'static;

    /// Gives a sink a place, or takes note of its new settings. Durable when it returns. Blocks.
    fn register(&self, registration: &Registration) -> io::Result<()>;

    /// Whether a sink of this name has a place.
    fn knows(&self, sink: &SinkName) -> bool;

    /// Returns the feed of a sink, or `None` if the sink has no place or somebody else reads it.
    fn feed(&self, sink: &SinkName) -> Option<Self::Feed>;

    /// Keeps the place of a sink that left the configuration, until it returns or an operator forgets it.
    fn retire(&self, sink: &SinkName);
}

/// Makes the setup of a configured sink: [`SinkSetup::of`], unless a test has sinks of its own.
pub type Build = Arc<dyn Fn(&config::Sink, &Config) -> Result<SinkSetup, NotBuiltIn> + Send + Sync>;

/// What all sinks share.
#[derive(Clone)]
pub struct DeliveryOptions {
    /// Where the dead letters of all sinks are kept.
    pub letters: DeadLetterStores,
    /// Where the sinks count.
    pub metrics: DeliveryMetrics,
    /// The clock for status and dead letters.
    pub clock: Arc<dyn Clock>,
}

/// Why a sink was not started or replaced.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The sink's type is not in this binary.
    #[error(transparent)]
    NotBuiltIn(#[from] NotBuiltIn),
    /// The journal can't write the sink's name.
    #[error("the journal can't write its list of sinks: {0}")]
    Register(io::Error),
    /// The journal has no place for the sink.
    #[error("the journal has no place for sink {0}, or it is read already")]
    NoPlace(SinkName),
    /// The sink's dead letters can't be opened.
    #[error(transparent)]
    DeadLetters(#[from] DeadLetterError),
    /// A bug.
    #[error("a panic, see the log")]
    Panicked,
}

struct RunningSinks<P: Places> {
    way: Way<P>,
    build: Build,
    options: DeliveryOptions,
    filters: Filters,
    handles: Handles,
    built_from: BTreeMap<SinkName, BuiltFrom>,
    /// The first configuration was applied. Only changes after that are logged, because each sink says when it connects.
    has_started: bool,
    /// Empty with `storage = "none"`.
    pumps: BTreeMap<SinkName, PumpTask<P::Feed>>,
}

/// Everything in a configuration that a sink and its messages are made from. The sink is replaced if this changes.
#[derive(PartialEq, Eq)]
struct BuiltFrom {
    sink: config::Sink,
    institutions: Vec<(SourceName, Option<String>)>,
    privacy: Privacy,
}

struct PumpTask<F> {
    /// Asks the pump to settle what is in flight and then to end.
    stop: CancellationToken,
    /// Ends the pump at once when dropped, so that no pump outlives the bridge.
    end: DropGuard,
    task: JoinHandle<F>,
}

impl<P: Places> Supervisor<P> {
    /// Makes a supervisor without sinks.
    pub fn new(way: Way<P>, build: Build, options: DeliveryOptions) -> Self {
        let handles = match &way {
            Way::Journal(_) => Handles::default(),
            Way::Direct(direct) => direct.handles(),
        };
        let running = RunningSinks {
            way,
            build,
            options,
            filters: Filters::default(),
            handles: handles.clone(),
            built_from: BTreeMap::new(),
            has_started: false,
            pumps: BTreeMap::new(),
        };
        Self { handles, running: Mutex::new(running) }
    }

    /// What others see of the sinks and may ask of them.
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// Puts the sinks of a configuration in effect. Returns those that could not be started, and why; call it again to
    /// retry them. Needs tokio's runtime. Blocks while it looks through the dead letters of a sink.
    ///
    /// A sink that keeps its name keeps its place. One that is gone keeps its place and its events until it returns or
    /// is forgotten.
    pub async fn apply(&self, config: &Config) -> BTreeMap<SinkName, DeliveryError> {
        let mut running = self.running.lock().await;
        let problems = match running.way.clone() {
            Way::Journal(places) => running.apply(&places, config).await,
            Way::Direct(direct) => running.apply_direct(&direct, config).await,
        };
        running.has_started = true;
        problems
    }

    /// Stops all sinks at once, at the latest at `deadline`. Returns those that were cut off.
    pub async fn stop(&self, deadline: Instant) -> Vec<SinkName> {
        let Ok(mut running) = timeout_at(deadline, self.running.lock()).await else {
            // A reload still waits for a sink; the sinks end with the process.
            return self.handles.statuses().into_iter().map(|sink| sink.name).collect();
        };
        let within = deadline.saturating_duration_since(Instant::now());
        if let Way::Direct(direct) = &running.way {
            direct.stop(within).await;
        }
        let stopped = join_all(std::mem::take(&mut running.pumps).into_iter().map(|(name, pump)| async move {
            let (_, settled) = pump.stop(within).await;
            (name, settled)
        }));
        stopped.await.into_iter().filter(|(_, settled)| !settled).map(|(name, _)| name).collect()
    }
}

impl<P: Places> RunningSinks<P> {
    async fn apply(&mut self, places: &P, config: &Config) -> BTreeMap<SinkName, DeliveryError> {
        let is_gone = |name: &SinkName| config.sinks.iter().all(|sink| sink.name != *name);
        let gone: Vec<SinkName> = self.built_from.keys().filter(|name| is_gone(name)).cloned().collect();
        // New sinks start before old ones stop, so that no event comes while neither is there. Only a sink that
        // continues another waits for that one's end: it takes over the cursor, and the place keeps what comes meanwhile.
        let waits = |sink: &&config::Sink| sink.continues.as_ref().is_some_and(|name| gone.contains(name));
        let (continuing, others): (Vec<_>, Vec<_>) = config.sinks.iter().partition(waits);
        let (stay, new): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|sink| self.built_from.contains_key(&sink.name));
        let mut problems = BTreeMap::new();
        for sink in new.into_iter().chain(stay) {
            self.set(places, sink, config, &mut problems).await;
        }
        for name in &gone {
            self.remove(places, name).await;
        }
        for sink in continuing {
            self.set(places, sink, config, &mut problems).await;
        }
        problems
    }

    /// Changes all sinks at once, see [`Direct::apply`].
    async fn apply_direct(&mut self, direct: &Direct, config: &Config) -> BTreeMap<SinkName, DeliveryError> {
        let all: BTreeSet<SinkName> = config.sinks.iter().map(|sink| sink.name.clone()).collect();
        self.built_from.retain(|name, _| all.contains(name));
        let (mut new, mut problems) = (Vec::new(), BTreeMap::new());
        for sink in &config.sinks {
            if self.is_in_effect(sink, config) {
                continue;
            }
            match (self.build)(sink, config) {
                Ok(setup) => {
                    new.push(setup);
                    self.in_effect(sink, config);
                }
                Err(error) => drop(problems.insert(sink.name.clone(), error.into())),
            }
        }
        direct.apply(new, all, REPLACE_PATIENCE).await;
        problems
    }

    fn is_in_effect(&self, sink: &config::Sink, config: &Config) -> bool {
        self.built_from.get(&sink.name) == Some(&BuiltFrom::new(sink, config))
    }

    fn in_effect(&mut self, sink: &config::Sink, config: &Config) {
        self.built_from.insert(sink.name.clone(), BuiltFrom::new(sink, config));
        if self.has_started {
            tracing::info!(sink = %sink.name, kind = sink.kind.as_str(), "sink in effect");
        }
    }

    /// Puts a sink in effect unless it is.
    async fn set(
        &mut self,
        places: &P,
        sink: &config::Sink,
        config: &Config,
        problems: &mut BTreeMap<SinkName, DeliveryError>,
    ) {
        if self.is_in_effect(sink, config) {
            return;
        }
        match self.start(places, sink, config).await {
            Ok(()) => self.in_effect(sink, config),
            Err(error) => drop(problems.insert(sink.name.clone(), error)),
        }
    }

    /// Starts a sink at its place, or puts it in the place of the one of its name.
    async fn start(&mut self, places: &P, sink: &config::Sink, config: &Config) -> Result<(), DeliveryError> {
        let name = &sink.name;
        let setup = (self.build)(sink, config)?;
        let (journal, registration) = (places.clone(), Registration::from(sink));
        let registered = blocking(move || journal.register(&registration)).await;
        registered.map_err(|_| DeliveryError::Panicked)?.map_err(DeliveryError::Register)?;
        let mut feed = None;
        if self.built_from.contains_key(name) {
            feed = self.end(name).await;
        } else if let Some(other) = sink.continues.as_ref().filter(|other| !places.knows(other)) {
            // As long as the other one has a place, its letters stay with it.
            self.adopt_letters(name, other);
        }
        // A pump that died leaves its place free.
        let feed = feed.or_else(|| places.feed(name)).ok_or_else(|| DeliveryError::NoPlace(name.clone()))?;
        self.start_pump(setup, feed)
    }

    fn start_pump(&mut self, setup: SinkSetup, feed: P::Feed) -> Result<(), DeliveryError> {
        let name = setup.config.name.clone();
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
        self.handles.set(&name, handle);
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
        self.pumps.insert(name, PumpTask { stop, end: end.drop_guard(), task });
        Ok(())
    }

    /// Moves the dead letters of `other` to `sink`, which continues it and does not run yet. Blocks.
    fn adopt_letters(&self, sink: &SinkName, other: &SinkName) {
        self.options.metrics.sink_forgotten(other);
        if let Err(error) = self.options.letters.adopt(sink, other) {
            tracing::error!(
                %sink, continues = %other, %error,
                "dead letters of the sink that is continued can't be taken over; the next start tries again"
            );
        }
    }

    /// Ends a sink, which first settles what is in flight. Returns its feed, or `None` if its pump has died.
    async fn end(&mut self, name: &SinkName) -> Option<P::Feed> {
        self.built_from.remove(name);
        self.handles.unset(name);
        self.filters.unset(name);
        let (feed, _) = self.pumps.remove(name)?.stop(REPLACE_PATIENCE).await;
        feed
    }

    /// Takes out a sink that left the configuration.
    async fn remove(&mut self, places: &P, name: &SinkName) {
        if self.end(name).await.is_none() {
            tracing::error!(sink = %name, "the pump of the sink has died; see the log");
        }
        places.retire(name);
        tracing::warn!(
            sink = %name,
            "removed from the configuration: it keeps its place and what waits for it until it returns or is forgotten"
        );
    }
}

impl<F> PumpTask<F> {
    /// Returns the feed unless the pump has died, and whether the pump settled in time.
    async fn stop(self, within: Duration) -> (Option<F>, bool) {
        let Self { stop, end, mut task } = self;
        stop.cancel();
        if let Ok(joined) = timeout(within, &mut task).await {
            return (joined.ok(), true);
        }
        drop(end);
        (task.await.ok(), false)
    }
}

impl BuiltFrom {
    fn new(sink: &config::Sink, config: &Config) -> Self {
        let institutions = config.sources.iter().map(|source| (source.name.clone(), source.institution.clone()));
        Self { sink: sink.clone(), institutions: institutions.collect(), privacy: config.privacy.clone() }
    }
}

impl Intake for Way {
    async fn take(&self, event: Verified, received: Timestamp) -> Result<Taken, NotTaken> {
        match self {
            Self::Journal(journal) => journal.take(event, received).await,
            Self::Direct(direct) => direct.take(event, received).await,
        }
    }

    fn ready(&self) -> Result<(), NotTaken> {
        match self {
            Self::Journal(journal) => journal.ready(),
            Self::Direct(direct) => direct.ready(),
        }
    }
}

impl Places for Journal {
    type Feed = JournalReader;

    fn register(&self, registration: &Registration) -> io::Result<()> {
        Self::register(self, registration)
    }

    fn knows(&self, sink: &SinkName) -> bool {
        Self::knows(self, sink)
    }

    fn feed(&self, sink: &SinkName) -> Option<JournalReader> {
        self.reader(sink)
    }

    fn retire(&self, sink: &SinkName) {
        Self::retire(self, sink);
    }
}
