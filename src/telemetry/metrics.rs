//! The metrics, under the names of the contract: prefix `alma_bridge_`, base units, OpenMetrics text.
//!
//! Every label set that can be known beforehand exists from the start at 0, so that a rate or an absence can be
//! alerted on. Gauges of the journal and the sinks are set from snapshots when a scrape comes
//! ([`crate::admin`]), counters and histograms where things happen.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use super::logs;
use super::process::Process;
use crate::alma::SignatureFailure;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, SinkKind, SinkName, SourceName};
use crate::message::{Topic, known_topics};
use crate::sinks::Reason;

/// A gauge of seconds or other fractions.
type GaugeF64 = Gauge<f64, AtomicU64>;

/// Topics that have a label of their own; the rest count as `other`.
const MAX_TOPIC_LABELS: usize = 64;

/// The source label of a request whose path no source has.
const NO_SOURCE: &str = "none";

/// What became of a request: the `outcome` label of `requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the words of the contract say it")]
pub enum RequestOutcome {
    Stored,
    Repeat,
    Challenge,
    BadSignature,
    BadRequest,
    TooLarge,
    Timeout,
    Unavailable,
    NotFound,
}

impl RequestOutcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Stored,
        Self::Repeat,
        Self::Challenge,
        Self::BadSignature,
        Self::BadRequest,
        Self::TooLarge,
        Self::Timeout,
        Self::Unavailable,
        Self::NotFound,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Repeat => "repeat",
            Self::Challenge => "challenge",
            Self::BadSignature => "bad_signature",
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
        }
    }
}

/// A label value that is shared, not copied, from event to event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Label(Arc<str>);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&&*self.0, encoder)
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

macro_rules! labels {
    ($name:ident { $($field:ident: $type:ty),+ }) => {
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        struct $name { $($field: $type),+ }
    };
}

labels!(RequestLabels { source: Label, outcome: &'static str });
labels!(SignatureLabels { source: Label, reason: &'static str });
labels!(SourceLabels { source: Label });
labels!(SecretLabels { source: Label, secret: Label });
labels!(StateLabels { state: &'static str });
labels!(ListenerLabels { listener: &'static str });
labels!(SinkTypeLabels { sink: Label, r#type: &'static str });
labels!(SinkLabels { sink: Label });
labels!(SinkReasonLabels { sink: Label, reason: &'static str });
labels!(SinkTopicLabels { sink: Label, topic: Label });

/// All metrics of the process. Cheap to clone; every part of the bridge is handed one.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    /// Metrics whose names have no prefix.
    process: Registry,
    requests: Family<RequestLabels, Counter>,
    request_duration: Histogram,
    signature_failures: Family<SignatureLabels, Counter>,
    source_last_event: Family<SourceLabels, GaugeF64>,
    source_refused_events: Family<SourceLabels, Gauge>,
    source_silent: Family<SourceLabels, Gauge>,
    secret_last_used: Family<SecretLabels, GaugeF64>,
    journal_sync_duration: Histogram,
    journal_bytes: Family<StateLabels, Gauge>,
    journal_max_bytes: Gauge,
    journal_free_bytes: Gauge,
    journal_min_free_bytes: Gauge,
    journal_damaged_records: Counter,
    sink_up: Family<SinkTypeLabels, Gauge>,
    sink_waiting_events: Family<SinkLabels, Gauge>,
    sink_oldest_waiting_age: Family<SinkLabels, GaugeF64>,
    sink_parked_topics: Family<SinkLabels, Gauge>,
    published_events: Family<SinkTopicLabels, Counter>,
    publish_errors: Family<SinkReasonLabels, Counter>,
    unwanted_events: Counter,
    given_up_events: Family<SinkLabels, Counter>,
    delivery_delay: Family<SinkLabels, Histogram, fn() -> Histogram>,
    dead_letters: Family<SinkReasonLabels, Gauge>,
    config_last_reload_successful: Gauge,
    config_last_reload_success: GaugeF64,
    connections: Family<ListenerLabels, Gauge>,
    connections_evicted: Counter,
    topic_labels: Mutex<HashSet<Topic>>,
}

/// Half a millisecond to 10 s: Alma waits 5 s.
fn request_histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// A millisecond to ten hours: a broker may be down for long.
fn delay_histogram() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3_600.0, 36_000.0])
}

pub(super) fn seconds(moment: Timestamp) -> f64 {
    Duration::from_micros(moment.as_micros()).as_secs_f64()
}

/// `None` for 0: not since the start.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "set from a Timestamp")]
fn moment(seconds: f64) -> Option<Timestamp> {
    (seconds > 0.0).then(|| Timestamp::from_micros((seconds * 1e6).round() as u64))
}

fn gauge_value(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Metrics {
    /// Registers every metric; no label set exists yet but those without names of sources and sinks.
    #[allow(clippy::too_many_lines, reason = "one line a metric")]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("alma_bridge");
        let mut process = Registry::default();
        process.register_collector(Box::new(Process { started: SystemClock.now() }));
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of this binary", build);
        registry.register(
            "log_lines_dropped",
            "Log lines that could not be written because nobody read stderr",
            logs::dropped_lines(),
        );
        let inner = Inner {
            requests: register!("requests", "Requests of Alma's listener, by source and outcome", Family::default()),
            request_duration: register!(
                "request_duration_seconds",
                "From a request's head to its answer",
                request_histogram()
            ),
            signature_failures: register!(
                "signature_failures",
                "Requests answered 401, by source and reason",
                Family::default()
            ),
            source_last_event: register!(
                "source_last_event_timestamp_seconds",
                "When the source last proved an event; 0: not known",
                Family::default()
            ),
            source_refused_events: register!(
                "source_refused_events",
                "Requests answered 401 since the source's last valid event",
                Family::default()
            ),
            source_silent: register!(
                "source_silent",
                "1 if no valid event has come for the source's silence",
                Family::default()
            ),
            secret_last_used: register!(
                "secret_last_used_timestamp_seconds",
                "When the secret last fitted an event; 0: not since the start",
                Family::default()
            ),
            journal_sync_duration: register!(
                "journal_sync_duration_seconds",
                "Write and fsync of one commit group",
                request_histogram()
            ),
            journal_bytes: register!("journal_bytes", "Bytes of the journal's files, by state", Family::default()),
            journal_max_bytes: register!(
                "journal_max_bytes",
                "Bound of the waiting bytes; past it Alma gets 503",
                Gauge::default()
            ),
            journal_free_bytes: register!("journal_free_bytes", "Free bytes of the journal's disk", Gauge::default()),
            journal_min_free_bytes: register!(
                "journal_min_free_bytes",
                "Bound of the free bytes; below it Alma gets 503",
                Gauge::default()
            ),
            journal_damaged_records: register!(
                "journal_damaged_records",
                "Records that were durable once and can't be read, and files that could not be used; kept under damaged/",
                Counter::default()
            ),
            sink_up: register!("sink_up", "Whether the sink is connected", Family::default()),
            sink_waiting_events: register!(
                "sink_waiting_events",
                "Events that the sink has not yet passed",
                Family::default()
            ),
            sink_oldest_waiting_age: register!(
                "sink_oldest_waiting_age_seconds",
                "Age of the oldest event that the sink has not yet passed",
                Family::default()
            ),
            sink_parked_topics: register!(
                "sink_parked_topics",
                "Topics whose events wait as dead letters for an operator",
                Family::default()
            ),
            published_events: register!(
                "published_events",
                "Events confirmed by the sink, by topic; topics beyond 64 as other",
                Family::default()
            ),
            publish_errors: register!(
                "publish_errors",
                "Failed publications and connections, by reason",
                Family::default()
            ),
            unwanted_events: register!("unwanted_events", "Events that no sink asks for", Counter::default()),
            given_up_events: register!(
                "given_up_events",
                "Waiting events that a best_effort sink lost to a full journal",
                Family::default()
            ),
            delivery_delay: register!(
                "delivery_delay_seconds",
                "From a request to the sink's confirm of its event",
                Family::new_with_constructor(delay_histogram as fn() -> Histogram)
            ),
            dead_letters: register!("dead_letters", "Dead letters that the sink keeps, by reason", Family::default()),
            config_last_reload_successful: register!(
                "config_last_reload_successful",
                "1 unless the last reload was refused or is in effect only in part",
                Gauge::default()
            ),
            config_last_reload_success: register!(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in effect was loaded",
                Gauge::default()
            ),
            connections: register!("connections", "Open connections, by listener", Family::default()),
            connections_evicted: register!(
                "connections_evicted",
                "Connections closed to make room for new ones: they had not proved to be trusted",
                Counter::default()
            ),
            topic_labels: Mutex::default(),
            registry,
            process,
        };
        for listener in ["ingress", "admin"] {
            drop(inner.connections.get_or_create(&ListenerLabels { listener }));
        }
        for state in ["waiting", "delivered"] {
            drop(inner.journal_bytes.get_or_create(&StateLabels { state }));
        }
        Self(Arc::new(inner))
    }

    /// Makes the label sets of every source and sink of a configuration, at 0 where they are new.
    pub fn name_all(&self, config: &Config) {
        let sources = config.sources.iter().map(|source| Label::from(source.name.as_str()));
        for source in sources.chain([Label::from(NO_SOURCE)]) {
            for outcome in RequestOutcome::ALL.map(RequestOutcome::as_str) {
                drop(self.0.requests.get_or_create(&RequestLabels { source: source.clone(), outcome }));
            }
        }
        // A source that was taken out would alert for ever.
        self.0.source_refused_events.clear();
        self.0.source_silent.clear();
        for source in &config.sources {
            let label = Label::from(source.name.as_str());
            self.source_health(&source.name, 0, false);
            for reason in SignatureFailure::ALL.map(SignatureFailure::as_str) {
                drop(self.0.signature_failures.get_or_create(&SignatureLabels { source: label.clone(), reason }));
            }
            drop(self.0.source_last_event.get_or_create(&SourceLabels { source: label.clone() }));
            for secret in &source.secrets {
                let secret = secret.name.as_str().into();
                drop(self.0.secret_last_used.get_or_create(&SecretLabels { source: label.clone(), secret }));
            }
        }
        for sink in &config.sinks {
            let label = Label::from(sink.name.as_str());
            let only = SinkLabels { sink: label.clone() };
            drop(self.0.sink_up.get_or_create(&SinkTypeLabels { sink: label.clone(), r#type: sink.kind.as_str() }));
            drop(self.0.sink_waiting_events.get_or_create(&only));
            drop(self.0.sink_oldest_waiting_age.get_or_create(&only));
            drop(self.0.sink_parked_topics.get_or_create(&only));
            drop(self.0.given_up_events.get_or_create(&only));
            drop(self.0.delivery_delay.get_or_create(&only));
            for topic in known_topics(sink, &config.sources) {
                self.published(&sink.name, &topic, 0);
            }
            for reason in Reason::ALL.map(Reason::as_str) {
                let labels = SinkReasonLabels { sink: label.clone(), reason };
                drop(self.0.publish_errors.get_or_create(&labels));
                drop(self.0.dead_letters.get_or_create(&labels));
            }
        }
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &self.0.process))
            .and_then(|()| encode_eof(&mut text));
        encoded.expect("a String takes any write");
        text
    }

    /// A request was answered; `source` is none where no path fits.
    pub fn request(&self, source: Option<&SourceName>, outcome: RequestOutcome, took: Duration) {
        let source = source.map_or(NO_SOURCE, SourceName::as_str).into();
        self.0.requests.get_or_create(&RequestLabels { source, outcome: outcome.as_str() }).inc();
        self.0.request_duration.observe(took.as_secs_f64());
    }

    /// A request was refused before its path was known. It has no duration: nobody saw it begin.
    pub fn head_refused(&self, outcome: RequestOutcome) {
        let source = NO_SOURCE.into();
        self.0.requests.get_or_create(&RequestLabels { source, outcome: outcome.as_str() }).inc();
    }

    /// A request was answered 401.
    pub fn signature_failure(&self, source: &SourceName, reason: SignatureFailure) {
        let labels = SignatureLabels { source: source.as_str().into(), reason: reason.as_str() };
        self.0.signature_failures.get_or_create(&labels).inc();
    }

    /// An event was proven by one of the source's secrets.
    pub fn proven(&self, source: &SourceName, secret: &str, at: Timestamp) {
        let source = Label::from(source.as_str());
        self.0.source_last_event.get_or_create(&SourceLabels { source: source.clone() }).set(seconds(at));
        self.0.secret_last_used.get_or_create(&SecretLabels { source, secret: secret.into() }).set(seconds(at));
    }

    /// When the source's last event of before the start was made durable.
    pub fn last_event(&self, source: &SourceName, at: Timestamp) {
        self.0.source_last_event.get_or_create(&SourceLabels { source: source.as_str().into() }).set(seconds(at));
    }

    /// Requests refused since the source's last valid event, and whether its `silence` has passed.
    pub fn source_health(&self, source: &SourceName, refused: u64, silent: bool) {
        let labels = SourceLabels { source: source.as_str().into() };
        self.0.source_refused_events.get_or_create(&labels).set(gauge_value(refused));
        self.0.source_silent.get_or_create(&labels).set(i64::from(silent));
    }

    /// When a secret last fitted an event, since the start.
    pub fn secret_last_used(&self, source: &SourceName, secret: &str) -> Option<Timestamp> {
        moment(self.last_used(source, secret).get())
    }

    /// A reload may give a secret another name: what was `default` is `previous` once there is a fresh one. When it was
    /// last used goes with the secret, or a fresh one would seem to be in use.
    pub fn carry_last_used(&self, old: &Config, new: &Config) {
        for source in &new.sources {
            let Some(before) = old.sources.iter().find(|before| before.name == source.name) else { continue };
            let carried = source.secrets.iter().map(|secret| {
                let known = before.secrets.iter().find(|known| known.secret.is_some() && known.secret == secret.secret);
                known.map_or(0.0, |known| self.last_used(&source.name, &known.name).get())
            });
            let carried: Vec<f64> = carried.collect();
            for (secret, seconds) in source.secrets.iter().zip(carried) {
                self.last_used(&source.name, &secret.name).set(seconds);
            }
        }
    }

    fn last_used(&self, source: &SourceName, secret: &str) -> GaugeF64 {
        let labels = SecretLabels { source: source.as_str().into(), secret: secret.into() };
        self.0.secret_last_used.get_or_create(&labels).clone()
    }

    /// A commit group was written and fsynced.
    pub fn journal_sync(&self, took: Duration) {
        self.0.journal_sync_duration.observe(took.as_secs_f64());
    }

    /// Durable records were found unreadable, or files could not be used.
    pub fn journal_damaged(&self, records: u64) {
        self.0.journal_damaged_records.inc_by(records);
    }

    /// The journal's sizes in bytes of file, the disk's free bytes, and their bounds.
    pub fn journal_sizes(&self, waiting: u64, delivered: u64, max: u64, free: u64, min_free: u64) {
        self.0.journal_bytes.get_or_create(&StateLabels { state: "waiting" }).set(gauge_value(waiting));
        self.0.journal_bytes.get_or_create(&StateLabels { state: "delivered" }).set(gauge_value(delivered));
        self.0.journal_max_bytes.set(gauge_value(max));
        self.0.journal_free_bytes.set(gauge_value(free));
        self.0.journal_min_free_bytes.set(gauge_value(min_free));
    }

    /// Whether a sink is connected.
    pub fn sink_up(&self, sink: &SinkName, kind: &'static str, up: bool) {
        let labels = SinkTypeLabels { sink: sink.as_str().into(), r#type: kind };
        self.0.sink_up.get_or_create(&labels).set(i64::from(up));
    }

    /// What waits for a sink: events, the oldest one's age, and the number of topics that are parked.
    pub fn sink_backlog(&self, sink: &SinkName, waiting: u64, oldest: Duration, parked: usize) {
        let labels = SinkLabels { sink: sink.as_str().into() };
        self.0.sink_waiting_events.get_or_create(&labels).set(gauge_value(waiting));
        self.0.sink_oldest_waiting_age.get_or_create(&labels).set(oldest.as_secs_f64());
        self.0.sink_parked_topics.get_or_create(&labels).set(gauge_value(parked as u64));
    }

    /// Topics whose events wait as dead letters of a sink that has no place in the journal any more.
    pub fn parked_topics(&self, sink: &SinkName, parked: usize) {
        let labels = SinkLabels { sink: sink.as_str().into() };
        self.0.sink_parked_topics.get_or_create(&labels).set(gauge_value(parked as u64));
    }

    /// A sink was forgotten: what it showed for a place that it has no more goes, so that nothing alerts for ever.
    pub fn sink_forgotten(&self, sink: &SinkName) {
        let labels = SinkLabels { sink: sink.as_str().into() };
        self.0.sink_waiting_events.remove(&labels);
        self.0.sink_oldest_waiting_age.remove(&labels);
        self.0.sink_parked_topics.remove(&labels);
        for kind in SinkKind::NAMES {
            self.0.sink_up.remove(&SinkTypeLabels { sink: sink.as_str().into(), r#type: kind });
        }
    }

    /// `events` were confirmed on a topic.
    pub fn published(&self, sink: &SinkName, topic: &Topic, events: u64) {
        let topic = self.topic_label(topic);
        self.0.published_events.get_or_create(&SinkTopicLabels { sink: sink.as_str().into(), topic }).inc_by(events);
    }

    fn topic_label(&self, topic: &Topic) -> Label {
        let mut known = self.0.topic_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(topic) || (known.len() < MAX_TOPIC_LABELS && known.insert(topic.clone())) {
            topic.as_str().into()
        } else {
            "other".into()
        }
    }

    /// A publication or a connection failed.
    pub fn publish_error(&self, sink: &SinkName, reason: Reason, count: u64) {
        let labels = SinkReasonLabels { sink: sink.as_str().into(), reason: reason.as_str() };
        self.0.publish_errors.get_or_create(&labels).inc_by(count);
    }

    /// Events that no sink asks for.
    pub fn unwanted(&self, events: u64) {
        self.0.unwanted_events.inc_by(events);
    }

    /// Waiting events that a `best_effort` sink lost to a full journal.
    pub fn given_up(&self, sink: &SinkName, events: u64) {
        self.0.given_up_events.get_or_create(&SinkLabels { sink: sink.as_str().into() }).inc_by(events);
    }

    /// How many events of a sink were given up so far.
    #[cfg(test)]
    pub(crate) fn given_up_so_far(&self, sink: &SinkName) -> u64 {
        self.0.given_up_events.get_or_create(&SinkLabels { sink: sink.as_str().into() }).get()
    }

    /// How long an event took from its request to the sink's confirm.
    pub fn delivered(&self, sink: &SinkName, delay: Duration) {
        self.0.delivery_delay.get_or_create(&SinkLabels { sink: sink.as_str().into() }).observe(delay.as_secs_f64());
    }

    /// Dead letters that a sink keeps for a reason.
    pub fn dead_letters(&self, sink: &SinkName, reason: Reason, kept: u64) {
        let labels = SinkReasonLabels { sink: sink.as_str().into(), reason: reason.as_str() };
        self.0.dead_letters.get_or_create(&labels).set(gauge_value(kept));
    }

    /// The gauge of a listener's open connections.
    pub fn connections(&self, listener: &'static str) -> Gauge {
        self.0.connections.get_or_create(&ListenerLabels { listener }).clone()
    }

    /// The counter of connections that were closed to make room for new ones.
    pub fn connections_evicted(&self) -> Counter {
        self.0.connections_evicted.clone()
    }

    /// The configuration was loaded, at the start or by a reload.
    pub fn config_loaded(&self, at: Timestamp) {
        self.0.config_last_reload_successful.set(1);
        self.0.config_last_reload_success.set(seconds(at));
    }

    /// A reload was refused.
    pub fn config_refused(&self) {
        self.0.config_last_reload_successful.set(0);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}
