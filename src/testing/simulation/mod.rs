//! Journal and pumps together on a simulated disk, clock and broker.
//!
//! A seed draws a schedule: events that come, time that passes, crashes with and without the power, operations of the
//! disk that fail, a full disk, a file that can't be read at the start, dead letters that rot or can't be read,
//! brokers that are down, hang, break off, refuse, refuse in part, lie or are slow, sinks that are replaced, renamed,
//! taken out, brought back, forgotten, and made `best_effort`, dead letters that are tried again by their sink or
//! another one, a wall clock that jumps. Each runs on one thread, with time that is paused: the journal's own threads
//! are stepped, work that blocks is a task. So a seed gives the same run each time, and one that fails prints its
//! shortest schedule and what the process said in it. The bridge's own [`crate::delivery::Supervisor`] starts, replaces and
//! stops the sinks.
//!
//! - `broker`: a sink, and a feed that is watched. `event`: events. `letters`: what happens to dead letters.
//! - `reloads`: reloads with `storage = "none"`, which have no journal; schedules of their own.
//! - `schedule`: what happens. `life`: one process. `run`: one schedule. `world`: what the promise is held against.
//!
//! # What must hold
//!
//! - What was answered 2xx is in the end confirmed by each sink that asks for it, or its dead letter, whole; a letter
//!   only if it was refused when sent alone. A 2xx to a repeat counts as any other. A new name owes what the name that it
//!   continues owed. A sink that was forgotten is owed what comes after it returns.
//! - A letter that rots or can't be read costs no other one. Of one that rotted the bytes are kept, and only its event may
//!   be missing.
//! - The letters of a sink are those of the name that continues it: none is left under the old one.
//! - A retry that somebody asked for ends soon after its deadline, and calls taken only what was confirmed.
//! - Only a sink that is `best_effort` loses events to a full journal. For each sink, what waits and what is given up
//!   make what waited before and what was stored; every event that is missing in the end was given up.
//! - No cursor passes an event that is neither confirmed nor a letter that is durable at that moment.
//! - No offset is two events, no id two bodies, no repeat is stored again while it must be known.
//! - A crash is no damage. The process always starts where nothing is wrong but one file that can't be read, and costs
//!   nothing if the disk gives the file again later.
//! - As long as no process died and the disk does as it should, nothing that a sink was told is confirmed is sent again.
//! - When all faults are over, in the same process and in the next, events are taken and everything arrives.
//!
//! # What it can't see
//!
//! What the journal's threads do to each other: a step is whole here (`journal/tests` has both). Files that stay
//! unreadable cost events, as they must (`journal/tests/unreadable.rs`). Segments and cursors do not rot
//! (`journal/tests/damage.rs`). No sink is renamed again while letters are left under an earlier name: nothing would take them
//! over, and they wait until somebody has them tried again.
//!
//! # What it found
//!
//! Each patch in `breaks/` breaks the program in one place. `breaks/run` applies them one after the other and prints how
//! many schedules it took until the simulation found each. These numbers are of 27 November 2026; they change whenever
//! schedules are drawn in another way:
//!
//! | broken | found by |
//! |---|---|
//! | The journal answers 2xx before the fsync. | 7 |
//! | What is confirmed beside a nack is sent again with it. | 307 |
//! | A cursor is written ahead of the confirm. | 1 |
//! | The cursor passes an event before its dead letter is written. | 1 |
//! | Segments are deleted by the fastest cursor. | 18 |
//! | The last letters of a killed process are not made durable. | 2,293 |
//! | A message that was refused among others becomes a dead letter. | 202 |
//! | A dead letter is not fsynced. | 1 |
//! | Letters of a parked topic are removed before they are published. | 50 |
//! | The id does not depend on the body. | 1 |
//! | A small file is renamed before its fsync. | 1 |
//! | The next segment is begun though the last commit could not be made durable. | 50, of those where a start fails |
//! | What the broker did not confirm counts as settled. | 12 |
//! | A new name starts with the next event, not at the place that it continues. | 2 |
//! | Forgetting a sink takes the others past what waits for them. | 17 |
//! | A full journal takes the events of a sink that is not `best_effort`. | 23 |
//! | A start ends at a segment's head that can't be read. | 22 |
//! | A start ends at a file of dead letters that can't be read. | 101 |
//! | A file of dead letters that can't be read is removed. | 101 |
//! | The dead letters of a sink stay under its old name. | 49 |
//! | The file of a letter that rotted is removed with its last letter. | 61 |
//! | A file in which something is damaged is removed once its other letters are gone. | 61 |
//! | A letter that is damaged or can't be read hides those behind it. | 61 |
//! | A retried letter that is refused counts as taken. | 65 |
//! | A letter is removed before its retry is confirmed. | 65 |
//!
//! The other patches have no number yet: schedules are drawn in another way since they were last counted.
//!
//! Three breaks were looked for during some minutes each, were not found, and have no patch; tests of their own see them
//! (`delivery/tests/letters.rs`, `dead_letters/tests/`): letters that can't be read and are not tried again once
//! their topic flows; a retry that passes its deadline while its sink is up; letters that are removed before they are
//! written under a new name. Two more cost no event: segments deleted by cursors that are not on disk yet, and a cursor
//! that has one slot.

mod broker;
mod event;
mod letters;
mod life;
mod reloads;
mod run;
mod schedule;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use run::{Ran, run};
use schedule::{Step, draw, draw_failing_start};
use world::Tally;

use crate::bridge::metrics::Metrics;
use crate::storage::blocking::in_line;

/// How many schedules are run.
const SCHEDULES: u64 = 20_000;
/// How many of them around a start whose disk fails.
const FAILING_STARTS: u64 = 1_000;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is no number: {number}")))
}

/// Drops steps for as long as what is left still breaks the promise; with it how.
fn shrink(mut steps: Vec<Step>, breaks: impl Fn(&[Step]) -> Option<String>) -> (Vec<Step>, String) {
    let mut why = breaks(&steps).expect("the same schedule breaks it again");
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < steps.len() {
            let fewer: Vec<Step> = steps.iter().take(at).chain(steps.iter().skip(at + size)).cloned().collect();
            match breaks(&fewer) {
                Some(still) => (steps, why) = (fewer, still),
                None => at += size,
            }
        }
        size /= 2;
    }
    (steps, why)
}

/// What is told of a seed that fails.
fn tell(seed: u64, draw: fn(u64) -> Vec<Step>, metrics: &Metrics) -> String {
    let (steps, why) = shrink(draw(seed), |steps| run(steps, metrics).outcome.err());
    // What the process itself says of it.
    let log = tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false).finish();
    drop(tracing::subscriber::with_default(log, || run(&steps, metrics)));
    let steps: Vec<String> = steps.iter().map(|step| format!("    {:?}", step.what)).collect();
    format!(
        "seed {seed}: {why}\n  shortest schedule:\n{}\n  again: ALMA_BRIDGE_TEST_SEED={seed} cargo test --lib simulation",
        steps.join("\n")
    )
}

#[test]
fn the_promise_holds_in_every_schedule() {
    let (count, tally) = hold_it_against(draw, SCHEDULES);
    assert!(count < 1_000 || tally.saw_everything(), "something never happened: {tally:?}");
}

#[test]
fn the_promise_holds_where_a_start_fails() {
    hold_it_against(draw_failing_start, FAILING_STARTS);
}

/// Runs so many schedules, or as the environment says; how many they were, and what happened in them.
fn hold_it_against(draw: fn(u64) -> Vec<Step>, schedules: u64) -> (u64, Tally) {
    let first = setting("ALMA_BRIDGE_TEST_SEED");
    let count = setting("ALMA_BRIDGE_TEST_SCHEDULES").unwrap_or(if first.is_some() { 1 } else { schedules });
    let seeds = first.unwrap_or(0)..first.unwrap_or(0) + count;
    let (next, failing) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
    let tally = Mutex::new(Tally::default());
    let began = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                in_line::turn_on();
                let metrics = Metrics::new();
                let mut own = Tally::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failing.load(Ordering::Relaxed) < seed {
                        break;
                    }
                    let Ran { outcome, tally, .. } = run(&draw(seed), &metrics);
                    own.add_all(&tally);
                    if outcome.is_err() {
                        failing.fetch_min(seed, Ordering::Relaxed);
                    }
                }
                tally.lock().expect("no thread panicked").add_all(&own);
            });
        }
    });
    let failing = failing.into_inner();
    let tally = tally.into_inner().expect("no thread panicked");
    println!("{count} schedules in {:.0?}: {tally:?}", began.elapsed());
    if failing < u64::MAX {
        in_line::turn_on();
        panic!("{}", tell(failing, draw, &Metrics::new()));
    }
    (count, tally)
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    in_line::turn_on();
    let metrics = Metrics::new();
    for seed in 0..100 {
        let [first, again] = [(); 2].map(|()| run(&draw(seed), &metrics));
        assert_eq!(first.trace, again.trace, "seed {seed}");
    }
}

#[test]
fn what_does_not_break_it_is_dropped() {
    let steps = draw(6);
    assert!(steps.len() > 8);
    let [first, last] = [steps[2].seed, steps[steps.len() - 2].seed];
    let has = |steps: &[Step], seed| steps.iter().any(|step| step.seed == seed);
    let breaks = |steps: &[Step]| (has(steps, first) && has(steps, last)).then(|| "both".to_owned());
    let (left, why) = shrink(steps, breaks);
    assert_eq!((left.iter().map(|step| step.seed).collect::<Vec<_>>(), &*why), (vec![first, last], "both"));
}
