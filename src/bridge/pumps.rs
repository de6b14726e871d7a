//! The pumps of a running bridge: one per sink, started, replaced and stopped while events go on being taken.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::engine::OpenError;
use crate::clock::SystemClock;
use crate::config::{Config, Sink, SinkName};
use crate::delivery::{BackOff, DeadLetters, Filters, Pump, PumpHandle, PumpOptions, SinkStatus};
use crate::journal::{Journal, Registration};
use crate::message::{Messages, StoredEvent};
use crate::sinks;
use crate::telemetry::Metrics;

/// Bounds of the waits between two tries of a sink.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// For the pump of a changed sink to settle what it is sending.
const REPLACE_PATIENCE: Duration = Duration::from_secs(35);

/// All pumps, by the names of their sinks.
pub(super) struct Pumps {
    journal: Journal,
    dead_dir: PathBuf,
    filters: Filters,
    metrics: Metrics,
    running: Mutex<BTreeMap<SinkName, Running>>,
}

struct Running {
    config: Sink,
    handle: PumpHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Stops the pump; what it is sending is awaited until `deadline`, then left to the next start.
    async fn stop(self, deadline: Instant) -> bool {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        let settled = timeout_at(deadline, self.task).await.is_ok();
        abort.abort();
        settled
    }
}

impl Pumps {
    /// No pump yet.
    pub(super) fn new(journal: Journal, dead_dir: PathBuf, metrics: Metrics) -> Self {
        Self { journal, dead_dir, filters: Filters::default(), metrics, running: Mutex::default() }
    }

    /// Starts the pump of every sink of the configuration.
    pub(super) async fn start_all(&self, config: &Config) -> Result<(), OpenError> {
        for sink in &config.sinks {
            self.start(sink, config).await?;
        }
        Ok(())
    }

    async fn start(&self, sink: &Sink, config: &Config) -> Result<(), OpenError> {
        let messages = Messages::new(sink, &config.sources, &config.privacy);
        let built = sinks::build(sink, config.ingress.max_body)?;
        let dead_letters = {
            let (dir, name, metrics) = (self.dead_dir.clone(), sink.name.clone(), self.metrics.clone());
            let max_size = config.journal.dead_max_size;
            let opened = tokio::task::spawn_blocking(move || DeadLetters::open(&dir, &name, max_size, &metrics)).await;
            opened.map_err(|_| OpenError::Panicked)??
        };
        let feed = self.journal.reader(&sink.name).ok_or_else(|| OpenError::NoPlace(sink.name.clone()))?;
        let (mut pump, handle) = Pump::new(PumpOptions {
            config: sink.clone(),
            sink: built,
            feed,
            make: Arc::new(move |event: &StoredEvent| messages.make(event, None)),
            dead_letters,
            filters: self.filters.clone(),
            metrics: self.metrics.clone(),
            clock: SystemClock::shared(),
            back_off: BackOff::new(BACK_OFF.0, BACK_OFF.1).expect("the bounds are in order"),
            rng: fastrand::Rng::new(),
        });
        let stop = CancellationToken::new();
        let task = {
            let stop = stop.clone();
            tokio::spawn(async move { pump.run(&stop).await })
        };
        self.lock().insert(sink.name.clone(), Running { config: sink.clone(), handle, stop, task });
        Ok(())
    }

    /// Puts the sinks of a newer configuration in effect. `remake`: what messages are made from changed for all.
    ///
    /// A sink that keeps its name keeps its place. One that is gone keeps its place and its events until it returns or
    /// is forgotten.
    pub(super) async fn apply(&self, config: &Config, remake: bool) -> Vec<String> {
        let mut problems = Vec::new();
        let gone: Vec<SinkName> = {
            let running = self.lock();
            let names = running.keys().filter(|name| !config.sinks.iter().any(|sink| sink.name == **name));
            names.cloned().collect()
        };
        for name in gone {
            self.stop_one(&name).await;
            self.journal.retire(&name);
            self.filters.unset(&name);
            tracing::warn!(sink = %name, "taken out: it keeps its place and what waits for it, until it returns or is forgotten");
        }
        for sink in &config.sinks {
            let same = self.lock().get(&sink.name).map(|running| running.config == *sink && !remake);
            if same == Some(true) {
                continue;
            }
            self.stop_one(&sink.name).await;
            let registered = self.journal.register(&Registration::from(sink)).map_err(|error| error.to_string());
            let started = match registered {
                Ok(()) => self.start(sink, config).await.map_err(|error| error.to_string()),
                Err(error) => Err(error),
            };
            match started {
                Ok(()) => tracing::info!(sink = %sink.name, kind = sink.kind.as_str(), "sink in effect"),
                Err(error) => problems.push(format!("sink {}: {error}", sink.name)),
            }
        }
        self.retry_parked();
        problems
    }

    async fn stop_one(&self, name: &SinkName) {
        let running = self.lock().remove(name);
        if let Some(running) = running {
            running.stop(Instant::now() + REPLACE_PATIENCE).await;
        }
    }

    /// Tries parked topics, and connections, at once.
    pub(super) fn retry_parked(&self) {
        self.lock().values().for_each(|running| running.handle.retry_parked());
    }

    /// What each sink is doing, in order of the names.
    pub(super) fn status(&self) -> Vec<SinkStatus> {
        self.lock().values().map(|running| running.handle.status()).collect()
    }

    /// Stops all pumps at once; whether all settled in time.
    pub(super) async fn stop_all(&self, deadline: Instant) -> bool {
        let running = std::mem::take(&mut *self.lock());
        running.values().for_each(|running| running.stop.cancel());
        let mut settled = true;
        for running in running.into_values() {
            settled &= running.stop(deadline).await;
        }
        settled
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SinkName, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
