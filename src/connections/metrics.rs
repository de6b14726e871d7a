//! How many connections are open, and how many gave way.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

/// The metrics of the connections of both listeners. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    open: Family<ListenerLabels, Gauge>,
    pub(super) evicted: Counter,
}

impl ConnectionMetrics {
    /// Registers the metrics, with the label sets of both listeners.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            open: registry.register("connections", "Open connections, by listener", Family::default()),
            evicted: registry.register(
                "connections_evicted",
                "Connections closed to make room for new ones: they had not proved to be trusted",
                Counter::default(),
            ),
        };
        for listener in ["ingress", "admin"] {
            drop(metrics.open(listener));
        }
        metrics
    }

    /// The gauge of a listener's open connections.
    pub(super) fn open(&self, listener: &'static str) -> Gauge {
        self.open.get_or_create(&ListenerLabels { listener }).clone()
    }
}
