//! All metrics of a bridge: those of its modules, and those of its configuration.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::connections::ConnectionMetrics;
use crate::dead_letters::DeadLetterMetrics;
use crate::delivery::DeliveryMetrics;
use crate::ingress::IngressMetrics;
use crate::journal::JournalMetrics;
use crate::telemetry::{FloatGauge, Registry, unix_seconds};

/// The registry, and the metrics of each module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) connections: ConnectionMetrics,
    pub(crate) dead_letters: DeadLetterMetrics,
    pub(crate) delivery: DeliveryMetrics,
    pub(crate) ingress: IngressMetrics,
    pub(crate) journal: JournalMetrics,
    last_reload_successful: Gauge,
    last_reload_success: FloatGauge,
}

impl Metrics {
    /// Registers every metric. Label sets with names of sources and sinks come with [`Metrics::init_labels`].
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        Self {
            ingress: IngressMetrics::register(&mut registry),
            journal: JournalMetrics::register(&mut registry),
            delivery: DeliveryMetrics::register(&mut registry),
            dead_letters: DeadLetterMetrics::register(&mut registry),
            connections: ConnectionMetrics::register(&mut registry),
            last_reload_successful: registry.register(
                "config_last_reload_successful",
                "1 unless the last reload was refused or is in effect only in part",
                Gauge::default(),
            ),
            last_reload_success: registry.register(
                "config_last_reload_success_timestamp_seconds",
                "When the configuration in effect was loaded",
                FloatGauge::default(),
            ),
            registry: Arc::new(registry),
        }
    }

    /// Makes the label sets of every source and sink of a configuration, at 0 if they are new.
    pub(super) fn init_labels(&self, config: &Config) {
        self.ingress.init_labels(&config.sources);
        self.journal.init_labels(&config.sinks);
        self.delivery.init_labels(&config.sinks, &config.sources);
        self.dead_letters.init_labels(&config.sinks);
    }

    /// The configuration was loaded, at the start or by a reload.
    pub(super) fn config_loaded(&self, at: Timestamp) {
        self.last_reload_successful.set(1);
        self.last_reload_success.set(unix_seconds(at));
    }

    /// A reload was refused, or is in effect only in part.
    pub(super) fn config_refused(&self) {
        self.last_reload_successful.set(0);
    }

    /// Returns the text that Prometheus reads.
    pub(super) fn encode(&self) -> String {
        self.registry.encode()
    }
}
