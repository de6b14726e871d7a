//! The configuration changes while events are taken.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::process::Signal;

use crate::harness::{Bridge, Load, Setup, client_with_secret, loan, number_of, wait_for};

const SUCCESS: &str = "alma_bridge_config_last_reload_successful";

fn reloads(bridge: &Bridge) -> usize {
    bridge.log().matches("configuration reloaded").count()
}

fn reload(bridge: &Bridge) {
    let before = reloads(bridge);
    bridge.signal(Signal::HUP);
    wait_for("the reload", || (reloads(bridge) > before).then_some(()));
}

#[test]
fn a_second_secret_is_accepted_after_sighup_and_the_first_goes_without_a_gap() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let post = |secret: &str, number| client_with_secret(bridge.ingress, secret, &loan(number)).status;
    assert_eq!((post("made-up-secret", 1), post("next", 2)), (204, 401));
    setup.write_secret("secret2", "next\n");
    let both = "[sources.alma]\npath = \"/webhooks\"\nsecrets = [{ name = \"current\", file = \"DIR/secret\" }, { name = \"next\", file = \"DIR/secret2\" }]\n";
    setup.configure(both);
    reload(&bridge);
    assert_eq!((post("made-up-secret", 3), post("next", 4)), (204, 204));
    setup.configure("[sources.alma]\npath = \"/webhooks\"\nsecret_file = \"DIR/secret2\"\n");
    reload(&bridge);
    assert_eq!((post("made-up-secret", 5), post("next", 6)), (401, 204));
}

#[test]
fn a_changed_file_is_picked_up_by_itself() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.write_secret("secret", "rotated\n");
    wait_for("the new secret to be in effect", || {
        (client_with_secret(bridge.ingress, "rotated", &loan(1)).status == 204).then_some(())
    });
    // One that is emptied is no secret: the old one stays.
    setup.write_secret("secret", "");
    wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
    assert_eq!(client_with_secret(bridge.ingress, "rotated", &loan(2)).status, 204);
    assert!(bridge.status()["config"]["refused"][0].as_str().is_some_and(|why| why.contains("empty")));
    setup.write_secret("secret", "again\n");
    wait_for("the next secret", || (bridge.metric(SUCCESS) == Some(1.0)).then_some(()));
    assert_eq!(client_with_secret(bridge.ingress, "again", &loan(3)).status, 204);
}

#[test]
fn a_bad_file_changes_nothing_and_says_all_that_is_wrong() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.configure("[log]\nlevel = \"loud\"\n[journal]\nretain = \"soon\"\n");
    bridge.signal(Signal::HUP);
    wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
    let log = bridge.log();
    assert!(log.contains("log.level") && log.contains("journal.retain"), "{log}");
    assert_eq!(bridge.post(&loan(1)).status, 204);
    setup.configure("");
    reload(&bridge);
    assert_eq!(bridge.metric(SUCCESS), Some(1.0));
}

#[test]
fn a_watched_change_may_not_take_a_sink_away_but_sighup_does() {
    let two = "[sinks.main]\ntype = \"file\"\n[sinks.other]\ntype = \"file\"\ndir = \"DIR/blocked/other\"\n";
    let one = "[sinks.main]\ntype = \"file\"\n";
    let setup = Setup::new(two);
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    setup.configure(one);
    wait_for("the refusal", || bridge.log().contains("sink other would be taken away").then_some(()));
    assert_eq!(bridge.status()["sinks"].as_array().map(Vec::len), Some(2));
    reload(&bridge);
    assert_eq!(bridge.post(&loan(2)).status, 204);
    let other = || {
        let status = bridge.status();
        status["sinks"].as_array().expect("sinks").iter().find(|sink| sink["name"] == "other").cloned()
    };
    let removed = other().expect("it keeps its place");
    assert_eq!((&removed["state"], &removed["waiting_events"]), (&"removed".into(), &2.into()));
    assert!(!bridge.status()["attention"].as_array().expect("a list").is_empty());
    fs::remove_file(setup.path("blocked")).expect("removed");
    setup.configure(two);
    reload(&bridge);
    wait_for("what waited to land", || {
        (crate::harness::landed(&setup.path("blocked/other"), "alma.loan").len() == 2).then_some(())
    });
}

#[test]
fn a_sink_moves_under_load_and_nothing_is_lost_or_refused() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/one\"\n");
    let bridge = setup.start();
    let next = Arc::new(AtomicU64::new(1));
    let load = Load::start(bridge.ingress, &next, 8);
    for dir in ["two", "three"] {
        let before = load.count();
        wait_for("more events", || (load.count() >= before + 200).then_some(()));
        setup.configure(&format!("[sinks.main]\ntype = \"file\"\ndir = \"DIR/{dir}\"\n"));
        reload(&bridge);
    }
    let before = load.count();
    wait_for("more events", || (load.count() >= before + 200).then_some(()));
    let taken = load.end();
    wait_for("all to land somewhere", || {
        let dirs = ["one", "two", "three"].map(|dir| crate::harness::landed(&setup.path(dir), "alma.loan"));
        let landed: std::collections::BTreeSet<u64> = dirs.iter().flatten().map(number_of).collect();
        taken.iter().all(|number| landed.contains(number)).then_some(())
    });
}

#[test]
fn the_log_level_changes_and_what_needs_a_restart_is_named() {
    let setup = Setup::new("");
    let bridge = setup.start();
    setup.configure("[log]\nlevel = \"error\"\n[journal]\nretain = \"1h\"\n");
    bridge.signal(Signal::HUP);
    wait_for("the level to be in effect", || {
        let before = bridge.log().len();
        bridge.post(&loan(1));
        (bridge.log().len() == before).then_some(())
    });
    setup.configure("[journal]\nretain = \"2h\"\n");
    reload(&bridge);
    let log = bridge.log();
    assert!(log.contains("takes a restart") && log.contains("\"journal\""), "{log}");
}
