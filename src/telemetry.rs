//! What operators see of the running bridge: its log, and the [`Registry`] of its metrics. Each module owns the metrics
//! of what it does, in a file `metrics.rs`.
//!
//! A label set whose values are known beforehand exists from the start at 0, so that alerts can use its rate. Counters and
//! histograms change when something happens. The gauges of the journal and of the sinks' backlogs are set from snapshots
//! when somebody reads the metrics.
//!
//! Personal data (patron ids, names, titles, bodies) reaches neither, at no level.

pub mod logs;
mod process;
mod registry;
mod stderr;
mod strangers;

pub use registry::{FloatGauge, Label, Registry, gauge_value, latency_histogram, unix_seconds};
pub use strangers::{LineKind, StrangersLines};
