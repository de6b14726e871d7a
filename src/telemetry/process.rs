//! Metrics of the process, under the names that every Prometheus client uses, without the bridge's prefix.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

use crate::clock::Timestamp;

/// The unit of CPU time in `/proc`: `USER_HZ`. Linux shows programs 100, whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc` at each scrape. Leaves out what it can't read.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) started: Timestamp,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut tell = |name: &str, help: &str, metric: &dyn Encode| metric.encode_as(&mut encoder, name, help);
        if let Some(seconds) = cpu_seconds() {
            // The encoding adds _total.
            tell("process_cpu_seconds", "CPU time of the process, user and system", &ConstCounter::new(seconds))?;
        }
        if let Some(files) = open_files() {
            tell("process_open_fds", "Open files", &ConstGauge::new(files))?;
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            tell("process_max_fds", "Limit of open files", &ConstGauge::new(limit))?;
        }
        if let Some(bytes) = memory("VmRSS") {
            tell("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(bytes))?;
        }
        if let Some(bytes) = memory("VmSize") {
            tell("process_virtual_memory_bytes", "Virtual memory", &ConstGauge::new(bytes))?;
        }
        let started = super::unix_seconds(self.started);
        tell("process_start_time_seconds", "When the process started", &ConstGauge::new(started))
    }
}

/// A metric with a single value.
trait Encode {
    fn encode_as(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Encode for M {
    fn encode_as(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        // A registry ends the help of its metrics with a full stop.
        let encoder = encoder.encode_descriptor(name, &format!("{help}."), None, self.metric_type())?;
        self.encode(encoder)
    }
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name, which may contain blanks. In proc_pid_stat(5), utime is the 14th field.
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let ticks = fields.skip(11).take(2).map(|field| field.parse::<f64>().ok()).sum::<Option<f64>>()?;
    Some(ticks / TICKS_PER_SECOND)
}

fn open_files() -> Option<u64> {
    let files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // One of them is the folder itself.
    Some(files.saturating_sub(1))
}

/// A size from `/proc/self/status`, which shows KiB.
fn memory(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
