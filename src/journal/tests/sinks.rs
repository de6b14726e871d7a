//! Who reads the journal: sinks that come, go, continue and are forgotten.

use super::super::{Feed as _, ForgetError, Journal, Registration};
use super::read_all;
use super::{body, options, registration, sink, soon, take};
use crate::config::Start;
use crate::testing::TestClock;
use crate::testing::disk::SimDisk;

/// The numbers that a sink still has to get.
async fn due(journal: &Journal, name: &str) -> Vec<u64> {
    let mut reader = journal.reader(&sink(name)).expect("known");
    read_all(&mut reader).await.into_values().collect()
}

fn names(journal: &Journal) -> Vec<(String, bool)> {
    journal.sinks().into_iter().map(|sink| (sink.name.to_string(), sink.configured)).collect()
}

#[tokio::test]
async fn a_new_sink_starts_where_it_says() {
    let journal = Journal::open(options(SimDisk::new().shared(), TestClock::new())).expect("opened");
    for n in 0..3 {
        take(&journal, body(n, 0)).await.expect("taken");
    }
    journal.register(&registration("next")).expect("registered");
    journal.register(&Registration { start: Start::Oldest, ..registration("oldest") }).expect("registered");
    let continues = Some(sink("unknown"));
    journal.register(&Registration { continues, ..registration("lone") }).expect("registered");
    take(&journal, body(3, 0)).await.expect("taken");
    assert_eq!(due(&journal, "next").await, [3]);
    assert_eq!(due(&journal, "oldest").await, [0, 1, 2, 3]);
    assert_eq!(due(&journal, "lone").await, [3]);
}

#[tokio::test]
async fn a_sink_that_is_taken_out_keeps_its_place_until_it_returns_or_is_forgotten() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    take(&journal, body(0, 0)).await.expect("taken");
    soon(journal.close()).await;
    let disk = disk.crash(false);
    let mut without = options(disk.shared(), clock.clone());
    without.sinks = vec![registration("new")];
    let journal = Journal::open(without).expect("opened");
    take(&journal, body(1, 0)).await.expect("taken");
    assert_eq!(names(&journal), [("main".into(), false), ("new".into(), true)]);
    assert!(journal.stats().waiting_bytes > 0);
    assert_eq!(due(&journal, "main").await, [0, 1]);
    assert_eq!(due(&journal, "new").await, [1]);
    assert!(matches!(journal.forget(&sink("new")), Err(ForgetError::Configured)));
    assert!(matches!(journal.forget(&sink("other")), Err(ForgetError::Unknown)));
    // It returns, goes again, and is forgotten.
    journal.register(&registration("main")).expect("registered");
    assert_eq!(due(&journal, "main").await, [0, 1]);
    journal.retire(&sink("main"));
    journal.forget(&sink("main")).expect("forgotten");
    assert_eq!(names(&journal), [("new".into(), true)]);
    soon(journal.close()).await;
    let journal = Journal::open(options(disk.crash(true).shared(), clock)).expect("opened");
    assert_eq!(due(&journal, "main").await, Vec::<u64>::new(), "a name that was forgotten is new");
}

#[tokio::test]
async fn a_sink_takes_over_another_s_place() {
    let (disk, clock) = (SimDisk::new(), TestClock::new());
    let journal = Journal::open(options(disk.shared(), clock.clone())).expect("opened");
    for n in 0..4 {
        take(&journal, body(n, 0)).await.expect("taken");
    }
    let mut reader = journal.reader(&sink("main")).expect("known");
    let window = soon(reader.next_window(2, 1000)).await.expect("open");
    reader.advance(window.end);
    drop(reader);
    soon(journal.close()).await;
    let disk = disk.crash(true);
    let kafka = Registration { continues: Some(sink("main")), ..registration("kafka") };
    let mut options = options(disk.shared(), clock);
    options.sinks = vec![kafka.clone()];
    let journal = Journal::open(options).expect("opened");
    assert_eq!(due(&journal, "kafka").await, [2, 3]);
    assert_eq!(names(&journal), [("kafka".into(), true)]);
    assert_eq!(disk.files("/journal/cursors").len(), 1);
    // The other way, while it runs; the key that stays in the file changes nothing for a name that is known.
    journal.retire(&sink("kafka"));
    let nats = Registration { continues: Some(sink("kafka")), ..registration("nats") };
    journal.register(&nats).expect("registered");
    journal.register(&nats).expect("again");
    assert_eq!(names(&journal), [("nats".into(), true)]);
    assert_eq!(due(&journal, "nats").await, [2, 3]);
}
