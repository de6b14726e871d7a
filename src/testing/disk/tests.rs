//! The fake disk forgets what a real one may forget, and nothing else.

use super::*;

const FILE: &str = "/dir/file";

/// A disk with a folder that is durable.
fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir("/dir".as_ref()).expect("made");
    disk.sync_dir("/".as_ref()).expect("synced");
    disk
}

/// What a power cut leaves of the file, for each of many seeds.
fn left(act: impl Fn(&SimDisk)) -> Vec<Option<Vec<u8>>> {
    let each = |seed| {
        let disk = disk();
        disk.reseed(seed);
        act(&disk);
        disk.restart(true);
        disk.get(FILE)
    };
    (0..40).map(each).collect()
}

fn file(disk: &SimDisk, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.create(FILE.as_ref()).expect("made");
    file.write_at(bytes, 0).expect("written");
    file
}

#[test]
fn what_is_synced_stays_and_nothing_else_is_sure() {
    let synced = left(|disk| {
        file(disk, b"bytes").sync_data().expect("synced");
        disk.sync_dir("/dir".as_ref()).expect("synced");
        assert!(disk.has_durably("/dir".as_ref(), b"byte"));
    });
    assert!(synced.iter().all(|left| left.as_deref() == Some(b"bytes")));
    let no_entry = left(|disk| file(disk, b"bytes").sync_data().expect("synced"));
    assert!(no_entry.iter().any(Option::is_none) && no_entry.iter().any(Option::is_some));
    let no_bytes = left(|disk| {
        let _file = file(disk, b"bytes");
        disk.sync_dir("/dir".as_ref()).expect("synced");
        assert!(!disk.has_durably("/dir".as_ref(), b"byte"));
    });
    let is = |bytes: &[u8]| no_bytes.iter().any(|left| left.as_deref() == Some(bytes));
    assert!(is(b"bytes") && is(b"") && is(b"\0\0\0\0\0"), "{no_bytes:?}");
}

#[test]
fn without_a_seed_whatever_was_not_synced_is_lost() {
    let disk = disk();
    let synced = file(&disk, b"bytes");
    synced.sync_data().expect("synced");
    disk.sync_dir("/dir".as_ref()).expect("synced");
    synced.write_at(b"BYTES", 0).expect("written");
    disk.create("/dir/other".as_ref()).expect("made");
    let killed = disk.crash(false);
    assert_eq!((killed.get(FILE), killed.files("/").len()), (Some(b"BYTES".to_vec()), 2));
    let cut = killed.crash(true);
    assert_eq!((cut.get(FILE), cut.files("/").len()), (Some(b"bytes".to_vec()), 1));
    synced.sync_data().expect_err("of a process that is dead");
}

#[test]
fn a_failure_is_of_one_kind_and_under_one_path() {
    let disk = disk();
    let file = file(&disk, b"bytes");
    disk.fail(Fail::new(Kind::Sync, 1).under("/other"));
    file.sync_data().expect("of another path");
    disk.fail(Fail::new(Kind::Sync, 1).under("/dir").after(1).with(Errno::NOSPC));
    file.sync_data().expect("the first");
    file.write_at(b"B", 0).expect("of another kind");
    assert_eq!(file.sync_data().expect_err("the second").raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    file.sync_data().expect("the third");
}

#[test]
fn a_replay_has_what_was_recorded() {
    let disk = SimDisk::recording();
    disk.create_dir("/dir".as_ref()).expect("made");
    disk.sync_dir("/".as_ref()).expect("synced");
    file(&disk, b"bytes").sync_data().expect("synced");
    let disk = disk.crash(false);
    disk.sync_dir("/dir".as_ref()).expect("synced");
    let record = disk.take_record();
    assert_eq!(SimDisk::replay(&record).crash(true).contents(), disk.contents());
    assert_eq!(
        SimDisk::replay(&record[..record.len() - 1]).crash(true).files("/").len(),
        0,
        "the folder is not synced"
    );
}

#[test]
fn writes_are_torn_by_sectors() {
    let torn = left(|disk| {
        let _file = file(disk, &[7; 3 * 512]);
        disk.sync_dir("/dir".as_ref()).expect("synced");
    });
    let has_hole = |bytes: &Vec<u8>| bytes.first() == Some(&0) && bytes.contains(&7);
    assert!(torn.iter().flatten().any(has_hole));
}

#[test]
fn a_sync_after_one_that_failed_makes_nothing_good() {
    let lost = left(|disk| {
        disk.sync_dir("/dir".as_ref()).expect("synced");
        let file = file(disk, b"bytes");
        disk.sync_dir("/dir".as_ref()).expect("synced");
        disk.fail(Fail::new(Kind::Sync, 1));
        file.sync_data().expect_err("fails");
        file.sync_data().expect("says that all is well");
        assert_eq!(disk.get(FILE).as_deref(), Some(&b"bytes"[..]), "it is in the page cache");
    });
    assert!(lost.iter().any(|left| left.as_deref() != Some(b"bytes")));
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote_and_can_do_no_more() {
    for seed in 0..20 {
        let disk = disk();
        disk.reseed(seed);
        let file = file(&disk, b"by");
        disk.faults(|faults| faults.crash = Some(1));
        file.write_at(b"te", 2).expect("the one before it dies");
        let last = file.write_at(b"s", 4);
        assert!(disk.is_dead());
        file.sync_data().expect_err("dead");
        disk.restart(false);
        let left = disk.get(FILE).expect("there");
        assert!(left == b"bytes" || (last.is_err() && left == b"byte"), "{left:?}");
    }
}

#[test]
fn a_rename_is_there_whole_or_not_at_all() {
    let renamed = left(|disk| {
        file(disk, b"old").sync_data().expect("synced");
        disk.sync_dir("/dir".as_ref()).expect("synced");
        let new = disk.create("/dir/new".as_ref()).expect("made");
        new.write_at(b"new", 0).expect("written");
        new.sync_data().expect("synced");
        disk.rename("/dir/new".as_ref(), FILE.as_ref()).expect("renamed");
    });
    let is = |bytes: &[u8]| renamed.iter().filter(|left| left.as_deref() == Some(bytes)).count();
    assert!(is(b"old") > 0 && is(b"new") > 0 && is(b"old") + is(b"new") == renamed.len());
}

#[test]
fn a_full_disk_takes_no_growth() {
    let disk = disk();
    let file = file(&disk, b"bytes");
    disk.faults(|faults| (faults.full, faults.free) = (true, Some(1)));
    file.write_at(b"BYTES", 0).expect("no growth");
    file.write_at(b"more", 5).expect_err("full");
    disk.create("/dir/other".as_ref()).err().expect("full");
    assert_eq!(disk.free("/dir".as_ref()).expect("says"), 1);
}

#[test]
fn the_trace_tells_runs_apart() {
    let (first, second) = (disk(), disk());
    assert_eq!(first.trace(), second.trace());
    first.remove(FILE.as_ref()).expect_err("not there");
    assert_ne!(first.trace(), second.trace());
}
