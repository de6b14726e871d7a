//! Dead letters, places of sinks, drain: with a running bridge, and on the journal of a stopped one.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Bridge, Setup, landed, loan, wait_for};

/// An event with another action than [`loan`].
fn bib(number: u64) -> Vec<u8> {
    format!(r#"{{"id":"2{number:018}","action":"BIB","bib":{{"mms_id":"{number}","title":"Éxample title"}}}}"#)
        .into_bytes()
}

/// A sink whose second topic exceeds `max_topics`, so that its events become dead letters.
pub(crate) const ONE_TOPIC: &str = "[sinks.main]\ntype = \"file\"\nmax_topics = 1\n";

/// A bridge whose sink has dead letters with these ids, each a `bib`.
pub(crate) fn with_letters(setup: &Setup, count: u64) -> (Bridge, Vec<String>) {
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(0)).status, 204);
    wait_for("the first topic", || (!setup.landed("alma.loan").is_empty()).then_some(()));
    for number in 0..count {
        assert_eq!(bridge.post(&bib(number)).status, 204);
    }
    let kept = "alma_bridge_dead_letters{sink=\"main\",reason=\"too_many_topics\"}";
    #[expect(clippy::cast_precision_loss, reason = "a few")]
    wait_for("the letters", || (bridge.metric(kept) == Some(count as f64)).then_some(()));
    let ids = letters(setup).iter().map(|letter| letter["id"].to_string()).collect();
    (bridge, ids)
}

pub(crate) fn letters(setup: &Setup) -> Vec<Value> {
    let list = setup.done(&["dead-letters", "list", "--json"]);
    list.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect()
}

/// Lists, shows, retries and drops, whether or not a bridge runs.
fn use_the_letters(setup: &Setup, ids: &[String]) {
    let all = letters(setup);
    assert_eq!(all.len(), 4, "{all:?}");
    for letter in &all {
        assert_eq!(letter["topic"], "alma.bib");
        assert_eq!((&letter["reason"], &letter["sink"]), (&"too_many_topics".into(), &"main".into()));
    }
    let table = setup.done(&["dlq", "list", "--sink", "main", "--topic", "alma.bib", "--reason", "too_many_topics"]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(ids.iter().all(|id| table.contains(id.as_str())), "{table}");
    assert!(!table.contains("xample"), "no personal data: {table}");
    let events: Vec<String> = all.iter().map(|letter| letter["event"].as_str().expect("an id").to_owned()).collect();
    assert!(events.iter().all(|event| event.starts_with('2') && table.contains(event.as_str())), "{table}");
    assert_eq!(setup.done(&["dead-letters", "list", "--topic", "alma.other"]), "");

    let shown = setup.done(&["dead-letters", "show", &ids[1]]);
    assert!(shown.contains("max_topics = 1") && shown.contains("alma.bib"), "why it died: {shown}");
    assert!(shown.contains("Éxample title"), "{shown}");
    assert_eq!(setup.done(&["dead-letters", "show", &ids[1], "--body"]).as_bytes(), bib(1), "byte for byte");
    let json: Value = serde_json::from_str(&setup.done(&["dead-letters", "show", &ids[1], "--json"])).expect("JSON");
    assert_eq!((&json["sink"], &json["source"]), (&"main".into(), &"alma".into()));
    assert!(setup.fails(1, &["dead-letters", "show", "999999"]).contains("no dead letter 999999"));

    assert_eq!(setup.done(&["dead-letters", "show", &events[1]]), shown, "the event's id will do");
    let unknown = "1.0123456789abcdef";
    for command in ["show", "retry", "drop"] {
        assert!(setup.fails(1, &["dead-letters", command, unknown]).contains("no dead letter for event"));
    }
    setup.fails(2, &["dead-letters", "show", "nonsense"]);

    for command in [&["retry"][..], &["drop"], &["drop", "--yes"]] {
        let said = setup.fails(1, &[&["dead-letters"], command, &[&events[2], "999999"]].concat());
        assert!(said.contains("error: sink main has no dead letter 999999"), "{command:?}: {said}");
        assert!(!said.contains("dropping") && !said.contains("published"), "{command:?}: {said}");
    }
    let told = setup.done(&["dead-letters", "retry", &events[2]]);
    assert!(told.contains("1 letter published, 0 left"), "{told}");
    let bibs = setup.landed("alma.bib");
    assert_eq!(bibs.len(), 1, "it landed once it is confirmed");
    assert_eq!((&bibs[0]["data"]["bib"]["mms_id"], &bibs[0]["id"]), (&"2".into(), &events[2].as_str().into()));

    let why = setup.fails(2, &["dead-letters", "drop", &ids[0]]);
    assert!(why.contains("dropping 1 dead letter of sink main: it never gets its event"), "{why}");
    assert!(why.contains("this cannot be undone; add --yes to confirm"), "{why}");
    assert_eq!(letters(setup).len(), 3, "nothing was dropped");
    assert!(setup.done(&["dead-letters", "drop", &events[0], "--yes"]).contains("1 letter dropped"));
    assert!(setup.fails(1, &["dead-letters", "drop", &ids[0], "--yes"]).contains("no dead letter"));
    assert_eq!(letters(setup).len(), 2);
    let told = setup.done(&["dead-letters", "retry", "--all"]);
    assert!(told.contains("2 letters published, 0 left"), "{told}");
    assert_eq!(setup.landed("alma.bib").len(), 3);
    assert!(letters(setup).is_empty());
    assert_eq!(setup.done(&["dead-letters", "retry", "--all"]), "sink main: no dead letters to retry\n");
    assert!(setup.done(&["dead-letters", "drop", "--all"]).contains("no dead letters to drop"), "and nothing is asked");
}

#[test]
fn dead_letters_are_handled_by_a_running_bridge() {
    let setup = Setup::new(ONE_TOPIC);
    let (bridge, ids) = with_letters(&setup, 4);
    let why = setup.fails(1, &["dead-letters", "retry", "--all"]);
    assert!(why.contains("0 letters published, 4 left"), "the bound holds for letters too: {why}");
    let hint = "max_topics = 1; raise max_topics, reload, then \"dead-letters retry --all\"";
    assert!(why.contains(hint), "{why}");
    assert!(setup.landed("alma.bib").is_empty());
    assert!(setup.done(&["dead-letters", "show", &ids[0]]).contains(hint));
    bridge.wait_for_log(&["dead letters set aside", "raise max_topics"]);
    setup.configure(&ONE_TOPIC.replace("max_topics = 1", "max_topics = 2"));
    assert_eq!(bridge.post_reload(&setup).status, 200);
    use_the_letters(&setup, &ids);
    assert_eq!(bridge.post(&bib(9)).status, 204);
    wait_for("the topic's next event", || (setup.landed("alma.bib").len() == 4).then_some(()));
    assert_eq!(bridge.metric("alma_bridge_dead_letters{sink=\"main\",reason=\"too_many_topics\"}"), Some(0.0));
    bridge.wait_for_log(&["dead letters dropped"]);
}

#[test]
fn dead_letters_are_handled_on_the_journal_of_a_stopped_bridge() {
    let setup = Setup::new(ONE_TOPIC);
    let (bridge, ids) = with_letters(&setup, 4);
    assert_eq!(bridge.stop().code(), Some(0));
    use_the_letters(&setup, &ids);
    let bridge = setup.start();
    let status = bridge.status();
    assert_eq!(status["sinks"][0]["dead_letters"], serde_json::json!({}), "{status}");
    assert_eq!(setup.landed("alma.bib").len(), 3, "what was taken does not come again");
}

/// Two sinks. [`without_old`] removes `old` from the file.
const WITH_OLD: &str =
    "[sinks.main]\ntype = \"file\"\n[sinks.old]\ntype = \"file\"\ndir = \"DIR/old\"\nmax_topics = 1\n";

fn without_old(setup: &Setup) {
    setup.configure("[sinks.main]\ntype = \"file\"\n");
}

pub(crate) fn place(setup: &Setup, name: &str) -> Option<Value> {
    let places: Vec<Value> = serde_json::from_str(&setup.done(&["sinks", "list", "--json"])).expect("JSON");
    places.into_iter().find(|place| place["name"] == name)
}

/// `forget` refuses a configured sink, asks first, and forgets.
fn forget_old(setup: &Setup) {
    let table = setup.done(&["sinks", "list"]);
    let old = table.lines().find(|line| line.starts_with("old ")).expect("it is listed");
    assert!(old.contains("removed") && old.contains(" 3 "), "{table}");
    assert!(setup.fails(1, &["sinks", "forget", "main", "--yes"]).contains("sink main is configured"));
    assert!(setup.fails(1, &["sinks", "forget", "other", "--yes"]).contains("there are: main, old"));
    let why = setup.fails(2, &["sinks", "forget", "old"]);
    assert!(why.contains("3 events that wait for it are lost") && why.contains("--yes"), "{why}");
    assert_eq!(place(setup, "old").expect("still there")["waiting_events"], 3);
    let told = setup.done(&["sinks", "forget", "old", "--yes"]);
    assert!(told.contains("forgotten, and so are 3 events"), "{told}");
    assert!(told.contains("its dead letter is kept"), "{told}");
    let left = place(setup, "old").expect("its letters are left");
    assert_eq!((&left["state"], &left["dead_letters"]), (&"forgotten".into(), &1.into()));
    assert!(setup.fails(1, &["sinks", "forget", "old", "--yes"]).contains("already forgotten"));
    setup.done(&["dead-letters", "drop", "--all", "--sink", "old", "--yes"]);
    assert_eq!(place(setup, "old"), None);
}

/// A bridge where `old` has a dead letter and had no waiting events when it was removed.
pub(crate) fn with_old() -> (Setup, Bridge) {
    let setup = Setup::new(WITH_OLD);
    let bridge = setup.start();
    bridge.post(&loan(0));
    wait_for("it to land", || (!landed(&setup.path("old"), "alma.loan").is_empty()).then_some(()));
    bridge.post(&bib(0));
    let kept = "alma_bridge_dead_letters{sink=\"old\",reason=\"too_many_topics\"}";
    wait_for("the letter", || (bridge.metric(kept) == Some(1.0)).then_some(()));
    wait_for("old to be in step", || (place(&setup, "old")?["waiting_events"] == 0).then_some(()));
    without_old(&setup);
    (setup, bridge)
}

fn post_three(bridge: &Bridge) {
    for number in 1..=3 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
}

#[test]
fn a_sink_is_forgotten_by_a_running_bridge() {
    let (setup, bridge) = with_old();
    bridge.signal(Signal::HUP);
    wait_for("it to be out", || (place(&setup, "old")?["state"] == "removed").then_some(()));
    post_three(&bridge);
    let waiting = "alma_bridge_sink_waiting_events{sink=\"old\"}";
    assert_eq!(bridge.metric(waiting), Some(3.0));
    forget_old(&setup);
    assert_eq!(bridge.metric(waiting), None, "nothing alerts for ever");
    assert_eq!(bridge.metric("alma_bridge_sink_up{sink=\"old\",type=\"file\"}"), None);
    assert_eq!(bridge.status()["attention"], serde_json::json!([]));
    assert_eq!(bridge.post(&loan(9)).status, 204);
}

#[test]
fn a_sink_that_was_forgotten_starts_again_when_it_returns() {
    let (setup, bridge) = with_old();
    // A kill would leave a stale cursor, and another count.
    assert_eq!(bridge.stop().code(), Some(0));
    let bridge = setup.start();
    post_three(&bridge);
    wait_for("main to be in step", || (setup.landed("alma.loan").len() == 4).then_some(()));
    assert_eq!(bridge.stop().code(), Some(0));
    forget_old(&setup);
    setup.configure(WITH_OLD);
    assert_eq!(place(&setup, "old").expect("configured")["state"], "new");
    let bridge = setup.start();
    bridge.post(&loan(9));
    wait_for("it to land", || (landed(&setup.path("old"), "alma.loan").len() > 1).then_some(()));
    let ids: Vec<Value> = landed(&setup.path("old"), "alma.loan").iter().map(|e| e["subject"].clone()).collect();
    assert_eq!(ids, ["0", "9"], "what it was forgotten with is lost to it");
}

#[test]
fn a_sink_for_which_nothing_waits_has_no_oldest_event() {
    let setup = Setup::new("");
    let in_step = |bridge: &Bridge| {
        assert_eq!(bridge.post(&loan(0)).status, 204);
        wait_for("main to be in step", || (place(&setup, "main")?["waiting_events"] == 0).then_some(()));
    };
    let bridge = setup.start();
    in_step(&bridge);
    assert_eq!(bridge.stop().code(), Some(0));
    // Each time that the journal is opened, a segment without events follows the last one.
    for _ in 0..2 {
        let place = place(&setup, "main").expect("listed");
        assert_eq!((&place["waiting_events"], &place["oldest_waiting"]), (&0.into(), &Value::Null));
    }
    let bridge = setup.start();
    in_step(&bridge);
    bridge.kill();
    for _ in 0..2 {
        let place = place(&setup, "main").expect("listed");
        // A kill may leave a stale cursor.
        assert!((place["waiting_events"] == 0) == place["oldest_waiting"].is_null(), "{place}");
    }
}

/// Puts a file where the sink's folder should be, so that the sink takes nothing until it is removed.
pub(crate) fn block(setup: &Setup, name: &str) {
    fs::write(setup.path(name), "in the way").expect("written");
}

fn unblock(setup: &Setup, name: &str) {
    fs::remove_file(setup.path(name)).expect("removed");
}

#[test]
fn a_sink_continues_another_and_gets_its_waiting_events() {
    let setup = Setup::new("[sinks.old]\ntype = \"file\"\ndir = \"DIR/old/topics\"\n");
    let bridge = setup.start();
    bridge.post(&loan(0));
    let old = setup.path("old/topics");
    wait_for("the first to land", || (!landed(&old, "alma.loan").is_empty()).then_some(()));
    wait_for("old to be in step", || (place(&setup, "old")?["waiting_events"] == 0).then_some(()));
    assert_eq!(bridge.stop().code(), Some(0));
    fs::rename(setup.path("old"), setup.path("moved")).expect("moved");
    block(&setup, "old");
    let bridge = setup.start();
    post_three(&bridge);
    assert_eq!(place(&setup, "old").expect("listed")["waiting_events"], 3);
    setup.configure("[sinks.new]\ntype = \"file\"\ndir = \"DIR/new\"\ncontinues = \"old\"\n");
    bridge.kill();
    let refused = setup.fails(1, &["sinks", "forget", "old", "--yes"]);
    assert!(refused.contains("sink new continues old"), "{refused}");
    let bridge = setup.start();
    let subjects = || -> Vec<Value> {
        landed(&setup.path("new"), "alma.loan").iter().map(|event| event["subject"].clone()).collect()
    };
    wait_for("what waited to land at its follower", || (subjects().len() == 3).then_some(()));
    bridge.post(&loan(4));
    wait_for("the next one", || (subjects().len() == 4).then_some(()));
    assert_eq!(subjects(), ["1", "2", "3", "4"], "neither what the other had, nor a gap");
    assert_eq!(place(&setup, "old"), None, "its place was taken over");
}

#[test]
fn a_reload_lets_a_sink_continue_a_removed_one() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\n[sinks.old]\ntype = \"file\"\ndir = \"DIR/old\"\n");
    block(&setup, "old");
    let bridge = setup.start();
    post_three(&bridge);
    setup.configure(
        "[sinks.main]\ntype = \"file\"\n[sinks.new]\ntype = \"file\"\ndir = \"DIR/new\"\ncontinues = \"old\"\n",
    );
    bridge.signal(Signal::HUP);
    wait_for("what waited to land", || (landed(&setup.path("new"), "alma.loan").len() == 3).then_some(()));
    assert_eq!(place(&setup, "old"), None);
}

#[test]
fn a_new_sink_starts_with_the_next_event_or_with_the_oldest() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\n");
    let bridge = setup.start();
    post_three(&bridge);
    wait_for("them to land", || (setup.landed("alma.loan").len() == 3).then_some(()));
    setup.configure(
        "[sinks.main]\ntype = \"file\"\n[sinks.next]\ntype = \"file\"\ndir = \"DIR/next\"\n\
         [sinks.oldest]\ntype = \"file\"\ndir = \"DIR/oldest\"\nstart = \"oldest\"\n",
    );
    bridge.signal(Signal::HUP);
    wait_for("the new sinks", || (bridge.status()["sinks"].as_array()?.len() == 3).then_some(()));
    bridge.post(&loan(4));
    let subjects = |name: &str| -> Vec<Value> {
        landed(&setup.path(name), "alma.loan").iter().map(|event| event["subject"].clone()).collect()
    };
    wait_for("all to land", || (subjects("oldest").len() == 4 && !subjects("next").is_empty()).then_some(()));
    assert_eq!(subjects("oldest"), ["1", "2", "3", "4"]);
    assert_eq!(subjects("next"), ["4"]);
    assert!(setup.landed("alma.loan").len() == 4, "the others go on");
}

pub(crate) const BLOCKED: &str = "[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked\"\n";

#[test]
fn drain_delivers_waiting_events_and_takes_no_new_ones() {
    let setup = Setup::new(BLOCKED);
    block(&setup, "blocked");
    let bridge = setup.start();
    post_three(&bridge);
    let beside = setup.fails(1, &["drain"]);
    assert!(beside.contains("a bridge runs with this journal"), "{beside}");
    bridge.kill();
    let late = setup.fails(1, &["drain", "--timeout", "300ms"]);
    assert!(
        late.contains("3 events still wait for sink main")
            && late.contains("error: --timeout 300ms passed; 3 events still wait"),
        "{late}"
    );
    unblock(&setup, "blocked");
    assert!(setup.done(&["drain"]).contains("nothing waits any more"));
    let blocked = setup.path("blocked");
    assert_eq!(landed(&blocked, "alma.loan").len(), 3);
    let bridge = setup.start();
    bridge.post(&loan(4));
    wait_for("the next one", || (landed(&blocked, "alma.loan").len() > 3).then_some(()));
    assert_eq!(landed(&blocked, "alma.loan").len(), 4, "what was drained does not come again");
}

#[test]
fn drain_reports_what_needs_a_person() {
    let setup = Setup::new(ONE_TOPIC);
    assert!(setup.done(&["drain"]).contains("nothing waits"), "before the first start");
    let (bridge, _) = with_letters(&setup, 2);
    assert_eq!(bridge.stop().code(), Some(0));
    let left = setup.fails(1, &["drain"]);
    assert!(left.contains("2 dead letters of sink main") && left.contains("needs a person"), "{left}");
    setup.done(&["dead-letters", "drop", "--all", "--yes"]);
    assert!(setup.done(&["drain"]).contains("nothing waits any more"));
}

#[test]
fn the_commands_say_why_there_is_no_journal() {
    let setup = Setup::new("");
    for command in [vec!["sinks", "list"], vec!["dlq", "list"], vec!["replay", "--sink", "main", "--from", "1h"]] {
        let why = setup.fails(1, &command);
        assert!(why.contains("there is no journal in"), "{command:?}: {why}");
    }
    assert!(!setup.data().join("journal").exists(), "and make none");
    setup.configure("[journal]\nstorage = \"none\"\n");
    for command in [vec!["sinks", "list"], vec!["dlq", "list"], vec!["drain"]] {
        let why = setup.fails(1, &command);
        assert!(why.contains("storage = \"none\""), "{command:?}: {why}");
    }
    for wrong in [vec!["dlq", "drop"], vec!["dlq", "retry"], vec!["replay", "--from", "1h"], vec!["sinks"]] {
        setup.fails(2, &wrong);
    }
}

#[test]
fn a_wrong_token_is_refused_with_an_explanation() {
    let setup = Setup::new("");
    let _bridge = setup.start();
    setup.done(&["sinks", "list"]);
    fs::write(setup.data().join("admin.token"), "another").expect("written");
    assert!(setup.fails(1, &["sinks", "list"]).contains("refused the admin token"));
}
