//! Truncated configurations, as a full disk or a copy that is not atomic leaves them; reloads that are refused, and
//! those that apply only in part.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Bridge, Load, Setup, loan, number_of, wait_for};

const SUCCESS: &str = "alma_bridge_config_last_reload_successful";
const SINK: &str = "[sinks.broker]\ntype = \"file\"\ndir = \"DIR/own\"\n";

fn attention(bridge: &Bridge) -> String {
    bridge.status()["attention"].to_string()
}

/// Truncates the configuration file in place.
fn cut_before(setup: &Setup, text: &str) {
    let path = setup.path("config.toml");
    let whole = fs::read_to_string(&path).expect("a file");
    fs::write(path, &whole[..whole.find(text).expect("it is there")]).expect("written");
}

#[test]
fn an_empty_or_truncated_file_never_takes_effect() {
    for (cut, lost) in [("data_dir", ["sources: found none", "alma"]), ("[sinks", ["sinks: found none", "broker"])] {
        let setup = Setup::new(SINK);
        let bridge = setup.start();
        assert_eq!(bridge.post(&loan(1)).status, 204);
        cut_before(&setup, cut);
        wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
        let is_refused = || {
            let said = attention(&bridge);
            assert!(lost.iter().all(|part| said.contains(part)), "{said}");
            assert!(said.contains("the last reload was refused"), "{said}");
            assert_eq!(bridge.post(&loan(2)).status, 204, "the source and its secret stay");
        };
        is_refused();
        // Not even on request.
        let before = bridge.log().matches("reload refused").count();
        bridge.signal(Signal::HUP);
        wait_for("SIGHUP to be refused", || (bridge.log().matches("reload refused").count() > before).then_some(()));
        is_refused();
        let answer = bridge.post_reload(&setup);
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!((answer.status, &body["outcome"]), (422, &Value::from("refused")));
        assert!(body["errorMessage"].as_str().is_some_and(|why| why.contains(lost[0])), "{body}");
        is_refused();
        assert!(!setup.data().join("topics").exists() && !setup.data().join("webhook.secret").exists());
        fs::remove_file(setup.path("config.toml")).expect("removed");
        assert_eq!(bridge.post_reload(&setup).status, 422, "nor if the file is gone");
        setup.configure(SINK);
        assert_eq!(bridge.post_reload(&setup).status, 200);
        assert_eq!((bridge.metric(SUCCESS), attention(&bridge)), (Some(1.0), "[]".to_owned()));
        wait_for("all to land", || (crate::harness::landed(&setup.path("own"), "alma.loan").len() >= 2).then_some(()));
    }
}

#[test]
fn an_automatic_reload_may_not_restore_a_default_but_an_operator_may() {
    let setup = Setup::new(SINK);
    let bridge = setup.start();
    cut_before(&setup, "\ndir = ");
    wait_for("the refusal", || bridge.log().contains("sinks.broker.dir would be removed").then_some(()));
    assert_eq!(bridge.post(&loan(1)).status, 204);
    wait_for("it to land", || (!crate::harness::landed(&setup.path("own"), "alma.loan").is_empty()).then_some(()));
    let answer = bridge.post_reload(&setup);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bridge.post(&loan(2)).status, 204);
    wait_for("it to land at the default", || (setup.landed("alma.loan").len() == 1).then_some(()));
}

#[test]
fn a_generated_secret_stays_in_effect_if_its_file_is_gone() {
    let setup = Setup::unwritten();
    let listen = "[ingress]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    let data = setup.data().display().to_string();
    fs::write(setup.path("config.toml"), format!("data_dir = \"{data}\"\n{listen}")).expect("written");
    let bridge = setup.start();
    let secret = fs::read_to_string(setup.data().join("webhook.secret")).expect("made").trim().to_owned();
    let post = |number| crate::harness::client_with_secret(bridge.ingress, &secret, &loan(number)).status;
    assert_eq!(post(1), 204);
    fs::remove_file(setup.data().join("webhook.secret")).expect("removed");
    wait_for("the refusal", || (bridge.metric(SUCCESS) == Some(0.0)).then_some(()));
    assert_eq!(post(2), 204);
    assert!(attention(&bridge).contains("webhook.secret"), "{}", attention(&bridge));
    assert!(!setup.data().join("webhook.secret").exists(), "no other is made");
}

#[test]
fn a_sink_that_cannot_be_registered_is_reported_and_retried() {
    let both = format!("{SINK}[sinks.other]\ntype = \"file\"\n");
    let setup = Setup::new(SINK);
    let bridge = setup.start();
    // The journal can't write the new sink's cursor.
    let in_the_way = setup.data().join("journal/cursors/other");
    fs::create_dir_all(in_the_way.join("x")).expect("made");
    setup.configure(&both);
    let answer = bridge.post_reload(&setup);
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!((answer.status, &body["outcome"]), (422, &Value::from("applied_in_part")), "{body}");
    assert!(body["errors"][0].as_str().is_some_and(|why| why.starts_with("sink other: ")), "{body}");
    let said = attention(&bridge);
    assert!(
        said.contains("in effect only in part") && said.contains("sink other") && !said.contains("refused"),
        "{said}"
    );
    assert_eq!(bridge.metric(SUCCESS), Some(0.0));
    assert!(!bridge.log().contains("reload refused"));
    assert_eq!(bridge.post(&loan(1)).status, 204, "the others go on");
    fs::remove_dir_all(in_the_way).expect("removed");
    wait_for("the bridge to try again", || (bridge.metric(SUCCESS) == Some(1.0)).then_some(()));
    assert_eq!(attention(&bridge), "[]");
    assert_eq!(bridge.post(&loan(2)).status, 204);
    wait_for("the event to land at the new sink", || {
        setup.landed("alma.loan").iter().any(|event| number_of(event) == 2).then_some(())
    });
}

#[test]
fn a_new_source_gets_503_until_the_sinks_are_in_effect() {
    let setup = Setup::new(SINK);
    let bridge = setup.start();
    let in_the_way = setup.data().join("journal/cursors/other");
    fs::create_dir_all(in_the_way.join("x")).expect("made");
    setup.configure(&format!(
        "{SINK}sources = [\"alma\"]\n[sinks.other]\ntype = \"file\"\nsources = [\"second\"]\n\
         [sources.second]\npath = \"/second\"\nsecret_file = \"DIR/secret\"\n"
    ));
    assert_eq!(bridge.post_reload(&setup).status, 422);
    let post = |number| bridge.client().post("/second", &loan(number)).status;
    assert_eq!(post(1), 503, "no sink would ask for it yet");
    fs::remove_dir_all(in_the_way).expect("removed");
    wait_for("the bridge to try again", || (bridge.metric(SUCCESS) == Some(1.0)).then_some(()));
    assert_eq!(post(1), 204);
    wait_for("the event to land", || (setup.landed("alma.loan").len() == 1).then_some(()));
}

#[test]
fn with_storage_none_a_renamed_sink_loses_and_refuses_nothing() {
    let none = |sink: &str, dir: &str| {
        format!("[journal]\nstorage = \"none\"\n[sinks.{sink}]\ntype = \"file\"\ndir = \"DIR/{dir}\"\n")
    };
    let setup = Setup::new(&none("one", "first"));
    let bridge = setup.start();
    let next = Arc::new(AtomicU64::new(1));
    // Any answer other than 204 is a failure.
    let load = Load::start(bridge.ingress, &next, 8);
    // The last one takes over the folder, too.
    for (sink, dir) in [("two", "second"), ("three", "third"), ("four", "third")] {
        let before = load.count();
        wait_for("more events", || (load.count() >= before + 100).then_some(()));
        setup.configure(&none(sink, dir));
        assert_eq!(bridge.post_reload(&setup).status, 200);
        assert_eq!(bridge.status()["sinks"][0]["name"], sink);
    }
    let before = load.count();
    wait_for("more events", || (load.count() >= before + 100).then_some(()));
    let taken = load.end();
    let dirs = ["first", "second", "third"].map(|dir| crate::harness::landed(&setup.path(dir), "alma.loan"));
    let landed: std::collections::BTreeSet<u64> = dirs.iter().flatten().map(number_of).collect();
    let lost: Vec<_> = taken.iter().filter(|number| !landed.contains(number)).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), taken.len());
}
