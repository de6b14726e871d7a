//! What is published, what fails, and what waits for each sink.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::config::{Sink, SinkKind, SinkName, Source};
use crate::message::{Topic, known_topics};
use crate::sinks::Reason;
use crate::telemetry::{FloatGauge, Label, Registry, gauge_value};

/// Topics that have a label of their own; the rest count as `other`.
const MAX_TOPIC_LABELS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkTypeLabels {
    sink: Label,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkReasonLabels {
    sink: Label,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkTopicLabels {
    sink: Label,
    topic: Label,
}

impl From<&SinkName> for SinkLabels {
    fn from(sink: &SinkName) -> Self {
        Self { sink: sink.as_str().into() }
    }
}

/// The metrics of all sinks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeliveryMetrics {
    up: Family<SinkTypeLabels, Gauge>,
    waiting_events: Family<SinkLabels, Gauge>,
    oldest_waiting_age: Family<SinkLabels, FloatGauge>,
    parked_topics: Family<SinkLabels, Gauge>,
    published_events: Family<SinkTopicLabels, Counter>,
    publish_errors: Family<SinkReasonLabels, Counter>,
    unwanted_events: Counter,
    delay: Family<SinkLabels, Histogram>,
    topic_labels: Arc<Mutex<HashSet<Topic>>>,
}

/// A millisecond to ten hours: a broker may be down for long.
fn delay_histogram() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0, 3_600.0, 36_000.0])
}

impl DeliveryMetrics {
    /// Registers them. [`DeliveryMetrics::init_labels`] makes their label sets.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            up: registry.register("sink_up", "Whether the sink is connected", Family::default()),
            waiting_events: registry.register(
                "sink_waiting_events",
                "Events that the sink has not yet passed",
                Family::default(),
            ),
            oldest_waiting_age: registry.register(
                "sink_oldest_waiting_age_seconds",
                "Age of the oldest event that the sink has not yet passed",
                Family::default(),
            ),
            parked_topics: registry.register(
                "sink_parked_topics",
                "Topics whose events wait as dead letters for an operator",
                Family::default(),
            ),
            published_events: registry.register(
                "published_events",
                "Events confirmed by the sink, by topic; topics beyond 64 as other",
                Family::default(),
            ),
            publish_errors: registry.register(
                "publish_errors",
                "Failed publications and connections, by reason",
                Family::default(),
            ),
            unwanted_events: registry.register("unwanted_events", "Events that no sink asks for", Counter::default()),
            delay: registry.register(
                "delivery_delay_seconds",
                "From a request to the sink's confirm of its event",
                Family::new_with_constructor(delay_histogram as fn() -> Histogram),
            ),
            topic_labels: Arc::default(),
        }
    }

    /// Makes the label sets of these sinks and the topics that these sources can have, at 0 if they are new.
    pub fn init_labels(&self, sinks: &[Sink], sources: &[Source]) {
        for sink in sinks {
            let label = Label::from(sink.name.as_str());
            let only = SinkLabels { sink: label.clone() };
            drop(self.up.get_or_create(&SinkTypeLabels { sink: label.clone(), r#type: sink.kind.as_str() }));
            drop(self.waiting_events.get_or_create(&only));
            drop(self.oldest_waiting_age.get_or_create(&only));
            drop(self.parked_topics.get_or_create(&only));
            drop(self.delay.get_or_create(&only));
            for topic in known_topics(sink, sources) {
                self.published(&sink.name, &topic, 0);
            }
            for reason in Reason::ALL.map(Reason::as_str) {
                drop(self.publish_errors.get_or_create(&SinkReasonLabels { sink: label.clone(), reason }));
            }
        }
    }

    /// Whether a sink is connected.
    pub(super) fn sink_up(&self, sink: &SinkName, kind: &'static str, up: bool) {
        let labels = SinkTypeLabels { sink: sink.as_str().into(), r#type: kind };
        self.up.get_or_create(&labels).set(i64::from(up));
    }

    /// What waits for a sink: events, the age of the oldest one, and the number of parked topics.
    pub fn sink_backlog(&self, sink: &SinkName, waiting: u64, oldest: Duration, parked: usize) {
        let labels = SinkLabels::from(sink);
        self.waiting_events.get_or_create(&labels).set(gauge_value(waiting));
        self.oldest_waiting_age.get_or_create(&labels).set(oldest.as_secs_f64());
        self.parked_topics.get_or_create(&labels).set(gauge_value(parked as u64));
    }

    /// How many topics have dead letters that wait for an operator, of a sink that has no place in the journal any more.
    pub fn parked_topics(&self, sink: &SinkName, parked: usize) {
        self.parked_topics.get_or_create(&sink.into()).set(gauge_value(parked as u64));
    }

    /// A sink was forgotten: the gauges of its place in the journal go, so that nothing alerts for ever.
    pub fn sink_forgotten(&self, sink: &SinkName) {
        let labels = SinkLabels::from(sink);
        self.waiting_events.remove(&labels);
        self.oldest_waiting_age.remove(&labels);
        self.parked_topics.remove(&labels);
        for kind in SinkKind::NAMES {
            self.up.remove(&SinkTypeLabels { sink: sink.as_str().into(), r#type: kind });
        }
    }

    /// The sink confirmed `events` of a topic.
    pub(super) fn published(&self, sink: &SinkName, topic: &Topic, events: u64) {
        let topic = self.topic_label(topic);
        self.published_events.get_or_create(&SinkTopicLabels { sink: sink.as_str().into(), topic }).inc_by(events);
    }

    fn topic_label(&self, topic: &Topic) -> Label {
        let mut known = self.topic_labels.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(topic) || (known.len() < MAX_TOPIC_LABELS && known.insert(topic.clone())) {
            topic.as_str().into()
        } else {
            "other".into()
        }
    }

    /// Publications or a connection failed.
    pub(super) fn publish_error(&self, sink: &SinkName, reason: Reason, count: u64) {
        let labels = SinkReasonLabels { sink: sink.as_str().into(), reason: reason.as_str() };
        self.publish_errors.get_or_create(&labels).inc_by(count);
    }

    /// No sink asks for these events.
    pub(super) fn unwanted(&self, events: u64) {
        self.unwanted_events.inc_by(events);
    }

    /// How long an event took from its request to the sink's confirm.
    pub(super) fn delivered(&self, sink: &SinkName, delay: Duration) {
        self.delay.get_or_create(&sink.into()).observe(delay.as_secs_f64());
    }
}
