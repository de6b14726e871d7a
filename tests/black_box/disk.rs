//! Disk faults with the real binary: full, stalled, read-only, truncated, flipped bits, missing files and folders.
//!
//! The tests mount disks, which needs root.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Bridge, Client, Setup, loan, number_of, text, wait_for};

/// A file system on the data folder, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    /// tmpfs.
    fn tmpfs(setup: &Setup, size: &str) -> Self {
        fs::create_dir(setup.data()).expect("made");
        let options = format!("size={size},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(setup.data()));
        Self(setup.data())
    }

    /// ext4 in a file.
    fn ext4(setup: &Setup) -> Self {
        let image = setup.path("image");
        OpenOptions::new().create_new(true).write(true).open(&image).expect("made").set_len(64 << 20).expect("sized");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
        fs::create_dir(setup.data()).expect("made");
        Self::again(setup)
    }

    fn again(setup: &Setup) -> Self {
        run(Command::new("mount").args(["-o", "loop"]).arg(setup.path("image")).arg(setup.data()));
        Self(setup.data())
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }
}

/// Freezes a file system: every write and every sync hangs until this is dropped.
struct Stall(PathBuf);

impl Stall {
    fn of(mount: &Mount) -> Self {
        run(Command::new("fsfreeze").arg("--freeze").arg(&mount.0));
        Self(mount.0.clone())
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let done = command.output().expect("it starts");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Sends events until `enough` returns true for the numbers of accepted and refused ones. Returns those that got 204.
fn send(bridge: &Bridge, next: &mut u64, mut enough: impl FnMut(usize, usize) -> bool) -> BTreeSet<u64> {
    let (mut taken, mut refused) = (BTreeSet::new(), 0);
    wait_for("enough answers", || {
        let answer = bridge.post(&loan(*next));
        match answer.status {
            204 => drop(taken.insert(*next)),
            503 => refused += 1,
            status => panic!("{status} for event {next}"),
        }
        *next += 1;
        enough(taken.len(), refused).then_some(())
    });
    taken
}

fn landed(dir: &Path) -> BTreeSet<u64> {
    crate::harness::landed(dir, "alma.loan").iter().map(number_of).collect()
}

fn wait_until_landed(dir: &Path, taken: &BTreeSet<u64>) {
    wait_for("all that was taken to land", || taken.is_subset(&landed(dir)).then_some(()));
}

/// The segments of the journal that have records, oldest first.
fn segments(setup: &Setup) -> Vec<PathBuf> {
    let entries = fs::read_dir(setup.data().join("journal/segments")).expect("segments");
    let mut segments: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    segments.sort();
    segments
}

fn largest_segment(setup: &Setup) -> PathBuf {
    segments(setup).into_iter().max_by_key(|path| fs::metadata(path).expect("metadata").len()).expect("one")
}

/// The position of an event's body in a segment.
fn place_of(segment: &Path, number: u64) -> u64 {
    let (bytes, body) = (fs::read(segment).expect("read"), loan(number));
    bytes.windows(body.len()).position(|window| window == body).expect("the event") as u64
}

#[test]
fn a_full_disk_is_503_and_goes_on_by_itself_once_there_is_room() {
    // The first limit is the bridge's own, the second the disk's.
    for min_free in ["1MiB", "0B"] {
        let setup = Setup::new(&format!(
            "[journal]\nmin_free = \"{min_free}\"\n[sinks.main]\ntype = \"file\"\ndir = \"DIR/topics\"\n"
        ));
        let _mount = Mount::tmpfs(&setup, "8m");
        let bridge = setup.start();
        let mut next = 0;
        let mut taken = send(&bridge, &mut next, |taken, _| taken == 50);
        let filler = setup.data().join("filler");
        let file = OpenOptions::new().create_new(true).write(true).open(&filler).expect("made");
        let (mut at, block) = (0, vec![0; 4_096]);
        while file.write_at(&block, at).is_ok_and(|written| written > 0) {
            at += block.len() as u64;
        }
        drop(file);
        // Space that is already allocated may hold a few more.
        taken.extend(send(&bridge, &mut next, |_, refused| refused == 20));
        let unready = bridge.admin_get("/readyz");
        assert_eq!(unready.status, 503, "{}", unready.text());
        fs::remove_file(&filler).expect("removed");
        taken.extend(send(&bridge, &mut next, |taken, _| taken == 50));
        bridge.kill();
        let _bridge = setup.start();
        wait_until_landed(&setup.path("topics"), &taken);
    }
}

#[test]
fn a_disk_that_turns_read_only_gives_503_and_loses_no_acknowledged_event() {
    let setup = Setup::new("[journal]\nmin_free = \"1MiB\"\n[sinks.main]\ntype = \"file\"\ndir = \"DIR/topics\"\n");
    let mount = Mount::ext4(&setup);
    let bridge = setup.start();
    let mut next = 0;
    let mut taken = send(&bridge, &mut next, |taken, _| taken == 50);
    wait_until_landed(&setup.path("topics"), &taken);
    // ext4 does this by itself when its disk fails.
    mount.remount("abort");
    taken.extend(send(&bridge, &mut next, |_, refused| refused == 20));
    let unready = bridge.admin_get("/readyz");
    assert!(unready.status == 503 && unready.text().contains("Read-only"), "{}", unready.text());
    // Such a disk has to be mounted again, and nobody may use it meanwhile.
    bridge.kill();
    drop(mount);
    let _mount = Mount::again(&setup);
    let bridge = setup.start();
    taken.extend(send(&bridge, &mut next, |taken, _| taken == 50));
    wait_until_landed(&setup.path("topics"), &taken);
}

#[test]
fn a_disk_that_stalls_gives_503_in_time_and_the_event_is_delivered_once() {
    let setup = Setup::new(
        "[ingress]\nlisten = \"127.0.0.1:0\"\nanswer_within = \"500ms\"\nbody_timeout = \"400ms\"\n[journal]\nmin_free = \"1MiB\"\n[sinks.main]\ntype = \"file\"\ndir = \"DIR/topics\"\n",
    );
    let mount = Mount::ext4(&setup);
    let bridge = setup.start();
    let mut next = 0;
    let mut taken = send(&bridge, &mut next, |taken, _| taken == 10);
    wait_until_landed(&setup.path("topics"), &taken);
    let stall = Stall::of(&mount);
    // Alma's first attempt, and the next one while the first is still being written to the disk.
    for attempt in 1..=2 {
        let begun = Instant::now();
        let answer = bridge.post(&loan(next));
        assert_eq!(answer.status, 503, "try {attempt}: {}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(5), "try {attempt}: Alma has given up after 5 s");
    }
    assert_eq!(bridge.admin_get("/livez").status, 200, "a restart would not help");
    assert_eq!(landed(&setup.path("topics")), taken, "it is not published before it is durable");
    drop(stall);
    wait_for("Alma's repeat to be taken", || (bridge.post(&loan(next)).status == 204).then_some(()));
    taken.insert(next);
    taken.extend(send(&bridge, &mut (next + 1), |taken, _| taken == 10));
    wait_until_landed(&setup.path("topics"), &taken);
    let times = crate::harness::landed(&setup.path("topics"), "alma.loan").len();
    assert_eq!(times, taken.len(), "the first copy and the repeat are one event");
}

#[test]
fn a_disk_that_is_read_only_at_the_start_is_reported() {
    let setup = Setup::new("");
    let mount = Mount::tmpfs(&setup, "8m");
    mount.remount("ro");
    let output = setup.command(&["run"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("data/admin.token"), "{said}");
}

#[test]
fn a_truncated_segment_is_reported_and_the_readable_events_are_delivered() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    let mut next = 0;
    send(&bridge, &mut next, |taken, _| taken == 100);
    assert!(bridge.stop().success());
    // The next segment says how long this one was. Without it, the truncation could pass for a torn write.
    assert!(setup.start().stop().success());
    let segment = largest_segment(&setup);
    let cut = place_of(&segment, 60) + 10;
    OpenOptions::new().write(true).open(&segment).expect("opened").set_len(cut).expect("cut");
    fs::remove_file(setup.path("blocked")).expect("removed");
    let bridge = setup.start();
    let dir = setup.path("blocked/main");
    wait_until_landed(&dir, &(0..60).collect());
    bridge.wait_for_log(&["damage"]);
    assert!(bridge.metric_sum("alma_bridge_journal_damaged_records_total") > 0);
    let more = send(&bridge, &mut next, |taken, _| taken == 10);
    wait_until_landed(&dir, &more);
    assert!(landed(&dir).is_disjoint(&(60..100).collect()), "what was cut off is gone");
}

#[test]
fn a_flipped_byte_in_the_last_group_is_reported_and_the_rest_is_delivered() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    let mut next = 0;
    send(&bridge, &mut next, |taken, _| taken == 30);
    let segment = largest_segment(&setup);
    let length = || fs::metadata(&segment).expect("metadata").len();
    // After a second of idleness its end is recorded, so that damage in the last group can't pass for a torn write.
    let before = length();
    wait_for("the end to be named", || (length() > before).then_some(()));
    bridge.kill();
    let last = place_of(&segment, 29);
    OpenOptions::new().write(true).open(&segment).expect("opened").write_all_at(b"#", last + 20).expect("written");
    fs::remove_file(setup.path("blocked")).expect("removed");
    let bridge = setup.start();
    let dir = setup.path("blocked/main");
    wait_until_landed(&dir, &(0..29).collect());
    assert_eq!(bridge.metric_sum("alma_bridge_journal_damaged_records_total"), 1);
    bridge.wait_for_log(&["damage"]);
    // The lost event is no longer known, so Alma's next attempt is stored.
    assert_eq!(bridge.post(&loan(29)).status, 204);
    wait_until_landed(&dir, &(0..30).collect());
}

#[test]
fn missing_files_and_folders_at_the_start_lose_no_readable_event() {
    for gone in ["cursors", "digests", "damaged", "dead"] {
        let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
        fs::write(setup.path("blocked"), "").expect("written");
        let bridge = setup.start();
        let mut next = 0;
        let mut taken = send(&bridge, &mut next, |taken, _| taken == 30);
        assert!(bridge.stop().success());
        let path = setup.data().join("journal").join(gone);
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("removed");
        } else if path.exists() {
            fs::remove_file(&path).expect("removed");
        }
        fs::remove_file(setup.path("blocked")).expect("removed");
        let bridge = setup.start();
        taken.extend(send(&bridge, &mut next, |taken, _| taken == 10));
        wait_until_landed(&setup.path("blocked/main"), &taken);
    }
}

#[test]
fn after_its_folder_is_deleted_a_running_bridge_acknowledges_only_durable_events() {
    for gone in ["journal/segments", "journal/cursors", "journal", "topics"] {
        let setup = Setup::new("");
        let bridge = setup.start();
        let mut next = 0;
        let before = send(&bridge, &mut next, |taken, _| taken == 30);
        wait_until_landed(&setup.data().join("topics"), &before);
        fs::remove_dir_all(setup.data().join(gone)).expect("removed");
        // The bridge recovers by itself, and events that get a 2xx from now on survive a kill.
        let after = send(&bridge, &mut next, |taken, _| taken == 30);
        wait_until_landed(&setup.data().join("topics"), &after);
        assert_eq!(bridge.admin_get("/readyz").status, 200, "{gone}");
        let last = send(&bridge, &mut next, |taken, _| taken == 30);
        bridge.kill();
        let _bridge = setup.start();
        wait_until_landed(&setup.data().join("topics"), &last);
    }
}

/// A bridge without a journal whose files are elsewhere. `listen` is the address for operators.
fn without_storage(setup: &Setup, listen: &str) {
    setup.configure(&format!(
        "[admin]\nlisten = \"{listen}\"\n[journal]\nstorage = \"none\"\n\
         [sinks.main]\ntype = \"file\"\ndir = \"DIR/topics\"\n"
    ));
}

/// What such a bridge still does, and what it refuses.
fn runs_without_data_dir(setup: &Setup) {
    let bridge = setup.start_by_log();
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    assert_eq!(bridge.post(&loan(1)).status, 204);
    assert_eq!(landed(&setup.path("topics")).len(), 1);
    for path in ["/tools", "/reload"] {
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer x\r\ncontent-length: 0\r\n\r\n");
        let answer = Client::connect(bridge.admin).send(request.as_bytes());
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("data_dir cannot be written"), "{}", answer.text());
    }
    let why = setup.fails(1, &["status"]);
    assert!(why.contains("no bridge runs with data_dir") && why.contains("give admin.listen a fixed port"), "{why}");
    assert!(bridge.stop().success());
}

#[test]
fn without_storage_a_read_only_data_dir_is_enough() {
    let setup = Setup::unwritten();
    without_storage(&setup, "127.0.0.1:0");
    let mount = Mount::tmpfs(&setup, "1m");
    mount.remount("ro");
    runs_without_data_dir(&setup);
    let checked = setup.command(&["check", "--connect"]);
    let said = text(&checked.stdout);
    assert!(checked.status.success() && said.contains("warn  data_dir"), "{said}");
    // A token that exists, and a fixed port.
    setup.write_secret("token", "the-token-of-a-test");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let given = format!("{port}\"\ntoken_file = \"DIR/token");
    without_storage(&setup, &given);
    fs::remove_file(setup.path("log")).expect("removed");
    let _bridge = setup.start_by_log();
    wait_for("status to find the bridge", || setup.command(&["status", "--ready"]).status.success().then_some(()));
    let request =
        "POST /reload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer the-token-of-a-test\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(Client::connect(port).send(request.as_bytes()).status, 200);
}

#[test]
fn without_storage_no_data_dir_is_enough() {
    let setup = Setup::unwritten();
    // With a file where its parent should be, not even root can create it.
    fs::write(setup.path("blocked"), "").expect("written");
    std::os::unix::fs::symlink(setup.path("blocked/data"), setup.data()).expect("linked");
    without_storage(&setup, "127.0.0.1:0");
    runs_without_data_dir(&setup);
}

#[test]
fn check_writes_to_the_data_folder_and_leaves_no_trace() {
    let setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/some/topics\"\n");
    let check = || setup.command(&["check", "--connect"]);
    let said = text(&check().stdout);
    assert!(said.contains("ok    data_dir") && said.contains("can be created"), "{said}");
    assert!(!setup.data().exists() && !setup.path("some").exists(), "nothing is made");
    let mount = Mount::tmpfs(&setup, "1m");
    assert!(text(&check().stdout).contains("files can be written in it"));
    assert_eq!(fs::read_dir(setup.data()).expect("a folder").count(), 0, "and nothing is left");
    mount.remount("ro");
    let checked = check();
    let said = text(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL  data_dir") && said.contains("Read-only file system"), "{said}");
}

#[test]
fn check_adds_up_the_room_that_the_bridge_may_need() {
    let setup = Setup::new(
        "[journal]\nmax_size = \"3GiB\"\nretain_size = \"512MiB\"\nmin_free = \"0B\"\ndead_max_size = \"100TiB\"\n\
         [sinks.main]\ntype = \"file\"\nactions = [\"loan\", \"bib\"]\nrotate = \"1GiB\"\nkeep = 2\n\
         [sinks.other]\ntype = \"file\"\ndir = \"DIR/other\"\nactions = [\"loan\"]\nrotate = \"1GiB\"\nkeep = 0\n",
    );
    let said = text(&setup.command(&["check", "--connect"]).stdout);
    let line = said.lines().find(|line| line.contains("room on")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains("warn") && line.contains("200.0 TiB"), "{line}");
    for part in ["2 x dead_max_size", "2 x rotate x (keep + 1)", "1 x rotate x (keep + 1)"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}
