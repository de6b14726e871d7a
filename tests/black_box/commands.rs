//! What a person types and reads.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::harness::{SECRET, Setup, binary, ended, loan, text, wait_for};

/// A running command, which is killed when dropped.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Self {
        Self(command.spawn().expect("starts"))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

#[test]
fn without_a_command_the_help_is_printed() {
    let output = binary().output().expect("runs");
    let help = text(&output.stdout);
    for command in [
        "run",
        "demo",
        "check",
        "secret",
        "reload",
        "send",
        "tail",
        "explain",
        "status",
        "replay",
        "dead-letters",
        "sinks",
        "drain",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in\n{help}");
        let output = binary().args([command, "--help"]).output().expect("runs");
        let help = stdout(&output);
        assert!(command == "run" || help.contains("Examples:"), "{help}");
        assert!(help.contains("--config"), "{help}");
    }
    assert_eq!(binary().arg("--no-such").output().expect("runs").status.code(), Some(2));
    assert_eq!(binary().arg("nonsense").output().expect("runs").status.code(), Some(2));
    assert!(stdout(&binary().arg("--version").output().expect("runs")).starts_with("alma-bridge "));
}

#[test]
fn the_help_of_commands_that_publish_made_up_events_mentions_subscribers() {
    for command in ["demo", "send"] {
        let help = stdout(&binary().args([command, "--help"]).output().expect("runs"));
        // Lines are wrapped to the terminal's width.
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("subscribers will act on"), "{help}");
    }
}

#[test]
fn the_demo_shows_every_sample_as_it_lands() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = binary().arg("demo").current_dir(folder.path()).env("TMPDIR", folder.path()).output().expect("runs");
    let shown = stdout(&output);
    for topic in ["alma.job_end", "alma.loan", "alma.request", "alma.bib", "alma.item", "alma.user"] {
        let line = shown
            .lines()
            .find(|line| line.contains(&format!("{topic} ")))
            .unwrap_or_else(|| panic!("{topic} is not in\n{shown}"));
        assert!(line.contains("204 stored") && line.contains(" ms"), "{line}");
    }
    assert!(shown.contains("answered in") && shown.contains("published in"), "{shown}");
    assert!(shown.contains("alma-bridge run"), "where to go next:\n{shown}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the demo leaves nothing behind");
}

#[test]
fn send_plays_alma_and_tail_shows_what_landed() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let sent = stdout(&setup.command(&["send"]));
    assert!(sent.lines().count() >= 7, "{sent}");
    assert!(sent.lines().all(|line| line.contains("204 stored")), "{sent}");
    let challenges = bridge.metric("alma_bridge_requests_total{source=\"alma\",outcome=\"challenge\"}");
    assert_eq!(challenges, Some(1.0));
    let landed = stdout(&setup.command(&["tail", "--from-start", "--count", "1", "alma.job_end"]));
    let event: Value = serde_json::from_str(landed.trim()).expect("one document");
    assert_eq!(event["type"], "com.exlibrisgroup.alma.job_end");
    assert_eq!(event["data"]["action"], "JOB_END");

    let one = setup.command(&["send", "loan"]);
    let summary = text(&one.stderr);
    let last = summary.lines().last().expect("a summary");
    assert!(last.starts_with("1 event, ") && last.ends_with(" ms"), "{summary}");

    let twice = setup.command(&["send", "--same", "--count", "2", "LOAN"]);
    let lines = stdout(&twice);
    assert!(lines.contains("204 stored") && lines.contains("204 repeat"), "{lines}");
    let many = setup.command(&["send", "--count", "500", "bib"]);
    let summary = text(&many.stderr);
    assert!(many.status.success() && summary.contains("500 events") && summary.contains("204 stored"), "{summary}");
    assert!(summary.contains("median") && summary.contains("p99"), "{summary}");
    wait_for("all to land", || (setup.landed("alma.bib").len() >= 500).then_some(()));
}

#[test]
fn send_sends_files_byte_for_byte_and_fails_if_the_bridge_refuses() {
    let setup = Setup::new("");
    let body = b" {\"action\" : \"ITEM\", \"x\":1.0}\n";
    std::fs::write(setup.path("event.json"), body).expect("written");
    let without = setup.command(&["send", "event.json"]);
    assert_eq!(without.status.code(), Some(1), "no bridge runs");
    let bridge = setup.start();
    stdout(&setup.command(&["send", "event.json"]));
    wait_for("the event to land", || (setup.landed("alma.item").len() == 1).then_some(()));
    let url = format!("http://{}/nowhere", bridge.ingress);
    assert_eq!(setup.command(&["send", "--url", &url, "loan"]).status.code(), Some(1));
    let neither = setup.command(&["send", "no-such-thing"]);
    assert_eq!(neither.status.code(), Some(2));
    assert!(text(&neither.stderr).contains("job_end"), "says what there is");
}

#[test]
fn tail_follows_from_now_on() {
    let setup = Setup::new("");
    let bridge = setup.start();
    bridge.post(&loan(1));
    wait_for("the first to land", || (setup.landed("alma.loan").len() == 1).then_some(()));
    let mut tail = binary();
    tail.args(["tail", "--count", "2", "--config"]).arg(setup.path("config.toml"));
    let mut tail = Started::new(tail.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = [0; 7];
    tail.0.stderr.as_mut().expect("piped").read_exact(&mut said).expect("says that it reads");
    assert_eq!(&said, b"reading");
    bridge.post(&loan(2));
    bridge.post(&loan(3));
    let mut shown = String::new();
    tail.0.stdout.as_mut().expect("piped").read_to_string(&mut shown).expect("ends");
    let ids: Vec<String> = shown
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).expect("a document")["subject"].as_str().expect("a subject").to_owned()
        })
        .collect();
    assert_eq!(ids, ["2", "3"]);
}

#[test]
fn tail_refuses_a_topic_that_no_event_can_have() {
    let setup = Setup::new("");
    let _bridge = setup.start();
    let refused = |topic: &str| {
        let output = ended(setup.prepared(&["tail", topic]).stdout(Stdio::piped()).stderr(Stdio::piped()));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        text(&output.stderr)
    };
    let none = refused("job_end");
    assert!(
        none.contains("unknown topic \"job_end\"; the topics of this sink are: ")
            && none.contains("; did you mean alma.job_end?"),
        "{none}"
    );
    stdout(&setup.command(&["send", "loan", "job_end"]));
    wait_for("both to land", || {
        (!setup.landed("alma.loan").is_empty() && !setup.landed("alma.job_end").is_empty()).then_some(())
    });
    for (wrong, meant) in [
        ("job_end", "; did you mean alma.job_end?"),
        ("alma.JOB_END", "; did you mean alma.job_end?"),
        ("job*", "; did you mean alma.job*?"),
        ("nonsense", ""),
    ] {
        let why = refused(wrong);
        let named = format!("unknown topic \"{wrong}\"; there are: alma.job_end, alma.loan{meant}\n");
        assert!(why.contains(&named), "{why}");
    }
    // A topic that exists although no event can have it any more, and one that does not exist yet.
    std::fs::write(setup.data().join("topics/older.jsonl"), "{}\n").expect("written");
    assert_eq!(setup.done(&["tail", "older", "--from-start", "--count", "1"]), "{}\n");
    let mut tail = setup.prepared(&["tail", "--count", "1", "alma.bib"]);
    let mut tail = Started::new(tail.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut said = BufReader::new(tail.0.stderr.take().expect("piped"));
    let mut line = String::new();
    wait_for("it to say that it waits", || {
        said.read_line(&mut line).expect("a line");
        line.contains("no topic \"alma.bib\" yet: waiting").then_some(())
    });
    stdout(&setup.command(&["send", "bib"]));
    let ended = wait_for("the event", || tail.0.try_wait().expect("waits"));
    assert!(ended.success());
}

#[test]
fn tail_reads_rotated_files() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\nrotate = \"1KiB\"\nkeep = 500\n");
    let _bridge = setup.start();
    stdout(&setup.command(&["send", "--count", "200", "loan"]));
    wait_for("all to land", || (setup.landed("alma.loan").len() == 200).then_some(()));
    let output = ended(setup.prepared(&["tail", "--from-start", "--count", "200"]).stdout(Stdio::piped()));
    assert_eq!(stdout(&output).lines().count(), 200);
}

#[test]
fn status_watch_is_plain_in_a_pipe_and_survives_a_restart() {
    let setup = Setup::new("");
    let bridge = setup.start();
    let mut watch = setup.prepared(&["status", "--watch"]);
    let mut watch = Started::new(watch.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (lines, shown) = std::sync::mpsc::channel();
    let stdout = BufReader::new(watch.0.stdout.take().expect("piped"));
    let reader = std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let see = |what: &str| {
        wait_for(what, || {
            let line = shown.recv_timeout(crate::harness::PATIENCE).expect("it goes on");
            assert!(!line.contains('\x1b'), "{line:?}");
            line.contains(what).then_some(())
        });
    };
    see(": ready, since ");
    see("Journal ");
    see(": ready, since ");
    bridge.kill();
    see("asking again every 2 s");
    let _again = setup.start();
    see(": ready, since ");
    assert!(watch.0.try_wait().expect("waits").is_none(), "it still runs");
    drop(watch);
    drop(shown);
    let _ = reader.join();
}

#[test]
fn secret_prints_only_the_secret() {
    let setup = Setup::new("");
    assert_eq!(stdout(&setup.command(&["secret"])), format!("{SECRET}\n"));
    let fresh = stdout(&setup.command(&["secret", "--new"]));
    assert!(fresh.trim().len() >= 32 && fresh.trim() != SECRET);
    assert_eq!(setup.command(&["secret", "--source", "other"]).status.code(), Some(2));
}

#[test]
fn the_built_in_secret_is_generated_once_and_renewed_without_a_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = |arguments: &[&str]| {
        let output = binary().arg("secret").args(arguments).current_dir(folder.path()).output().expect("runs");
        stdout(&output).trim().to_owned()
    };
    let first = secret(&[]);
    assert!(first.len() >= 32);
    assert_eq!(secret(&[]), first);
    let file = folder.path().join("data/webhook.secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).expect("made").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let second = secret(&["--new"]);
    assert_ne!(first, second);
    assert_eq!(secret(&[]), second);
    // Signatures with either secret match.
    std::fs::write(folder.path().join("body"), "{}").expect("written");
    for key in [&first, &second] {
        let signature = alma_bridge::alma::SignatureHeader::sign(key.as_bytes(), b"{}").to_base64();
        let output = binary().args(["explain", "body", "--signature", &signature]).current_dir(folder.path()).output();
        assert!(stdout(&output.expect("runs")).contains("matches secret"));
    }
}

#[test]
fn status_shows_the_running_bridge() {
    let setup = Setup::new("");
    assert_eq!(setup.command(&["status"]).status.code(), Some(1), "no bridge runs");
    let bridge = setup.start();
    bridge.post(&loan(1));
    wait_for("the sink to be up", || (bridge.status()["sinks"][0]["state"] == "up").then_some(()));
    let shown = stdout(&setup.command(&["status"]));
    assert!(shown.contains("ready") && shown.contains("main") && shown.contains("alma"), "{shown}");
    let json: Value = serde_json::from_str(&stdout(&setup.command(&["status", "--json"]))).expect("JSON");
    assert_eq!(json["ready"], true);
    assert_eq!(json["sinks"][0]["name"], "main");
}

#[test]
fn status_exits_1_where_something_needs_a_person() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    std::fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    bridge.post(&loan(1));
    let output = wait_for("the sink's trouble to show", || {
        let output = setup.command(&["status"]);
        (output.status.code() == Some(1)).then_some(output)
    });
    assert!(text(&output.stdout).contains("! "), "{}", text(&output.stdout));
}
