//! The registry of all metrics. Each module registers and updates its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{self, Metric};

use super::logs;
use super::process::Process;
use crate::clock::{Clock as _, SystemClock, Timestamp};

/// A gauge of seconds or other fractions.
pub type FloatGauge = Gauge<f64, AtomicU64>;

/// All metrics of the process, under the names of the contract: prefix `alma_bridge_`, base units, OpenMetrics text.
///
/// From the start it contains the metrics of the process itself: its version, its log and its resources.
#[derive(Debug)]
pub struct Registry {
    bridge: registry::Registry,
    /// Metrics whose names have no prefix.
    process: registry::Registry,
}

impl Registry {
    /// Registers a metric as `alma_bridge_{name}`. Update the metric that is returned.
    ///
    /// Leave out the suffix `_total` of a counter and the full stop of the help text: the encoder adds both.
    pub fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.bridge.register(name, help, metric.clone());
        metric
    }

    /// Returns all metrics as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let encoded = encode_registry(&mut text, &self.bridge)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text));
        encoded.expect("a String takes any write");
        text
    }
}

impl Default for Registry {
    fn default() -> Self {
        let mut process = registry::Registry::default();
        process.register_collector(Box::new(Process { started: SystemClock.now() }));
        let mut bridge = registry::Registry::with_prefix("alma_bridge");
        bridge.register("build", "Version of this binary", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        bridge.register(
            "log_lines_dropped",
            "Log lines that could not be written because nobody read stderr",
            logs::dropped_lines(),
        );
        Self { bridge, process }
    }
}

/// A label value that is cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Label(Arc<str>);

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

/// Buckets from half a millisecond to 10 s. Alma waits 5 s.
pub fn latency_histogram() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

/// A count as the value of a gauge.
pub fn gauge_value(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A moment as the value of a gauge: seconds since 1970.
pub fn unix_seconds(moment: Timestamp) -> f64 {
    Duration::from_micros(moment.as_micros()).as_secs_f64()
}
