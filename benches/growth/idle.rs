//! What the bridge does while nothing comes: wake-ups by thread, and CPU.

use std::collections::BTreeMap;
use std::time::Duration;

use super::harness::brokers::Place;
use super::harness::{Bridge, Subject};
use super::load::{Events, Profile, UNREACHABLE, block_on, send};
use super::memory::brokers;
use super::report::Report;
use super::sources::sources;
use super::waiting::rest;

/// By name of thread: how often one was put to sleep or interrupted so far, and the nanoseconds that it ran.
fn threads(subject: Subject) -> BTreeMap<String, (u64, u64)> {
    let mut threads = BTreeMap::new();
    for (name, switches, ran) in subject.threads() {
        let entry: &mut (u64, u64) = threads.entry(name).or_default();
        *entry = (entry.0 + switches, entry.1 + ran);
    }
    threads
}

pub(crate) fn run(durations: &[u64], report: &mut Report) {
    report.section(
        "Idle",
        "After 1,000 events, all of which are delivered or, if the sink can't be reached, waiting. A wake-up is a \
         context switch of one of the bridge's threads.",
        &["sink", "seconds", "wake-ups/s", "CPU %", "wake-ups/s by thread"],
    );
    let folder = tempfile::tempdir().expect("a folder");
    let (many, _) = sources(1_000, folder.path());
    let file = "type = \"file\"\n";
    let mut kinds = vec![
        ("file".to_owned(), file.to_owned()),
        ("file, 1,000 sources".to_owned(), format!("{file}{many}")),
        ("unreachable".to_owned(), UNREACHABLE.to_owned()),
    ];
    for broker in brokers() {
        kinds.push((format!("{broker:?}"), block_on(async { Place::new(broker).await.sink() })));
    }
    for (name, sink) in &kinds {
        for seconds in durations {
            let bridge = Bridge::start(sink);
            send(bridge.subject.address, &Events { profiles: Profile::only(), numbers: 0..1_000, bytes: 1_536 });
            if name != "unreachable" {
                bridge.wait_until_delivered();
            }
            rest();
            let before = threads(bridge.subject);
            std::thread::park_timeout(Duration::from_secs(*seconds));
            let after = threads(bridge.subject);
            told(name, *seconds, &before, &after, report);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn told(
    name: &str,
    seconds: u64,
    before: &BTreeMap<String, (u64, u64)>,
    after: &BTreeMap<String, (u64, u64)>,
    report: &mut Report,
) {
    let each = after.iter().map(|(thread, now)| {
        // A thread that began meanwhile began at nothing; one that ended is gone with its count.
        let then = before.get(thread).copied().unwrap_or_default();
        (thread, now.0.saturating_sub(then.0) as f64 / seconds as f64, now.1.saturating_sub(then.1))
    });
    let mut each: Vec<_> = each.collect();
    each.sort_by(|one, other| other.1.total_cmp(&one.1));
    let (wakes, ran) = each.iter().fold((0.0, 0), |(wakes, ran), each| (wakes + each.1, ran + each.2));
    let share = ran as f64 / 1e7 / seconds as f64;
    let by_thread =
        each.iter().filter(|(_, wakes, _)| *wakes > 0.0).map(|(thread, wakes, _)| format!("{thread} {wakes:.1}"));
    let by_thread = by_thread.collect::<Vec<_>>().join(", ");
    report.row(&[name.to_owned(), seconds.to_string(), format!("{wakes:.1}"), format!("{share:.3}"), by_thread]);
    report.goal(&format!("idle, {name}: CPU"), "< 0.1 %", &format!("{share:.3} %"), share < 0.1);
}
