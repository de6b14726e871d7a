//! What the journal counts and measures.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::stats::JournalStats;
use crate::config::{Sink, SinkName};
use crate::telemetry::{Label, Registry, gauge_value, latency_histogram};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

const WAITING: StateLabels = StateLabels { state: "waiting" };
const DELIVERED: StateLabels = StateLabels { state: "delivered" };

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabels {
    sink: Label,
}

impl From<&SinkName> for SinkLabels {
    fn from(sink: &SinkName) -> Self {
        Self { sink: sink.as_str().into() }
    }
}

/// The metrics of a journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JournalMetrics {
    sync_duration: Histogram,
    bytes: Family<StateLabels, Gauge>,
    max_bytes: Gauge,
    free_bytes: Gauge,
    min_free_bytes: Gauge,
    damaged_records: Counter,
    given_up_events: Family<SinkLabels, Counter>,
}

impl JournalMetrics {
    /// Registers them. [`JournalMetrics::init_labels`] makes the label sets of sinks.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            sync_duration: registry.register(
                "journal_sync_duration_seconds",
                "Write and fsync of one commit group",
                latency_histogram(),
            ),
            bytes: registry.register("journal_bytes", "Bytes of the journal's files, by state", Family::default()),
            max_bytes: registry.register(
                "journal_max_bytes",
                "Bound of the waiting bytes; past it Alma gets 503",
                Gauge::default(),
            ),
            free_bytes: registry.register("journal_free_bytes", "Free bytes of the journal's disk", Gauge::default()),
            min_free_bytes: registry.register(
                "journal_min_free_bytes",
                "Bound of the free bytes; below it Alma gets 503",
                Gauge::default(),
            ),
            damaged_records: registry.register(
                "journal_damaged_records",
                "Records that were durable once and can't be read, and files that could not be used; kept under damaged/",
                Counter::default(),
            ),
            given_up_events: registry.register(
                "given_up_events",
                "Waiting events that a best_effort sink lost to a full journal",
                Family::default(),
            ),
        };
        for state in [WAITING, DELIVERED] {
            drop(metrics.bytes.get_or_create(&state));
        }
        metrics
    }

    /// Makes the label sets of these sinks, at 0 if they are new.
    pub fn init_labels(&self, sinks: &[Sink]) {
        for sink in sinks {
            drop(self.given_up_events.get_or_create(&SinkLabels::from(&sink.name)));
        }
    }

    /// A commit group was written and fsynced.
    pub(super) fn synced(&self, took: Duration) {
        self.sync_duration.observe(took.as_secs_f64());
    }

    /// Durable records were found unreadable, or files could not be used.
    pub(super) fn damaged(&self, records: u64) {
        self.damaged_records.inc_by(records);
    }

    /// A `best_effort` sink lost waiting events to a full journal.
    pub(super) fn given_up(&self, sink: &SinkName, events: u64) {
        self.given_up_events.get_or_create(&sink.into()).inc_by(events);
    }

    /// How many events of a sink were given up so far.
    #[cfg(test)]
    pub(crate) fn given_up_so_far(&self, sink: &SinkName) -> u64 {
        self.given_up_events.get_or_create(&sink.into()).get()
    }

    /// Sets the gauges from a snapshot.
    pub fn set_sizes(&self, stats: &JournalStats) {
        self.bytes.get_or_create(&WAITING).set(gauge_value(stats.waiting_bytes));
        self.bytes.get_or_create(&DELIVERED).set(gauge_value(stats.delivered_bytes));
        self.max_bytes.set(gauge_value(stats.max_size));
        self.free_bytes.set(gauge_value(stats.free_bytes));
        self.min_free_bytes.set(gauge_value(stats.min_free));
    }
}
