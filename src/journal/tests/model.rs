//! The journal beside a plain model of it, under whatever may happen to it.

mod ops;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ops::{End, Harm, Op, ops};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::{Feed as _, Journal, JournalLimits, JournalReader, NotTaken, Offset, Registration, Taken};
use super::read_all;
use super::{body, fail_syncs, number, options, registration, sink, soon, take};
use crate::clock::{Clock as _, Timestamp};
use crate::config::Start;
use crate::testing::TestClock;
use crate::testing::disk::SimDisk;

const SINKS: [&str; 2] = ["main", "other"];
const WINDOW: Duration = Duration::from_hours(12);
const MAX_SIZE: u64 = 24 * 1024;
const MIN_FREE: u64 = 1024 * 1024;

fn size(number: u64) -> usize {
    usize::try_from(number * 53 % 700).expect("fits")
}

/// What a sink has done.
#[derive(Default)]
struct ModelSink {
    /// Read since the last rewind and not settled, in order.
    read: Vec<(Offset, u64)>,
    settled: BTreeMap<Offset, u64>,
    /// Whether it may have been set back: then it may read again what it settled.
    back: bool,
}

/// The journal as it should be.
#[derive(Default)]
struct Model {
    /// How often each event was answered `stored`, less what was found lost.
    stored: BTreeMap<u64, usize>,
    /// When it was last; none: answered 503 while it may have reached the disk.
    known: BTreeMap<u64, Option<Timestamp>>,
    /// Answered 503 by a failing disk, and when first: may come back all the same.
    unproven: BTreeMap<u64, Timestamp>,
    /// What had which offset, ever.
    offsets: BTreeMap<Offset, u64>,
    sinks: [ModelSink; SINKS.len()],
    /// Digests that may be gone: any event may be taken anew.
    forgetful: bool,
    low_space: bool,
    full: bool,
    /// How many records all the harm may have cost.
    hurt: usize,
}

/// Both, side by side.
struct Bench {
    disk: SimDisk,
    clock: Arc<TestClock>,
    journal: Journal,
    readers: Vec<JournalReader>,
    model: Model,
    /// The latest time there ever was.
    latest: Timestamp,
    /// Since the last start.
    may_fail: bool,
}

fn open(disk: &SimDisk, clock: &Arc<TestClock>) -> (Journal, Vec<JournalReader>) {
    let mut options = options(disk.shared(), clock.clone());
    options.sinks = SINKS.map(|name| Registration { start: Start::Oldest, ..registration(name) }).into();
    options.limits = JournalLimits { segment_bytes: 4 * 1024, group_bytes: 2 * 1024, queue: 16 };
    options.config.max_size = MAX_SIZE;
    options.config.min_free = MIN_FREE;
    options.config.retain = Duration::from_secs(20_000);
    options.config.retain_size = 12 * 1024;
    options.config.dedupe_window = WINDOW;
    let journal = Journal::open(options).expect("it always starts");
    let readers = SINKS.map(|name| journal.reader(&sink(name)).expect("known")).into();
    (journal, readers)
}

impl Bench {
    fn new() -> Self {
        let (disk, clock) = (SimDisk::new(), TestClock::new());
        let (journal, readers) = open(&disk, &clock);
        Self { disk, clock, journal, readers, model: Model::default(), may_fail: false, latest: Timestamp::default() }
    }

    async fn apply(&mut self, op: Op) {
        // A delivered segment goes where room is needed, though its digests find none.
        self.model.forgetful |= self.model.full && self.model.low_space;
        match op {
            Op::Take(numbers) => self.take(&numbers).await,
            Op::Read(index, read, settled) => self.read(index, read, settled).await,
            Op::Rewind(index) => {
                self.readers[index].rewind();
                self.model.sinks[index].read.clear();
            }
            Op::KeepHouse => self.journal.maintain(),
            Op::Pass(seconds) => {
                self.clock.pass(Duration::from_secs(seconds));
                self.latest = self.latest.max(self.clock.now());
            }
            Op::GoBack(seconds) => self.clock.go_back(Duration::from_secs(seconds)),
            Op::FailSyncs(count) => {
                self.may_fail = true;
                fail_syncs(&self.disk, count);
            }
            Op::Full(full) => {
                self.model.full = full;
                self.may_fail |= full;
                self.disk.faults(|faults| faults.full = full);
            }
            Op::LowSpace(low) => {
                self.model.low_space = low;
                self.disk.faults(|faults| faults.free = low.then_some(MIN_FREE));
            }
            Op::Reopen(end, harm) => self.reopen(end, harm).await,
        }
        let stats = self.journal.stats();
        assert!(stats.waiting_bytes <= MAX_SIZE, "{} bytes wait", stats.waiting_bytes);
    }

    async fn take(&mut self, numbers: &[u64]) {
        let now = self.clock.now();
        self.latest = self.latest.max(now);
        let taken =
            futures_util::future::join_all(numbers.iter().map(|n| take(&self.journal, body(*n, size(*n))))).await;
        for (n, taken) in numbers.iter().zip(taken) {
            let known = self.model.known.get(n).copied();
            match taken {
                Ok(Taken::Stored) => {
                    let forgotten = match known {
                        None | Some(None) => true,
                        // Once forgotten it stays so, though the clock go back.
                        Some(Some(at)) => {
                            self.latest.as_micros() / 1_000_000 > at.as_micros() / 1_000_000 + WINDOW.as_secs()
                        }
                    };
                    assert!(forgotten || self.model.forgetful || self.model.hurt > 0, "{n} is stored twice");
                    *self.model.stored.entry(*n).or_default() += 1;
                    self.model.known.insert(*n, Some(now));
                }
                Ok(Taken::Repeat(_)) => {
                    assert!(known.is_some(), "{n} was never taken");
                    // It is durable now: 204. Where there was harm, its record may be gone and its digest not.
                    let tried = self.model.unproven.remove(n);
                    if tried.is_some() && known == Some(None) && self.model.hurt == 0 {
                        *self.model.stored.entry(*n).or_default() += 1;
                        self.model.known.insert(*n, tried);
                    }
                }
                Err(NotTaken::DiskFailing(_)) => {
                    assert!(self.may_fail, "the disk does not fail");
                    self.model.unproven.entry(*n).or_insert(now);
                    self.model.known.entry(*n).or_insert(None);
                }
                Err(NotTaken::Full { waiting, max_size }) => {
                    let most = waiting + 2 * 1024 + 2 * size(*n) as u64;
                    assert!(max_size == MAX_SIZE && most > MAX_SIZE, "{waiting} bytes are not too many");
                }
                Err(NotTaken::DiskFull { .. }) => assert!(self.model.low_space),
                Err(other) => panic!("{other}"),
            }
        }
    }

    async fn read(&mut self, index: usize, count: usize, settled: usize) {
        if !self.readers[index].has_more() {
            return;
        }
        let window = soon(self.readers[index].next_window(count, 1 << 20)).await.expect("open");
        for (offset, event) in &window.events {
            self.model.saw(index, *offset, number(&event.body));
        }
        let read = &self.model.sinks[index].read;
        let to = read.get(settled).map_or(window.end, |(offset, _)| *offset);
        self.readers[index].advance(to);
        let sink = &mut self.model.sinks[index];
        sink.settled.extend(sink.read.iter().filter(|(offset, _)| *offset < to).copied());
        sink.read.retain(|(offset, _)| *offset >= to);
    }

    async fn reopen(&mut self, mut end: End, mut harm: Harm) {
        if matches!(harm, Harm::Flip(..) | Harm::Truncate(..)) {
            // A flip in what no later group or segment proves can't be told from a torn tail.
            end = End::Closed;
            self.model.full = false;
            self.disk.faults(|faults| faults.full = false);
            self.disk.stop_failing();
            self.take(&[0]).await;
            if self.journal.stats().failing.is_some() {
                harm = Harm::None;
            }
        }
        if end == End::Closed {
            soon(self.journal.close()).await;
        }
        self.readers.clear();
        self.disk = self.disk.crash(end == End::Power);
        self.disk.stop_failing();
        self.may_fail = self.model.full;
        // With the disk full or failing, not even a clean stop can put down everything.
        let exact = end == End::Closed && matches!(harm, Harm::None) && !self.model.full;
        let flipped = self.harm(harm);
        (self.journal, self.readers) = open(&self.disk, &self.clock);
        for sink in &mut self.model.sinks {
            sink.read.clear();
            sink.back |= !exact;
        }
        self.check(flipped).await;
    }

    /// Does harm; how many records it may cost.
    fn harm(&mut self, harm: Harm) -> usize {
        let segments = self.disk.files("/journal/segments");
        match harm {
            Harm::None => {}
            Harm::Flip(file, at) => {
                let path = file.get(&segments);
                let length = self.disk.get(path).map_or(0, |bytes| bytes.len());
                if length > 0 {
                    // Both copies of a header broken is another test's matter.
                    let bit = match at.index(length * 8) {
                        bit if (512 * 8..1024 * 8).contains(&bit) => bit - 512 * 8,
                        bit => bit,
                    };
                    self.disk.damage(path, |bytes| {
                        // What was not synced is shorter after a power cut.
                        if let Some(byte) = bytes.get_mut(bit / 8) {
                            *byte ^= 1 << (bit % 8);
                        }
                    });
                    return 1;
                }
            }
            Harm::Truncate(file, at) => {
                if let Some((_, before)) = segments.split_last().filter(|(_, before)| !before.is_empty()) {
                    let path = file.get(before);
                    let length = self.disk.get(path).map_or(0, |bytes| bytes.len());
                    self.disk.damage(path, |bytes| bytes.truncate(at.index(length + 1)));
                    return usize::MAX;
                }
            }
            Harm::DropCursor(index) => self.disk.take(format!("/journal/cursors/{}", SINKS[index])),
            Harm::SpoilCursor(index) => {
                self.disk.put(format!("/journal/cursors/{}", SINKS[index]), [7; 600]);
            }
            Harm::SpoilDigests | Harm::DropDigests => {
                for path in self.disk.files("/journal/digests") {
                    if matches!(harm, Harm::DropDigests) {
                        self.disk.take(&path);
                    } else {
                        self.disk.put(&path, "spoilt");
                    }
                }
                self.model.forgetful = true;
            }
            Harm::SpoilList => self.disk.put("/journal/sinks", "main\n"),
        }
        0
    }

    /// Reads everything that is due to either sink; so many records may be lost, and must then be counted.
    async fn check(&mut self, may_be_lost: usize) {
        let mut lost: BTreeMap<u64, usize> = BTreeMap::new();
        for (index, reader) in self.readers.iter_mut().enumerate() {
            let read = read_all(reader).await;
            reader.rewind();
            let mut times: BTreeMap<u64, usize> = BTreeMap::new();
            for (offset, n) in &read {
                *times.entry(*n).or_default() += 1;
                self.model.knows(*offset, *n);
                let sink = &self.model.sinks[index];
                assert!(sink.back || !sink.settled.contains_key(offset), "{offset} was settled before a clean stop");
            }
            for (n, stored) in &self.model.stored {
                let settled =
                    self.model.sinks[index].settled.iter().filter(|(offset, m)| *m == n && !read.contains_key(offset));
                let due = stored.saturating_sub(settled.count());
                let missing = due.saturating_sub(times.get(n).copied().unwrap_or(0));
                if missing > 0 {
                    let lost = lost.entry(*n).or_default();
                    *lost = missing.max(*lost);
                }
            }
        }
        let count: usize = lost.values().sum();
        assert!(count <= may_be_lost, "lost: {lost:?}");
        let damaged = self.journal.stats().damaged_records;
        assert!(damaged >= count as u64, "{count} lost, {damaged} counted");
        // What was lost before, or was settled, may be met again.
        self.model.hurt = self.model.hurt.saturating_add(may_be_lost);
        assert!(damaged <= self.model.hurt as u64, "{damaged} counted, {count} lost");
        for (n, count) in lost {
            self.model.stored.entry(n).and_modify(|stored| *stored -= count);
        }
    }
}

impl Model {
    /// No offset is given twice; what is read was taken.
    fn knows(&mut self, offset: Offset, n: u64) {
        assert!(self.known.contains_key(&n), "{n} was never taken");
        let before = self.offsets.insert(offset, n);
        assert!(before.is_none_or(|before| before == n), "{offset} was {before:?}, is {n}");
    }

    fn saw(&mut self, index: usize, offset: Offset, n: u64) {
        self.knows(offset, n);
        let sink = &mut self.sinks[index];
        assert!(sink.read.last().is_none_or(|(last, _)| *last < offset), "order");
        assert!(sink.back || !sink.settled.contains_key(&offset), "{offset} comes again");
        sink.read.push((offset, n));
    }
}

/// The same cases at each run; others with `PROPTEST_RNG_SEED`, more with `PROPTEST_CASES`.
fn proptest_config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_000;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20);
    }
    config
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn keeps_step_with_the_model(ops in ops()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut bench = Bench::new();
            for op in ops {
                bench.apply(op).await;
            }
            bench.disk.faults(|faults| faults.full = false);
            bench.model.full = false;
            bench.reopen(End::Power, Harm::None).await;
        });
    }
}
