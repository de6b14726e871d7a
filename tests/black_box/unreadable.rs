//! Files of the journal that can't be read at the start, files of another user, and a missing lock file.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use crate::harness::{Setup, landed, loan, number_of, text, wait_for};

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// A stopped bridge whose sink has taken none of its five events, because `blocked` is in its way.
fn waiting() -> Setup {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    for number in 0..5 {
        assert_eq!(bridge.post(&loan(number)).status, 204);
    }
    assert!(bridge.stop().success());
    setup
}

/// Replaces a file with a folder, which can be opened but not read.
fn make_unreadable(file: &Path) {
    if file.exists() {
        fs::remove_file(file).expect("removed");
    }
    fs::create_dir(file).expect("made");
}

fn numbers(dir: &Path) -> Vec<u64> {
    let mut numbers: Vec<u64> = landed(dir, "alma.loan").iter().map(number_of).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[test]
fn one_unreadable_file_does_not_keep_the_bridge_from_starting() {
    for name in ["format", "sinks", "cursors/main", "dead/main/0000000000000001.letters"] {
        let setup = waiting();
        let file = setup.data().join("journal").join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("there");
        make_unreadable(&file);
        fs::remove_file(setup.path("blocked")).expect("removed");
        let bridge = setup.start();
        assert_eq!(bridge.post(&loan(5)).status, 204, "{name}");
        let dir = setup.path("blocked/main");
        wait_for("all to land", || (numbers(&dir) == [0, 1, 2, 3, 4, 5]).then_some(()));
        let log = bridge.log();
        assert!(log.contains("ERROR") && log.contains(name), "{name} is not told: {log}");
        if !name.starts_with("dead") {
            assert_eq!(bridge.metric("alma_bridge_journal_damaged_records_total"), Some(1.0), "{name}");
            let attention = bridge.status()["attention"].to_string();
            assert!(attention.contains(name) && attention.contains("damaged/"), "{attention}");
        }
        // Now it starts without a warning.
        assert!(bridge.stop().success());
    }
}

#[test]
fn an_empty_format_file_is_written_again() {
    let setup = waiting();
    let format = setup.data().join("journal/format");
    let whole = fs::read(&format).expect("there");
    fs::write(&format, "").expect("emptied");
    fs::remove_file(setup.path("blocked")).expect("removed");
    let _bridge = setup.start();
    assert_eq!(fs::read(&format).expect("there"), whole);
    let dir = setup.path("blocked/main");
    wait_for("all to land", || (numbers(&dir) == [0, 1, 2, 3, 4]).then_some(()));
}

#[test]
fn an_unreadable_segment_is_counted_and_kept() {
    let setup = waiting();
    let segments = setup.data().join("journal/segments");
    let entries = fs::read_dir(&segments).expect("a folder").map(|entry| entry.expect("an entry").path());
    let segment: PathBuf = entries.max_by_key(|path| fs::metadata(path).expect("there").len()).expect("one");
    make_unreadable(&segment);
    fs::remove_file(setup.path("blocked")).expect("removed");
    let bridge = setup.start();
    assert_eq!(bridge.post(&loan(5)).status, 204);
    let dir = setup.path("blocked/main");
    wait_for("what came after it", || (numbers(&dir) == [5]).then_some(()));
    assert!(bridge.metric_sum("alma_bridge_journal_damaged_records_total") > 0);
    // It is counted before it is moved.
    wait_for("word of the file", || bridge.status()["attention"].to_string().contains("damaged/").then_some(()));
    assert!(setup.data().join("journal/damaged").join(segment.file_name().expect("a name")).exists());
}

/// Commands that were run as root leave files that the bridge's user can't open.
#[test]
fn files_of_another_user_are_reported_with_owner_and_remedy() {
    assert!(rustix::process::geteuid().is_root(), "this test starts the bridge as another user, which takes root");
    let setup = Setup::new("");
    drop(setup.start());
    fs::set_permissions(setup.path(""), fs::Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(setup.path("config.toml"), fs::Permissions::from_mode(0o644)).expect("set");
    chown(setup.path("secret"), Some(NOBODY), None).expect("changed");
    give(&setup.data(), NOBODY);
    for name in ["journal/sinks", "journal/cursors/main", "journal/format", "journal/lock", "admin.token"] {
        let file = setup.data().join(name);
        chown(&file, Some(0), Some(0)).expect("changed");
        let output = setup.prepared(&["run"]).uid(NOBODY).gid(NOBODY).output().expect("runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        for word in [&*file.display().to_string(), "belongs to root", "chown -R ", &setup.data().display().to_string()]
        {
            assert!(said.contains(word), "{name}: {word} is missing: {said}");
        }
        assert!(file.exists(), "{name} is where it was");
        chown(&file, Some(NOBODY), None).expect("changed");
    }
}

/// A folder and everything below it.
fn give(path: &Path, owner: u32) {
    chown(path, Some(owner), Some(owner)).expect("changed");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            give(&entry.expect("an entry").path(), owner);
        }
    }
}

#[test]
fn deleting_the_lock_file_does_not_admit_a_second_writer() {
    let setup = Setup::new("");
    let first = setup.start();
    fs::remove_file(setup.data().join("journal/lock")).expect("removed");
    let second = setup.start_beside();
    second.wait_for_log(&["another alma-bridge uses this journal"]);
    assert_eq!(second.admin_get("/readyz").status, 503);
    assert_eq!(first.post(&loan(1)).status, 204);
    assert!(first.stop().success());
    wait_for("the second to take over", || (second.admin_get("/readyz").status == 200).then_some(()));
}
