//! Long names do not break the columns of tables.

use crate::bad_day::{letters, with_letters};
use crate::harness::{Setup, loan, text, wait_for};

const LONG: &str = "a-sink-whose-name-is-quite-long-and-longer-than-any-column";

fn with_long_names(max_topics: usize) -> Setup {
    let more = format!(
        "[sources.a-source-with-quite-a-long-name]\npath = \"/other\"\nsecret_file = \"DIR/secret\"\n\
         [sinks.main]\ntype = \"file\"\nmax_topics = {max_topics}\n\
         [sinks.{LONG}]\ntype = \"file\"\ndir = \"DIR/long\"\nmax_topics = {max_topics}\n\
         topic = \"a-prefix-that-is-much-longer-than-alma.{{action}}\"\n"
    );
    Setup::new(&more)
}

/// The position of this text in each line that has it, which should be the same.
fn begins(shown: &str, of: &[&str]) -> usize {
    let places: Vec<usize> = shown.lines().filter_map(|line| of.iter().find_map(|text| line.find(text))).collect();
    assert!(places.len() >= 2 && places.iter().all(|place| *place == places[0]), "{of:?} at {places:?} in\n{shown}");
    places[0]
}

#[test]
fn columns_of_lists_are_as_wide_as_their_content() {
    let setup = with_long_names(1);
    let (bridge, _) = with_letters(&setup, 2);
    wait_for("both sinks to be up and their letters kept", || {
        let sinks = bridge.status()["sinks"].as_array().expect("sinks").clone();
        let done = |sink: &serde_json::Value| sink["state"] == "up" && sink["dead_letters"]["too_many_topics"] == 2;
        sinks.iter().all(done).then_some(())
    });
    let status = text(&setup.command(&["status"]).stdout);
    begins(&status, &["last event: "]);
    begins(&status, &["0 waiting"]);
    assert!(status.contains("2 dead letters: too_many_topics"), "{status}");
    let sinks = setup.done(&["sinks", "list"]);
    begins(&sinks, &["STATE", "configured "]);
    assert_eq!(letters(&setup).len(), 4);
    let list = setup.done(&["dead-letters", "list"]);
    begins(&list, &["REASON", "too_many_topics"]);
    begins(&list, &["EVENT", "2000000000000000"]);
    let replayed = setup.done(&["replay", "--sink", "main", "--from", "1h", "--dry-run"]);
    begins(&replayed, &["alma.bib", "alma.loan"]);
}

#[test]
fn send_prints_columns() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let name = "an-event-in-a-file-with-a-long-name.json";
    std::fs::write(setup.path(name), loan(1)).expect("written");
    let sent = setup.done(&["send", name, "loan"]);
    let ids: Vec<_> = sent.lines().map(|line| line.rfind(' ')).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{sent}");
    // The message of a refusal can be long, so it is last.
    let other = Setup::unwritten();
    other.write_secret("secret", "another");
    other.configure("");
    let url = format!("http://{}/webhooks", bridge.ingress);
    let other = other.command(&["send", "--url", &url, "loan"]);
    assert_eq!(other.status.code(), Some(1));
    let line = text(&other.stdout);
    assert!(line.starts_with("401 ") && line.ends_with("  Invalid Signature\n"), "{line}");
}

#[test]
fn the_demo_prints_columns() {
    let setup = with_long_names(200);
    let shown = setup.done(&["demo"]);
    let rows: Vec<&str> = shown.lines().filter(|line| line.starts_with("sample ") || line.ends_with(" ms")).collect();
    let topics = begins(&rows.join("\n"), &["topic  ", "a-prefix-that-is-much-longer", "alma."]);
    assert!(topics > LONG.len(), "{shown}");
}
