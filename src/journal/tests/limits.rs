//! What the journal does when the disk or its bounds say no.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Feed as _, Intake as _, Journal, JournalLimits, JournalOptions, NotTaken, Taken};
use super::read_all;
use super::{body, fail_syncs, is_repeat, options, registration, sink, soon, take, until};
use crate::testing::TestClock;
use crate::testing::disk::{Fail, Kind, SimDisk};

const MIN_FREE: u64 = 1 << 20;

/// Small segments, one event each.
fn small(disk: &SimDisk, clock: &Arc<TestClock>) -> JournalOptions {
    let mut options = options(disk.shared(), clock.clone());
    options.limits = JournalLimits { segment_bytes: 2048, group_bytes: 1024, queue: 16 };
    options.config.min_free = MIN_FREE;
    options
}

async fn settle_all(journal: &Journal, name: &str) {
    let mut reader = journal.reader(&sink(name)).expect("known");
    while reader.has_more() {
        let window = soon(reader.next_window(64, 1 << 20)).await.expect("open");
        reader.advance(window.end);
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_segment_and_is_forgotten() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    assert_eq!(take(&journal, body(1, 0)).await, Ok(Taken::Stored));
    let file = disk.files("/journal/segments").pop().expect("a segment");
    fail_syncs(&disk, 1);
    let failed = take(&journal, body(2, 0)).await;
    assert!(matches!(failed, Err(NotTaken::DiskFailing(_))), "{failed:?}");
    let (length, failing) = (disk.get(&file).expect("there").len(), journal.ready());
    assert!(matches!(failing, Err(NotTaken::DiskFailing(_))), "{failing:?}");
    // The next append opens another file; dedupe does not know what failed.
    assert_eq!(take(&journal, body(2, 0)).await, Ok(Taken::Stored));
    assert!(is_repeat(&take(&journal, body(1, 0)).await));
    assert_eq!(journal.ready(), Ok(()));
    assert_eq!(disk.files("/journal/segments").len(), 2);
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), [1, 2]);
    drop(reader);
    // What was written before the failed sync stays untouched, and is not read after a restart either.
    assert_eq!(disk.get(&file).expect("there").len(), length);
    soon(journal.close()).await;
    let disk = disk.crash(false);
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened");
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), [1, 2]);
}

/// The head of the next segment says of the one before that all of it is durable: it must wait until that is so.
#[tokio::test]
async fn no_segment_follows_a_tail_that_is_not_sure_to_be_durable() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    assert_eq!(take(&journal, body(1, 0)).await, Ok(Taken::Stored));
    fail_syncs(&disk, 1);
    take(&journal, body(2, 0)).await.expect_err("the sync failed");
    // It is in the page cache when the next process comes, whose syncs fail as well.
    let disk = disk.crash(false);
    fail_syncs(&disk, u32::MAX);
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    let failed = take(&journal, body(3, 0)).await;
    assert!(matches!(failed, Err(NotTaken::DiskFailing(_))), "{failed:?}");
    assert_eq!(disk.files("/journal/segments").len(), 1);
    disk.stop_failing();
    until("events are taken again", || journal.ready().is_ok()).await;
    let disk = disk.crash(true);
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened");
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(journal.stats().damaged_records, 0);
}

/// The header of the segment is in the page cache alone, because its sync failed and its process was then killed.
#[tokio::test]
async fn a_segment_that_was_found_empty_is_durable_before_the_next_names_it() {
    let disk = SimDisk::new();
    drop(Journal::open(options(disk.shared(), TestClock::new())).expect("opened"));
    let disk = disk.crash(true);
    let segment = disk.files("/journal/segments").remove(0);
    let header = disk.get(&segment);
    disk.unsync(&segment);
    let _journal = Journal::open(options(disk.shared(), TestClock::new())).expect("opened");
    let disk = disk.crash(true);
    assert_eq!(disk.files("/journal/segments").len(), 2);
    assert_eq!(disk.get(&segment), header);
}

#[tokio::test]
async fn repeats_in_flight_share_the_fate_of_the_first() {
    let disk = SimDisk::new();
    let journal = Journal::open(options(disk.shared(), TestClock::new())).expect("opened");
    let burst = || futures_util::future::join_all((0..8).map(|_| take(&journal, body(1, 0))));
    fail_syncs(&disk, 1);
    let (failed, taken): (Vec<_>, Vec<_>) = burst().await.into_iter().partition(Result::is_err);
    assert!(!failed.is_empty());
    assert!(taken.iter().filter(|taken| **taken == Ok(Taken::Stored)).count() <= 1);
    drop(burst().await);
    assert!(burst().await.iter().all(is_repeat));
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.len(), 1);
}

#[tokio::test]
async fn it_recovers_by_itself_and_a_full_disk_does_not_keep_it_from_starting() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    take(&journal, body(1, 0)).await.expect("taken");
    soon(journal.close()).await;
    let disk = disk.crash(false);
    disk.faults(|faults| faults.full = true);
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened on a full disk");
    let failed = take(&journal, body(2, 0)).await;
    assert!(matches!(failed, Err(NotTaken::DiskFailing(_))), "{failed:?}");
    assert!(is_repeat(&take(&journal, body(1, 0)).await), "what is durable is durable");
    settle_all(&journal, "main").await;
    disk.faults(|faults| faults.full = false);
    until("the journal is ready without an event", || journal.ready() == Ok(())).await;
}

#[tokio::test]
async fn no_event_is_taken_before_a_new_sink_is_put_down() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    soon(Journal::open(options(disk.shared(), clock.clone())).expect("opened").close()).await;
    let disk = disk.crash(false);
    disk.faults(|faults| faults.full = true);
    let mut with_new = options(disk.shared(), clock);
    with_new.sinks.push(registration("new"));
    let journal = Journal::open(with_new).expect("opened");
    let refused = journal.ready();
    assert!(matches!(&refused, Err(NotTaken::DiskFailing(why)) if why.contains("list of sinks")), "{refused:?}");
    disk.faults(|faults| faults.full = false);
    until("the list is written", || journal.ready() == Ok(())).await;
    assert_eq!(take(&journal, body(1, 0)).await, Ok(Taken::Stored));
}

#[tokio::test]
async fn max_size_bounds_what_waits_and_nothing_else() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let mut options = small(&disk, &clock);
    options.config.max_size = 10_000;
    let journal = Journal::open(options).expect("opened");
    let mut stored = 0;
    let refused = loop {
        match take(&journal, body(stored, 900)).await {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, NotTaken::Full { max_size: 10_000, .. }), "{refused}");
    assert!((8..=10).contains(&stored), "{stored}");
    assert!(journal.ready().is_err());
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = soon(reader.next_window(2, 1 << 20)).await.expect("open");
    reader.advance(window.end);
    assert_eq!(take(&journal, body(100, 900)).await, Ok(Taken::Stored), "room for what was settled");
    drop(reader);
    settle_all(&journal, "main").await;
    assert_eq!(journal.stats().waiting_bytes, 0);
    assert!(journal.stats().delivered_bytes > 10_000, "delivered events do not count");
}

#[tokio::test]
async fn best_effort_sinks_give_way_and_others_do_not() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let mut options = small(&disk, &clock);
    options.config.max_size = 10_000;
    options.sinks[0].best_effort = true;
    options.sinks.push(registration("strict"));
    let journal = Journal::open(options).expect("opened");
    let mut lossy = journal.reader(&sink("main")).expect("known");
    for n in 0..30 {
        assert_eq!(take(&journal, body(n, 900)).await, Ok(Taken::Stored), "{n}");
        settle_all(&journal, "strict").await;
    }
    let read: Vec<_> = read_all(&mut lossy).await.into_values().collect();
    assert!(read.len() < 15 && *read.last().expect("some") == 29, "the newest stay: {read:?}");
    assert_eq!(journal.stats().damaged_records, 0, "given up is not damaged");
    let refused = loop {
        if let Err(refused) = take(&journal, body(fastrand::u64(1000..), 900)).await {
            break refused;
        }
    };
    assert!(matches!(refused, NotTaken::Full { .. }), "the other sink's events stay: {refused}");
    let strict = journal.sinks().into_iter().find(|sink| sink.name.as_str() == "strict").expect("known");
    assert!(strict.backlog.events >= 8, "{strict:?}");
}

#[tokio::test]
async fn delivered_events_go_before_a_503_for_min_free() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(small(&disk, &clock)).expect("opened");
    for n in 0..9 {
        take(&journal, body(n, 900)).await.expect("taken");
    }
    // In the segment that is written still.
    take(&journal, body(50, 0)).await.expect("taken");
    settle_all(&journal, "main").await;
    let before = disk.files("/journal/segments").len();
    assert!(before >= 4, "{before} segments");
    disk.faults(|faults| faults.free = Some(MIN_FREE - 1));
    let refused = take(&journal, body(100, 900)).await;
    assert!(matches!(refused, Err(NotTaken::DiskFull { min_free: MIN_FREE, .. })), "{refused:?}");
    let left = disk.files("/journal/segments");
    assert_eq!(left.len(), 1);
    assert_eq!(disk.get(&left[0]).expect("there").len(), 1024, "all that was delivered went, the newest too");
    assert!(matches!(journal.ready(), Err(NotTaken::DiskFull { .. })));
    disk.faults(|faults| faults.free = None);
    assert_eq!(take(&journal, body(100, 900)).await, Ok(Taken::Stored));
    assert!(is_repeat(&take(&journal, body(3, 900)).await), "digests outlive their segment");
}

#[tokio::test]
async fn retention_is_by_time_and_by_size_and_only_of_what_is_past_every_cursor_on_disk() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let mut options = small(&disk, &clock);
    options.config.retain = Duration::from_mins(10);
    options.config.retain_size = 9_000;
    let journal = Journal::open(options).expect("opened");
    let segments = || disk.files("/journal/segments").len();
    for n in 0..20 {
        take(&journal, body(n, 900)).await.expect("taken");
    }
    journal.maintain();
    let all = segments();
    assert!(all >= 10, "{all}: undelivered events stay, whatever their size");
    disk.fail(Fail::every(Kind::Sync, "/journal/cursors"));
    settle_all(&journal, "main").await;
    journal.maintain();
    assert_eq!(segments(), all, "the cursor is not on disk yet");
    disk.stop_failing();
    journal.maintain();
    assert!((3..=6).contains(&segments()), "{} within retain_size", segments());
    clock.go_back(Duration::from_secs(10_000));
    journal.maintain();
    assert!(segments() >= 3, "a clock that went back deletes nothing");
    clock.pass(Duration::from_secs(10_601));
    journal.maintain();
    assert_eq!(segments(), 1, "older than retain");
}

#[tokio::test]
async fn a_segment_ends_an_hour_after_its_first_record() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    clock.pass(Duration::from_hours(2));
    take(&journal, body(1, 0)).await.expect("taken");
    clock.pass(Duration::from_secs(3599));
    take(&journal, body(2, 0)).await.expect("taken");
    assert_eq!(journal.stats().segments, 1);
    clock.pass(Duration::from_secs(1));
    take(&journal, body(3, 0)).await.expect("taken");
    assert_eq!(journal.stats().segments, 2);
}
