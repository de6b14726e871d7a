//! Retained events are published again, by a running bridge and from the journal of a stopped one.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Bridge, Setup, landed, loan, text, wait_for};

fn job(number: u64) -> Vec<u8> {
    format!(r#"{{"id":"3{number:018}","action":"JOB_END","job_instance":{{"id":"{number}"}}}}"#).into_bytes()
}

/// A bridge that has delivered five loans and two jobs.
fn delivered(setup: &Setup) -> Bridge {
    let bridge = setup.start();
    for number in 0..5 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    for number in 0..2 {
        assert_eq!(bridge.post(&job(number)).status, 204);
    }
    in_step(&bridge);
    bridge
}

/// Waits until the cursor has passed all events.
fn in_step(bridge: &Bridge) {
    wait_for("the cursor to pass all", || {
        (bridge.metric("alma_bridge_sink_waiting_events{sink=\"main\"}") == Some(0.0)).then_some(())
    });
}

/// How often each event arrived, by source and id, and how often by a replay.
fn count(events: &[Value]) -> (BTreeMap<String, usize>, usize) {
    let mut by_id = BTreeMap::new();
    for event in events {
        *by_id.entry(format!("{} {}", event["source"], event["id"])).or_default() += 1;
    }
    (by_id, events.iter().filter(|event| event["replayed"].is_string()).count())
}

/// Counts and then publishes again, whether or not a bridge runs.
fn replay_all(setup: &Setup) {
    let told = setup.done(&["replay", "--sink", "main", "--from", "1h", "--dry-run"]);
    assert!(told.contains("7 events would be published, of 7"), "{told}");
    let mut listed: Vec<&str> = told.lines().filter_map(|line| line.split_whitespace().nth(2)).take(7).collect();
    let mut ids: Vec<String> = ["alma.loan", "alma.job_end"]
        .iter()
        .flat_map(|topic| setup.landed(topic))
        .map(|event| event["id"].as_str().expect("an id").to_owned())
        .collect();
    listed.sort_unstable();
    ids.sort_unstable();
    assert_eq!(listed, ids, "the events' ids: {told}");
    assert_eq!(setup.landed("alma.loan").len(), 5, "a dry run publishes nothing");

    let told = setup.done(&["replay", "--sink", "main", "--from", "1h", "--action", "LOAN"]);
    assert!(told.contains("5 of 5 events confirmed"), "{told}");
    assert_eq!(count(&setup.landed("alma.loan")).1, 5, "confirmed is landed");
    assert_eq!(setup.landed("alma.job_end").len(), 2, "only the action that was asked for");

    let told = setup.done(&["replay", "--sink", "main", "--from", "1970-01-02T00:00:00Z"]);
    assert!(told.contains("7 of 7 events confirmed"), "{told}");
    let (loans, again) = count(&setup.landed("alma.loan"));
    assert_eq!((loans.len(), again), (5, 10));
    assert!(loans.values().all(|times| *times == 3), "the same ids: {loans:?}");
    let events = setup.landed("alma.loan");
    let (first, last) = (&events[0], &events[10]);
    assert!(first["replayed"].is_null());
    for name in ["id", "source", "time", "recordedtime", "subject", "data"] {
        assert_eq!(first[name], last[name], "{name}");
    }
    let order: Vec<&Value> = events[10..].iter().map(|event| &event["subject"]).collect();
    assert_eq!(order, ["0", "1", "2", "3", "4"], "in the order of their arrival");

    let middle = events[2]["recordedtime"].as_str().expect("a moment");
    let before = setup.done(&["replay", "--sink", "main", "--from", "1h", "--to", middle, "--dry-run"]);
    let after = setup.done(&["replay", "--sink", "main", "--from", middle, "--dry-run"]);
    let selected = |told: &str| -> u64 {
        let last = told.lines().last().unwrap_or_default();
        let words: Vec<&str> = last.split(' ').collect();
        words[2].parse().unwrap_or_else(|_| panic!("{told}"))
    };
    assert_eq!(selected(&before) + selected(&after), 7, "{before}{after}");
    for nothing in [
        &["replay", "--sink", "main", "--from", "2999-01-01T00:00:00Z"][..],
        &["replay", "--sink", "main", "--from", "1h", "--action", "lona"],
        &["replay", "--sink", "main", "--from", "1h", "--action", "lona", "--dry-run"],
    ] {
        let said = setup.fails(1, nothing);
        assert!(said.contains("no event matches; nothing published"), "{nothing:?}: {said}");
        assert_eq!(said.contains("actions in this period: job_end, loan"), nothing.contains(&"lona"), "{said}");
    }
    assert_eq!(setup.landed("alma.loan").len(), 15);
}

#[test]
fn a_running_bridge_replays_and_continues_at_its_cursor() {
    let setup = Setup::new("");
    let bridge = delivered(&setup);
    replay_all(&setup);
    bridge.post(&loan(9));
    let last = || setup.landed("alma.loan").last().map(|event| event["subject"].clone());
    wait_for("the next event", || (last()? == "9").then_some(()));
    assert_eq!(setup.landed("alma.loan").len(), 16, "nothing else came");
    in_step(&bridge);
    let delays = bridge.metric("alma_bridge_delivery_delay_seconds_count{sink=\"main\"}");
    assert_eq!(delays, Some(8.0), "an event's delay is that of its first delivery");
    bridge.wait_for_log(&["replay begins", "replay ended"]);
    assert!(!bridge.log().contains("patron-0001"), "no personal data");
}

#[test]
fn a_stopped_bridges_journal_is_replayed_and_the_cursor_stays() {
    let setup = Setup::new("");
    assert_eq!(delivered(&setup).stop().code(), Some(0));
    replay_all(&setup);
    let bridge = setup.start();
    bridge.post(&loan(9));
    let last = || setup.landed("alma.loan").last().map(|event| event["subject"].clone());
    wait_for("the next event", || (last()? == "9").then_some(()));
    assert_eq!(setup.landed("alma.loan").len(), 16, "nothing else came");
}

#[test]
fn a_replay_leaves_out_events_that_still_wait() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/topics\"\n");
    let bridge = setup.start();
    let topics = setup.path("blocked/topics");
    bridge.post(&loan(0));
    wait_for("it to land", || (!landed(&topics, "alma.loan").is_empty()).then_some(()));
    assert_eq!(bridge.stop().code(), Some(0));
    fs::rename(setup.path("blocked"), setup.path("aside")).expect("moved");
    fs::write(setup.path("blocked"), "in the way").expect("written");
    let bridge = setup.start();
    let first_that_waits = jiff::Timestamp::now().to_string();
    for number in 1..4 {
        bridge.post(&loan(number));
    }
    let told = setup.done(&["replay", "--sink", "main", "--from", "1h", "--dry-run"]);
    assert!(told.contains("1 event would be published, of 4") && told.contains("3 events still wait"), "{told}");
    let waiting = "3 events still wait for the sink and are delivered in their turn\n";
    for (dry_run, nothing) in [(&["--dry-run"][..], "nothing would be published"), (&[], "nothing published")] {
        let told = setup.done(&[&["replay", "--sink", "main", "--from", &first_that_waits][..], dry_run].concat());
        assert_eq!(told, format!("sink main: {nothing}: {waiting}"));
    }
    drop(bridge);
    fs::remove_file(setup.path("blocked")).expect("removed");
    fs::rename(setup.path("aside"), setup.path("blocked")).expect("moved");
    let told = setup.done(&["replay", "--sink", "main", "--from", "1h"]);
    assert!(told.contains("1 of 1 event confirmed") && told.contains("3 events still wait"), "{told}");
    assert_eq!(landed(&topics, "alma.loan").len(), 2);
    let _bridge = setup.start();
    wait_for("what waited", || (landed(&topics, "alma.loan").len() == 5).then_some(()));
    assert_eq!(count(&landed(&topics, "alma.loan")).1, 1);
}

/// A bridge that has delivered one event to `blocked/topics` and can't publish there now (its files are in `aside`),
/// and a replay of it that waits.
fn held_replay(setup: &Setup) -> (Bridge, Child) {
    let bridge = setup.start();
    bridge.post(&loan(0));
    in_step(&bridge);
    assert_eq!(bridge.stop().code(), Some(0));
    fs::rename(setup.path("blocked"), setup.path("aside")).expect("moved");
    fs::write(setup.path("blocked"), "in the way").expect("written");
    let bridge = setup.start();
    let mut command = setup.prepared(&["replay", "--sink", "main", "--from", "1h"]);
    let held = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    wait_for("the run to begin", || bridge.log().lines().any(|line| line.contains("replay begins")).then_some(()));
    (bridge, held)
}

#[test]
fn the_memory_of_a_replay_does_not_grow_with_the_number_of_events() {
    const EVENTS: usize = 160;
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut client = bridge.client();
    let pad = "x".repeat(512 << 10);
    for number in 0..EVENTS {
        let body = format!(r#"{{"id":"4{number:018}","action":"BIB","pad":"{pad}"}}"#);
        assert_eq!(client.post("/webhooks", body.as_bytes()).status, 204);
    }
    in_step(&bridge);
    let before = bridge.memory_kib("VmRSS");
    let told = setup.done(&["replay", "--sink", "main", "--from", "1h"]);
    assert!(told.contains("160 of 160 events confirmed"), "{told}");
    let grown = bridge.memory_kib("VmRSS").saturating_sub(before) >> 10;
    // The replay reads 80 MiB. In memory is a window of 4 MiB, both as documents and as records.
    assert!(grown < 40, "{grown} MiB more than the {} MiB before", before >> 10);
}

#[test]
fn a_stopping_bridge_ends_a_replay_and_the_command_reports_it() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/topics\"\n");
    let (bridge, held) = held_replay(&setup);
    assert_eq!(bridge.stop().code(), Some(0), "nothing holds it up");
    let ended = held.wait_with_output().expect("ends");
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("the sink was stopped") || said.contains("the bridge stopped answering"), "{said}");
}

#[test]
fn only_one_replay_runs_at_a_time_and_ctrl_c_ends_it() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/topics\"\n");
    let topics = setup.path("blocked/topics");
    let (bridge, held) = held_replay(&setup);
    let why = setup.fails(1, &["replay", "--sink", "main", "--from", "1h"]);
    assert!(why.contains("is running, and only one can run at a time"), "{why}");
    kill_process(Pid::from_child(&held), Signal::INT).expect("signalled");
    let ended = held.wait_with_output().expect("ends");
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("the replay was cancelled"), "{said}");
    fs::remove_file(setup.path("blocked")).expect("removed");
    fs::rename(setup.path("aside"), setup.path("blocked")).expect("moved");
    bridge.post(&loan(1));
    wait_for("the next event", || (landed(&topics, "alma.loan").len() > 1).then_some(()));
    assert_eq!(count(&landed(&topics, "alma.loan")).1, 0, "a run that was ended publishes nothing more");
    in_step(&bridge);
    assert!(setup.done(&["replay", "--sink", "main", "--from", "1h"]).contains("2 of 2"), "and another may begin");
}

#[test]
fn events_that_a_replay_cannot_publish_are_reported_and_become_no_dead_letters() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\nmax_topics = 1\n");
    let bridge = delivered(&setup);
    let kept = "alma_bridge_dead_letters{sink=\"main\",reason=\"too_many_topics\"}";
    assert_eq!(bridge.metric(kept), Some(2.0));
    let told = setup.fails(1, &["replay", "--sink", "main", "--from", "1h"]);
    assert!(told.contains("5 of 7 events confirmed") && told.contains("2 were not taken: too_many_topics"), "{told}");
    assert_eq!(bridge.metric(kept), Some(2.0));
}

#[test]
fn a_replay_that_is_not_possible_is_refused() {
    let setup = Setup::new("");
    let _bridge = setup.start();
    let why = setup.fails(1, &["replay", "--sink", "other", "--from", "1h"]);
    assert!(why.contains("sink other is not configured") && why.contains("main"), "{why}");
    assert!(!why.contains("publishing again"), "nothing is announced that does not happen: {why}");
    assert!(setup.fails(2, &["replay", "--sink", "main", "--from", "yesterday"]).contains("RFC 3339"));
    setup.fails(2, &["replay", "--sink", "main", "--from", "1h", "--to", "2h"]);
    setup.fails(2, &["replay", "--sink", "main", "--from", "1h", "--action", "a.b.c"]);
    let nothing = setup.command(&["replay", "--sink", "main", "--from", "1h"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).contains("retains no event"), "{nothing:?}");
    assert!(text(&nothing.stdout).contains("no event matches; nothing published"), "{nothing:?}");
}

#[test]
fn events_that_are_gone_are_counted_and_change_the_exit_code() {
    let setup = Setup::new("");
    assert_eq!(delivered(&setup).stop().code(), Some(0));
    let bridge = setup.start();
    bridge.post(&loan(9));
    in_step(&bridge);
    assert_eq!(bridge.stop().code(), Some(0));
    let bridge = setup.start();
    bridge.post(&loan(10));
    in_step(&bridge);
    assert_eq!(bridge.stop().code(), Some(0));
    let entries = fs::read_dir(setup.data().join("journal/segments")).expect("segments");
    let mut segments: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    // The middle one of three segments, which has one event.
    fs::remove_file(&segments[1]).expect("removed");
    let told = setup.fails(1, &["replay", "--sink", "main", "--from", "1h", "--dry-run"]);
    assert!(told.contains("8 events would be published") && told.contains("1 event is gone"), "{told}");
}
