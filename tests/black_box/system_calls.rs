//! Which system calls the bridge makes before it answers. The disk itself can't be asked what would survive.
//!
//! strace records the system calls, and the test reads them in order. A write counts as durable after a later fsync or
//! fdatasync of its file. A new name counts as durable after a later fsync of its folder.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Setup, loan, wait_for};

/// The calls that create files and folders, write to them or make them durable, and those that can send an answer.
const CALLS: &str = "trace=mkdir,mkdirat,open,openat,creat,rename,renameat,renameat2,link,linkat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,msync,sync,syncfs,sendto,sendmsg,sendfile";

/// A system call in the trace.
#[derive(Debug)]
struct Call {
    name: String,
    /// Everything between the brackets, and what it returned.
    text: String,
}

impl Call {
    fn succeeded(&self) -> bool {
        self.text.rsplit_once(" = ").is_some_and(|(_, result)| !result.starts_with('-'))
    }

    /// The path of the descriptor in the first argument.
    fn file(&self) -> Option<PathBuf> {
        Some(self.text.split_once('<')?.1.split_once('>')?.0.into())
    }

    /// The last quoted text, which is the path if one is given by name.
    fn named(&self) -> Option<PathBuf> {
        self.text.rsplit('"').nth(1).map(Into::into)
    }
}

/// A call's position in the trace: the lines at which it began and returned.
type Span = (usize, usize);

/// The finished calls of a trace. A call that is interrupted by another thread's is on two lines.
fn read(trace: &str) -> Vec<(Span, Call)> {
    let mut calls = Vec::new();
    let mut begun: HashMap<&str, (usize, String)> = HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, (at, first.to_owned()));
            continue;
        }
        let (from, whole) = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, second)) => {
                let Some((from, first)) = begun.remove(thread) else { continue };
                (from, first + second)
            }
            None => (at, rest.to_owned()),
        };
        if let Some((name, text)) = whole.split_once('(') {
            calls.push(((from, at), Call { name: name.to_owned(), text: text.to_owned() }));
        }
    }
    calls
}

/// The first line at which everything is durable that was in `path` at line `since`.
fn synced(calls: &[(Span, Call)], path: &Path, since: usize) -> Option<usize> {
    let syncs = calls.iter().filter(|(_, call)| matches!(&*call.name, "fsync" | "fdatasync") && call.succeeded());
    let of_path = syncs.filter(|(_, call)| call.file().is_some_and(|file| file == path));
    of_path.filter(|((from, _), _)| *from > since).map(|((_, to), _)| *to).min()
}

/// Each path that was created before line `before`, and the last line at which that happened.
fn made(calls: &[(Span, Call)], before: usize) -> HashMap<PathBuf, usize> {
    let mut made = HashMap::new();
    for ((_, to), call) in calls.iter().filter(|((_, to), call)| *to < before && call.succeeded()) {
        let makes = match &*call.name {
            "open" | "openat" | "creat" => call.text.contains("O_CREAT"),
            "mkdir" | "mkdirat" | "rename" | "renameat" | "renameat2" | "link" | "linkat" => true,
            _ => false,
        };
        made.extend(call.named().filter(|_| makes).map(|path| (path, *to)));
    }
    made
}

/// Fails unless event `number` and all that leads to it was durable before line `answered`.
fn assert_durable(calls: &[(Span, Call)], root: &Path, number: u64, answered: usize) {
    let id = format!("1{number:018}");
    let segments = root.join("journal/segments");
    let is_segment = |call: &Call| call.file().is_some_and(|file| file.starts_with(&segments));
    let mut writes = calls.iter().filter(|(_, call)| call.text.contains(&id) && is_segment(call));
    let ((_, written), write) = writes.next_back().expect("the event was written to a segment");
    let segment = write.file().expect("a segment");
    let data = synced(calls, &segment, *written);
    assert!(data.is_some_and(|line| line < answered), "event {number}: {} is not synced", segment.display());
    let made = made(calls, answered);
    for path in segment.ancestors().take_while(|path| path.starts_with(root)) {
        let Some(since) = made.get(path) else { panic!("{} was made before the bridge began", path.display()) };
        let folder = path.parent().expect("a folder");
        let name = synced(calls, folder, *since);
        assert!(
            name.is_some_and(|line| line < answered),
            "event {number}: {} is not synced after {} was made in it",
            folder.display(),
            path.display()
        );
    }
}

#[test]
fn the_segment_and_every_new_folder_are_synced_before_each_204() {
    const EVENTS: u64 = 12;
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/topics\"\n");
    let root = setup.data();
    let bridge = setup.start_traced(CALLS, "trace");
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    for number in 0..EVENTS {
        if number == EVENTS / 2 {
            // The folders are created again.
            fs::remove_dir_all(root.join("journal/segments")).expect("removed");
            wait_for("a new folder", || (bridge.post(&loan(1_000)).status == 204).then_some(()));
        }
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    let bridge_id = bridge.id().to_string();
    // strace pads a short number.
    let is_end = |line: &str| {
        line.split_once(' ').is_some_and(|(id, rest)| id == bridge_id && rest.trim_start() == "+++ exited with 0 +++")
    };
    assert!(bridge.stop().success());
    let trace = wait_for("the whole trace", || {
        let trace = fs::read_to_string(setup.path("trace")).expect("a trace");
        trace.lines().any(is_end).then_some(trace)
    });
    let calls = read(&trace);
    let answers: Vec<usize> = calls
        .iter()
        .filter(|(_, call)| call.text.contains("\"HTTP/1.1 204 No Content"))
        .map(|((from, _), _)| *from)
        .collect();
    let numbers: Vec<u64> = (0..EVENTS / 2).chain([1_000]).chain(EVENTS / 2..EVENTS).collect();
    assert_eq!(answers.len(), numbers.len(), "one 204 for each event");
    for (number, answered) in numbers.into_iter().zip(answers) {
        assert_durable(&calls, &root, number, answered);
    }
}
