//! The ordinary way, and each guard once.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Feed as _, FeedClosed, Intake as _, Journal, NotTaken, Offset, Taken};
use super::read_all;
use super::{body, is_repeat, number, options, real, sink, soon, take};
use crate::testing::TestClock;
use crate::testing::disk::SimDisk;

#[tokio::test]
async fn what_is_stored_comes_back_in_order_on_a_real_disk() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("data/journal");
    let clock = TestClock::new();
    let journal = Journal::open(real(&dir, clock.clone())).expect("opened");
    let mut reader = journal.reader(&sink("main")).expect("known");
    assert!(journal.reader(&sink("main")).is_none(), "one at a time");
    assert_eq!(reader.backlog().events, 0);
    for n in 0..20 {
        assert_eq!(take(&journal, body(n, 1000)).await, Ok(Taken::Stored));
    }
    assert!(is_repeat(&take(&journal, body(3, 1000)).await));
    let window = soon(reader.next_window(7, 1 << 20)).await.expect("open");
    assert_eq!(
        window.events.iter().map(|(_, event)| number(&event.body)).collect::<Vec<_>>(),
        (0..7).collect::<Vec<_>>()
    );
    assert_eq!(window.events[0].1.body, body(0, 1000));
    assert_eq!(reader.backlog().events, 20);
    reader.advance(window.end);
    assert_eq!(reader.backlog().events, 13);
    assert_eq!(soon(reader.next_window(512, 2100)).await.expect("open").events.len(), 2, "by bytes");
    reader.rewind();
    assert_eq!(read_all(&mut reader).await.into_values().collect::<Vec<_>>(), (7..20).collect::<Vec<_>>());
    let mut waiting = Box::pin(reader.next_window(1, 1));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err(), "nothing yet");
    assert_eq!(take(&journal, body(20, 0)).await, Ok(Taken::Stored));
    assert_eq!(soon(waiting).await.expect("open").events.len(), 1);
    journal.close().await;
    assert_eq!(reader.next_window(1, 1).await.expect_err("closed"), FeedClosed);
    assert_eq!(take(&journal, body(21, 0)).await, Err(NotTaken::NotRunning));
    assert_eq!(journal.ready(), Err(NotTaken::NotRunning));
    drop((journal, reader));

    let journal = Journal::open(real(&dir, clock)).expect("opened again");
    let mut reader = journal.reader(&sink("main")).expect("known");
    let read = read_all(&mut reader).await;
    assert_eq!(read.values().copied().collect::<Vec<_>>(), (7..21).collect::<Vec<_>>());
    assert!(is_repeat(&take(&journal, body(3, 1000)).await), "known after a restart");
    assert_eq!(take(&journal, body(99, 0)).await, Ok(Taken::Stored));
    let next = soon(reader.next_window(9, 9)).await.expect("open");
    assert!(next.events[0].0 > *read.last_key_value().expect("some").0);
}

#[tokio::test]
async fn a_cursor_never_goes_back() {
    let journal = Journal::open(options(SimDisk::new().shared(), TestClock::new())).expect("opened");
    for n in 0..3 {
        take(&journal, body(n, 0)).await.expect("taken");
    }
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = soon(reader.next_window(3, 1000)).await.expect("open");
    reader.advance(window.end);
    reader.advance(Offset(0));
    assert_eq!(journal.sinks()[0].cursor, window.end);
    let arc = Arc::new(journal.clone());
    assert_eq!(arc.stats().waiting_bytes, 0);
}
