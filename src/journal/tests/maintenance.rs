//! What piles up, what is gone, and a thread that dies.

use std::time::Duration;

use super::super::{Feed as _, Intake as _, Journal, NotTaken, Taken};
use super::read_all;
use super::{body, fail_syncs, options, sink, soon, take};
use crate::clock::Timestamp;
use crate::testing::TestClock;
use crate::testing::disk::SimDisk;

#[tokio::test]
async fn segments_without_events_do_not_pile_up_while_a_sink_is_stuck() {
    let (mut disk, clock) = (SimDisk::new(), TestClock::new());
    for start in 0..6 {
        let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
        if start == 0 {
            take(&journal, body(0, 0)).await.expect("taken");
        }
        clock.pass(Duration::from_hours(2));
        // Each write that fails ends a segment that has nothing else.
        fail_syncs(&disk, 1);
        take(&journal, body(100, 0)).await.expect_err("the sync fails");
        while matches!(journal.ready(), Err(NotTaken::DiskFailing(_))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        journal.maintain();
        assert!(disk.files("/journal/segments").len() <= 2, "start {start}: {:?}", disk.files("/journal/segments"));
        disk = disk.crash(start % 2 == 0);
    }
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    assert_eq!(take(&journal, body(1, 0)).await, Ok(Taken::Stored));
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(journal.stats().damaged_records, 0);
    // The next segment with events still names the last one that had some.
    drop(reader);
    soon(journal.close()).await;
    let disk = disk.crash(true);
    disk.take(&disk.files("/journal/segments")[0]);
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened");
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), [1]);
    assert_eq!(journal.stats().damaged_records, 1, "a segment that is missing is noticed");
}

/// A process was killed after it opened a segment and before it removed the one before.
#[tokio::test]
async fn a_segment_that_the_next_one_passes_over_goes_at_the_start() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    take(&journal, body(0, 0)).await.expect("taken");
    fail_syncs(&disk, 1);
    take(&journal, body(1, 900)).await.expect_err("the sync fails");
    let empty = disk.files("/journal/segments");
    soon(journal.close()).await;
    let disk = disk.crash(false);
    // Written, and never acknowledged.
    disk.damage(&empty[0], |bytes| bytes.extend([7; 300]));
    let journal = Journal::open(options(disk.shared(), clock)).expect("opened");
    journal.maintain();
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert_eq!(read_all(&mut reader).await.into_values().next(), Some(0));
    assert_eq!(journal.stats().damaged_records, 0);
}

#[tokio::test]
async fn what_is_read_again_tells_how_much_is_gone() {
    let disk = SimDisk::new();
    let mut small = options(disk.shared(), TestClock::new());
    small.limits.segment_bytes = 4096;
    small.limits.group_bytes = 1024;
    let journal = Journal::open(small).expect("opened");
    for n in 0..9 {
        take(&journal, body(n, 950)).await.expect("taken");
    }
    let segments = disk.files("/journal/segments");
    let mut scan = journal.scan(Timestamp::default(), None);
    assert!(scan.next().expect("one").is_ok());
    // Deleted while it is read.
    disk.take(&segments[1]);
    let read: Vec<_> = scan.by_ref().map(|event| super::number(&event.expect("read").1.body)).collect();
    assert_eq!(read.len(), 5);
    assert_eq!(scan.gone(), 3);
    soon(journal.close()).await;
    // Deleted before.
    let disk = disk.crash(true);
    let journal = Journal::open(options(disk.shared(), TestClock::new())).expect("opened");
    let mut scan = journal.scan(Timestamp::default(), None);
    assert_eq!(scan.by_ref().count(), 6);
    assert_eq!(scan.gone(), 3);
    soon(journal.close()).await;
    // The oldest went as they should.
    disk.take(&segments[0]);
    let disk = disk.crash(true);
    let journal = Journal::open(options(disk.shared(), TestClock::new())).expect("opened");
    let mut scan = journal.scan(Timestamp::default(), None);
    assert_eq!((scan.by_ref().count(), scan.gone()), (3, 0));
}

#[tokio::test]
async fn a_thread_that_panics_is_told_and_nothing_waits_for_it() {
    for thread in ["journal-writer", "journal-maint"] {
        let (disk, clock) = (SimDisk::new(), TestClock::new());
        let journal = Journal::open(options(disk.shared(), clock)).expect("opened");
        take(&journal, body(0, 0)).await.expect("taken");
        let mut reader = journal.reader(&sink("main")).expect("known");
        disk.faults(|faults| faults.panics = Some(thread));
        if thread == "journal-writer" {
            assert_eq!(soon(take(&journal, body(1, 0))).await, Err(NotTaken::NotRunning));
        }
        assert_eq!(soon(journal.died()).await, thread);
        disk.faults(|faults| faults.panics = None);
        if thread == "journal-writer" {
            assert_eq!(journal.ready(), Err(NotTaken::NotRunning));
            soon(reader.next_window(1, 1)).await.expect_err("closed");
            assert_eq!(soon(take(&journal, body(2, 0))).await, Err(NotTaken::NotRunning));
        }
        soon(journal.close()).await;
    }
}
