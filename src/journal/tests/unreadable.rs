//! Files that the disk does not give at the start: one of them never keeps the journal from starting.

use std::path::Path;

use rustix::io::Errno;

use super::super::{Feed as _, Journal, JournalOpenError, NotTaken, Taken};
use super::damage::three_segments;
use super::read_all;
use super::{body, fail_syncs, options, registration, sink, soon, take};
use crate::journal::Registration;
use crate::testing::TestClock;
use crate::testing::disk::{Fail, Kind, SimDisk};

const FORMAT: &str = "/journal/format";

fn open(disk: &SimDisk) -> Result<Journal, JournalOpenError> {
    Journal::open(options(disk.shared(), TestClock::new()))
}

/// Opens it while the disk does not give a file, and then does.
fn open_without(disk: &SimDisk, file: &Path, errno: Errno) -> Result<Journal, JournalOpenError> {
    disk.fail(Fail::every(Kind::Read, file).with(errno));
    let opened = open(disk);
    disk.faults(|faults| faults.fails.retain(|fail| fail.kind != Kind::Read));
    opened
}

async fn due(journal: &Journal, name: &str) -> Vec<u64> {
    let mut reader = journal.reader(&sink(name)).expect("known");
    read_all(&mut reader).await.into_values().collect()
}

/// A new event has an offset that none of the nine had.
async fn goes_on(journal: &Journal) {
    assert_eq!(take(journal, body(99, 0)).await, Ok(Taken::Stored));
    let mut reader = journal.reader(&sink("main")).expect("known");
    let read = read_all(&mut reader).await;
    let (offset, number) = read.into_iter().next_back().expect("some");
    assert!(number == 99 && offset.0 > 9, "{offset} was given before");
}

#[tokio::test]
async fn one_file_that_can_t_be_read_is_set_aside_and_costs_nothing() {
    for file in [FORMAT, "/journal/sinks", "/journal/cursors/main", "/journal/digests/00000000000000000001"] {
        let (disk, _) = three_segments().await;
        let journal = open_without(&disk, Path::new(file), Errno::IO).unwrap_or_else(|error| panic!("{file}: {error}"));
        let kept = format!("/journal/damaged/{}", file.trim_start_matches("/journal/").replace('/', "-"));
        let told = journal.stats().set_aside;
        assert!(told.len() == 1 && told[0].contains(file) && told[0].contains(&kept), "{told:?}");
        assert!(disk.get(&kept).is_some(), "{kept}");
        assert_eq!(due(&journal, "main").await, [0, 1, 2, 3, 4, 5, 6, 7, 8], "{file}");
        goes_on(&journal).await;
        soon(journal.close()).await;
        let journal = open(&disk.crash(true)).expect("it starts");
        assert_eq!(journal.stats().set_aside, [""; 0], "{file} is written anew");
        assert_eq!(due(&journal, "main").await.len(), 10, "{file}");
    }
}

#[tokio::test]
async fn what_is_no_fault_of_the_file_moves_nothing() {
    for file in [FORMAT, "/journal/sinks", "/journal/cursors/main", "/journal/segments/00000000000000000001.log"] {
        let (disk, _) = three_segments().await;
        let before = disk.contents();
        let error = open_without(&disk, Path::new(file), Errno::MFILE).err().expect("too many open files");
        assert!(error.to_string().contains(file), "{error}");
        assert!(before == disk.contents(), "{file}: touched");
    }
}

/// Whoever reads on tries again before anything counts as lost.
#[tokio::test]
async fn a_segment_whose_head_the_start_can_t_read_is_delivered_once_it_can() {
    for index in 0..3 {
        let (disk, segments) = three_segments().await;
        let journal = open_without(&disk, &segments[index], Errno::IO).expect("it starts");
        assert_eq!(due(&journal, "main").await, [0, 1, 2, 3, 4, 5, 6, 7, 8], "{index}");
        goes_on(&journal).await;
        assert_eq!(journal.stats().damaged_records, 0);
        soon(journal.close()).await;
        let journal = open(&disk.crash(true)).expect("it starts");
        assert_eq!(due(&journal, "main").await.len(), 10);
        assert_eq!(journal.stats().damaged_records, 0);
    }
}

/// Behind the last commit, which can't be made sure of at first, there may be a segment whose head can't be read.
#[tokio::test]
async fn the_last_commit_is_published_once_it_is_sure_whatever_segment_is_behind_it() {
    let disk = SimDisk::new();
    let journal = open(&disk).expect("opened");
    for n in 0..3 {
        take(&journal, body(n, 0)).await.expect("taken");
    }
    let disk = disk.crash(true);
    let behind = Path::new("/journal/segments/00000000000000000004.log");
    disk.put(behind, vec![0; 40]);
    fail_syncs(&disk, 1);
    let journal = open_without(&disk, behind, Errno::IO).expect("it starts");
    take(&journal, body(3, 0)).await.expect("taken");
    assert_eq!(due(&journal, "main").await, [0, 1, 2, 3]);
    soon(journal.close()).await;
    let journal = open(&disk.crash(true)).expect("it starts");
    assert_eq!(due(&journal, "main").await, [0, 1, 2, 3]);
    assert_eq!(journal.stats().damaged_records, 0);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_stays_unreadable_is_lost_after_ten_tries_and_kept() {
    for (index, left) in [(0, [3, 4, 5, 6, 7, 8]), (1, [0, 1, 2, 6, 7, 8]), (2, [0, 1, 2, 3, 4, 5])] {
        let (disk, segments) = three_segments().await;
        disk.fail(Fail::every(Kind::Read, &segments[index]));
        let journal = open(&disk).expect("it starts");
        let mut reader = journal.reader(&sink("main")).expect("known");
        let mut read = Vec::new();
        while reader.has_more() {
            let window = reader.next_window(64, 1 << 20).await.expect("open");
            read.extend(window.events.iter().map(|(_, event)| super::number(&event.body)));
        }
        drop(reader);
        assert_eq!(read, left);
        // Of the last, nobody tells how many there were.
        assert_eq!(journal.stats().damaged_records, if index == 2 { 1 } else { 3 });
        let kept = disk.files("/journal/damaged");
        assert!(kept.len() == 1 && kept[0].file_name() == segments[index].file_name(), "{kept:?}");
        assert_eq!(journal.stats().set_aside.len(), 1);
        goes_on(&journal).await;
    }
}

/// A disk that is reset fails for its neighbours too.
#[tokio::test(start_paused = true)]
async fn the_segment_after_one_that_is_lost_has_all_its_tries() {
    let (disk, segments) = three_segments().await;
    disk.fail(Fail::every(Kind::Read, &segments[0]));
    let journal = open(&disk).expect("it starts");
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = reader.next_window(64, 1 << 20).await.expect("open");
    assert!(window.events.is_empty(), "the first is lost, and the next has not been tried");
    disk.stop_failing();
    disk.fail(Fail::every(Kind::Read, &segments[1]));
    let healed = async {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        disk.stop_failing();
    };
    let (window, ()) = tokio::join!(reader.next_window(64, 1 << 20), healed);
    let read: Vec<_> = window.expect("open").events.iter().map(|(_, event)| super::number(&event.body)).collect();
    assert_eq!(read, [3, 4, 5]);
    assert_eq!(journal.stats().damaged_records, 3);
}

#[tokio::test]
async fn a_format_that_says_nothing_is_written_anew_if_no_segment_contradicts() {
    for content in ["", "alma-bridge journal ", "alma-bridge journal 1", "\0\0\0\0", "alma-bridge jour"] {
        let (disk, _) = three_segments().await;
        disk.put(FORMAT, content);
        let journal = open(&disk).unwrap_or_else(|error| panic!("{content:?}: {error}"));
        assert_eq!(due(&journal, "main").await.len(), 9);
        assert_eq!(journal.stats().set_aside.len(), 1);
        assert_eq!(disk.get(FORMAT).expect("there"), b"alma-bridge journal 1\n");
    }
    for content in ["alma-bridge journal 2\n", "alma-bridge journal 2", "alma-bridge journal 10\n"] {
        let (disk, _) = three_segments().await;
        disk.put(FORMAT, content);
        refuses(&disk);
    }
    // Of another version, for all that can be told.
    let (disk, segments) = three_segments().await;
    disk.put(FORMAT, "");
    disk.damage(&segments[1], |bytes| bytes[..1024].fill(0));
    refuses(&disk);
}

fn refuses(disk: &SimDisk) {
    let before = disk.contents();
    let refused = open(disk).err().expect("refused");
    assert!(matches!(refused, JournalOpenError::UnknownFormat { .. }), "{refused}");
    assert!(before == disk.contents(), "touched");
}

/// A sink that was taken out is only known by the list and by its cursor.
#[tokio::test]
async fn without_the_list_the_cursors_tell_the_sinks() {
    let (disk, _) = three_segments().await;
    let with =
        |name: &str, continues: Option<&str>| Registration { continues: continues.map(sink), ..registration(name) };
    let mut without_main = options(disk.shared(), TestClock::new());
    without_main.sinks = vec![with("other", None)];
    let journal = Journal::open(without_main).expect("opened");
    soon(journal.close()).await;
    let mut disk = disk.crash(true);
    // Both, and a start that can't write either: the cursor must not be moved away while nothing else tells of the sink.
    disk.put("/journal/cursors/main", vec![0; 3]);
    for _ in 0..2 {
        disk.put("/journal/sinks", vec![1, 2, 3]);
        disk.faults(|faults| faults.full = true);
        let mut none = options(disk.shared(), TestClock::new());
        none.sinks = Vec::new();
        let _unwritten = Journal::open(none);
        disk = disk.crash(true);
        disk.faults(|faults| faults.full = false);
    }
    disk.put("/journal/sinks", vec![1, 2, 3]);
    let mut renamed = options(disk.shared(), TestClock::new());
    renamed.sinks = vec![with("other", None), with("new", Some("main"))];
    let journal = Journal::open(renamed).expect("it starts");
    assert_eq!(due(&journal, "new").await.len(), 9, "it takes the place over");
    let names: Vec<_> = journal.sinks().into_iter().map(|sink| sink.name.to_string()).collect();
    assert_eq!(names, ["new", "other"]);
}

/// The name is on disk no more, or may not be: a sink that returns must be put down again before it is owed anything.
#[tokio::test]
async fn after_a_forget_that_failed_no_event_is_taken_before_the_list_is_whole() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    take(&journal, body(0, 0)).await.expect("taken");
    journal.retire(&sink("main"));
    disk.fail(Fail::every(Kind::SyncDir, "/journal"));
    journal.forget(&sink("main")).expect_err("its folder can't be synced");
    disk.stop_failing();
    journal.register(&registration("main")).expect("it returns");
    let refused = take(&journal, body(1, 0)).await;
    assert!(matches!(refused, Err(NotTaken::DiskFailing(_))), "{refused:?}");
    journal.maintain();
    assert_eq!(take(&journal, body(1, 0)).await, Ok(Taken::Stored));
    let journal = Journal::open(options(disk.crash(true).shared(), clock)).expect("opened");
    assert!(due(&journal, "main").await.contains(&1));
}
