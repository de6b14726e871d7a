//! The metrics of requests, sources and their secrets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::alma::SignatureFailure;
use crate::clock::Timestamp;
use crate::config::{Source, SourceName};
use crate::telemetry::{FloatGauge, Label, Registry, gauge_value, latency_histogram, unix_seconds};

/// The label `source` of a request whose path no source has.
const NO_SOURCE: &str = "none";

/// The label `outcome` of `requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RequestOutcome {
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
    const ALL: [Self; 9] = [
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

    /// The value of the label.
    pub(super) const fn as_str(self) -> &'static str {
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    source: Label,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SignatureLabels {
    source: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecretLabels {
    source: Label,
    secret: Label,
}

impl From<&SourceName> for SourceLabels {
    fn from(source: &SourceName) -> Self {
        Self { source: source.as_str().into() }
    }
}

/// The metrics of requests, sources and secrets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct IngressMetrics {
    requests: Family<RequestLabels, Counter>,
    request_duration: Histogram,
    signature_failures: Family<SignatureLabels, Counter>,
    last_event: Family<SourceLabels, FloatGauge>,
    refused_events: Family<SourceLabels, Gauge>,
    silent: Family<SourceLabels, Gauge>,
    secret_last_used: Family<SecretLabels, FloatGauge>,
}

impl IngressMetrics {
    /// Registers the metrics. [`IngressMetrics::init_labels`] creates their label sets.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            requests: registry.register(
                "requests",
                "Requests of Alma's listener, by source and outcome",
                Family::default(),
            ),
            request_duration: registry.register(
                "request_duration_seconds",
                "Time from a request's head to its answer",
                latency_histogram(),
            ),
            signature_failures: registry.register(
                "signature_failures",
                "Requests answered 401, by source and reason",
                Family::default(),
            ),
            last_event: registry.register(
                "source_last_event_timestamp_seconds",
                "When the source's last valid event arrived; 0 if not known",
                Family::default(),
            ),
            refused_events: registry.register(
                "source_refused_events",
                "Requests answered 401 since the source's last valid event",
                Family::default(),
            ),
            silent: registry.register(
                "source_silent",
                "1 if no valid event has arrived for the source's silence",
                Family::default(),
            ),
            secret_last_used: registry.register(
                "secret_last_used_timestamp_seconds",
                "When the secret last matched an event; 0 if not since the start",
                Family::default(),
            ),
        }
    }

    /// Creates the label sets of the sources and their secrets, at 0 if they are new. Removes the gauges of other
    /// sources that alerts are based on, because those alerts would fire for ever.
    pub fn init_labels(&self, sources: &[Source]) {
        let names = sources.iter().map(|source| Label::from(source.name.as_str()));
        for source in names.chain([Label::from(NO_SOURCE)]) {
            for outcome in RequestOutcome::ALL.map(RequestOutcome::as_str) {
                drop(self.requests.get_or_create(&RequestLabels { source: source.clone(), outcome }));
            }
        }
        self.refused_events.clear();
        self.silent.clear();
        for source in sources {
            self.source_health(&source.name, 0, false);
            drop(self.last_event.get_or_create(&SourceLabels::from(&source.name)));
            for reason in SignatureFailure::ALL.map(SignatureFailure::as_str) {
                let source = source.name.as_str().into();
                drop(self.signature_failures.get_or_create(&SignatureLabels { source, reason }));
            }
            for secret in &source.secrets {
                drop(self.last_used(&source.name, &secret.name));
            }
        }
    }

    /// Counts a request. `source` is `None` if no source has its path.
    pub(super) fn request(&self, source: Option<&SourceName>, outcome: RequestOutcome, took: Duration) {
        let source = source.map_or(NO_SOURCE, SourceName::as_str).into();
        self.requests.get_or_create(&RequestLabels { source, outcome: outcome.as_str() }).inc();
        self.request_duration.observe(took.as_secs_f64());
    }

    /// Counts a request that was refused before its path was known. It has no duration, because hyper does not say when
    /// it began.
    pub(super) fn head_refused(&self, outcome: RequestOutcome) {
        let source = NO_SOURCE.into();
        self.requests.get_or_create(&RequestLabels { source, outcome: outcome.as_str() }).inc();
    }

    /// Counts a request that was answered 401.
    pub(super) fn signature_failure(&self, source: &SourceName, reason: SignatureFailure) {
        let labels = SignatureLabels { source: source.as_str().into(), reason: reason.as_str() };
        self.signature_failures.get_or_create(&labels).inc();
    }

    /// Notes that one of the source's secrets proved an event.
    pub(super) fn proven(&self, source: &SourceName, secret: &str, at: Timestamp) {
        self.last_event(source, at);
        self.last_used(source, secret).set(unix_seconds(at));
    }

    /// Notes when the source's last event became durable, which may be before the start.
    pub fn last_event(&self, source: &SourceName, at: Timestamp) {
        self.last_event.get_or_create(&source.into()).set(unix_seconds(at));
    }

    /// Notes the requests refused since the source's last valid event, and whether its `silence` has passed.
    pub fn source_health(&self, source: &SourceName, refused: u64, silent: bool) {
        let labels = SourceLabels::from(source);
        self.refused_events.get_or_create(&labels).set(gauge_value(refused));
        self.silent.get_or_create(&labels).set(i64::from(silent));
    }

    /// Returns when a secret last matched an event, or `None` if it has not since the start.
    pub fn secret_last_used(&self, source: &SourceName, secret: &str) -> Option<Timestamp> {
        moment(self.last_used(source, secret).get())
    }

    /// Moves the times of last use with their secrets. A reload may rename a secret: `default` becomes `previous` once
    /// there is a new one. Otherwise the new one would seem to be in use.
    pub fn carry_last_used(&self, old: &[Source], new: &[Source]) {
        for source in new {
            let Some(before) = old.iter().find(|before| before.name == source.name) else { continue };
            let carried = source.secrets.iter().map(|secret| {
                let known = before.secrets.iter().find(|known| known.secret.is_some() && known.secret == secret.secret);
                known.map_or(0.0, |known| self.last_used(&source.name, &known.name).get())
            });
            // Read all before writing any, because two secrets may swap their names.
            let carried: Vec<f64> = carried.collect();
            for (secret, seconds) in source.secrets.iter().zip(carried) {
                self.last_used(&source.name, &secret.name).set(seconds);
            }
        }
    }

    fn last_used(&self, source: &SourceName, secret: &str) -> FloatGauge {
        let labels = SecretLabels { source: source.as_str().into(), secret: secret.into() };
        self.secret_last_used.get_or_create(&labels).clone()
    }
}

/// The moment that a gauge shows, or `None` if it shows 0.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "set from a Timestamp")]
fn moment(seconds: f64) -> Option<Timestamp> {
    (seconds > 0.0).then(|| Timestamp::from_micros((seconds * 1e6).round() as u64))
}
