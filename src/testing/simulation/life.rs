//! One process: journal, pumps and what happens to them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::broker::{SimSink, Watched};
use super::event;
use super::schedule::{OTHER, SINKS, Step, What};
use super::world::{Count, LETTERS, ROOM, World, index, name};
use crate::bridge::metrics::Metrics;
use crate::clock::Clock as _;
use crate::config::{self, SinkName, Start, Storage};
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{Delivery, DeliveryOptions, PumpHandle, SinkSetup};
use crate::journal::{
    Intake as _, Journal, JournalLimits, JournalOptions, NotTaken, Offset, Registration, Steps, Taken,
};
use crate::sinks::Class;
use crate::testing::TestClock;

/// For a sink to settle what is in flight.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process is started with.
#[derive(Clone)]
pub(super) struct Beginning {
    pub(super) world: World,
    pub(super) clock: Arc<TestClock>,
    pub(super) metrics: Metrics,
    pub(super) sinks: Sinks,
    pub(super) dead_max_size: u64,
}

/// What the configuration says of each sink.
pub(super) type Sinks = [Configured; SINKS.len()];

/// What the configuration says of a sink.
#[derive(Clone, Copy, Default)]
pub(super) struct Configured {
    /// Whether it names it.
    pub(super) is: bool,
    /// How often it was renamed.
    pub(super) generation: u32,
    pub(super) best_effort: bool,
}

/// What waits for each sink, and how much of it was ever given up.
struct Backlogs {
    places: Vec<(SinkName, Offset, u64)>,
    given_up: Vec<u64>,
    is_failing: bool,
}

/// A running process.
pub(super) struct Life {
    start: Beginning,
    pub(super) journal: Journal,
    steps: Steps,
    pub(super) delivery: Delivery<Watched>,
    pub(super) letters: DeadLetterStores,
    /// As they are in effect; `None`: it does not run.
    running: [Option<Configured>; SINKS.len()],
    /// Whether the journal was told that it is `best_effort`.
    may_give_up: [bool; SINKS.len()],
    /// Since the last event came.
    idle: u64,
}

fn registration(index: usize, configured: Configured) -> Registration {
    let Configured { generation, best_effort, .. } = configured;
    let continues = generation.checked_sub(1).map(|before| name(index, before));
    Registration { name: name(index, generation), start: Start::Next, continues, best_effort }
}

fn journal_options(start: &Beginning) -> JournalOptions {
    let sinks = start
        .sinks
        .iter()
        .enumerate()
        .filter(|(_, sink)| sink.is)
        .map(|(index, sink)| registration(index, *sink))
        .collect();
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
        clock: Arc::clone(&start.clock) as _,
        metrics: start.metrics.journal.clone(),
        lock: None,
        limits: JournalLimits { segment_bytes: 2 * 1024, group_bytes: 1024, queue: 16 },
    }
}

fn setup(world: &World, index: usize, generation: u32) -> SinkSetup {
    let name = name(index, generation);
    let config = config::Sink { setup_grace: Duration::from_secs(2), ..config::Sink::sample(name) };
    let config = event::configured(index, config);
    let sink = SimSink::new(world.clone(), index, fastrand::u64(..));
    let make = Arc::new(event::messages(&config));
    SinkSetup { config, sink: Box::new(sink), make }
}

impl Life {
    /// Starts; the error is what the process would say before it exits.
    pub(super) fn begin(start: Beginning) -> Result<Self, String> {
        let (journal, steps) = Journal::open_stepped(journal_options(&start)).map_err(|error| error.to_string())?;
        let disk = Arc::new(start.world.lock().disk.clone());
        let letters =
            DeadLetterStores::new(disk, LETTERS.into(), start.dead_max_size, start.metrics.dead_letters.clone());
        let delivery = Delivery::new(DeliveryOptions {
            letters: letters.clone(),
            metrics: start.metrics.delivery.clone(),
            clock: Arc::clone(&start.clock) as _,
        });
        let mut life = Self {
            start,
            journal,
            steps,
            delivery,
            letters,
            running: [None; SINKS.len()],
            may_give_up: [false; SINKS.len()],
            idle: 0,
        };
        for (index, sink) in life.start.sinks.into_iter().enumerate().filter(|(_, sink)| sink.is) {
            life.may_give_up[index] = sink.best_effort;
            life.add(index, sink)?;
        }
        life.note_sinks();
        Ok(life)
    }

    fn add(&mut self, index: usize, sink: Configured) -> Result<(), String> {
        let Registration { name, continues, .. } = registration(index, sink);
        if let Some(other) = continues.filter(|other| !self.journal.knows(other)) {
            self.delivery.adopt_letters(&name, &other);
        }
        let feed = self.journal.reader(&name).ok_or("the sink has no place")?;
        let feed = Watched::new(feed, self.start.world.clone(), index);
        let setup = setup(&self.start.world, index, sink.generation);
        self.delivery.add(setup, feed).map_err(|error| error.to_string())?;
        self.running[index] = Some(sink);
        Ok(())
    }

    fn register(&mut self, index: usize, sink: Configured) -> Result<(), String> {
        self.journal.register(&registration(index, sink)).map_err(|error| error.to_string())?;
        self.may_give_up[index] = sink.best_effort;
        self.add(index, sink)
    }

    /// Tells the world which sinks the journal has written to its list. It has by the first event, at the latest.
    fn note_sinks(&self) {
        if self.is_dead() || self.journal.stats().failing.is_some() {
            return;
        }
        let mut known = self.start.world.lock();
        for (index, sink) in self.running.iter().enumerate() {
            if let Some(sink) = sink {
                known.registers(index, sink.generation);
            }
        }
    }

    /// Puts a configuration in effect, as a reload does. Where it fails the operator is told, and the next start tries
    /// again.
    async fn apply(&mut self, sinks: &Sinks) {
        for (index, wanted) in sinks.iter().enumerate() {
            let stays = |running: &Configured| wanted.is && running.generation == wanted.generation;
            if let Some(running) = self.running[index].filter(|running| !stays(running)) {
                let name = name(index, running.generation);
                drop(maintain(&self.steps, self.delivery.remove(&name, PATIENCE)).await);
                self.journal.retire(&name);
                (self.running[index], self.may_give_up[index]) = (None, false);
            }
        }
        for (index, wanted) in sinks.iter().enumerate().filter(|(_, wanted)| wanted.is) {
            match self.running[index] {
                None => drop(self.register(index, *wanted)),
                Some(running) if running.best_effort != wanted.best_effort => {
                    if self.journal.register(&registration(index, *wanted)).is_ok() {
                        self.may_give_up[index] = wanted.best_effort;
                        self.replace(index, *wanted).await;
                    }
                }
                Some(_) => {}
            }
        }
        self.note_sinks();
    }

    async fn replace(&mut self, index: usize, sink: Configured) {
        let replaced = self.delivery.replace(setup(&self.start.world, index, sink.generation), PATIENCE);
        self.running[index] = maintain(&self.steps, replaced).await.is_ok().then_some(sink);
    }

    /// [`OTHER`] is forgotten, as an operator does it.
    fn forget(&self) {
        let Some(generation) = self.start.world.lock().owed[OTHER].registered else { return };
        let name = name(OTHER, generation);
        let is_retired = |sink: &(SinkName, Offset, u64)| sink.0 == name;
        if self.running[OTHER].is_none() && self.journal.places().iter().any(is_retired) {
            self.start.world.lock().forgets();
            drop(self.journal.forget(&name));
        }
    }

    /// Brings back the sinks that were taken out, because their waiting events would keep the journal full. Forgets old names
    /// that a start took from a cursor: only letters depend on them, and the next start takes those over. Returns whether
    /// there was such a name.
    pub(super) fn bring_back(&mut self, sinks: &Sinks) -> bool {
        for (index, sink) in sinks.iter().enumerate() {
            if self.running[index].is_none()
                && let Err(error) = self.register(index, *sink)
            {
                self.start.world.lock().breaks(|| format!("{} does not come back: {error}", SINKS[index]));
            }
        }
        self.note_sinks();
        let strangers = self.journal.sinks().into_iter().filter(|sink| !sink.configured).collect::<Vec<_>>();
        for stranger in &strangers {
            if let Err(error) = self.journal.forget(&stranger.name) {
                self.start.world.lock().breaks(|| format!("{} is not forgotten: {error}", stranger.name));
            }
        }
        !strangers.is_empty()
    }

    pub(super) const fn world(&self) -> &World {
        &self.start.world
    }

    /// A sink that runs.
    pub(super) fn handle(&self, index: usize) -> Option<PumpHandle> {
        self.delivery.handles().get(&name(index, self.running[index]?.generation))
    }

    pub(super) fn is_dead(&self) -> bool {
        self.start.world.lock().disk.is_dead()
    }

    /// Something that only a running process does; what happens outside of it has been seen to.
    pub(super) async fn step(&mut self, step: &Step, sinks: &Sinks) {
        match &step.what {
            What::Take(numbers) => self.take(numbers),
            What::Pass(millis) => self.pass(*millis).await,
            What::Reload(index) => {
                if let Some(sink) = self.running[*index] {
                    self.replace(*index, sink).await;
                }
            }
            What::Configured(..) | What::Rename(_) | What::BestEffort(_) => self.apply(sinks).await,
            What::Forget => self.forget(),
            What::RetryParked => self.delivery.handles().retry_parked(),
            _ => {}
        }
    }

    /// Events come at once; all are answered.
    pub(super) fn take(&mut self, numbers: &[u64]) {
        let now = self.start.clock.now();
        let journal = self.journal.clone();
        let before = self.waiting();
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
        self.note_sinks();
        let Some(answers) = answers else {
            return self.start.world.lock().breaks(|| format!("no answer to {numbers:?}"));
        };
        let stored = answers.iter().filter(|answer| **answer == Ok(Taken::Stored)).count() as u64;
        self.see_given_up(&before, stored);
        let mut known = self.start.world.lock();
        for (number, answer) in numbers.iter().zip(answers) {
            known.offers(*number);
            match answer {
                Ok(how) => known.acknowledges(*number, how),
                Err(NotTaken::Full { .. } | NotTaken::DiskFull { .. } | NotTaken::DiskFailing(_)) => {
                    known.tally.add(Count::Refused503, 1);
                }
                Err(error) => known.breaks(|| format!("event {number} is not taken: {error}")),
            }
        }
    }

    fn waiting(&self) -> Backlogs {
        let is_failing = self.journal.stats().failing.is_some();
        let places = self.journal.places();
        let given_up = places.iter().map(|(name, ..)| self.start.metrics.journal.given_up_so_far(name)).collect();
        Backlogs { places, given_up, is_failing }
    }

    /// No pump has run while events were taken: a cursor that moved was moved because the journal was full.
    fn see_given_up(&self, before: &Backlogs, stored: u64) {
        let after = self.waiting();
        let mut known = self.start.world.lock();
        for (index_of, (sink, cursor, events)) in before.places.iter().enumerate() {
            let (Some(index), Some((_, now_at, left))) = (index(sink), after.places.get(index_of)) else { continue };
            let count = after.given_up[index_of] - before.given_up[index_of];
            if (count > 0 || cursor != now_at) && !self.may_give_up[index] {
                known.breaks(|| format!("{count} events of {sink} are given up, which is not best_effort"));
            }
            let claimed = if cursor < now_at { known.claimed(index, *cursor..*now_at) } else { 0 };
            if cursor != now_at {
                known.gives_up(index, *cursor..*now_at, count);
            }
            // A disk that works again may show events that were there before.
            if !before.is_failing && !after.is_failing && left + count + claimed != events + stored {
                known.breaks(|| {
                    format!("{sink}: {events} events wait, {stored} come, {count} are given up, {claimed} are claimed, and {left} wait")
                });
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
            self.start.clock.pass(Duration::from_millis(now));
            self.idle += now;
            self.steps.maintain();
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
        let places = self.journal.places();
        let behind = |index: usize, generation: u32| {
            places.iter().any(|(sink, _, events)| *sink == name(index, generation) && *events > 0)
        };
        let running = self.running.iter().enumerate();
        let mut running = running.filter_map(|(index, sink)| Some((index, sink.as_ref()?.generation)));
        running.any(|(index, generation)| behind(index, generation)) || self.parked() > 0 || self.stranded() > 0
    }

    /// Topics that wait for an operator just now.
    pub(super) fn parked(&self) -> usize {
        self.delivery.handles().statuses().iter().map(|status| status.parked.len()).sum()
    }

    /// How many letters of the sinks that run wait for an operator.
    fn stranded(&self) -> u64 {
        let by_reason = self.delivery.handles().statuses().into_iter().flat_map(|status| status.dead_letters.by_reason);
        by_reason.filter(|(reason, _)| reason.class() == Class::NeedsOperator).map(|(_, count)| count).sum()
    }

    /// Stops in good order.
    pub(super) async fn close(mut self) {
        drop(maintain(&self.steps, self.delivery.stop(PATIENCE)).await);
        self.steps.close();
    }
}

/// Waits for work while the maintenance thread does its own.
async fn maintain<T>(steps: &Steps, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(Duration::from_secs(1)) => steps.maintain(),
        }
    }
}
