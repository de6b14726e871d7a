//! What operators see of the bridge, and what they can make it do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::Listeners;
use super::engine::{Engine, Open};
use super::tools::NO_JOURNAL;
use crate::admin::status::{ConfigStatus, JournalStatus, ParkedTopic, SinkStatus, SourceStatus};
use crate::admin::{self, Operated, Order, Reloaded, Status};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, SinkName};
use crate::delivery::dead_letters::Summary;
use crate::delivery::{self, SinkState};
use crate::journal::{Backlog, Intake as _, Journal};
use crate::sinks::{Class, Reason};
use crate::telemetry::Metrics;

/// A sink's oldest event has waited for this long: somebody should look.
const LONG_WAIT_SECONDS: f64 = 300.0;

/// Reloads that wait for their turn.
const RELOADS: usize = 8;

/// For a reload to be done: sinks that are replaced may take 45 s each to settle what they are sending.
const RELOAD_PATIENCE: Duration = Duration::from_mins(5);

/// How the last reload went.
#[derive(Clone)]
struct LastReload {
    /// When the configuration was loaded that is in effect.
    loaded: Timestamp,
    /// What was wrong with a later one that was refused.
    refused: Vec<String>,
    /// What of the one that was loaded is not in effect yet.
    not_in_effect: Vec<String>,
}

/// Shared by the bridge and its admin listener.
pub(super) struct View {
    config: RwLock<Arc<Config>>,
    last_reload: RwLock<LastReload>,
    started: Timestamp,
    listeners: Listeners,
    pub(super) metrics: Metrics,
    pub(super) engine: Arc<Engine>,
    stopping: AtomicBool,
    reloads: mpsc::Sender<oneshot::Sender<Reloaded>>,
    reloads_asked: Mutex<mpsc::Receiver<oneshot::Sender<Reloaded>>>,
}

impl View {
    pub(super) fn new(config: Config, listeners: Listeners, metrics: Metrics, engine: Arc<Engine>) -> Self {
        let now = SystemClock.now();
        metrics.config_loaded(now);
        let (reloads, reloads_asked) = mpsc::channel(RELOADS);
        let last_reload = LastReload { loaded: now, refused: Vec::new(), not_in_effect: Vec::new() };
        Self {
            config: RwLock::new(Arc::new(config)),
            last_reload: RwLock::new(last_reload),
            started: now,
            listeners,
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

    /// A newer one is accepted, and is about to be put in effect.
    pub(super) fn loaded(&self, config: Config) {
        self.metrics.name_all(&config);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        let mut last = self.last_reload.write().unwrap_or_else(PoisonError::into_inner);
        (last.loaded, last.refused) = (SystemClock.now(), Vec::new());
    }

    /// The accepted one is in effect, but for this.
    pub(super) fn in_effect(&self, but_for: Vec<String>) {
        let mut last = self.last_reload.write().unwrap_or_else(PoisonError::into_inner);
        last.not_in_effect = but_for;
        if !last.not_in_effect.is_empty() {
            self.metrics.config_refused();
        } else if last.refused.is_empty() {
            self.metrics.config_loaded(SystemClock.now());
        }
    }

    /// What of the accepted one is not in effect yet.
    pub(super) fn not_in_effect(&self) -> Vec<String> {
        self.last_reload.read().unwrap_or_else(PoisonError::into_inner).not_in_effect.clone()
    }

    /// A newer one was refused.
    pub(super) fn refused(&self, errors: Vec<String>) {
        self.metrics.config_refused();
        self.last_reload.write().unwrap_or_else(PoisonError::into_inner).refused = errors;
    }

    /// From now on it is not ready.
    pub(super) fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Resolves when an operator requests a reload: where to send what became of it. Cancel-safe.
    pub(super) async fn reload_asked(&self) -> oneshot::Sender<Reloaded> {
        let asked = self.reloads_asked.lock().await.recv().await;
        asked.expect("the sender lives as long as the receiver")
    }

    fn sources(&self, config: &Config) -> Vec<SourceStatus> {
        let status = |source: &crate::config::Source| SourceStatus {
            name: source.name.to_string(),
            path: source.path.clone(),
            secrets: source.secrets.iter().filter(|s| s.secret.is_some()).map(|s| s.name.clone()).collect(),
            last_event: self.metrics.last_event(&source.name).map(|moment| moment.to_string()),
        };
        config.sources.iter().map(status).collect()
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

    /// What waits comes fresh from the journal; a sink's own word of it may be a second old.
    fn set_journal_gauges(&self, open: &Open, journal: &Journal, now: Timestamp) {
        let stats = journal.stats();
        self.metrics.journal_sizes(stats.waiting_bytes, stats.delivered_bytes, stats.max_size, stats.free_bytes);
        let running = open.pumps.handles().statuses();
        let mut letters = open.letters();
        for place in journal.sinks() {
            let oldest = place.backlog.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
            let kept = letters.remove(&place.name);
            let parked = match running.iter().find(|sink| sink.name == place.name) {
                Some(sink) => sink.parked.len(),
                None => kept.map_or(0, |kept| parked_topics(&kept).count()),
            };
            self.metrics.sink_backlog(&place.name, place.backlog.events, oldest, parked);
        }
        for (forgotten, kept) in letters {
            match parked_topics(&kept).count() {
                0 => self.metrics.sink_forgotten(&forgotten),
                parked => self.metrics.parked_topics(&forgotten, parked),
            }
        }
    }

    /// The sinks that run, and those that were taken out and have a place or dead letters left.
    fn sinks(&self, open: &Open, config: &Config, now: Timestamp) -> Vec<SinkStatus> {
        let places = open.journal().map(Journal::sinks).unwrap_or_default();
        let backlog = |sink: &delivery::SinkStatus| {
            let place = places.iter().find(|place| place.name == sink.name);
            place.map_or(sink.backlog, |place| place.backlog)
        };
        let running = open.pumps.handles().statuses();
        let mut sinks: Vec<SinkStatus> = running.iter().map(|sink| sink_status(sink, backlog(sink), now)).collect();
        let mut letters = open.letters();
        letters.retain(|sink, _| config.sinks.iter().all(|configured| configured.name != *sink));
        for place in places.iter().filter(|place| !place.configured) {
            let kept = letters.remove(&place.name).unwrap_or_default();
            sinks.push(SinkStatus {
                waiting_events: place.backlog.events,
                oldest_waiting_seconds: age(place.backlog.oldest, now),
                ..self.absent(&place.name, "removed", &kept)
            });
        }
        let forgotten = letters.iter().filter(|(_, kept)| kept.letters() > 0);
        sinks.extend(forgotten.map(|(sink, kept)| self.absent(sink, "forgotten", kept)));
        sinks
    }

    /// A sink that is not in the configuration, with its dead letters.
    fn absent(&self, sink: &SinkName, state: &str, kept: &Summary) -> SinkStatus {
        let parked = |(topic, reason): (&Arc<str>, Reason)| ParkedTopic {
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

/// Topics whose letters wait for an operator, with the reason.
fn parked_topics(kept: &Summary) -> impl Iterator<Item = (&Arc<str>, Reason)> {
    let reason =
        |reasons: &BTreeMap<Reason, u64>| reasons.keys().copied().find(|reason| reason.class() == Class::NeedsOperator);
    kept.by_topic.iter().filter_map(move |(topic, reasons)| Some((topic, reason(reasons)?)))
}

/// What is shown of dead letters.
fn with_letters(kept: &Summary) -> SinkStatus {
    let by_reason = kept.by_reason.iter().filter(|(_, count)| **count > 0);
    SinkStatus {
        dead_letters: by_reason.map(|(reason, count)| (reason.to_string(), *count)).collect(),
        damaged_dead_letters: kept.damaged,
        unreadable_dead_letters: kept.unreadable,
        ..SinkStatus::default()
    }
}

fn age(oldest: Option<Timestamp>, now: Timestamp) -> f64 {
    oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64())
}

fn sink_status(sink: &delivery::SinkStatus, backlog: Backlog, now: Timestamp) -> SinkStatus {
    let why = match &sink.state {
        SinkState::BackingOff { why, next_try } => Some(format!("{why}; tries again at {next_try}")),
        _ => None,
    };
    let parked = |topic: &delivery::ParkedTopic| ParkedTopic {
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
        since: sink.since.to_string(),
        warnings: sink.warnings.clone(),
        waiting_events: backlog.events,
        oldest_waiting_seconds: age(backlog.oldest, now),
        last_confirm: sink.last_confirm.map(|moment| moment.to_string()),
        parked_topics: sink.parked.iter().map(parked).collect(),
        ..with_letters(&sink.dead_letters)
    }
}

/// What needs a person, most urgent first.
fn attention(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(why) = &status.unready_reason {
        lines.push(format!("no event can be taken: {why}"));
    }
    if let Some(journal) = &status.journal {
        if journal.damaged_records > 0 {
            let (count, dir) = (journal.damaged_records, &journal.dir);
            lines.push(format!("journal: {count} records were damaged on disk; their bytes are in {dir}/damaged"));
        }
        lines.extend(journal.set_aside.iter().map(|file| format!("journal: {file}")));
    }
    for sink in &status.sinks {
        let name = &sink.name;
        match (sink.state.as_str(), &sink.why) {
            ("forgotten", _) => {}
            ("removed", _) => lines.push(format!(
                "sink {name} was taken out, {} events wait for it: let it return, or alma-bridge sinks forget {name}",
                sink.waiting_events
            )),
            (_, Some(why)) => lines.push(format!("sink {name} is not connected: {why}")),
            _ if sink.oldest_waiting_seconds > LONG_WAIT_SECONDS => {
                lines.push(format!(
                    "sink {name} is behind: its oldest event waits for {:.0} s",
                    sink.oldest_waiting_seconds
                ));
            }
            _ => {}
        }
        lines.extend(sink.parked_topics.iter().map(|parked| {
            format!("sink {name}: topic {} is parked ({}): {}", parked.topic, parked.reason, parked.detail)
        }));
        lines.extend(about_letters(sink));
    }
    if !status.config.refused.is_empty() {
        lines.push(format!("the last reload was refused: {}", status.config.refused.join("; ")));
    }
    if !status.config.not_in_effect.is_empty() {
        lines.push(format!(
            "the configuration is in effect only in part, the bridge keeps trying: {}",
            status.config.not_in_effect.join("; ")
        ));
    }
    lines
}

fn about_letters(sink: &SinkStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &sink.name;
    let letters: u64 = sink.dead_letters.values().sum();
    if letters > 0 {
        let is_absent = matches!(sink.state.as_str(), "removed" | "forgotten");
        let to = if is_absent {
            format!("; publish them to another sink: alma-bridge dead-letters retry --all --sink {name} --to NAME")
        } else {
            String::new()
        };
        lines.push(format!("sink {name}: {letters} dead letters, see alma-bridge dead-letters list --sink {name}{to}"));
    }
    if sink.unreadable_dead_letters > 0 {
        let count = sink.unreadable_dead_letters;
        lines.push(format!("sink {name}: the disk does not give {count} of its dead letters; the log names them"));
    }
    if sink.damaged_dead_letters > 0 {
        let count = sink.damaged_dead_letters;
        lines.push(format!(
            "sink {name}: {count} dead letters were damaged on disk; their bytes are in journal/dead/{name}"
        ));
    }
    lines
}

impl Operated for View {
    fn ready(&self) -> Result<(), String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err("stopping".to_owned());
        }
        self.engine.ready().map_err(|why| why.to_string())
    }

    fn status(&self) -> Status {
        let (config, now) = (self.config(), SystemClock.now());
        let last = self.last_reload.read().unwrap_or_else(PoisonError::into_inner).clone();
        let open = self.engine.get();
        let ready = self.ready();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started.to_string(),
            ready: ready.is_ok(),
            unready_reason: ready.err(),
            listeners: admin::status::Listeners {
                ingress: self.listeners.ingress.to_string(),
                admin: self.listeners.admin.to_string(),
            },
            config: ConfigStatus {
                file: config.file.as_ref().map(|file| file.display().to_string()),
                loaded: last.loaded.to_string(),
                refused: last.refused,
                not_in_effect: last.not_in_effect,
            },
            sources: self.sources(&config),
            journal: open.and_then(Open::journal).map(|journal| Self::journal(&config, journal)),
            sinks: open.map(|open| self.sinks(open, &config, now)).unwrap_or_default(),
            attention: Vec::new(),
        };
        status.attention = attention(&status);
        status
    }

    fn metrics(&self) -> String {
        if let Some(open) = self.engine.get() {
            let now = SystemClock.now();
            open.pumps.handles().set_gauges(&self.metrics, now);
            if let Some(journal) = open.journal() {
                self.set_journal_gauges(open, journal, now);
            }
        }
        self.metrics.encode()
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>> {
        Box::pin(async {
            if self.stopping.load(Ordering::Relaxed) {
                return Err("the bridge is stopping".to_owned());
            }
            let (reply, done) = oneshot::channel();
            self.reloads.try_send(reply).map_err(|_| "too many reloads wait already".to_owned())?;
            match timeout(RELOAD_PATIENCE, done).await {
                Ok(Ok(reloaded)) => Ok(reloaded),
                Ok(Err(_)) => Err("the bridge is stopping".to_owned()),
                Err(_) => Err(format!(
                    "the reload is not done within {} s; /status tells how it went",
                    RELOAD_PATIENCE.as_secs()
                )),
            }
        })
    }

    fn operate(&self, order: Order) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async {
            let open = self.engine.get().ok_or_else(|| "the journal is not open yet".to_owned())?;
            let tools = open.tools.as_ref().ok_or_else(|| NO_JOURNAL.to_owned())?;
            let config = self.config();
            tools.operate(order, &config).await
        })
    }
}
