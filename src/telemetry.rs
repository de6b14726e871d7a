//! The log, and the [`Registry`] of metrics. Each module owns its metrics, in a file `metrics.rs`.
//!
//! A label set whose values are known beforehand exists from the start at 0, so that alerts can use its rate. Counters
//! and histograms change when something happens. Gauges of the journal and of the sinks' backlogs are set at each
//! scrape.
//!
//! Personal data (patron ids, names, titles, bodies) reaches neither the metrics nor the log, at any level.

pub mod logs;
mod process;
mod registry;
mod stderr;
mod strangers;

pub use registry::{FloatGauge, Label, Registry, gauge_value, latency_histogram, unix_seconds};
pub use strangers::{LineKind, StrangersLines};
