//! What a full journal gives up counts once, whatever the sink's pump has read of it.

use super::super::{Feed as _, Journal, JournalLimits, JournalMetrics, JournalReader, Offset, Taken};
use super::{body, options, sink, soon, take};
use crate::testing::TestClock;
use crate::testing::disk::SimDisk;

/// A journal of segments of one event each, with a `best_effort` sink and room for about eight events.
struct Full {
    journal: Journal,
    reader: JournalReader,
    metrics: JournalMetrics,
    taken: u64,
}

impl Full {
    async fn new() -> Self {
        let mut options = options(SimDisk::new().shared(), TestClock::new());
        options.limits = JournalLimits { segment_bytes: 2048, group_bytes: 1024, queue: 16 };
        options.config.max_size = 10_000;
        options.sinks[0].best_effort = true;
        let metrics = options.metrics.clone();
        let journal = Journal::open(options).expect("opened");
        let reader = journal.reader(&sink("main")).expect("known");
        let mut full = Self { journal, reader, metrics, taken: 0 };
        full.take(6).await;
        full
    }

    async fn take(&mut self, events: u64) {
        for _ in 0..events {
            assert_eq!(take(&self.journal, body(self.taken, 900)).await, Ok(Taken::Stored));
            self.taken += 1;
        }
    }

    /// Reads and claims what waits.
    async fn claim_all(&mut self) -> Vec<Offset> {
        let mut events = Vec::new();
        while self.reader.has_more() {
            let window = soon(self.reader.next_window(64, 1 << 20)).await.expect("open");
            events.extend(window.events.into_iter().map(|(offset, _)| offset));
        }
        let cursor = self.reader.claim(&events);
        assert!(events.iter().all(|offset| *offset >= cursor), "nothing is given up yet");
        events
    }

    fn given_up(&self) -> u64 {
        self.metrics.given_up_so_far(&sink("main"))
    }

    fn waiting(&self) -> u64 {
        self.reader.backlog().events
    }
}

#[tokio::test]
async fn events_in_flight_count_as_given_up_only_if_they_fail() {
    let mut full = Full::new().await;
    let claimed = full.claim_all().await;
    full.take(20).await;
    assert_eq!(full.waiting() + full.given_up() + 6, full.taken, "what is in flight is neither");
    full.reader.release(&claimed[..4], &claimed[4..]);
    assert_eq!(full.waiting() + full.given_up() + 4, full.taken, "two failed");
    // The pump settles its window late, and the cursor does not go back.
    let waiting = full.waiting();
    full.reader.advance(Offset(claimed[5].0 + 1));
    assert_eq!(full.waiting(), waiting);
    let cursor = full.reader.claim(&claimed);
    assert!(claimed.iter().all(|offset| *offset < cursor), "what failed is not sent again");
}

#[tokio::test]
async fn events_settled_ahead_of_the_cursor_do_not_count_as_given_up() {
    let mut full = Full::new().await;
    let claimed = full.claim_all().await;
    // All but the first.
    full.reader.release(&claimed[1..], &claimed[..1]);
    full.reader.advance(claimed[0]);
    assert_eq!((full.waiting(), full.given_up()), (6, 0));
    full.take(20).await;
    assert_eq!(full.waiting() + full.given_up() + 5, full.taken);
}

#[tokio::test]
async fn events_in_flight_count_as_given_up_if_their_pump_ends() {
    let mut full = Full::new().await;
    full.claim_all().await;
    full.take(20).await;
    assert_eq!(full.waiting() + full.given_up() + 6, full.taken);
    full.reader.rewind();
    assert_eq!(full.waiting() + full.given_up(), full.taken);
    // The same for a pump that is gone with its reader.
    full.claim_all().await;
    full.take(20).await;
    let journal = full.journal.clone();
    let (metrics, taken) = (full.metrics.clone(), full.taken);
    drop(full);
    let reader = journal.reader(&sink("main")).expect("free again");
    assert_eq!(reader.backlog().events + metrics.given_up_so_far(&sink("main")), taken);
}

#[tokio::test]
async fn a_claim_that_ends_in_time_changes_nothing() {
    let mut full = Full::new().await;
    let claimed = full.claim_all().await;
    full.reader.release(&[], &claimed);
    assert_eq!((full.waiting(), full.given_up()), (6, 0));
    full.take(20).await;
    assert_eq!(full.waiting() + full.given_up(), full.taken);
}
