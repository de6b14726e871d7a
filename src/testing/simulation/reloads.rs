//! Reloads with `storage = "none"`: the sinks of a running bridge over simulated brokers, with time that is paused.
//!
//! A seed draws a schedule of events that come, time that passes, brokers that fail, and reloads that add, remove, rename
//! and replace sinks, or exchange what two of them ask for, while events come. The same seed gives the same run.
//!
//! # What must hold
//!
//! - An event that got its 204 was confirmed by each sink that asks for it: each sink of the configuration in effect, and
//!   during a reload of the one before or of the one after.
//! - While no broker fails, no reload turns an event away.
//! - When all faults are over, every event is taken. After a stop, none is.
//!
//! # What it found
//!
//! Each of these was broken on purpose, once; the number is that of schedules until it was found.
//!
//! | broken | found by |
//! |---|---|
//! | a sink is removed before the one that follows it is set | 10 |
//! | an event counts as unwanted though a configured sink is missing | 1 |
//! | sinks are replaced one after the other | 2 |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join, join_all};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use super::event;
use crate::bridge::metrics::Metrics;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config};
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{DeliveryOptions, Direct, SinkSetup, Supervisor, Way};
use crate::journal::{Intake as _, NotTaken, Taken};
use crate::message::{Message, StoredEvent};
use crate::sinks::{Failure, Outcome, Outcomes, Reason, Sink};

const SCHEDULES: u64 = 1_000;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PLACES: usize = 3;
/// Events are of as many kinds; a sink asks for some of them.
const KINDS: u64 = 4;
/// For an event to be confirmed.
const DEADLINE: Duration = Duration::from_secs(4);

/// What a sink asks for, as a set of bits, and the broker it publishes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spec {
    kinds: u8,
    place: usize,
}

impl Spec {
    fn draw(random: &mut Rng) -> Self {
        Self { kinds: random.u8(1..16), place: random.usize(0..PLACES) }
    }

    fn asks_for(self, number: u64) -> bool {
        self.kinds & (1 << (number % KINDS)) != 0
    }
}

/// The sinks of a configuration, by the index of their names.
type Specs = BTreeMap<usize, Spec>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectMood {
    Well,
    Unreachable,
    Hangs,
    Refuses,
}

#[derive(Clone, Debug)]
enum DirectStep {
    /// So many events come at once, and so many milliseconds pass.
    Take(usize, u64),
    DirectMood(usize, DirectMood),
    /// A reload, while events come.
    Reload(Specs),
}

#[derive(Default)]
struct DirectKnown {
    /// The configuration in effect; during a reload the one before and the one after.
    in_effect: Vec<Specs>,
    moods: BTreeMap<usize, DirectMood>,
    /// By a sink's name and an event's number.
    confirmed: BTreeSet<(usize, u64)>,
    /// The next event.
    next: u64,
    may_refuse: bool,
    taken: u64,
    refused: u64,
    unwanted: u64,
    broken: Option<String>,
}

#[derive(Clone, Default)]
struct DirectWorld(Arc<Mutex<DirectKnown>>);

impl DirectWorld {
    fn lock(&self) -> MutexGuard<'_, DirectKnown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaks(&self, why: String) {
        self.lock().broken.get_or_insert(why);
    }

    fn mood(&self, place: usize) -> DirectMood {
        self.lock().moods.get(&place).copied().unwrap_or(DirectMood::Well)
    }

    /// An event was answered that came while one of these configurations was in effect.
    fn answered(&self, number: u64, in_effect: &[Specs], answer: &Result<Taken, NotTaken>) {
        let mut known = self.lock();
        if let Err(why) = answer {
            known.refused += 1;
            if !known.may_refuse {
                known.broken.get_or_insert(format!("event {number} is turned away though no broker fails: {why}"));
            }
            return;
        }
        known.taken += 1;
        let asks = |specs: &Specs| specs.values().any(|spec| spec.asks_for(number));
        known.unwanted += u64::from(!in_effect.iter().any(asks));
        let confirmed = |specs: &Specs| {
            let mut asking = specs.iter().filter(|(_, spec)| spec.asks_for(number));
            asking.all(|(name, _)| known.confirmed.contains(&(*name, number)))
        };
        if !in_effect.iter().any(confirmed) {
            let why = format!("event {number} got 204 and was not confirmed by all that ask for it in {in_effect:?}");
            known.broken.get_or_insert(why);
        }
    }
}

struct DirectSink {
    world: DirectWorld,
    name: usize,
    place: usize,
    random: Rng,
}

impl Sink for DirectSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(async {
            sleep(Duration::from_millis(self.random.u64(1..40))).await;
            match self.world.mood(self.place) {
                DirectMood::Unreachable => Err(Failure::new(Reason::Unreachable, "simulated")),
                DirectMood::Hangs => std::future::pending().await,
                DirectMood::Well | DirectMood::Refuses => Ok(Vec::new()),
            }
        })
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            sleep(Duration::from_millis(self.random.u64(1..40))).await;
            match self.world.mood(self.place) {
                DirectMood::Unreachable => return outcomes.fail_open(&Failure::new(Reason::Unreachable, "simulated")),
                DirectMood::Refuses => return outcomes.fail_open(&Failure::new(Reason::Malformed, "simulated")),
                DirectMood::Hangs => std::future::pending().await,
                DirectMood::Well => {}
            }
            let numbers = window.iter().filter_map(|message| event::number(&message.data));
            self.world.lock().confirmed.extend(numbers.map(|number| (self.name, number)));
            (0..window.len()).for_each(|place| outcomes.set(place, Outcome::CONFIRMED));
        })
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3)
    }
}

/// A configuration with these sinks. What a sink asks for and where it publishes are put where a number fits.
fn configuration(base: &Config, specs: &Specs) -> Config {
    let sink = |(name, spec): (&usize, &Spec)| config::Sink {
        max_topics: usize::from(spec.kinds) * PLACES + spec.place,
        ..config::Sink::sample(NAMES[*name].parse().expect("a name"))
    };
    Config { sinks: specs.iter().map(sink).collect(), ..base.clone() }
}

fn build(world: &DirectWorld, sink: &config::Sink) -> SinkSetup {
    let name = NAMES.iter().position(|name| *name == sink.name.as_str()).expect("one of them");
    let kinds = u8::try_from(sink.max_topics / PLACES).expect("as it was put there");
    let spec = Spec { kinds, place: sink.max_topics % PLACES };
    let simulated = DirectSink { world: world.clone(), name, place: spec.place, random: Rng::new() };
    let make = move |event: &StoredEvent| {
        let number = event::number(&event.body).expect("whole");
        spec.asks_for(number).then(|| Message::sample("alma.t", &number.to_string(), &event.body, event.received))
    };
    SinkSetup { config: sink.clone(), sink: Box::new(simulated), make: Arc::new(make) }
}

fn draw(seed: u64) -> (Specs, Vec<DirectStep>) {
    let mut random = Rng::with_seed(seed);
    let first = Specs::from([(0, Spec::draw(&mut random)), (1, Spec::draw(&mut random))]);
    let faults = random.bool();
    let (mut specs, mut steps) = (first.clone(), Vec::new());
    for _ in 0..random.usize(2..12) {
        steps.push(match random.u8(0..8) {
            0..2 => DirectStep::Take(random.usize(1..6), random.u64(0..200)),
            2..4 if faults => {
                let moods = [DirectMood::Well, DirectMood::Unreachable, DirectMood::Hangs, DirectMood::Refuses];
                DirectStep::DirectMood(random.usize(0..PLACES), moods[random.usize(0..moods.len())])
            }
            _ => {
                change(&mut specs, &mut random);
                DirectStep::Reload(specs.clone())
            }
        });
    }
    (first, steps)
}

fn change(specs: &mut Specs, random: &mut Rng) {
    let names: Vec<usize> = specs.keys().copied().collect();
    let [one, other] = [(); 2].map(|()| names[random.usize(0..names.len())]);
    match random.u8(0..5) {
        // Renamed.
        0 => {
            let spec = specs.remove(&one).expect("there");
            specs.insert(random.usize(0..NAMES.len()), spec);
        }
        1 => drop(specs.insert(one, Spec::draw(random))),
        2 => drop(specs.insert(random.usize(0..NAMES.len()), Spec::draw(random))),
        3 if specs.len() > 1 => drop(specs.remove(&one)),
        // Each asks for what the other one asked for.
        _ => {
            let [first, second] = [one, other].map(|name| specs[&name].kinds);
            specs.get_mut(&one).expect("there").kinds = second;
            specs.get_mut(&other).expect("there").kinds = first;
        }
    }
}

struct DirectRun {
    world: DirectWorld,
    direct: Arc<Direct>,
}

impl DirectRun {
    /// An event comes and is answered.
    async fn take(&self) -> Result<Taken, NotTaken> {
        let (number, in_effect) = {
            let mut known = self.world.lock();
            known.next += 1;
            (known.next, known.in_effect.clone())
        };
        let answer = self.direct.take(event::verified(number), SystemClock.now()).await;
        self.world.answered(number, &in_effect, &answer);
        answer
    }

    /// Events come for a while.
    async fn load(&self, random: &mut Rng) {
        let until = Instant::now() + Duration::from_millis(random.u64(50..300));
        let mut coming = Vec::new();
        while Instant::now() < until {
            let mut taken = Box::pin(self.take());
            // It is handed on at once.
            if taken.as_mut().now_or_never().is_none() {
                coming.push(taken);
            }
            sleep(Duration::from_millis(random.u64(1..12))).await;
        }
        join_all(coming).await;
    }

    async fn all(&self, base: &Config, metrics: &Metrics, first: Specs, steps: &[DirectStep], seed: u64) {
        let mut random = Rng::with_seed(seed);
        self.world.lock().in_effect = vec![first.clone()];
        let world = self.world.clone();
        let build = Arc::new(move |sink: &config::Sink, _: &Config| Ok(build(&world, sink)));
        let options = DeliveryOptions {
            letters: DeadLetterStores::of(base, &metrics.dead_letters),
            metrics: metrics.delivery.clone(),
            clock: SystemClock::shared(),
        };
        let sinks: Supervisor = Supervisor::new(Way::Direct(Arc::clone(&self.direct)), build, options);
        sinks.apply(&configuration(base, &first)).await;
        for step in steps {
            match step {
                DirectStep::Take(count, millis) => {
                    join_all((0..*count).map(|_| self.take())).await;
                    sleep(Duration::from_millis(*millis)).await;
                }
                DirectStep::DirectMood(place, mood) => drop(self.world.lock().moods.insert(*place, *mood)),
                DirectStep::Reload(specs) => {
                    self.world.lock().in_effect.push(specs.clone());
                    join(sinks.apply(&configuration(base, specs)), self.load(&mut random)).await;
                    self.world.lock().in_effect.remove(0);
                }
            }
        }
        self.world.lock().moods.clear();
        sleep(Duration::from_secs(20)).await;
        self.world.lock().may_refuse = false;
        if let Err(why) = self.direct.ready() {
            self.world.breaks(format!("not ready though all faults are over: {why}"));
        }
        join_all((0..KINDS).map(|_| self.take())).await;
        sinks.stop(Instant::now() + Duration::from_secs(10)).await;
        self.world.lock().may_refuse = true;
        if self.take().await.is_ok() {
            self.world.breaks("an event is taken after the stop".to_owned());
        }
    }
}

/// Runs a schedule: what is known in the end.
fn run(base: &Config, metrics: &Metrics, seed: u64) -> (u64, u64, u64, Option<String>) {
    fastrand::seed(seed);
    let (first, steps) = draw(seed);
    let world = DirectWorld::default();
    world.lock().may_refuse = steps.iter().any(|step| matches!(step, DirectStep::DirectMood(..)));
    let direct = Arc::new(Direct::new(DEADLINE, metrics.delivery.clone(), SystemClock::shared()));
    let run = DirectRun { world: world.clone(), direct };
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(run.all(base, metrics, first.clone(), &steps, seed));
    let known = world.lock();
    let broken = known.broken.as_ref().map(|why| format!("seed {seed}: {why}\n  {first:?}\n  {steps:#?}"));
    (known.taken, known.refused, known.unwanted, broken)
}

#[test]
fn with_storage_none_a_204_is_confirmed_by_every_sink_across_reloads() {
    let base = config::load_defaults(&[]).expect("valid").config;
    let metrics = Metrics::new();
    let first = super::setting("ALMA_BRIDGE_TEST_SEED").unwrap_or(0);
    let (mut taken, mut refused, mut unwanted) = (0, 0, 0);
    for seed in first..first + SCHEDULES {
        let (more_taken, more_refused, more_unwanted, broken) = run(&base, &metrics, seed);
        assert!(broken.is_none(), "{}", broken.unwrap_or_default());
        (taken, refused, unwanted) = (taken + more_taken, refused + more_refused, unwanted + more_unwanted);
    }
    println!("{SCHEDULES} schedules: {taken} taken, {unwanted} of them unwanted, {refused} refused");
    assert!(taken > 0 && refused > 0 && unwanted > 0, "something never happened");
}
