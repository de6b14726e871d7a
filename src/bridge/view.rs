//! What operators see of the bridge and can ask of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::Listeners;
use super::attention;
use super::engine::{Engine, Open};
use super::metrics::Metrics;
use crate::admin::status::{ConfigStatus, JournalStatus, ListenersStatus, ParkedTopicStatus, SinkStatus, SourceStatus};
use crate::admin::{Operated, ReloadError, Reloaded, Status};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{self, Config, SinkName};
use crate::dead_letters::LetterSummary;
use crate::delivery::{ParkedTopic, SinkSnapshot, SinkState};
use crate::ingress::Sources;
use crate::journal::{Backlog, Intake as _, Journal, NotTaken};
use crate::operator::{OperatorError, OperatorRequest};
use crate::sinks::{Class, Reason};
use crate::units;

/// How many reloads may wait for their turn.
const RELOADS: usize = 8;

/// How long a reload may take. Each sink that is replaced may take 45 s to settle what is in flight.
pub const RELOAD_PATIENCE: Duration = Duration::from_mins(5);

/// How the last reload went.
#[derive(Clone)]
struct LastReload {
    /// When the configuration in effect was loaded.
    loaded: Timestamp,
    /// What was wrong with a later configuration that was refused.
    refused: Vec<String>,
    /// What is not in effect yet of the configuration that was loaded.
    not_in_effect: Vec<String>,
}

/// Shared by the bridge and its admin listener.
pub(super) struct View {
    config: RwLock<Arc<Config>>,
    last_reload: RwLock<LastReload>,
    started: Timestamp,
    pub(super) listeners: Listeners,
    sources: Sources,
    pub(super) metrics: Metrics,
    pub(super) engine: Arc<Engine>,
    stopping: AtomicBool,
    reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
    reloads_asked: Mutex<mpsc::Receiver<oneshot::Sender<Reloaded>>>,
}

impl View {
    pub(super) fn new(
        config: Config,
        listeners: Listeners,
        sources: Sources,
        metrics: Metrics,
        engine: Arc<Engine>,
    ) -> Self {
        let now = SystemClock.now();
        metrics.config_loaded(now);
        let (reloads, reloads_asked) = mpsc::channel(RELOADS);
        let last_reload = LastReload { loaded: now, refused: Vec::new(), not_in_effect: Vec::new() };
        Self {
            config: RwLock::new(Arc::new(config)),
            last_reload: RwLock::new(last_reload),
            started: now,
            listeners,
            sources,
            metrics,
            engine,
            stopping: AtomicBool::new(false),
            reloads,
            reloads_asked: Mutex::new(reloads_asked),
        }
    }

    /// The configuration in effect.
    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that a newer configuration was accepted and is about to be put in effect.
    pub(super) fn loaded(&self, config: Config) {
        self.metrics.init_labels(&config);
        self.metrics.ingress.carry_last_used(&self.config().sources, &config.sources);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        let mut last = self.last_reload.write().unwrap_or_else(PoisonError::into_inner);
        (last.loaded, last.refused) = (SystemClock.now(), Vec::new());
    }

    /// Notes that the accepted configuration is in effect, except for `but_for`.
    pub(super) fn in_effect(&self, but_for: Vec<String>) {
        let mut last = self.last_reload.write().unwrap_or_else(PoisonError::into_inner);
        last.not_in_effect = but_for;
        if !last.not_in_effect.is_empty() {
            self.metrics.config_refused();
        } else if last.refused.is_empty() {
            self.metrics.config_loaded(SystemClock.now());
        }
    }

    /// Returns the parts of the accepted configuration that have yet to take effect.
    pub(super) fn not_in_effect(&self) -> Vec<String> {
        self.last_reload.read().unwrap_or_else(PoisonError::into_inner).not_in_effect.clone()
    }

    /// When the configuration in effect was loaded.
    pub(super) fn loaded_at(&self) -> Timestamp {
        self.last_reload.read().unwrap_or_else(PoisonError::into_inner).loaded
    }

    /// Notes that a newer configuration was refused.
    pub(super) fn refused(&self, errors: Vec<String>) {
        self.metrics.config_refused();
        self.last_reload.write().unwrap_or_else(PoisonError::into_inner).refused = errors;
    }

    /// Reports the bridge as not ready from now on.
    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Resolves when an operator requests a reload. Send the outcome to the returned channel. Cancel-safe.
    pub(super) async fn reload_asked(&self) -> oneshot::Sender<Reloaded> {
        let asked = self.reloads_asked.lock().await.recv().await;
        asked.expect("the sender lives as long as the receiver")
    }

    fn sources(&self, config: &Config, now: Timestamp) -> Vec<SourceStatus> {
        let status = |source: &config::Source| {
            let health = self.sources.health(&source.name);
            SourceStatus {
                name: source.name.to_string(),
                path: source.path.clone(),
                secrets: source.secrets.iter().filter(|s| s.secret.is_some()).map(|s| s.name.clone()).collect(),
                secrets_last_used: self.secrets_last_used(source),
                last_event: health.last_event.map(|moment| moment.to_string()),
                refused: health.refused.map(|refused| attention::refused_status(&source.name, &refused)),
                too_large: self
                    .sources
                    .too_large(&source.name, now)
                    .map(|seen| attention::too_large_status(seen, config.ingress.max_body)),
                silence: source.silence.map(units::duration),
                silent: health.silent,
                needs_person: health.needs_person,
            }
        };
        config.sources.iter().map(status).collect()
    }

    fn secrets_last_used(&self, source: &crate::config::Source) -> BTreeMap<String, String> {
        let used = |secret: &crate::config::NamedSecret| {
            Some((secret.name.clone(), self.metrics.ingress.secret_last_used(&source.name, &secret.name)?.to_string()))
        };
        source.secrets.iter().filter_map(used).collect()
    }

    fn journal(config: &Config, journal: &Journal) -> JournalStatus {
        let stats = journal.stats();
        JournalStatus {
            dir: config.journal_dir().display().to_string(),
            waiting_bytes: stats.waiting_bytes,
            max_size: stats.max_size,
            delivered_bytes: stats.delivered_bytes,
            free_bytes: stats.free_bytes,
            min_free: stats.min_free,
            damaged_records: stats.damaged_records,
            set_aside: stats.set_aside,
        }
    }

    /// Takes the backlogs from the journal, because those that the sinks report may be a second old.
    fn set_journal_gauges(&self, open: &Open, journal: &Journal, now: Timestamp) {
        self.metrics.journal.set_sizes(&journal.stats());
        let running = open.sinks.handles().statuses();
        let mut letters = open.letters();
        for place in journal.sinks() {
            let oldest = age(place.backlog.oldest, now);
            let kept = letters.remove(&place.name);
            let parked = match running.iter().find(|sink| sink.name == place.name) {
                Some(sink) => sink.parked.len(),
                None => kept.map_or(0, |kept| parked_topics(&kept).count()),
            };
            self.metrics.delivery.sink_backlog(&place.name, place.backlog.events, oldest, parked);
        }
        for (forgotten, kept) in letters {
            match parked_topics(&kept).count() {
                0 => self.metrics.delivery.sink_forgotten(&forgotten),
                parked => self.metrics.delivery.parked_topics(&forgotten, parked),
            }
        }
    }

    /// The sinks that run, and those that left the configuration but still have a place or dead letters.
    fn sinks(&self, open: &Open, config: &Config, now: Timestamp) -> Vec<SinkStatus> {
        let places = open.journal().map(Journal::sinks).unwrap_or_default();
        let backlog = |sink: &SinkSnapshot| {
            let place = places.iter().find(|place| place.name == sink.name);
            place.map_or(sink.backlog, |place| place.backlog)
        };
        let running = open.sinks.handles().statuses();
        let status = |sink: &SinkSnapshot| {
            let settings = config.sinks.iter().find(|settings| settings.name == sink.name);
            SinkStatus {
                needs_person: settings.is_some_and(|settings| attention::is_stuck(sink, settings.setup_grace, now)),
                ..sink_status(sink, backlog(sink), now)
            }
        };
        let mut sinks: Vec<SinkStatus> = running.iter().map(status).collect();
        let mut letters = open.letters();
        letters.retain(|sink, _| config.sinks.iter().all(|configured| configured.name != *sink));
        for place in places.iter().filter(|place| !place.configured) {
            let kept = letters.remove(&place.name).unwrap_or_default();
            sinks.push(SinkStatus {
                waiting_events: place.backlog.events,
                oldest_waiting_seconds: age(place.backlog.oldest, now).as_secs_f64(),
                ..self.absent(&place.name, "removed", &kept)
            });
        }
        let forgotten = letters.iter().filter(|(_, kept)| kept.letters() > 0);
        sinks.extend(forgotten.map(|(sink, kept)| self.absent(sink, "forgotten", kept)));
        sinks
    }

    /// A sink that is not in the configuration, with its dead letters.
    fn absent(&self, sink: &SinkName, state: &str, kept: &LetterSummary) -> SinkStatus {
        let parked = |(topic, reason): (&Arc<str>, Reason)| ParkedTopicStatus {
            topic: topic.to_string(),
            reason: reason.to_string(),
            detail: "the sink is not in the configuration".to_owned(),
            since: self.started.to_string(),
        };
        SinkStatus {
            name: sink.to_string(),
            state: state.to_owned(),
            parked_topics: parked_topics(kept).map(parked).collect(),
            ..with_letters(kept)
        }
    }
}

/// The topics whose letters wait for an operator, with the reason.
fn parked_topics(kept: &LetterSummary) -> impl Iterator<Item = (&Arc<str>, Reason)> {
    let reason =
        |reasons: &BTreeMap<Reason, u64>| reasons.keys().copied().find(|reason| reason.class() == Class::NeedsOperator);
    kept.by_topic.iter().filter_map(move |(topic, reasons)| Some((topic, reason(reasons)?)))
}

/// A sink's status with nothing but its dead letters.
fn with_letters(kept: &LetterSummary) -> SinkStatus {
    let by_reason = kept.by_reason.iter().filter(|(_, count)| **count > 0);
    SinkStatus {
        dead_letters: by_reason.map(|(reason, count)| (reason.to_string(), *count)).collect(),
        damaged_dead_letters: kept.damaged,
        unreadable_dead_letters: kept.unreadable,
        ..SinkStatus::default()
    }
}

fn age(oldest: Option<Timestamp>, now: Timestamp) -> Duration {
    oldest.map_or(Duration::ZERO, |oldest| now.since(oldest))
}

fn sink_status(sink: &SinkSnapshot, backlog: Backlog, now: Timestamp) -> SinkStatus {
    let why = match &sink.state {
        SinkState::BackingOff { why, next_try } => Some(format!("{why}; tries again at {next_try}")),
        _ => None,
    };
    let oldest = age(backlog.oldest, now);
    let parked = |topic: &ParkedTopic| ParkedTopicStatus {
        topic: topic.topic.to_string(),
        reason: topic.why.reason.to_string(),
        detail: topic.why.detail.clone(),
        since: topic.since.to_string(),
    };
    SinkStatus {
        name: sink.name.to_string(),
        kind: Some(sink.kind.to_owned()),
        state: sink.state.as_str().to_owned(),
        why,
        reason: sink.state.failure().map(|why| why.reason.to_string()),
        next_step: attention::next_step(sink, oldest).map(str::to_owned),
        since: sink.since.to_string(),
        warnings: sink.warnings.clone(),
        waiting_events: backlog.events,
        oldest_waiting_seconds: oldest.as_secs_f64(),
        last_confirm: sink.last_confirm.map(|moment| moment.to_string()),
        parked_topics: sink.parked.iter().map(parked).collect(),
        ..with_letters(&sink.dead_letters)
    }
}

impl Operated for View {
    fn ready(&self) -> Result<(), NotTaken> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(NotTaken::Stopping);
        }
        self.engine.ready()
    }

    fn status(&self) -> Status {
        let (config, now) = (self.config(), SystemClock.now());
        let last = self.last_reload.read().unwrap_or_else(PoisonError::into_inner).clone();
        let open = self.engine.get();
        let ready = self.ready();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: now.to_string(),
            started: self.started.to_string(),
            ready: ready.is_ok(),
            unready_reason: ready.err().map(|why| why.to_string()),
            listeners: ListenersStatus {
                ingress: self.listeners.ingress.to_string(),
                admin: self.listeners.admin.to_string(),
            },
            config: ConfigStatus {
                file: config.file.as_ref().map(|file| file.display().to_string()),
                loaded: last.loaded.to_string(),
                refused: last.refused,
                not_in_effect: last.not_in_effect,
            },
            sources: self.sources(&config, now),
            wrong_paths: self.sources.wrong_paths(now).map(|seen| attention::wrong_paths_status(seen, &config.sources)),
            journal: open.and_then(Open::journal).map(|journal| Self::journal(&config, journal)),
            sinks: open.map(|open| self.sinks(open, &config, now)).unwrap_or_default(),
            attention: Vec::new(),
            problems: Vec::new(),
        };
        let problems = attention::problems(&mut status);
        status.set_problems(problems);
        status
    }

    fn metrics(&self) -> String {
        for source in &self.config().sources {
            let health = self.sources.health(&source.name);
            let refused = health.refused.map_or(0, |refused| refused.events());
            self.metrics.ingress.source_health(&source.name, refused, health.silent);
        }
        if let Some(open) = self.engine.get() {
            let now = SystemClock.now();
            open.sinks.handles().set_gauges(&self.metrics.delivery, now);
            if let Some(journal) = open.journal() {
                self.set_journal_gauges(open, journal, now);
            }
        }
        self.metrics.encode()
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ReloadError>> {
        Box::pin(async {
            if self.stopping.load(Ordering::Relaxed) {
                return Err(ReloadError::Stopping);
            }
            let (reply, done) = oneshot::channel();
            self.reloads.try_send(reply).map_err(|_| ReloadError::TooMany)?;
            match timeout(RELOAD_PATIENCE, done).await {
                Ok(reloaded) => reloaded.map_err(|_| ReloadError::Stopping),
                Err(_) => Err(ReloadError::TakesLong(RELOAD_PATIENCE.as_secs())),
            }
        })
    }

    fn operate(&self, request: OperatorRequest) -> BoxFuture<'_, Result<Value, OperatorError>> {
        Box::pin(async {
            let open = self.engine.get().ok_or(OperatorError::NotOpen)?;
            let operator = open.operator.as_ref().ok_or(OperatorError::NoJournal)?;
            let config = self.config();
            operator.operate(request, &config).await
        })
    }
}
