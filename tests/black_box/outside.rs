//! Control characters from outside reach no terminal.

use std::fs;

use serde_json::Value;

use crate::harness::{Setup, text, wait_for};

/// ESC and BEL set a title, C1 clears the screen, DEL, and an override shows text from right to left.
const C1: &str = "\u{9b}2J";
const DEL: char = '\u{7f}';
const OVERRIDE: char = '\u{202e}';
const TITLE: &str = "\x1b]0;owned\x07";

/// A JSON event. Its strings may contain all of these except ESC and BEL.
fn json(number: u64, action: &str) -> Vec<u8> {
    format!(r#"{{"id":"5{number:018}","action":"{action}","bib":{{"mms_id":"1","title":"a{C1}{DEL}{OVERRIDE}z"}}}}"#)
        .into_bytes()
}

fn xml(number: u64) -> Vec<u8> {
    format!("<n><id>6{number:018}</id><action>ITEM</action><title>a{C1}{DEL}{OVERRIDE}z</title></n>").into_bytes()
}

fn unsafe_chars(shown: &str) -> Vec<char> {
    let reorders = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    shown.chars().filter(|c| (c.is_control() && *c != '\n') || reorders(*c)).collect()
}

/// Both outputs of a command, whatever its exit code, without any control character.
fn said(setup: &Setup, arguments: &[&str]) -> String {
    let output = setup.command(arguments);
    let said = text(&[output.stdout, output.stderr].concat());
    assert_eq!(unsafe_chars(&said), Vec::<char>::new(), "{arguments:?}: {said:?}");
    said
}

/// A sink with one topic, and one whose folder can't be created and has such a name, which its errors quote.
fn planted() -> Setup {
    let folder = r"DIR/blocked/\u001b]0;owned\u0007\u009b2J\u202e";
    let setup = Setup::new(&format!(
        "[sinks.main]\ntype = \"file\"\nmax_topics = 1\n[sinks.other]\ntype = \"file\"\ndir = \"{folder}\"\n"
    ));
    fs::write(setup.path("blocked"), "in the way").expect("written");
    setup
}

#[test]
fn no_command_prints_a_control_character_from_outside() {
    let setup = planted();
    let bridge = setup.start();
    for body in [json(0, "BIB"), json(1, "BIB")] {
        assert_eq!(bridge.post(&body).status, 204);
    }
    wait_for("both to land", || (setup.landed("alma.bib").len() == 2).then_some(()));
    let unparsed = format!("{TITLE}{C1}");
    let more = [json(2, &format!("X{C1}{OVERRIDE}")), xml(3), unparsed.into_bytes()];
    for body in &more {
        assert_eq!(bridge.post(body).status, 204);
    }
    let kept = "alma_bridge_dead_letters{sink=\"main\",reason=\"too_many_topics\"}";
    wait_for("the letters", || (bridge.metric(kept) == Some(3.0)).then_some(()));
    let other = || bridge.status()["sinks"].as_array().into_iter().flatten().find(|s| s["name"] == "other").cloned();
    wait_for("the trouble to show", || other()?["why"].is_string().then_some(()));

    let tail = ["tail", "--sink", "main", "--from-start", "--count", "2"];
    let shown = said(&setup, &tail);
    assert!(shown.contains(r"a\u009b2J\u007f\u202ez"), "{shown}");
    let document: Value = serde_json::from_str(shown.lines().next().expect("a line")).expect("JSON as before");
    assert_eq!(document["data"]["bib"]["title"], format!("a{C1}{DEL}{OVERRIDE}z"), "and means the same");
    let raw = setup.done(&[&tail[..], &["--raw"]].concat());
    assert!(raw.contains(&format!("a{C1}{DEL}{OVERRIDE}z")), "{raw:?}");

    for (number, body) in more.iter().enumerate() {
        fs::write(setup.path("body"), body).expect("written");
        said(&setup, &["explain", "body"]);
        let name = format!("{TITLE}{number}");
        fs::rename(setup.path("body"), setup.path(&name)).expect("renamed");
        assert!(said(&setup, &["send", &name]).contains(r"\u001b]0;owned"));
    }
    letters(&setup, &more);
    assert!(said(&setup, &["status"]).contains(r"\u001b]0;owned"));
    let status: Value = serde_json::from_str(&said(&setup, &["status", "--json"])).expect("JSON");
    assert!(status.to_string().contains("owned"));
    assert!(said(&setup, &["check", "--show"]).contains(r"\u001b]0;owned"));
    assert!(said(&setup, &["check", "--connect"]).contains(r"\u001b]0;owned"));
    said(&setup, &["sinks", "list"]);
    said(&setup, &["replay", "--sink", "main", "--from", "1h", "--dry-run"]);
    said(&setup, &["replay", "--sink", "main", "--from", "1h"]);
    said(&setup, &["send", &format!("no such {TITLE}")]);
    assert_eq!(unsafe_chars(&bridge.log()), Vec::<char>::new(), "the log");
    drop(bridge);
    assert!(said(&setup, &["drain", "--timeout", "300ms"]).contains("owned"));
}

fn letters(setup: &Setup, bodies: &[Vec<u8>]) {
    let list = said(setup, &["dead-letters", "list", "--json"]);
    said(setup, &["dead-letters", "list"]);
    for line in list.lines() {
        let letter: Value = serde_json::from_str(line).expect("JSON");
        let id = letter["id"].to_string();
        let show = ["dead-letters", "show", &id, "--sink", "main"];
        said(setup, &show);
        let json: Value =
            serde_json::from_str(&said(setup, &[&show[..], &["--json"]].concat())).expect("JSON as before");
        assert_eq!(json["reason"], "too_many_topics");
        let body = setup.done(&[&show[..], &["--body"]].concat()).into_bytes();
        assert!(bodies.contains(&body), "a program gets it byte for byte");
        let raw = setup.done(&[&show[..], &["--raw"]].concat());
        assert!(!unsafe_chars(&raw).is_empty(), "{raw:?}");
    }
    assert_eq!(list.lines().count(), bodies.len());
    said(setup, &["dead-letters", "retry", "--all", "--sink", "main"]);
}
