//! One schedule from its first step to the end, where all faults are over and everything must have arrived.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::event;
use super::letters;
use super::life::{Beginning, Configured, Life};
use super::schedule::{Mood, OTHER, Refusal, SINKS, Step, TOPICS, Unreadable, What};
use super::world::{Count, LETTERS, ROOM, Tally, World, letter_folder, name};
use crate::bridge::metrics::Metrics;
use crate::dead_letters::DeadLetters;
use crate::sinks::Class;
use crate::testing::TestClock;
use crate::testing::disk::{Fail, Faults, Kind, SimDisk};

/// An event that comes once all faults are over.
const LAST_EVENT: u64 = 1_000;

/// What a schedule came to: what happened, or how the promise was broken.
pub(super) struct Ran {
    pub(super) outcome: Result<(), String>,
    pub(super) tally: Tally,
    /// The same wherever the same was done in the same order.
    pub(super) trace: u64,
}

/// Runs a schedule.
pub(super) fn run(steps: &[Step], metrics: &Metrics) -> Ran {
    let disk = SimDisk::new();
    let world = World::new(disk.clone());
    world.lock().forgetful = steps.iter().any(|step| may_forget(&step.what));
    let run = Run {
        disk: disk.clone(),
        beginning: Beginning {
            world: world.clone(),
            clock: TestClock::new(),
            metrics: metrics.clone(),
            sinks: [Configured { is: true, ..Configured::default() }; SINKS.len()],
            dead_max_size: ROOM,
        },
        power: false,
        unreadable: None,
        fail_start: None,
        torn: false,
        may_be_damaged: steps.iter().any(|step| may_damage(&step.what)),
    };
    let panicked = catch_unwind(AssertUnwindSafe(|| run.all(steps))).is_err();
    let mut known = world.lock();
    if panicked {
        known.breaks(|| "panicked".to_owned());
    }
    Ran {
        outcome: known.broken.take().map_or(Ok(()), Err),
        tally: std::mem::take(&mut known.tally),
        trace: disk.trace(),
    }
}

/// After this a repeat may be stored again: what is remembered, and for how long, hangs on it.
fn may_forget(what: &What) -> bool {
    matches!(
        what,
        What::Jump(_) | What::Full(_) | What::Low(_) | What::Fail(_) | What::FailStart(_) | What::Unreadable(_)
    )
}

/// Only a name that the journal knows can be continued. Nor would an operator rename a sink while the bridge says that
/// letters of an earlier name are still to be taken over.
fn may_rename(world: &World, sink: usize, generation: u32) -> bool {
    let known = world.lock();
    let has_letters = |dir: PathBuf| known.disk.files(&dir).iter().any(|file| file.parent() == Some(&*dir));
    known.owed[sink].registered == Some(generation)
        && !(0..generation).any(|before| has_letters(letter_folder(sink, before)))
}

/// After this what the disk did not give may count as damaged.
fn may_damage(what: &What) -> bool {
    match what {
        What::Fail(fail) | What::FailStart(fail) => matches!(fail.kind, Kind::Read | Kind::Open),
        What::Unreadable(_) | What::Rot(_) => true,
        _ => false,
    }
}

struct Run {
    disk: SimDisk,
    beginning: Beginning,
    /// Whether the next crash takes the power too.
    power: bool,
    /// What the next start can't read.
    unreadable: Option<Unreadable>,
    /// What fails from the next start on.
    fail_start: Option<Fail>,
    may_be_damaged: bool,
    /// The power was cut: of letters that were being written at once one may be torn and the next one whole, which can't
    /// be told from loss.
    torn: bool,
}

/// How a process ended.
enum End {
    DidNotStart,
    Closed,
    /// It is dead, or there is nothing left to do.
    Killed,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

impl Run {
    fn all(mut self, steps: &[Step]) {
        self.reseed(0);
        let mut left = steps.iter();
        // What is wrong from the first is wrong at the first start already.
        while let Some(step) = left.as_slice().first().filter(|step| step.what.is_fault()) {
            self.outside(step);
            left.next();
        }
        while !left.as_slice().is_empty() && self.is_kept() {
            // What is still running when the runtime goes ends where it stands, as in a process that is killed.
            match runtime().block_on(self.live(&mut left)) {
                End::DidNotStart if !self.disk.is_dead() => {
                    self.beginning.world.lock().tally.add(Count::FailedStarts, 1);
                    if let Some(step) = left.next() {
                        self.outside(step);
                    }
                }
                End::Closed => {}
                End::DidNotStart | End::Killed => self.crash(),
            }
        }
        if self.is_kept() {
            self.finish();
        }
    }

    /// All chance is the disk's, or this thread's.
    fn reseed(&self, seed: u64) {
        self.disk.reseed(seed);
        fastrand::seed(seed);
    }

    fn is_kept(&self) -> bool {
        self.beginning.world.lock().broken.is_none()
    }

    fn crash(&mut self) {
        tracing::info!(power = self.power, "-- the process is dead");
        let tally = &mut self.beginning.world.lock().tally;
        tally.add(if self.power { Count::PowerCuts } else { Count::Kills }, 1);
        self.torn |= self.power;
        self.disk.restart(std::mem::take(&mut self.power));
    }

    async fn live(&mut self, left: &mut std::slice::Iter<'_, Step>) -> End {
        let Some(mut life) = self.begin().await else { return End::DidNotStart };
        while !life.is_dead() && self.is_kept() {
            let Some(step) = left.next() else {
                // It goes on by itself when the faults are gone.
                self.mend();
                if life.has_room() {
                    _ = life.bring_back(&self.every_sink()).await;
                    self.settle(&mut life, LAST_EVENT - 1).await;
                }
                break;
            };
            self.outside(step);
            if matches!(step.what, What::Restart) {
                life.close().await;
                return End::Closed;
            }
            match step.what {
                What::RetryLetters { sink, to, within } => {
                    letters::retry(&life, sink, to, Duration::from_millis(within)).await;
                }
                _ => life.step(step, &self.beginning.sinks).await,
            }
        }
        self.beginning.world.lock().tally.add(Count::Parked, life.parked() as u64);
        self.see_damage(&life);
        End::Killed
    }

    /// Starts a process. No one file that can't be read keeps it from starting; later the disk gives it again.
    async fn begin(&mut self) -> Option<Life> {
        self.disk.faults(|faults| faults.bad_spot = None);
        if let Some(fail) = self.fail_start.take() {
            self.disk.faults(|faults| faults.fails = vec![fail]);
        }
        let has_other_faults = self.disk.is_faulty();
        let unreadable = self.unreadable.take();
        if let Some(Unreadable { of, pick, opening }) = unreadable {
            let files = self.disk.files(Path::new(of.under()));
            let file = files.get(pick % files.len().max(1)).cloned();
            tracing::info!(?file, "-- can't be read");
            self.beginning.world.lock().tally.add(Count::UnreadableFiles, u64::from(file.is_some()));
            for kind in [Kind::Read, Kind::Open].into_iter().take(1 + usize::from(opening)) {
                self.disk.faults(|faults| faults.fails.extend(file.iter().map(|file| Fail::every(kind, file))));
            }
        }
        let begun = Life::begin(self.beginning.clone()).await;
        self.disk.faults(|faults| faults.fails.retain(|fail| fail.under == Path::new("/")));
        if let (Err(error), Some(unreadable), false) = (&begun, unreadable, has_other_faults) {
            self.breaks(format!("it does not start because of one file ({:?}): {error}", unreadable.of));
        }
        begun.ok()
    }

    /// The configuration with every sink in it.
    fn every_sink(&self) -> [Configured; SINKS.len()] {
        self.beginning.sinks.map(|sink| Configured { is: true, ..sink })
    }

    /// A crash is no damage.
    fn see_damage(&self, life: &Life) {
        let stats = life.journal.stats();
        let records = stats.damaged_records;
        let letters: u64 = life.sinks.handles().statuses().iter().map(|status| status.dead_letters.damaged).sum();
        let letters = if self.torn { 0 } else { letters };
        if records + letters > 0 && !self.may_be_damaged {
            self.beginning.world.lock().breaks(|| format!("{records} records and {letters} letters count as damaged"));
        }
        if !stats.set_aside.is_empty() && !self.may_be_damaged {
            self.beginning.world.lock().breaks(|| format!("files are set aside: {:?}", stats.set_aside));
        }
    }

    /// What happens to the world, whether a process runs or not.
    fn outside(&mut self, step: &Step) {
        self.reseed(step.seed);
        let Beginning { world, clock, sinks, dead_max_size, .. } = &mut self.beginning;
        world.lock().tally.add(Count::Steps, 1);
        tracing::info!("-- {:?}", step.what);
        match step.what.clone() {
            What::Jump(seconds) => clock.jump(seconds),
            What::Crash { after, power } => {
                self.power = power;
                self.disk.faults(|faults| faults.crash = Some(after));
            }
            What::Fail(fail) => self.disk.faults(|faults| faults.fails = vec![fail]),
            What::Full(full) => self.disk.faults(|faults| faults.full = full),
            What::Low(low) => self.disk.faults(|faults| faults.free = low.then_some(1)),
            What::Broker(sink, mood) => world.lock().brokers[sink].mood = mood,
            What::Topic(sink, topic, refusal) => world.lock().brokers[sink].topics[topic] = refusal,
            What::Configured(sink, is) => sinks[sink].is = is || !world.lock().knows_sinks(),
            What::Rename(sink) if may_rename(world, sink, sinks[sink].generation) => sinks[sink].generation += 1,
            What::BestEffort(is) => sinks[OTHER].best_effort = is,
            What::FailStart(fail) => self.fail_start = Some(fail),
            What::Unreadable(unreadable) => self.unreadable = Some(unreadable),
            What::LettersRoom(bytes) => *dead_max_size = bytes,
            What::Rot(sink) => letters::rot(world, sink),
            What::Spoil(sink) => letters::spoil(world, sink),
            What::Take(_)
            | What::Pass(_)
            | What::Restart
            | What::Reload(_)
            | What::RetryParked
            | What::RetryLetters { .. }
            | What::Rename(_)
            | What::Forget => {}
        }
    }

    /// All faults are over.
    fn mend(&mut self) {
        self.reseed(0);
        self.fail_start = None;
        self.disk.faults(|faults| *faults = Faults::default());
        for broker in &mut self.beginning.world.lock().brokers {
            (broker.mood, broker.topics) = (Mood::Well, [Refusal::None; TOPICS]);
        }
    }

    /// The power goes once more, then all faults are over: everything arrives, and what did is durable.
    fn finish(mut self) {
        self.mend();
        self.power = true;
        self.crash();
        self.beginning.sinks = self.every_sink();
        self.beginning.dead_max_size = ROOM;
        let left_names = runtime().block_on(self.last_life());
        if left_names && self.is_kept() {
            self.disk.restart(true);
            runtime().block_on(self.last_life());
        }
        if self.is_kept() {
            self.disk.restart(true);
            runtime().block_on(self.check());
        }
    }

    /// A process where nothing is wrong; whether it had to forget an old name.
    async fn last_life(&self) -> bool {
        match Life::begin(self.beginning.clone()).await {
            Ok(mut life) => {
                let left_names = life.bring_back(&self.beginning.sinks).await;
                self.settle(&mut life, LAST_EVENT).await;
                left_names
            }
            Err(error) => {
                self.breaks(format!("it does not start though nothing is wrong: {error}"));
                false
            }
        }
    }

    /// Nothing is wrong: one more event is taken, and all that waits is settled.
    async fn settle(&self, life: &mut Life, event: u64) {
        for _ in 0..200 {
            if !self.beginning.world.lock().acknowledged.contains(&event) {
                // What waits may have reached the bound; then there is room once it is delivered.
                life.take(&[event]);
            }
            life.pass(600).await;
            if !self.is_kept() {
                return;
            }
            if !life.waits() && self.beginning.world.lock().acknowledged.contains(&event) {
                // Cursors are written behind what they stand for.
                life.pass(400).await;
                self.see_damage(life);
                return;
            }
        }
        let stats = life.journal.stats();
        self.breaks(format!("no fault for two minutes, and not everything is taken and settled: {stats:?}"));
    }

    fn breaks(&self, why: String) {
        self.beginning.world.lock().breaks(|| why);
    }

    /// What the disk and the brokers have in the end.
    async fn check(&self) {
        for (index, sink) in SINKS.iter().enumerate() {
            let newest = self.beginning.sinks[index].generation;
            let mut kept = BTreeSet::new();
            for generation in 0..=newest {
                if let Err(why) = self.letters(index, generation, generation == newest, &mut kept).await {
                    return self.breaks(format!("{sink}: {why}"));
                }
            }
            let mut known = self.beginning.world.lock();
            known.tally.add(Count::Letters, kept.len() as u64);
            let lost = known.lost(index, &kept);
            if !lost.is_empty() {
                known.breaks(|| format!("acknowledged, and neither confirmed by {sink} nor its letter: {lost:?}"));
            }
        }
    }

    /// Adds the events that are letters of a sink under one of its names.
    async fn letters(
        &self,
        sink: usize,
        generation: u32,
        is_newest: bool,
        kept: &mut BTreeSet<u64>,
    ) -> Result<(), String> {
        let (disk, metrics) = (Arc::new(self.disk.clone()), &self.beginning.metrics.dead_letters);
        let opened = DeadLetters::open(disk, Path::new(LETTERS), &name(sink, generation), ROOM, metrics);
        let letters = opened.map_err(|error| format!("its letters do not open: {error}"))?;
        for info in letters.list().await.expect("lists") {
            if !is_newest {
                return Err(format!("letter {} is left under the old name {}", info.id, name(sink, generation)));
            }
            let letter = letters.get(info.id).await.expect("reads").expect("is there");
            let waits = info.reason.class() == Class::NeedsOperator;
            let number = event::number(&letter.event.body);
            let number = number.ok_or_else(|| format!("letter {} is not as it was signed", info.id))?;
            if waits {
                return Err(format!("letter {} still waits for an operator", info.id));
            }
            if !waits && !event::is_refused(number) {
                return Err(format!("event {number} is a letter, but not refused when alone"));
            }
            kept.insert(number);
        }
        Ok(())
    }
}
