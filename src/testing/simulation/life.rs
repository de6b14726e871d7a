//! One process: journal, pumps and what happens to them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::broker::{SimSink, Watched};
use super::event;
use super::schedule::{OTHER, SINKS, Step, What};
use super::world::{Count, LETTERS, ROOM, World, index, name};
use crate::bridge::metrics::Metrics;
use crate::clock::Clock as _;
use crate::config::{self, Config, SinkName, Storage};
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{DeliveryOptions, Places, PumpHandle, SinkSetup, Supervisor, Way};
use crate::journal::{
    Intake as _, Journal, JournalLimits, JournalOptions, NotTaken, Offset, Registration, Steps, Taken,
};
use crate::sinks::Class;
use crate::testing::TestClock;

/// How long the sinks may take at the end to settle what is in flight.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the configuration says besides the sinks.
static BASE: LazyLock<Config> = LazyLock::new(|| config::load_defaults(&[]).expect("valid").config);

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
    pub(super) sinks: Supervisor<WatchedJournal>,
    pub(super) letters: DeadLetterStores,
    /// The generation of each sink that runs.
    running: [Option<u32>; SINKS.len()],
    /// How often each sink was to be replaced by one with other settings.
    reloads: [u32; SINKS.len()],
    may_give_up: MayGiveUp,
    /// Since the last event came.
    idle: u64,
}

/// Whether the journal was told that a sink is `best_effort`.
type MayGiveUp = Arc<[AtomicBool; SINKS.len()]>;

/// The journal, with feeds that are watched.
#[derive(Clone)]
pub(super) struct WatchedJournal {
    journal: Journal,
    world: World,
    may_give_up: MayGiveUp,
}

impl WatchedJournal {
    fn told(&self, sink: &SinkName, best_effort: bool) {
        self.may_give_up[index(sink).expect("one of them")].store(best_effort, Ordering::Relaxed);
    }
}

impl Places for WatchedJournal {
    type Feed = Watched;

    fn register(&self, registration: &Registration) -> io::Result<()> {
        self.journal.register(registration)?;
        self.told(&registration.name, registration.best_effort);
        Ok(())
    }

    fn knows(&self, sink: &SinkName) -> bool {
        self.journal.knows(sink)
    }

    fn feed(&self, sink: &SinkName) -> Option<Watched> {
        Some(Watched::new(self.journal.reader(sink)?, self.world.clone(), index(sink)?))
    }

    fn retire(&self, sink: &SinkName) {
        self.journal.retire(sink);
        self.told(sink, false);
    }
}

/// A sink as the configuration has it after so many reloads. Each reload changes something that has no effect here.
fn configured(index: usize, sink: Configured, reloads: u32) -> config::Sink {
    let Configured { generation, best_effort, .. } = sink;
    let config = config::Sink {
        setup_grace: Duration::from_secs(2) + Duration::from_nanos(reloads.into()),
        continues: generation.checked_sub(1).map(|before| name(index, before)),
        best_effort,
        ..config::Sink::sample(name(index, generation))
    };
    event::configured(index, config)
}

fn journal_options(start: &Beginning) -> JournalOptions {
    let sinks = start.sinks.iter().enumerate().filter(|(_, sink)| sink.is);
    let sinks = sinks.map(|(index, sink)| Registration::from(&configured(index, *sink, 0))).collect();
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

impl Life {
    /// Starts; the error is what the process would say before it exits.
    pub(super) async fn begin(start: Beginning) -> Result<Self, String> {
        let (journal, steps) = Journal::open_stepped(journal_options(&start)).map_err(|error| error.to_string())?;
        let disk = Arc::new(start.world.lock().disk.clone());
        let letters =
            DeadLetterStores::new(disk, LETTERS.into(), start.dead_max_size, start.metrics.dead_letters.clone());
        let options = DeliveryOptions {
            letters: letters.clone(),
            metrics: start.metrics.delivery.clone(),
            clock: Arc::clone(&start.clock) as _,
        };
        let world = start.world.clone();
        let build = move |config: &config::Sink, _: &Config| {
            let index = index(&config.name).expect("one of them");
            let sink = SimSink::new(world.clone(), index, fastrand::u64(..));
            Ok(SinkSetup { config: config.clone(), sink: Box::new(sink), make: Arc::new(event::messages(config)) })
        };
        let may_give_up = MayGiveUp::default();
        let places = WatchedJournal {
            journal: journal.clone(),
            world: start.world.clone(),
            may_give_up: Arc::clone(&may_give_up),
        };
        let sinks = Supervisor::new(Way::Journal(places), Arc::new(build), options);
        let configured = start.sinks;
        let mut life = Self {
            start,
            journal,
            steps,
            sinks,
            letters,
            running: [None; SINKS.len()],
            reloads: [0; SINKS.len()],
            may_give_up,
            idle: 0,
        };
        match life.apply(&configured).await.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(life),
        }
    }

    /// Tells the world which sinks the journal has written to its list. It has by the first event, at the latest.
    fn note_sinks(&self) {
        if self.is_dead() || self.journal.stats().failing.is_some() {
            return;
        }
        let mut known = self.start.world.lock();
        for (index, sink) in self.running.iter().enumerate() {
            if let Some(generation) = sink {
                known.registers(index, *generation);
            }
        }
    }

    /// Puts a configuration in effect, as a reload does. Returns what is wrong: the operator is told, and the next reload
    /// or start tries again.
    async fn apply(&mut self, sinks: &Sinks) -> Vec<String> {
        let wanted = sinks.iter().enumerate().filter(|(_, sink)| sink.is);
        let wanted = wanted.map(|(index, sink)| configured(index, *sink, self.reloads[index])).collect();
        let config = Config { sinks: wanted, ..BASE.clone() };
        let problems = maintain(&self.steps, self.sinks.apply(&config)).await;
        for (index, sink) in sinks.iter().enumerate() {
            let runs = sink.is && self.sinks.handles().get(&name(index, sink.generation)).is_some();
            self.running[index] = runs.then_some(sink.generation);
        }
        self.note_sinks();
        problems.iter().map(|(sink, error)| format!("{sink}: {error}")).collect()
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
    pub(super) async fn bring_back(&mut self, sinks: &Sinks) -> bool {
        for problem in self.apply(sinks).await {
            self.start.world.lock().breaks(|| format!("it does not come back: {problem}"));
        }
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
        self.sinks.handles().get(&name(index, self.running[index]?))
    }

    pub(super) fn is_dead(&self) -> bool {
        self.start.world.lock().disk.is_dead()
    }

    /// Something that only a running process does; what happens outside of it has been seen to.
    pub(super) async fn step(&mut self, step: &Step, sinks: &Sinks) {
        match &step.what {
            What::Take(numbers) => self.take(numbers),
            What::Pass(millis) => self.pass(*millis).await,
            // There is nothing to replace unless the sink runs.
            What::Reload(index) if self.running[*index].is_some() => {
                self.reloads[*index] += 1;
                self.apply(sinks).await;
            }
            What::Configured(..) | What::Rename(_) | What::BestEffort(_) => drop(self.apply(sinks).await),
            What::Forget => self.forget(),
            What::RetryParked => self.sinks.handles().retry_parked(),
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
            if (count > 0 || cursor != now_at) && !self.may_give_up[index].load(Ordering::Relaxed) {
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
        let mut running = running.filter_map(|(index, generation)| Some((index, (*generation)?)));
        running.any(|(index, generation)| behind(index, generation)) || self.parked() > 0 || self.stranded() > 0
    }

    /// Topics that wait for an operator just now.
    pub(super) fn parked(&self) -> usize {
        self.sinks.handles().statuses().iter().map(|status| status.parked.len()).sum()
    }

    /// How many letters of the sinks that run wait for an operator.
    fn stranded(&self) -> u64 {
        let by_reason = self.sinks.handles().statuses().into_iter().flat_map(|status| status.dead_letters.by_reason);
        by_reason.filter(|(reason, _)| reason.class() == Class::NeedsOperator).map(|(_, count)| count).sum()
    }

    /// Stops in good order.
    pub(super) async fn close(self) {
        drop(maintain(&self.steps, self.sinks.stop(Instant::now() + PATIENCE)).await);
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
