//! Dead letters of sinks that were removed, forgotten or renamed.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::bad_day::{letters, place, with_old};
use crate::harness::{Bridge, Setup, landed, wait_for};

/// A bridge whose sink `old` exceeded `max_topics`, so that `bib` 0 is a dead letter.
fn with_a_letter_of_old() -> (Setup, Bridge) {
    let (setup, bridge) = with_old();
    assert_eq!(place(&setup, "old").expect("listed")["dead_letters"], 1);
    (setup, bridge)
}

fn subjects(dir: &Path, topic: &str) -> Vec<Value> {
    landed(dir, topic).iter().map(|event| event["subject"].clone()).collect()
}

const KEPT_BY_OLD: &str = "alma_bridge_dead_letters{sink=\"old\",reason=\"too_many_topics\"}";
const KEPT_BY_NEW: &str = "alma_bridge_dead_letters{sink=\"new\",reason=\"too_many_topics\"}";

fn sink_of<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["sinks"].as_array()?.iter().find(|sink| sink["name"] == name)
}

/// Dead letters of `old`, which is not configured, are reported, and another sink publishes them.
fn publish_letters_of_old(setup: &Setup, bridge: &Bridge) {
    wait_for("the gauge", || (bridge.metric(KEPT_BY_OLD) == Some(1.0)).then_some(()));
    let status = bridge.status();
    let old = sink_of(&status, "old").expect("it is shown");
    assert_eq!(old["dead_letters"]["too_many_topics"], 1, "{status}");
    assert!(status["attention"].to_string().contains("dead-letters retry --all --sink old --to NAME"), "{status}");
    let why = setup.fails(1, &["dead-letters", "retry", "--all", "--sink", "old"]);
    assert!(
        why.contains("old is not configured") && why.contains("--to names the sink that is to get its letters"),
        "{why}"
    );
    let told = setup.done(&["dead-letters", "retry", "--all", "--sink", "old", "--to", "main"]);
    assert!(told.contains("1 letter published to sink main, 0 left"), "{told}");
    assert_eq!(bridge.metric(KEPT_BY_OLD), Some(0.0));
    assert!(!bridge.status()["attention"].to_string().contains("dead letters"));
}

#[test]
fn dead_letters_of_a_removed_sink_are_shown_and_published_by_another() {
    let (setup, bridge) = with_a_letter_of_old();
    bridge.signal(Signal::HUP);
    wait_for("it to be out", || (place(&setup, "old")?["state"] == "removed").then_some(()));
    assert_eq!(sink_of(&bridge.status(), "old").expect("shown")["dead_letters"]["too_many_topics"], 1);
    bridge.kill();
    let bridge = setup.start();
    assert_eq!(sink_of(&bridge.status(), "old").expect("shown")["state"], "removed");
    // A killed bridge may publish its last events again.
    let delivered = || sink_of(&bridge.status(), "main").is_some_and(|sink| sink["waiting_events"] == 0);
    wait_for("main to be done", || delivered().then_some(()));
    let before = setup.landed("alma.bib").len();
    publish_letters_of_old(&setup, &bridge);
    assert_eq!(setup.landed("alma.bib").len(), before + 1);
}

#[test]
fn dead_letters_of_a_forgotten_sink_are_shown_after_a_restart_and_published_by_another() {
    let (setup, bridge) = with_a_letter_of_old();
    bridge.signal(Signal::HUP);
    wait_for("it to be out", || (place(&setup, "old")?["state"] == "removed").then_some(()));
    setup.done(&["sinks", "forget", "old", "--yes"]);
    bridge.kill();
    let bridge = setup.start();
    assert_eq!(sink_of(&bridge.status(), "old").expect("shown")["state"], "forgotten");
    publish_letters_of_old(&setup, &bridge);
    assert_eq!(sink_of(&bridge.status(), "old"), None, "nothing is left of it");
    // Also if no bridge runs.
    let (setup, bridge) = with_a_letter_of_old();
    assert_eq!(bridge.stop().code(), Some(0));
    let told = setup.done(&["dead-letters", "retry", "--all", "--sink", "old", "--to", "main"]);
    assert!(told.contains("1 letter published to sink main"), "{told}");
}

const NEW_FOR_OLD: &str =
    "[sinks.main]\ntype = \"file\"\n[sinks.new]\ntype = \"file\"\ndir = \"DIR/new\"\ncontinues = \"old\"\n";

#[test]
fn a_sink_takes_over_the_dead_letters_of_the_one_that_it_continues() {
    for restart in [false, true] {
        let (setup, bridge) = with_a_letter_of_old();
        let id = letters(&setup)[0]["id"].clone();
        setup.configure(NEW_FOR_OLD);
        let bridge = if restart {
            bridge.kill();
            setup.start()
        } else {
            bridge.signal(Signal::HUP);
            bridge
        };
        wait_for("its letter", || (bridge.metric(KEPT_BY_NEW) == Some(1.0)).then_some(()));
        assert_eq!(place(&setup, "old"), None);
        assert_eq!(letters(&setup)[0]["id"], id);
        assert_eq!(bridge.metric("alma_bridge_sink_waiting_events{sink=\"old\"}"), None, "nothing alerts for ever");
        bridge.kill();
        let bridge = setup.start();
        assert_eq!(bridge.metric(KEPT_BY_NEW), Some(1.0), "it stays with its new sink");
        let told = setup.done(&["dead-letters", "retry", "--all", "--sink", "new"]);
        assert!(told.contains("1 letter published, 0 left"), "{told}");
        // A cursor is written after the progress that it records, so each `kill -9` may repeat the event.
        let published = subjects(&setup.path("new"), "alma.bib");
        assert!(!published.is_empty() && published.iter().all(|subject| subject == "0"), "{published:?}");
        assert_eq!(bridge.metric(KEPT_BY_NEW), Some(0.0));
    }
}

/// The process died after the new sink got its place and before it got the letters.
#[test]
fn the_start_after_a_crash_takes_over_the_dead_letters() {
    let (setup, bridge) = with_a_letter_of_old();
    let kept = setup.data().join("journal/dead/old");
    setup.configure(NEW_FOR_OLD);
    bridge.kill();
    fs::rename(&kept, setup.path("aside")).expect("moved");
    let bridge = setup.start();
    assert_eq!(place(&setup, "old"), None, "its place was taken over");
    bridge.kill();
    fs::rename(setup.path("aside"), &kept).expect("moved back");
    let bridge = setup.start();
    assert_eq!(bridge.metric(KEPT_BY_NEW), Some(1.0));
    assert_eq!(letters(&setup)[0]["sink"], "new");
}
