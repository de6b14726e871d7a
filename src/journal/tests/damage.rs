//! What others did to the files.

use std::path::Path;

use super::super::{Feed as _, Intake as _, Journal, JournalOpenError, Snapshot};
use super::read_all;
use super::{body, number, options, sink, soon, take};
use crate::clock::Timestamp;
use crate::journal::JournalLimits;
use crate::testing::TestClock;
use crate::testing::disk::{Fail, Kind, SimDisk};

/// A journal of three segments with three events each, well stopped, and the files of its segments.
pub(super) async fn three_segments() -> (SimDisk, Vec<std::path::PathBuf>) {
    let disk = SimDisk::new();
    let mut options = options(disk.shared(), TestClock::new());
    options.limits = JournalLimits { segment_bytes: 4096, group_bytes: 1024, queue: 16 };
    let journal = Journal::open(options).expect("opened");
    for n in 0..9 {
        take(&journal, body(n, 950)).await.expect("taken");
    }
    soon(journal.close()).await;
    let disk = disk.crash(true);
    let segments = disk.files("/journal/segments");
    assert_eq!(segments.len(), 3);
    (disk, segments)
}

fn reopen(disk: &SimDisk) -> Journal {
    Journal::open(options(disk.shared(), TestClock::new())).expect("it starts")
}

async fn due(journal: &Journal) -> Vec<u64> {
    let mut reader = journal.reader(&sink("main")).expect("known");
    read_all(&mut reader).await.into_values().collect()
}

#[tokio::test]
async fn a_spoilt_record_costs_itself_and_is_kept() {
    let (disk, segments) = three_segments().await;
    let whole = disk.get(&segments[0]).expect("there");
    disk.damage(&segments[0], |bytes| bytes[1500] ^= 8);
    let journal = reopen(&disk);
    assert_eq!(due(&journal).await, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(due(&journal).await.len(), 8);
    assert_eq!(journal.stats().damaged_records, 1, "counted once, however often it is met");
    let kept = disk.files("/journal/damaged");
    assert_eq!(kept.len(), 1);
    let mut bytes = disk.get(&kept[0]).expect("there");
    bytes[1500 - 1064] ^= 8;
    assert!(whole[1064..].starts_with(&bytes) && bytes.len() > 950);
}

#[tokio::test]
async fn a_broken_head_costs_its_record_and_no_other() {
    let (disk, segments) = three_segments().await;
    // The second record's group and head.
    let second = 1064 + 52 + 4 + body(0, 950).len();
    disk.damage(&segments[1], |bytes| bytes[second..second + 92].fill(0xA7));
    let journal = reopen(&disk);
    assert_eq!(due(&journal).await, [0, 1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(journal.stats().damaged_records, 1);
}

#[tokio::test]
async fn a_segment_with_both_heads_broken_is_set_aside() {
    for (index, left) in [(1, vec![0, 1, 2, 6, 7, 8]), (2, vec![0, 1, 2, 3, 4, 5])] {
        let (disk, segments) = three_segments().await;
        disk.damage(&segments[index], |bytes| bytes[..1024].fill(0));
        let journal = reopen(&disk);
        assert_eq!(due(&journal).await, left);
        // Of the last, nobody tells how many there were.
        assert_eq!(journal.stats().damaged_records, if index == 1 { 3 } else { 1 });
        let kept = disk.files("/journal/damaged");
        assert!(kept.len() == 1 && kept[0].extension().is_some_and(|log| log == "log"), "{kept:?}");
        take(&journal, body(99, 0)).await.expect("taken");
        let mut reader = journal.reader(&sink("main")).expect("known");
        let offset = read_all(&mut reader).await.into_keys().last().expect("some");
        assert!(offset.0 > 9, "{offset} was given before");
    }
}

#[tokio::test]
async fn a_missing_segment_is_counted() {
    let (disk, segments) = three_segments().await;
    disk.take(&segments[1]);
    let journal = reopen(&disk);
    assert_eq!(due(&journal).await, [0, 1, 2, 6, 7, 8]);
    assert_eq!(journal.stats().damaged_records, 3);
    // And one that goes while the journal runs.
    disk.take(&segments[0]);
    assert_eq!(due(&journal).await, [6, 7, 8]);
    assert_eq!(journal.stats().damaged_records, 6);
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_without_a_word_of_damage() {
    let (disk, segments) = three_segments().await;
    // The empty group of the clean stop, and a part of the last record.
    disk.damage(&segments[2], |bytes| bytes.truncate(bytes.len() - 60));
    let journal = reopen(&disk);
    assert_eq!(due(&journal).await, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(journal.stats().damaged_records, 0);
    take(&journal, body(99, 0)).await.expect("taken");
    let mut reader = journal.reader(&sink("main")).expect("known");
    let offset = read_all(&mut reader).await.into_keys().last().expect("some");
    assert!(offset.0 > 9, "the offset of the torn record is not given again");
}

#[tokio::test]
async fn a_cursor_alone_keeps_offsets_from_being_given_again() {
    let (disk, segments) = three_segments().await;
    let journal = reopen(&disk);
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = soon(reader.next_window(64, 1 << 20)).await.expect("open");
    reader.advance(window.end);
    soon(journal.close()).await;
    let end = window.end;
    assert!(end.0 > 3);
    let disk = disk.crash(true);
    for segment in disk.files("/journal/segments") {
        disk.take(&segment);
    }
    let journal = reopen(&disk);
    take(&journal, body(99, 0)).await.expect("taken");
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = soon(reader.next_window(64, 1 << 20)).await.expect("open");
    assert!(window.events[0].0 >= end, "{} was given before, {segments:?} had it", window.events[0].0);
}

#[tokio::test]
async fn a_last_segment_that_the_disk_does_not_give_is_not_cut() {
    let (disk, segments) = three_segments().await;
    let whole = disk.get(&segments[2]).expect("there");
    // Its header can be read, and nothing after it.
    let spot = disk.spot(&segments[2], 1024..whole.len());
    disk.faults(|faults| faults.bad_spot = Some(spot));
    let journal = reopen(&disk);
    disk.faults(|faults| faults.bad_spot = None);
    assert_eq!(disk.get(&segments[2]).expect("there"), whole);
    assert_eq!(due(&journal).await, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    take(&journal, body(99, 0)).await.expect("taken");
    assert_eq!(due(&journal).await.last(), Some(&99));
}

#[tokio::test]
async fn an_unknown_format_is_refused_and_nothing_touched() {
    let (disk, segments) = three_segments().await;
    let refused = |disk: &SimDisk| {
        let before = disk.contents();
        let refused = Journal::open(options(disk.shared(), TestClock::new())).err().expect("refused");
        assert!(matches!(refused, JournalOpenError::UnknownFormat { .. }), "{refused}");
        assert!(before == disk.contents(), "touched");
        refused.to_string()
    };
    disk.put("/journal/format", "alma-bridge journal 2\n");
    assert!(refused(&disk).contains("journal 2"));
    disk.take("/journal/format");
    disk.damage(&segments[1], |bytes| {
        for at in [0, 512] {
            bytes[at + 8] = 2;
            let seed = u32::from_le_bytes(bytes[at + 12..at + 16].try_into().expect("four"));
            let crc = crc32c::crc32c_append(seed, &bytes[at..at + 56]);
            bytes[at + 56..at + 60].copy_from_slice(&crc.to_le_bytes());
        }
    });
    assert!(refused(&disk).contains("version 2"));
}

#[tokio::test]
async fn a_lost_list_or_cursor_goes_back_to_the_oldest() {
    let (disk, _) = three_segments().await;
    disk.take("/journal/sinks");
    disk.take("/journal/cursors/main");
    assert_eq!(due(&reopen(&disk)).await.len(), 9);
    let (disk, _) = three_segments().await;
    disk.put("/journal/cursors/main", vec![0; 3]);
    assert_eq!(due(&reopen(&disk)).await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_give_a_page_is_asked_again_before_it_counts_as_damage() {
    let (disk, _) = three_segments().await;
    let journal = reopen(&disk);
    let mut reader = journal.reader(&sink("main")).expect("known");
    disk.fail(Fail::every(Kind::Read, "/journal/segments"));
    let began = tokio::time::Instant::now();
    let window = reader.next_window(64, 1 << 20).await.expect("open");
    assert!(began.elapsed().as_secs() >= 10, "tried for 10 s");
    assert!(window.events.is_empty() && window.end.0 > 9, "all of it was passed over");
    assert_eq!(journal.stats().damaged_records, 9);
}

#[tokio::test]
async fn what_is_retained_can_be_read_from_a_time_on_and_from_outside() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    let mut times = Vec::new();
    for n in 0..6 {
        clock.pass(std::time::Duration::from_secs(10));
        times.push(journal.now());
        take(&journal, body(n, 0)).await.expect("taken");
    }
    let numbers =
        |scan: super::super::Retained| -> Vec<u64> { scan.map(|event| number(&event.expect("read").1.body)).collect() };
    assert_eq!(numbers(journal.scan(times[2], Some(times[5]))), [2, 3, 4]);
    assert_eq!(numbers(journal.scan(Timestamp::default(), None)).len(), 6);
    let before = disk.contents();
    let snapshot = Snapshot::open(Path::new("/journal"), disk.shared()).expect("opened");
    assert_eq!(numbers(snapshot.scan(times[4], None)), [4, 5]);
    assert!(before == disk.contents(), "touched");
}

#[tokio::test]
async fn the_newest_event_of_each_source_is_found_after_a_restart() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    let mut newest = std::collections::BTreeMap::new();
    for (n, name) in ["a", "b", "a", "gone"].into_iter().enumerate() {
        clock.pass(std::time::Duration::from_secs(10));
        let event = super::verified(name, &body(n as u64, 0));
        newest.insert(name.parse().expect("a name"), journal.now());
        journal.take(event, journal.now()).await.expect("taken");
    }
    soon(journal.close()).await;
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened again");
    newest.remove(&"gone".parse().expect("a name"));
    let names = ["a", "b", "new"].map(|name| name.parse().expect("a name"));
    assert_eq!(journal.newest_events(&names), newest);
}

#[tokio::test]
async fn the_oldest_waiting_event_tells_its_age() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    let mut received = Vec::new();
    for n in 0..4 {
        clock.pass(std::time::Duration::from_secs(10));
        received.push(Some(journal.now()));
        take(&journal, body(n, 0)).await.expect("taken");
    }
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!((reader.backlog().events, reader.backlog().oldest), (4, received[0]));
    let window = soon(reader.next_window(3, 1 << 20)).await.expect("open");
    reader.advance(window.events[1].0);
    assert_eq!((reader.backlog().events, reader.backlog().oldest), (3, received[1]));
    reader.advance(window.end);
    assert_eq!((reader.backlog().events, reader.backlog().oldest), (1, received[3]));
    let window = soon(reader.next_window(3, 1 << 20)).await.expect("open");
    reader.advance(window.end);
    assert_eq!((reader.backlog().events, reader.backlog().oldest), (0, None));
}
