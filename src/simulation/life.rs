//! One process: journal, pumps and what happens to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::broker::{SimSink, Watched};
use super::event;
use super::run::ROOM;
use super::schedule::{SINKS, Step, What};
use super::world::World;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, SinkName, Start, Storage};
use crate::delivery::{Delivery, DeliveryOptions, LetterBox, SinkSetup};
use crate::journal::{Intake as _, Journal, JournalOptions, Limits, NotTaken, Registration, Steps, Taken};
use crate::telemetry::Metrics;

/// For a sink to settle what is in flight.
const PATIENCE: Duration = Duration::from_secs(10);

/// The wall clock of the simulation.
#[derive(Clone)]
pub(super) struct SimClock(Arc<AtomicU64>);

impl SimClock {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_704_164_645_000_000)))
    }

    fn pass(&self, millis: u64) {
        self.0.fetch_add(millis * 1_000, Ordering::Relaxed);
    }

    pub(super) fn jump(&self, seconds: i64) {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.saturating_add_signed(seconds * 1_000_000), Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// What a process is started with.
#[derive(Clone)]
pub(super) struct Beginning {
    pub(super) world: World,
    pub(super) clock: SimClock,
    pub(super) metrics: Metrics,
    pub(super) configured: [bool; SINKS.len()],
    pub(super) dead_max_size: u64,
}

/// A running process.
pub(super) struct Life {
    start: Beginning,
    pub(super) journal: Journal,
    steps: Steps,
    pub(super) delivery: Delivery<Watched>,
    running: [bool; SINKS.len()],
    /// Since the last event came.
    idle: u64,
}

pub(super) fn name(index: usize) -> SinkName {
    SINKS[index].parse().expect("a name")
}

fn registration(index: usize) -> Registration {
    Registration { name: name(index), start: Start::Next, continues: None, best_effort: false }
}

fn journal_options(start: &Beginning) -> JournalOptions {
    let sinks = (0..SINKS.len()).filter(|index| start.configured[*index]).map(registration).collect();
    JournalOptions {
        dir: "/data/journal".into(),
        config: config::Journal {
            storage: Storage::Disk,
            max_size: 10 * 1024,
            min_free: 1024,
            retain: Duration::from_secs(5),
            retain_size: 6 * 1024,
            dedupe_window: Duration::from_hours(12),
            dedupe_max: 500,
            dead_max_size: start.dead_max_size,
        },
        sinks,
        disk: Arc::new(start.world.lock().disk.clone()),
        clock: Arc::new(start.clock.clone()),
        metrics: start.metrics.clone(),
        lock: None,
        limits: Limits { segment_bytes: 2 * 1024, group_bytes: 1024, queue: 16 },
    }
}

fn setup(world: &World, index: usize) -> SinkSetup {
    let config = config::Sink { setup_grace: Duration::from_secs(2), ..config::Sink::sample(name(index)) };
    let config = event::configured(index, config);
    let sink = SimSink::new(world.clone(), index, fastrand::u64(..));
    let make = Arc::new(event::messages(&config));
    SinkSetup { config, sink: Box::new(sink), make }
}

impl Life {
    /// Starts; the error is what the process would say before it exits.
    pub(super) fn begin(start: Beginning) -> Result<Self, String> {
        let (journal, steps) = Journal::open_stepped(journal_options(&start)).map_err(|error| error.to_string())?;
        let delivery = Delivery::new(DeliveryOptions {
            letters: LetterBox::new(
                Arc::new(start.world.lock().disk.clone()),
                "/data/journal/dead".into(),
                start.dead_max_size,
                start.metrics.clone(),
            ),
            metrics: start.metrics.clone(),
            clock: Arc::new(start.clock.clone()),
        });
        let mut life = Self { start, journal, steps, delivery, running: [false; SINKS.len()], idle: 0 };
        for index in 0..SINKS.len() {
            if life.start.configured[index] {
                life.add(index)?;
            }
        }
        Ok(life)
    }

    fn add(&mut self, index: usize) -> Result<(), String> {
        let feed = self.journal.reader(&name(index)).ok_or("the sink has no place")?;
        let feed = Watched::new(feed, self.start.world.clone(), index);
        self.delivery.add(setup(&self.start.world, index), feed).map_err(|error| error.to_string())?;
        self.running[index] = true;
        Ok(())
    }

    fn register(&mut self, index: usize) -> Result<(), String> {
        self.journal.register(&registration(index)).map_err(|error| error.to_string())?;
        self.add(index)
    }

    /// Sinks that were taken out return: what waits for them would hold the journal full.
    pub(super) fn bring_back(&mut self) {
        for (index, sink) in SINKS.iter().enumerate() {
            if self.running[index] {
                continue;
            }
            if let Err(error) = self.register(index) {
                self.start.world.lock().breaks(|| format!("{sink} does not come back: {error}"));
            }
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.start.world.lock().disk.is_dead()
    }

    /// Something that only a running process does; what happens outside of it has been seen to.
    pub(super) async fn step(&mut self, step: &Step) {
        match &step.what {
            What::Take(numbers) => self.take(numbers),
            What::Pass(millis) => self.pass(*millis).await,
            What::Reload(index) if self.running[*index] => {
                let replaced = self.delivery.replace(setup(&self.start.world, *index), PATIENCE);
                self.running[*index] = keep_house(&self.steps, replaced).await.is_ok();
            }
            // Where it fails the operator is told, and the next start tries again.
            What::Configured(index, true) if !self.running[*index] => drop(self.register(*index)),
            What::Configured(index, false) if self.running[*index] && self.start.world.lock().knows_sinks() => {
                let name = name(*index);
                drop(keep_house(&self.steps, self.delivery.remove(&name, PATIENCE)).await);
                self.journal.retire(&name);
                self.running[*index] = false;
            }
            What::RetryParked => self.delivery.handles().retry_parked(),
            _ => {}
        }
    }

    /// Events come at once; all are answered.
    pub(super) fn take(&mut self, numbers: &[u64]) {
        let now = self.start.clock.now();
        let journal = self.journal.clone();
        let coming = numbers.iter().map(|number| journal.take(event::verified(*number), now));
        let mut all = std::pin::pin!(join_all(coming));
        let mut answers = None;
        // One turn to queue them, one to write and answer.
        for _ in 0..4 {
            answers = answers.or_else(|| all.as_mut().now_or_never());
            if answers.is_none() {
                self.steps.write();
            }
        }
        self.idle = 0;
        let mut known = self.start.world.lock();
        let Some(answers) = answers else {
            known.breaks(|| format!("no answer to {numbers:?}"));
            return;
        };
        for (number, answer) in numbers.iter().zip(answers) {
            match answer {
                Ok(how) => {
                    known.tally.repeats += u64::from(how == Taken::Repeat);
                    if known.acknowledged.insert(*number) {
                        known.tally.acknowledged += 1;
                    } else if how == Taken::Stored && !known.forgetful {
                        known.breaks(|| format!("event {number} was taken before, and is stored again"));
                    }
                }
                Err(NotTaken::Full { .. } | NotTaken::DiskFull { .. } | NotTaken::DiskFailing(_)) => {
                    known.tally.refused_503 += 1;
                }
                Err(error) => known.breaks(|| format!("event {number} is not taken: {error}")),
            }
        }
    }

    /// Time passes, and all that runs by itself runs.
    pub(super) async fn pass(&mut self, millis: u64) {
        let piece = (millis / 12).max(200);
        let mut left = millis;
        while left > 0 && !self.is_dead() {
            let now = piece.min(left);
            sleep(Duration::from_millis(now)).await;
            left -= now;
            self.start.clock.pass(now);
            self.idle += now;
            self.steps.keep_house();
            if self.idle >= 1_000 {
                self.idle = 0;
                self.steps.idle();
            }
        }
    }

    /// Whether dead letters have all the room that they may need.
    pub(super) const fn has_room(&self) -> bool {
        self.start.dead_max_size == ROOM
    }

    /// Whether something waits for a sink that runs, or for an operator.
    pub(super) fn waits(&self) -> bool {
        let sinks = self.journal.sinks();
        let behind = |index: &usize| sinks.iter().any(|sink| sink.name == name(*index) && sink.backlog.events > 0);
        (0..SINKS.len()).filter(|index| self.running[*index]).any(|index| behind(&index)) || self.parked() > 0
    }

    /// Topics that wait for an operator just now.
    pub(super) fn parked(&self) -> usize {
        self.delivery.handles().statuses().iter().map(|status| status.parked.len()).sum()
    }

    /// Ends in good order.
    pub(super) async fn close(mut self) {
        drop(keep_house(&self.steps, self.delivery.stop(PATIENCE)).await);
        self.steps.close();
    }
}

/// Waits for work while the keeper does its own.
async fn keep_house<T>(steps: &Steps, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(Duration::from_secs(1)) => steps.keep_house(),
        }
    }
}
