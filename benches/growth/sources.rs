//! A consortium: many sources, each with a path and a secret of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::harness::{Bridge, median};
use super::load::{Events, Profile, send};
use super::report::{Report, grouped, mib, ms, spread, us_each};

const EVENTS: u64 = 200_000;
/// Each number of sources takes its turn in each round, so that a machine that slows down slows them all.
const ROUNDS: usize = 5;
const BYTES: usize = 1_536;

/// What one bridge showed.
#[derive(Default)]
struct Shown {
    /// Microseconds of CPU an event, one a round.
    costs: Vec<f64>,
    /// The longest.
    ready_after: Duration,
    peak_kib: u64,
}

/// So many sources, their secrets in files of a folder: the text of the configuration, and who calls.
pub(crate) fn sources(count: u64, folder: &Path) -> (String, Arc<Vec<Profile>>) {
    let mut text = String::new();
    let mut profiles = vec![Profile::only()[0].clone()];
    for number in 1..count {
        let (name, file) = (format!("member-{number}"), folder.join(number.to_string()));
        let secret = format!("made-up-secret-{number}");
        std::fs::write(&file, &secret).expect("written");
        let path = format!("/webhooks/{name}");
        let _ = write!(text, "[sources.{name}]\npath = \"{path}\"\nsecret_file = \"{}\"\n", file.display());
        profiles.push(Profile { path, secret });
    }
    (text, Arc::new(profiles))
}

pub(crate) fn run(counts: &[u64], report: &mut Report) {
    report.section(
        "Sources",
        "200,000 events of 1.5 KiB in a closed loop over all sources in turn, delivered to files. CPU is that of the \
         bridge, the median of five rounds. Start and memory are the largest of the five.",
        &["sources", "CPU us/event", "ready ms", "peak MiB"],
    );
    let mut all: Vec<Shown> = counts.iter().map(|_| Shown::default()).collect();
    for _ in 0..ROUNDS {
        for (count, shown) in counts.iter().zip(&mut all) {
            measure(*count, shown);
        }
    }
    let mut costs = Vec::new();
    for (count, shown) in counts.iter().zip(all) {
        let cost = median(shown.costs);
        costs.push(cost);
        let peak = mib(shown.peak_kib);
        report.row(&[grouped(*count), format!("{cost:.1}"), ms(shown.ready_after), format!("{peak:.1}")]);
    }
    let (spread, most) = (spread(&costs), counts.iter().max().copied().unwrap_or(0));
    let what = format!("CPU an event, 1 to {} sources: greatest over least", grouped(most));
    report.goal(&what, "<= 1.15x", &format!("{spread:.2}x"), spread <= 1.15);
}

fn measure(count: u64, shown: &mut Shown) {
    let folder = tempfile::tempdir().expect("a folder");
    let (text, profiles) = sources(count, folder.path());
    let bridge = Bridge::start(&format!("type = \"file\"\n{text}"));
    let cpu = bridge.subject.cpu();
    send(bridge.subject.address, &Events { profiles, numbers: 0..EVENTS, bytes: BYTES });
    bridge.wait_until_delivered();
    shown.costs.push(us_each(bridge.subject.cpu().saturating_sub(cpu), EVENTS));
    shown.ready_after = shown.ready_after.max(bridge.ready_after);
    shown.peak_kib = shown.peak_kib.max(bridge.subject.memory_kib("VmHWM"));
}
