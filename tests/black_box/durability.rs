//! Every event that got 204 arrives, whatever happens to the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::harness::{Load, Setup, loan, number_of, wait_for};

/// How often each event arrived, by its CloudEvents id. Asserts that no two events have the same id.
fn landed_by_number(setup: &Setup) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for event in setup.landed("alma.loan") {
        let number = number_of(&event);
        let id = event["id"].as_str().expect("an id").to_owned();
        assert_eq!(*ids.entry(id).or_insert(number), number, "one id for two events");
        *counts.entry(number).or_default() += 1;
    }
    counts
}

#[test]
fn nothing_is_lost_in_twenty_kills_under_load() {
    const KILLS: usize = 20;
    let setup = Setup::new("");
    let next = Arc::new(AtomicU64::new(1));
    let mut acknowledged = BTreeSet::new();
    for kill in 0..KILLS {
        let bridge = setup.start();
        let load = Load::start(bridge.ingress, &next, 8);
        // At a different moment each time.
        let enough = 20 + kill * 7;
        wait_for("some events to be taken", || (load.count() >= enough).then_some(()));
        bridge.kill();
        acknowledged.extend(load.end_with_lost_connections());
    }
    let _bridge = setup.start();
    let landed = wait_for("all acknowledged events to land", || {
        let landed = landed_by_number(&setup);
        acknowledged.iter().all(|number| landed.contains_key(number)).then_some(landed)
    });
    let repeats: usize = landed.values().map(|count| count - 1).sum();
    println!("{KILLS} kills: {} events acknowledged, 0 lost, {repeats} repeated", acknowledged.len());
    assert!(acknowledged.len() >= KILLS * 20);
}

#[test]
fn a_graceful_stop_under_load_answers_every_accepted_request() {
    let setup = Setup::new("");
    let next = Arc::new(AtomicU64::new(1));
    let mut bridge = setup.start_unready(&["--stop-delay", "1s"]);
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    let load = Load::start(bridge.ingress, &next, 8);
    wait_for("some events to be taken", || (load.count() >= 200).then_some(()));
    bridge.signal(rustix::process::Signal::TERM);
    wait_for("readyz to say so", || (bridge.admin_get("/readyz").status == 503).then_some(()));
    let before = load.count();
    let last = wait_for("an event taken while stopping", || {
        let answer = bridge.post(&loan(u64::from(u32::MAX)));
        (answer.status == 204).then_some(answer)
    });
    assert_eq!(last.header("connection"), Some("close"));
    assert!(bridge.ended().success());
    let taken = load.end_with_lost_connections();
    assert!(taken.len() >= before);
    let _bridge = setup.start();
    wait_for("all to land", || {
        let landed = landed_by_number(&setup);
        taken.iter().chain([&u64::from(u32::MAX)]).all(|number| landed.contains_key(number)).then_some(())
    });
}

#[test]
fn a_repeat_is_recognised_after_a_kill_and_a_restart() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for number in 0..50 {
        assert_eq!(bridge.post(&loan(number)).outcome(), Some("stored"));
    }
    bridge.kill();
    let bridge = setup.start();
    for number in 0..50 {
        assert_eq!(bridge.post(&loan(number)).outcome(), Some("repeat"), "{number}");
    }
    drop(bridge);
}

#[test]
fn many_connections_are_served_at_once() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let next = Arc::new(AtomicU64::new(1));
    let load = Load::start(bridge.ingress, &next, 64);
    wait_for("2,000 events to be taken", || (load.count() >= 2_000).then_some(()));
    let taken = load.end();
    wait_for("all to land", || {
        let landed = landed_by_number(&setup);
        taken.iter().all(|number| landed.get(number) == Some(&1)).then_some(())
    });
    let stored = bridge.metric("alma_bridge_requests_total{source=\"alma\",outcome=\"stored\"}");
    assert!(stored >= Some(2_000.0), "{stored:?}");
}

#[test]
fn without_storage_the_answer_waits_for_every_sink() {
    let setup = Setup::new(
        "[journal]\nstorage = \"none\"\n[sinks.one]\ntype = \"file\"\ndir = \"DIR/one\"\n[sinks.two]\ntype = \"file\"\ndir = \"DIR/two\"\nactions = [\"bib\"]\n",
    );
    let bridge = setup.start();
    for number in 0..20 {
        let answer = bridge.post(&loan(number));
        assert_eq!((answer.status, answer.outcome()), (204, Some("stored")));
        // The event has arrived before the answer.
        let landed = crate::harness::landed(&setup.path("one"), "alma.loan");
        assert_eq!(landed.len() as u64, number + 1);
    }
    assert_eq!(bridge.post(&loan(0)).outcome(), Some("stored"), "nothing is kept that a repeat could be known by");
    assert!(!setup.path("two").join("alma.loan.jsonl").exists(), "sink two asks for bib alone");
    assert!(!setup.data().join("journal/segments").exists());
    assert!(bridge.stop().success());
}

#[test]
fn without_storage_an_event_that_a_sink_cannot_take_gets_503() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"127.0.0.1:0\"\nanswer_within = \"500ms\"\nbody_timeout = \"400ms\"\n[journal]\nstorage = \"none\"\n[sinks.one]\ntype = \"file\"\ndir = \"DIR/blocked/one\"\n",
    );
    // With a file where the folder should be, the sink can't create it.
    std::fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start_unready(&[]);
    wait_for("the sink's trouble to be the reason", || {
        let answer = bridge.post(&loan(1));
        assert_eq!(answer.status, 503, "{}", answer.text());
        answer.text().contains("not confirmed").then_some(())
    });
    std::fs::remove_file(setup.path("blocked")).expect("removed");
    wait_for("the sink to come back by itself", || (bridge.post(&loan(1)).status == 204).then_some(()));
    drop(bridge);
}

#[test]
fn a_sink_that_is_down_delays_neither_other_sinks_nor_answers() {
    let setup =
        Setup::new("[sinks.down]\ntype = \"file\"\ndir = \"DIR/blocked/down\"\n[sinks.main]\ntype = \"file\"\n");
    std::fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    for number in 0..100 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    wait_for("the other sink", || (setup.landed("alma.loan").len() == 100).then_some(()));
    let status = bridge.status();
    let down = status["sinks"].as_array().expect("sinks").iter().find(|sink| sink["name"] == "down").expect("it");
    assert_ne!(down["state"], "up");
    assert!(down["why"].as_str().is_some_and(|why| !why.is_empty()), "{down}");
    assert_eq!(bridge.metric("alma_bridge_sink_up{sink=\"down\",type=\"file\"}"), Some(0.0));
    assert_eq!(bridge.metric("alma_bridge_sink_waiting_events{sink=\"down\"}"), Some(100.0));
    std::fs::remove_file(setup.path("blocked")).expect("removed");
    wait_for("the sink to catch up by itself", || {
        (crate::harness::landed(&setup.path("blocked/down"), "alma.loan").len() == 100).then_some(())
    });
    wait_for("the gauge", || {
        (bridge.metric("alma_bridge_sink_waiting_events{sink=\"down\"}") == Some(0.0)).then_some(())
    });
}
