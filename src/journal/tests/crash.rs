//! A run is recorded. Then it crashes after any of its operations, and the journal must keep its promise from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;

use super::super::{Feed as _, Journal, JournalLimits, JournalOptions, Offset, Registration, Taken};
use super::read_all;
use super::{body, is_repeat, number, options, registration, sink, soon, take};
use crate::clock::Clock;
use crate::config::Start;
use crate::testing::TestClock;
use crate::testing::disk::{DiskOp, SimDisk};

/// How many crashes are tried.
const STATES: usize = 2_500;
const SINKS: [&str; 2] = ["main", "other"];

/// What the world outside knows at a point of the run.
enum Note {
    /// 204.
    Acknowledged(u64),
    Read(Offset, u64),
    /// Confirmed by the sink, just before the cursor is moved.
    Settled(usize, Vec<u64>),
}

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsynced {
    Lost,
    /// The process was killed and the machine runs on.
    Kept,
    /// Each write and each entry has a fate of its own.
    Mixed,
}

impl Unsynced {
    /// The disk after a crash that came after these operations.
    fn after(self, ops: &[DiskOp], random: &mut Rng) -> SimDisk {
        let disk = SimDisk::replay(ops);
        if self == Self::Mixed {
            disk.reseed(random.u64(..));
        }
        disk.crash(self != Self::Kept)
    }
}

fn crash_options(disk: &SimDisk, clock: Arc<dyn Clock>) -> JournalOptions {
    // "other" starts with the oldest event, so that both sinks are owed the same.
    let sinks = SINKS.map(|name| Registration { start: Start::Oldest, ..registration(name) });
    let mut options = options(disk.shared(), clock);
    options.limits = JournalLimits { segment_bytes: 8 * 1024, group_bytes: 3 * 1024, queue: 64 };
    options.config.retain = Duration::from_mins(10);
    options.config.retain_size = 20 * 1024;
    JournalOptions { sinks: sinks.into(), ..options }
}

/// Runs several processes one after the other, each of which is stopped or killed. Returns what they did to the disk, and
/// each note with the number of operations before it.
async fn record(random: &mut Rng) -> (Vec<DiskOp>, Vec<(usize, Note)>) {
    let mut disk = SimDisk::recording();
    let mut notes = Vec::new();
    let clock = TestClock::new();
    let mut next = 0;
    for session in 0..12 {
        let journal = Journal::open(crash_options(&disk, clock.clone())).expect("opened");
        let mut readers = SINKS.map(|name| journal.reader(&sink(name)).expect("known"));
        for _ in 0..random.usize(3..12) {
            let burst: Vec<u64> = (next..next + random.u64(1..6)).collect();
            next += burst.len() as u64;
            let taken = join_all(burst.iter().map(|n| take(&journal, body(*n, random_size(*n))))).await;
            for (n, taken) in burst.iter().zip(taken) {
                assert_eq!(taken, Ok(Taken::Stored));
                notes.push((disk.recorded(), Note::Acknowledged(*n)));
            }
            for (index, reader) in readers.iter_mut().enumerate() {
                if random.u8(0..3) > 0 && reader.has_more() {
                    let window = soon(reader.next_window(random.usize(1..9), 1 << 20)).await.expect("open");
                    let numbers: Vec<_> = window.events.iter().map(|(_, event)| number(&event.body)).collect();
                    for ((offset, _), n) in window.events.iter().zip(&numbers) {
                        notes.push((disk.recorded(), Note::Read(*offset, *n)));
                    }
                    if random.u8(0..4) > 0 {
                        notes.push((disk.recorded(), Note::Settled(index, numbers)));
                        reader.advance(window.end);
                    } else {
                        reader.rewind();
                    }
                }
            }
            clock.pass(Duration::from_secs(random.u64(0..200)));
            if random.u8(0..3) == 0 {
                journal.maintain();
            }
        }
        if session % 2 == 0 {
            soon(journal.close()).await;
        }
        disk = disk.crash(false);
    }
    (disk.take_record(), notes)
}

/// Some of several sectors, some of a few bytes.
fn random_size(number: u64) -> usize {
    let number = usize::try_from(number).expect("fits");
    if number.is_multiple_of(5) { 2_000 } else { number * 37 % 300 }
}

/// What must hold after a crash.
#[derive(Default)]
struct Expected {
    acknowledged: BTreeSet<u64>,
    read: BTreeMap<Offset, u64>,
    settled: [BTreeSet<u64>; SINKS.len()],
}

impl Expected {
    fn after(ops: usize, notes: &[(usize, Note)]) -> Self {
        let mut expected = Self::default();
        for (_, note) in notes.iter().take_while(|(done, _)| *done <= ops) {
            match note {
                Note::Acknowledged(n) => _ = expected.acknowledged.insert(*n),
                Note::Read(offset, n) => {
                    let before = expected.read.insert(*offset, *n);
                    assert!(before.is_none_or(|before| before == *n), "{offset} given twice in the run");
                }
                Note::Settled(sink, numbers) => expected.settled[*sink].extend(numbers),
            }
        }
        expected
    }

    /// Starts on what the crash left, and sees that the promise was kept.
    async fn check(&self, disk: &SimDisk, clock: &Arc<TestClock>, random: &mut Rng) {
        let journal = Journal::open(crash_options(disk, clock.clone())).expect("it always starts");
        let mut readers = SINKS.map(|name| journal.reader(&sink(name)).expect("known"));
        let mut highest = self.read.last_key_value().map_or(Offset(0), |(offset, _)| *offset);
        for (index, reader) in readers.iter_mut().enumerate() {
            let read = read_all(reader).await;
            for (offset, n) in &read {
                let before = self.read.get(offset);
                assert!(before.is_none_or(|before| before == n), "offset {offset} was {before:?}, is {n}");
            }
            let again: BTreeSet<u64> = read.values().copied().collect();
            let due: BTreeSet<u64> = self.acknowledged.difference(&self.settled[index]).copied().collect();
            let missing: Vec<_> = due.difference(&again).collect();
            assert!(missing.is_empty(), "{} lost {missing:?}", SINKS[index]);
            highest = highest.max(read.last_key_value().map_or(Offset(0), |(offset, _)| *offset));
        }
        let known: Vec<u64> = self.acknowledged.iter().copied().collect();
        if !known.is_empty() {
            let n = known[random.usize(0..known.len())];
            assert!(is_repeat(&take(&journal, body(n, random_size(n))).await), "{n} is forgotten");
        }
        assert_eq!(take(&journal, body(1_000_000, 40)).await, Ok(Taken::Stored));
        let window = soon(readers[0].next_window(9, 1 << 20)).await.expect("open");
        let offset = window.events.iter().find(|(_, event)| number(&event.body) == 1_000_000).expect("read").0;
        assert!(offset > highest, "{offset} is not above {highest}");
        assert_eq!(journal.stats().damaged_records, 0, "a crash is no damage");
        // What is deleted now must not be missed after the next crash.
        clock.pass(Duration::from_hours(1));
        journal.maintain();
    }
}

/// Says which state it was, where one does not hold.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

#[tokio::test]
async fn every_crash_keeps_the_promise() {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(3);
    let (ops, notes) = record(&mut Rng::with_seed(seed)).await;
    let mut tried = BTreeMap::new();
    for state in 0..STATES {
        let mut random = Rng::with_seed(state as u64);
        let cut = random.usize(1..=ops.len());
        let unsynced = [Unsynced::Mixed, Unsynced::Mixed, Unsynced::Mixed, Unsynced::Lost, Unsynced::Kept][state % 5];
        let _told = Told(format!("state {state}: {unsynced:?} after {cut} of {} operations", ops.len()));
        let disk = unsynced.after(&ops[..cut], &mut random);
        let expected = Expected::after(cut, &notes);
        expected.check(&disk, &TestClock::new(), &mut random).await;
        if state % 4 == 0 {
            // And again, right after it started: what it relied on must be durable, and so must be what it took.
            let disk = disk.crash(state % 8 == 0);
            let mut again = expected;
            again.acknowledged.insert(1_000_000);
            again.check_again(&disk).await;
        }
        *tried.entry(format!("{unsynced:?}")).or_insert(0) += 1;
    }
    println!("crash states tried: {STATES} {tried:?}, cut from a run of {} operations", ops.len());
}

impl Expected {
    /// After a second crash: all that was acknowledged is there.
    async fn check_again(&self, disk: &SimDisk) {
        let journal = Journal::open(crash_options(disk, TestClock::new())).expect("it starts again");
        for (index, name) in SINKS.iter().enumerate() {
            let read = read_all(&mut journal.reader(&sink(name)).expect("known")).await;
            let again: BTreeSet<u64> = read.into_values().collect();
            let due = self.acknowledged.difference(&self.settled[index]).copied();
            let missing: Vec<_> = due.filter(|n| !again.contains(n)).collect();
            assert!(missing.is_empty(), "{name} lost {missing:?}");
        }
        assert_eq!(journal.stats().damaged_records, 0, "a crash is no damage");
    }
}
