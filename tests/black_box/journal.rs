//! The journal's folder: lock, version, damage, a full disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::harness::{Setup, loan, wait_for};

fn segments(setup: &Setup) -> Vec<PathBuf> {
    let entries = fs::read_dir(setup.data().join("journal/segments")).expect("segments");
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    segments
}

#[test]
fn a_second_process_waits_for_the_first_and_is_alive_but_not_ready() {
    let setup = Setup::new("");
    let first = setup.start();
    let second = setup.start_beside();
    assert_eq!(second.admin_get("/livez").status, 200);
    assert_eq!(second.admin_get("/readyz").status, 503);
    let refused = second.post(&loan(1));
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(first.post(&loan(1)).status, 204);
    assert!(first.stop().success());
    wait_for("the second to take over", || (second.admin_get("/readyz").status == 200).then_some(()));
    assert_eq!(second.post(&loan(1)).outcome(), Some("repeat"));
}

#[test]
fn a_journal_of_an_unknown_version_is_not_touched() {
    let setup = Setup::new("");
    drop(setup.start());
    let format = setup.data().join("journal/format");
    let known = fs::read_to_string(&format).expect("a version");
    let unknown = known.replace('1', "99");
    assert_ne!(known, unknown);
    fs::write(&format, &unknown).expect("written");
    let before = segments(&setup);
    let output = setup.command(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("version") && said.contains("99"), "{said}");
    assert_eq!(fs::read_to_string(&format).expect("still there"), unknown);
    assert_eq!(segments(&setup), before);
}

#[test]
fn damage_is_reported_and_later_events_are_delivered() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    for number in 0..100 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    assert!(bridge.stop().success());
    // One byte in the body of one event, in the middle.
    let segment =
        segments(&setup).into_iter().max_by_key(|path| fs::metadata(path).expect("metadata").len()).expect("one");
    let bytes = fs::read(&segment).expect("read");
    let victim = loan(50);
    let at = bytes.windows(victim.len()).position(|window| window == victim).expect("event 50");
    let file = OpenOptions::new().write(true).open(&segment).expect("opened");
    file.write_all_at(b"#", at as u64 + 30).expect("written");
    fs::remove_file(setup.path("blocked")).expect("removed");
    let bridge = setup.start();
    let landed = || crate::harness::landed(&setup.path("blocked/main"), "alma.loan").len();
    wait_for("the other 99", || (landed() == 99).then_some(()));
    assert_eq!(bridge.metric("alma_bridge_journal_damaged_records_total"), Some(1.0));
    assert!(fs::read_dir(setup.data().join("journal/damaged")).expect("kept").next().is_some());
    bridge.wait_for_log(&["damage"]);
    assert!(!bridge.log().contains("patron-0001"), "personal data in the log");
    assert!(!bridge.status()["attention"].as_array().expect("a list").is_empty());
}

#[test]
fn a_lost_cursor_causes_repeats_but_skips_no_event() {
    let setup = Setup::new("");
    let bridge = setup.start();
    for number in 0..30 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    wait_for("all to land", || (setup.landed("alma.loan").len() == 30).then_some(()));
    assert!(bridge.stop().success());
    for cursor in fs::read_dir(setup.data().join("journal/cursors")).expect("cursors") {
        fs::write(cursor.expect("an entry").path(), "garbage").expect("written");
    }
    let _bridge = setup.start();
    wait_for("all to land again", || (setup.landed("alma.loan").len() == 60).then_some(()));
}

#[test]
fn a_full_journal_gives_503_until_the_sink_is_back() {
    let setup = Setup::new(
        "[journal]\nmax_size = \"256KiB\"\nmin_free = \"1MiB\"\n[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n",
    );
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    let mut taken = 0;
    let refused = wait_for("the journal to be full", || {
        let answer = bridge.post(&loan(taken));
        if answer.status == 204 {
            taken += 1;
            return None;
        }
        Some(answer)
    });
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let unready = bridge.admin_get("/readyz");
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("full"), "{}", unready.text());
    fs::remove_file(setup.path("blocked")).expect("removed");
    wait_for("room again", || (bridge.post(&loan(taken)).status == 204).then_some(()));
    wait_for("all to land", || {
        (crate::harness::landed(&setup.path("blocked/main"), "alma.loan").len() as u64 == taken + 1).then_some(())
    });
}

#[test]
fn a_best_effort_sink_accounts_for_every_event_as_waiting_given_up_or_delivered() {
    const FIRST: usize = 20;
    let setup = Setup::new(
        "[journal]\nmax_size = \"3MiB\"\nmin_free = \"1MiB\"\n[sinks.main]\ntype = \"file\"\n[sinks.optional]\ntype = \"file\"\ndir = \"DIR/optional/topics\"\nbest_effort = true\n",
    );
    let bridge = setup.start();
    let given_up_so_far = || bridge.metric_sum("alma_bridge_given_up_events_total{sink=\"optional\"}");
    let counts = || {
        let waiting = bridge.metric_sum("alma_bridge_sink_waiting_events{sink=\"optional\"}");
        let given_up = given_up_so_far();
        let delivered = bridge.metric_sum("alma_bridge_published_events_total{sink=\"optional\"");
        (waiting, given_up, delivered)
    };
    let mut taken = 0;
    let mut take = || {
        // Large enough that the journal is soon full.
        let body = [loan(taken), vec![b' '; 20_000]].concat();
        assert_eq!(bridge.post(&body).status, 204, "event {taken}");
        taken += 1;
        taken
    };
    while take() < FIRST as u64 {}
    wait_for("the first to land", || (counts().2 == FIRST as u64).then_some(()));
    // With a file in place of its folder, the sink can't write.
    fs::rename(setup.path("optional"), setup.path("before")).expect("renamed");
    fs::write(setup.path("optional"), "").expect("written");
    let total = wait_for("the oldest segments to be given up", || {
        let total = take();
        (given_up_so_far() > 100).then_some(total)
    });
    wait_for("the other sink", || (setup.landed("alma.loan").len() as u64 == total).then_some(()));
    // The scrapes are not from the same moment, and the gauge lags.
    let (mut last, mut given_up) = ((0, 0, 0), 0);
    wait_for("the counts to add up", || {
        last = counts();
        given_up = last.1;
        (last.0 > 0 && last.0 + last.1 + last.2 == total).then_some(())
    });
    fs::remove_file(setup.path("optional")).expect("removed");
    wait_for("what waits to be delivered", || (counts().0 == 0).then_some(()));
    let (_, still_given_up, delivered) = counts();
    let landed = crate::harness::landed(&setup.path("optional/topics"), "alma.loan").len() + FIRST;
    assert_eq!((still_given_up, delivered), (given_up, landed as u64), "nothing is given up once there is room");
    assert_eq!(given_up + delivered, total, "each event is given up or delivered, and counts once");
}

#[test]
fn files_are_only_for_their_owner() {
    let setup = Setup::new("");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(1)).status, 204);
    wait_for("the event to land", || (!setup.landed("alma.loan").is_empty()).then_some(()));
    let mut folders = vec![setup.data().join("journal"), setup.data().join("topics")];
    let mut files = vec![setup.data().join("admin.token")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(files.len() > 4, "{files:?}");
    for file in files {
        let mode = fs::metadata(&file).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
    }
}
