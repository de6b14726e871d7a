//! What happens to dead letters: they rot, the disk does not give them, somebody has them tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::event;
use super::life::Life;
use super::schedule::{EVENTS, SINKS};
use super::world::{Known, World, name};
use crate::dead_letters::LetterId;
use crate::delivery::{Retried, SinkSnapshot};
use crate::sinks::Class;
use crate::testing::disk::Spot;

/// A letter's bytes before its body: of its frame's header, its numbers and its texts, at least so many.
const BEFORE_BODY: usize = 90;
/// Of a file; what is damaged there costs all of it.
const FILE_HEADER: usize = 20;
/// A sink answers so soon after the deadline of a retry, whatever its broker does.
const ANSWER: Duration = Duration::from_secs(20);

/// What the world knows of the letters of one sink.
#[derive(Default)]
pub(super) struct LettersKnown {
    /// Events whose letters are damaged, and what is left of their bodies.
    pub(super) rotten: BTreeMap<u64, Vec<u8>>,
    /// Events whose letters another sink was to publish.
    given: BTreeMap<u64, Given>,
}

/// A letter that another sink was to publish.
struct Given {
    to: usize,
    /// The other sink confirmed it since.
    is_taken: bool,
}

impl LettersKnown {
    /// Whether another sink has what was this one's letter.
    pub(super) fn is_taken(&self, number: u64) -> bool {
        self.given.get(&number).is_some_and(|given| given.is_taken)
    }

    /// Whether this sink may publish an event for another one.
    pub(super) fn is_for(&self, sink: usize, number: u64) -> bool {
        self.given.get(&number).is_some_and(|given| given.to == sink)
    }

    /// A sink confirmed an event.
    pub(super) fn confirms(&mut self, sink: usize, number: u64) {
        if let Some(given) = self.given.get_mut(&number).filter(|given| given.to == sink) {
            given.is_taken = true;
        }
    }
}

/// What happened to letters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LettersTally {
    pub(super) rotten: u64,
    pub(super) spoiled: u64,
    pub(super) retries: u64,
    pub(super) taken: u64,
    pub(super) overdue: u64,
}

impl LettersTally {
    pub(super) const fn saw_everything(&self) -> bool {
        let Self { rotten, spoiled, retries, taken, overdue } = *self;
        rotten > 0 && spoiled > 0 && retries > 0 && taken > 0 && overdue > 0
    }

    pub(super) const fn add(&mut self, other: &Self) {
        self.rotten += other.rotten;
        self.spoiled += other.spoiled;
        self.retries += other.retries;
        self.taken += other.taken;
        self.overdue += other.overdue;
    }
}

/// A letter of a sink that is on disk, by the number of its event; where its body is.
fn pick(known: &Known, sink: usize) -> Option<(u64, Spot)> {
    let folders: Vec<_> = known.letter_folders(sink).collect();
    let place = |number: u64| folders.iter().find_map(|dir| known.disk.find(dir, &event::body(number)));
    let on_disk: Vec<_> = (0..EVENTS).filter_map(|number| Some((number, place(number)?))).collect();
    fastrand::choice(on_disk)
}

/// A bit of a letter flips.
pub(super) fn rot(world: &World, sink: usize) {
    let mut known = world.lock();
    let Some((number, spot)) = pick(&known, sink) else { return };
    let frame = spot.bytes.start.saturating_sub(BEFORE_BODY).max(FILE_HEADER)..spot.bytes.end;
    known.disk.flip(&spot, fastrand::usize(frame));
    let left = known.disk.at(&spot);
    tracing::info!(number, "-- its letter is damaged");
    known.letters[sink].rotten.insert(number, left);
    known.tally.of_letters.rotten += 1;
}

/// The disk does not give a letter until the process ends.
pub(super) fn spoil(world: &World, sink: usize) {
    let mut known = world.lock();
    let Some((number, spot)) = pick(&known, sink) else { return };
    tracing::info!(number, "-- its letter can't be read");
    known.disk.faults(|faults| faults.bad_spot = Some(spot));
    known.tally.of_letters.spoiled += 1;
}

/// Somebody has all letters of a sink published, perhaps by another sink, and may go away before that is done.
pub(super) async fn retry(life: &Life, sink: usize, to: usize, within: Duration) {
    let world = life.world().clone();
    let Some(generation) = world.lock().places[sink].registered else { return };
    let Some(handle) = life.handle(to) else { return };
    let Ok(letters) = life.letters.open(&name(sink, generation)) else { return };
    let Ok(all) = letters.list().await else { return };
    let mut numbers: BTreeMap<LetterId, u64> = BTreeMap::new();
    for info in all {
        let letter = letters.get(info.id).await.ok().flatten();
        let number = letter.and_then(|letter| event::number(&letter.event.body));
        numbers.extend(number.map(|number| (info.id, number)));
    }
    if numbers.is_empty() {
        return;
    }
    {
        let mut known = world.lock();
        known.tally.of_letters.retries += 1;
        if to != sink {
            let given = numbers.values().map(|number| (*number, Given { to, is_taken: false }));
            known.letters[sink].given.extend(given);
        }
    }
    let goes_away = fastrand::u8(0..4) == 0;
    let until = Instant::now() + within;
    tokio::spawn(async move {
        let retry = handle.retry(&letters, numbers.keys().copied().collect(), until);
        if goes_away {
            return drop(timeout(within / 2, retry).await);
        }
        let told = timeout_at(until + ANSWER, retry).await;
        let mut known = world.lock();
        match told {
            Err(_) if !known.disk.is_dead() => {
                known.breaks(|| format!("{} works on a retry {ANSWER:?} after its deadline", SINKS[to]));
            }
            Ok(Ok(told)) => {
                known.tally.of_letters.overdue += u64::from(Instant::now() >= until);
                see_taken(&mut known, to, told, &numbers);
            }
            _ => {}
        }
    });
}

/// What a retry says was taken was confirmed.
fn see_taken(known: &mut Known, to: usize, told: Vec<(LetterId, Retried)>, numbers: &BTreeMap<LetterId, u64>) {
    for (id, _) in told.into_iter().filter(|(_, retried)| *retried == Retried::Taken) {
        known.tally.of_letters.taken += 1;
        let number = numbers[&id];
        if !known.brokers[to].confirmed.contains(&number) {
            known.breaks(|| format!("{} took event {number}, says the retry, and never confirmed it", SINKS[to]));
        }
    }
}

/// Letters of sinks that run which wait for an operator.
pub(super) fn stranded(life: &Life) -> u64 {
    let waits = |status: SinkSnapshot| -> u64 {
        let by_reason = status.dead_letters.by_reason.into_iter();
        by_reason.filter(|(reason, _)| reason.class() == Class::NeedsOperator).map(|(_, count)| count).sum()
    };
    life.sinks.handles().statuses().into_iter().map(waits).sum()
}

/// What is lost to a sink, but that its letter rotted or another sink has it. Of what rotted the bytes are kept.
pub(super) fn without_excuse(known: &mut Known, sink: usize, lost: Vec<u64>) -> Vec<u64> {
    let mut left = Vec::new();
    for number in lost {
        match known.letters[sink].rotten.get(&number) {
            Some(bytes) => {
                let mut dirs = known.letter_folders(sink).flat_map(|dir| [dir.join("damaged"), dir]);
                if !dirs.any(|dir| known.disk.find(&dir, bytes).is_some()) {
                    known.breaks(|| format!("the damaged letter of event {number} of {} is not kept", SINKS[sink]));
                }
            }
            None if known.letters[sink].is_taken(number) => {}
            None => left.push(number),
        }
    }
    left
}
