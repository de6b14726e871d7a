//! What happens to dead letters: they rot, the disk does not give them, somebody has them tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::event;
use super::life::Life;
use super::schedule::{EVENTS, SINKS};
use super::world::{Count, Known, World, name};
use crate::dead_letters::LetterId;
use crate::delivery::Retried;
use crate::testing::disk::Spot;

/// A letter's bytes before its body: of its frame's header, its numbers and its texts, at least so many.
const BEFORE_BODY: usize = 90;
/// Of a file; what is damaged there costs all of it.
const FILE_HEADER: usize = 20;
/// A sink answers so soon after the deadline of a retry, whatever its broker does.
const ANSWER: Duration = Duration::from_secs(20);

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
    known.tally.add(Count::DamagedLetters, 1);
}

/// The disk does not give a letter until the process ends.
pub(super) fn spoil(world: &World, sink: usize) {
    let mut known = world.lock();
    let Some((number, spot)) = pick(&known, sink) else { return };
    tracing::info!(number, "-- its letter can't be read");
    known.disk.faults(|faults| faults.bad_spot = Some(spot));
    known.tally.add(Count::UnreadableLetters, 1);
}

/// Somebody has all letters of a sink published, perhaps by another sink, and may go away before that is done.
pub(super) async fn retry(life: &Life, sink: usize, to: usize, within: Duration) {
    let world = life.world().clone();
    let Some(generation) = world.lock().owed[sink].registered else { return };
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
        known.tally.add(Count::Retries, 1);
        if to != sink {
            known.letters[sink].gives(to, numbers.values().copied());
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
                known.tally.add(Count::Overdue, u64::from(Instant::now() >= until));
                see_taken(&mut known, to, told, &numbers);
            }
            _ => {}
        }
    });
}

/// What a retry says was taken was confirmed.
fn see_taken(known: &mut Known, to: usize, told: Vec<(LetterId, Retried)>, numbers: &BTreeMap<LetterId, u64>) {
    for (id, _) in told.into_iter().filter(|(_, retried)| *retried == Retried::Taken) {
        known.tally.add(Count::Taken, 1);
        let number = numbers[&id];
        if !known.brokers[to].confirmed.contains(&number) {
            known.breaks(|| format!("{} took event {number}, says the retry, and never confirmed it", SINKS[to]));
        }
    }
}
