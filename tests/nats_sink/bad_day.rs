//! `replay` and `--repair`: the real binary and a real stream that drops the ids it knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Place, SERVER, Stored, brokers, client, var};
use crate::wait::wait_for;

/// Events that each test sends.
const EVENTS: usize = 10;

/// A bridge with this place as its only sink; killed when dropped.
struct Bridge {
    folder: tempfile::TempDir,
    process: Child,
}

impl Bridge {
    /// Starts it, and sends [`EVENTS`] loans that land.
    fn with_events(place: &Place) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "data_dir = \"{data}\"\n[ingress]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [sinks.main]\ntype = \"nats\"\nservers = [{server:?}]\nstream = {stream:?}\ntopic = \"{prefix}.{{action}}\"\n",
            data = folder.path().join("data").display(),
            server = var("NATS"),
            stream = place.settings.stream,
            prefix = place.prefix,
        );
        fs::write(folder.path().join("config.toml"), config).expect("written");
        let process = command(folder.path(), &["run"]).stderr(Stdio::null()).spawn().expect("starts");
        let bridge = Self { folder, process };
        until("the bridge is ready", || bridge.ask(&["status", "--ready"]).status.success());
        bridge.done(&["send", "--count", &EVENTS.to_string(), "loan"]);
        until("all landed", || place.read().len() == EVENTS);
        until("the cursor passed all", || {
            let places: Vec<Value> = serde_json::from_str(&bridge.done(&["sinks", "list", "--json"])).expect("JSON");
            places[0]["waiting_events"] == 0
        });
        bridge
    }

    fn ask(&self, arguments: &[&str]) -> std::process::Output {
        command(self.folder.path(), arguments).output().expect("runs")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Nobody holds the journal any more.
    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alma-bridge"));
    command.args(arguments).arg("--config").arg(folder.join("config.toml")).current_dir(folder);
    command
}

fn until(what: &str, holds: impl Fn() -> bool) {
    wait_for(what, || holds().then_some(()));
}

fn documents(landed: &[Stored]) -> Vec<Value> {
    landed.iter().map(|landed| serde_json::from_slice(&landed.data).expect("JSON")).collect()
}

#[test]
fn a_replay_lands_inside_the_duplicate_window_and_after_a_purge() {
    let _shared = SERVER.blocking_read();
    let place = Place::new();
    let mut bridge = Bridge::with_events(&place);
    let replay = ["replay", "--sink", "main", "--from", "1h"];
    let told = bridge.done(&replay);
    assert!(told.contains("10 of 10 events confirmed, run "), "{told}");
    let landed = place.read();
    let events = documents(&landed);
    assert_eq!(landed.len(), 2 * EVENTS);
    for (first, again) in (0..EVENTS).zip(EVENTS..) {
        assert_eq!(events[first]["id"], events[again]["id"], "in the order of their arrival");
        assert!(events[first]["replayed"].is_null() && events[again]["replayed"].is_string());
        let run = landed[again].id().strip_prefix(landed[first].id()).expect("the id of the first time, and more");
        assert!(run.starts_with("/replay-") && told.trim_end().ends_with(&run["/replay-".len()..]), "{run}: {told}");
    }

    client("purge", &place.settings.stream);
    assert!(place.read().is_empty());
    let told = bridge.done(&[&replay[..], &["--repair"]].concat());
    assert!(told.contains("10 of 10 events confirmed (10 of them were already there)"), "{told}");
    assert!(place.read().is_empty(), "the stream knows the ids still: a repair is not for this");
    assert!(bridge.done(&replay).contains("10 of 10 events confirmed, run "));
    assert_eq!(place.read().len(), EVENTS);

    bridge.kill();
    assert!(bridge.done(&replay).contains("10 of 10 events confirmed, run "), "of a stopped bridge");
    let ids: BTreeSet<String> = place.read().iter().map(|landed| landed.id().to_owned()).collect();
    assert_eq!(ids.len(), 2 * EVENTS, "each run has ids of its own");
}

#[test]
fn a_repair_brings_back_only_what_the_server_lost() {
    let _alone = SERVER.blocking_write();
    let place = Place::new();
    let bridge = Bridge::with_events(&place);
    let all: BTreeSet<String> = place.read().iter().map(|landed| landed.id().to_owned()).collect();
    for sequence in [2, 5, 7] {
        client("lose", &format!("{}/{sequence}", place.settings.stream));
    }
    // What it remembers of ids it takes from what is stored.
    brokers(&["kill", "nats"]);
    brokers(&["start", "nats"]);
    assert_eq!(place.read().len(), EVENTS - 3);
    let told = bridge.done(&["replay", "--sink", "main", "--from", "1h", "--repair"]);
    assert!(told.contains("10 of 10 events confirmed (7 of them were already there)"), "{told}");
    let landed = place.read();
    assert_eq!(landed.len(), EVENTS, "each once");
    let after: BTreeSet<String> = landed.iter().map(|landed| landed.id().to_owned()).collect();
    assert_eq!(after, all, "under the ids of the first time");
    let again = documents(&landed).iter().filter(|event| event["replayed"].is_string()).count();
    assert_eq!(again, 3);
}
