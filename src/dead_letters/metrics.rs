//! How many dead letters there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::config::{Sink, SinkName};
use crate::sinks::Reason;
use crate::telemetry::{Label, Registry, gauge_value};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LetterLabels {
    sink: Label,
    reason: &'static str,
}

/// The metrics of dead letters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeadLetterMetrics {
    kept: Family<LetterLabels, Gauge>,
}

impl DeadLetterMetrics {
    /// Registers them. [`DeadLetterMetrics::init_labels`] makes their label sets.
    pub fn register(registry: &mut Registry) -> Self {
        let help = "Dead letters that the sink keeps, by reason";
        Self { kept: registry.register("dead_letters", help, Family::default()) }
    }

    /// Makes the label sets of these sinks, at 0 if they are new.
    pub fn init_labels(&self, sinks: &[Sink]) {
        for sink in sinks {
            let label = Label::from(sink.name.as_str());
            for reason in Reason::ALL.map(Reason::as_str) {
                drop(self.kept.get_or_create(&LetterLabels { sink: label.clone(), reason }));
            }
        }
    }

    /// How many letters a sink keeps for a reason.
    pub(super) fn set_kept(&self, sink: &SinkName, reason: Reason, letters: u64) {
        let labels = LetterLabels { sink: sink.as_str().into(), reason: reason.as_str() };
        self.kept.get_or_create(&labels).set(gauge_value(letters));
    }
}
