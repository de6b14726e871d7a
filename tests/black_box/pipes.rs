//! Commands whose output is not read to its end, as with `| head -1`.

use std::io::{BufRead as _, BufReader, pipe};
use std::process::{Command, Stdio};

use crate::bad_day::{ONE_TOPIC, letters, with_letters};
use crate::harness::{Setup, binary, ended, loan, text, wait_for};

/// Runs a command whose stdout is closed from the start. It must end with this code and not mention that.
fn ends_quietly(mut command: Command, code: i32) {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let output = ended(command.stdout(writer).stderr(Stdio::piped()));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    let errors = if code == 0 { "error" } else { "panic" };
    for word in ["panic", "stdout", "pipe", errors] {
        assert!(!said.to_lowercase().contains(word), "{command:?}: {said}");
    }
}

/// Runs a command while nobody reads stdout or stderr. It must end by itself, without a panic.
fn ends_unheard(mut command: Command) {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let status = ended(command.stdout(writer.try_clone().expect("cloned")).stderr(writer)).status;
    assert!([Some(0), Some(1)].contains(&status.code()), "{command:?}: {status}");
}

#[test]
fn a_closed_pipe_ends_every_command_quietly() {
    let setup = Setup::new(ONE_TOPIC);
    let (bridge, ids) = with_letters(&setup, 2);
    std::fs::write(setup.path("body"), loan(1)).expect("written");
    let wrong = alma_bridge::alma::SignatureHeader::sign(b"wrong", b"").to_base64();
    let first = ids.first().expect("a letter").as_str();
    // Exit 1, because the verdict is bad even if nobody reads the output.
    for (arguments, code) in [
        (vec!["--help"], 0),
        (vec!["send", "--help"], 0),
        (vec!["run", "--help"], 0),
        (vec!["check", "--show"], 0),
        (vec!["check", "--connect"], 0),
        (vec!["secret"], 0),
        (vec!["secret", "--new"], 0),
        (vec!["explain", "body"], 0),
        (vec!["explain", "body", "--signature", &wrong], 1),
        (vec!["status"], 1),
        (vec!["status", "--json"], 1),
        (vec!["status", "--watch"], 0),
        (vec!["sinks", "list"], 0),
        (vec!["sinks", "list", "--json"], 0),
        (vec!["replay", "--sink", "main", "--from", "1h", "--dry-run"], 0),
        (vec!["replay", "--sink", "main", "--from", "1h", "--action", "loan"], 0),
        (vec!["dead-letters", "list"], 0),
        (vec!["dead-letters", "list", "--json"], 0),
        (vec!["dead-letters", "show", first], 0),
        (vec!["dead-letters", "show", first, "--json"], 0),
        (vec!["dead-letters", "show", first, "--body"], 0),
        (vec!["send"], 0),
        (vec!["tail", "--from-start"], 0),
    ] {
        ends_quietly(setup.prepared(&arguments), code);
        ends_unheard(setup.prepared(&arguments));
    }
    ends_quietly(setup.prepared(&["dead-letters", "drop", first, "--yes"]), 0);
    let left = letters(&setup);
    let gone = left.iter().all(|letter| letter["id"].as_u64() != first.parse().ok());
    assert!(gone, "what was to be done is done, whoever reads: {left:?}");
    assert_eq!(bridge.stop().code(), Some(0));
    ends_quietly(setup.prepared(&["drain"]), 1);
    ends_unheard(setup.prepared(&["drain"]));
}

#[test]
fn a_waiting_command_ends_when_its_reader_is_gone() {
    let setup = Setup::new("");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    // Nothing else is published, so there is no next line.
    for arguments in [&["tail", "--from-start"][..], &["status", "--watch"]] {
        let mut command = setup.prepared(arguments);
        let mut waiting = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut line = String::new();
        // The reader is dropped with the statement, like head -1.
        BufReader::new(waiting.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        assert!(!line.is_empty(), "{arguments:?}");
        let ended = wait_for("it to end", || waiting.try_wait().expect("waits"));
        let said = std::io::read_to_string(waiting.stderr.take().expect("piped")).expect("text");
        assert_eq!(ended.code(), Some(0), "{said}");
        assert!(!said.contains("error"), "{said}");
    }
}

#[test]
fn without_a_command_a_closed_pipe_is_quiet_too() {
    ends_quietly(binary(), 0);
    let mut version = binary();
    version.arg("--version");
    ends_quietly(version, 0);
}

#[test]
fn a_full_disk_is_reported() {
    let setup = Setup::new("");
    let mut check = setup.prepared(&["check", "--show"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = check.stdout(full).output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: cannot write to stdout: No space left"), "{output:?}");
}

#[test]
fn a_demo_cleans_up_even_if_nobody_reads_its_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = binary();
    demo.arg("demo").current_dir(folder.path()).env("TMPDIR", folder.path());
    let mut demo = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // Like head -1.
    let mut line = String::new();
    BufReader::new(demo.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("The demo's bridge listens on "), "{line}");
    let ended = wait_for("it to end", || demo.try_wait().expect("waits"));
    let said = std::io::read_to_string(demo.stderr.take().expect("piped")).expect("text");
    assert_eq!((ended.code(), said.as_str()), (Some(0), ""));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "the demo leaves nothing behind");
}
