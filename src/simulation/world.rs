//! What the world outside the process knows, and so what the promise is held against.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::SimDisk;
use super::event;
use super::schedule::{Mood, Refusal, SINKS, TOPICS};
use crate::journal::Offset;

/// Shared by all that is outside. Outlives every process.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<Known>>);

/// What is known.
pub(super) struct Known {
    pub(super) disk: SimDisk,
    /// Answered 2xx.
    pub(super) acknowledged: BTreeSet<u64>,
    pub(super) brokers: [Broker; SINKS.len()],
    /// What had which offset, ever.
    offsets: BTreeMap<Offset, u64>,
    /// A repeat may be stored again.
    pub(super) forgetful: bool,
    /// The first thing that broke the promise.
    pub(super) broken: Option<String>,
    pub(super) tally: Tally,
}

/// What happened, to see that a run was worth the while.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) steps: u64,
    pub(super) acknowledged: u64,
    pub(super) refused_503: u64,
    pub(super) repeats: u64,
    pub(super) published: u64,
    pub(super) published_again: u64,
    /// Windows that were begun while one ahead of them was on its way.
    pub(super) overlapped: u64,
    pub(super) letters: u64,
    pub(super) kills: u64,
    pub(super) power_cuts: u64,
    pub(super) failed_starts: u64,
    pub(super) parked: u64,
}

impl Tally {
    pub(super) const fn saw_everything(&self) -> bool {
        let Self { steps, acknowledged, refused_503, repeats, published, published_again, .. } = *self;
        let Self { overlapped, letters, parked, kills, power_cuts, failed_starts, .. } = *self;
        let taken = steps > 0 && acknowledged > 0 && refused_503 > 0 && repeats > 0;
        let sent = published > 0 && published_again > 0 && overlapped > 0 && letters > 0 && parked > 0;
        taken && sent && kills > 0 && power_cuts > 0 && failed_starts > 0
    }

    pub(super) fn add(&mut self, other: &Self) {
        let Self { steps, acknowledged, refused_503, repeats, published, published_again, .. } = other;
        let Self { overlapped, letters, kills, power_cuts, failed_starts, parked, .. } = other;
        for (sum, more) in [
            (&mut self.steps, steps),
            (&mut self.acknowledged, acknowledged),
            (&mut self.refused_503, refused_503),
            (&mut self.repeats, repeats),
            (&mut self.published, published),
            (&mut self.published_again, published_again),
            (&mut self.overlapped, overlapped),
            (&mut self.letters, letters),
            (&mut self.kills, kills),
            (&mut self.power_cuts, power_cuts),
            (&mut self.failed_starts, failed_starts),
            (&mut self.parked, parked),
        ] {
            *sum += more;
        }
    }
}

/// One sink's broker.
pub(super) struct Broker {
    pub(super) mood: Mood,
    pub(super) topics: [Refusal; TOPICS],
    /// Sinks that were told so.
    pub(super) confirmed: BTreeSet<u64>,
    /// What arrived, confirmed or not.
    arrived: BTreeSet<u64>,
}

impl World {
    pub(super) fn new(disk: SimDisk) -> Self {
        let broker = || Broker {
            mood: Mood::Well,
            topics: [Refusal::None; TOPICS],
            confirmed: BTreeSet::new(),
            arrived: BTreeSet::new(),
        };
        Self(Arc::new(Mutex::new(Known {
            disk,
            acknowledged: BTreeSet::new(),
            brokers: [broker(), broker()],
            offsets: BTreeMap::new(),
            forgetful: false,
            broken: None,
            tally: Tally::default(),
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a sink's dead letters are.
pub(super) fn letters_of(sink: usize) -> PathBuf {
    PathBuf::from("/data/journal/dead").join(SINKS[sink])
}

impl Known {
    /// The promise is broken; what is told is the first time.
    pub(super) fn breaks(&mut self, why: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(why);
    }

    /// Whether the journal has put the sinks down: it takes nothing before. A sink that is taken out earlier is none of
    /// its sinks, and is due nothing.
    pub(super) fn knows_sinks(&self) -> bool {
        !self.acknowledged.is_empty()
    }

    /// A sink has read this; gives its number.
    pub(super) fn has_read(&mut self, offset: Offset, body: &[u8]) -> Option<u64> {
        let Some(number) = event::number(body) else {
            self.breaks(|| format!("the event at offset {offset} is not as it was signed"));
            return None;
        };
        let before = *self.offsets.entry(offset).or_insert(number);
        if before != number {
            self.breaks(|| format!("offset {offset} was event {before}, and is event {number}"));
        }
        Some(number)
    }

    /// A message arrived at a broker.
    pub(super) fn arrives(&mut self, sink: usize, number: u64) {
        self.tally.published += 1;
        if !event::is_wanted(sink, number) {
            self.breaks(|| format!("{} gets event {number}, which it does not ask for", SINKS[sink]));
        }
        if !self.brokers[sink].arrived.insert(number) {
            self.tally.published_again += 1;
        }
    }

    /// A cursor passes this event: it must be settled.
    pub(super) fn passes(&mut self, sink: usize, offset: Offset, number: u64) {
        let settled = !event::is_wanted(sink, number)
            || self.brokers[sink].confirmed.contains(&number)
            || self.disk.has_durably(&letters_of(sink), event::head(number).as_bytes());
        if !settled {
            let sink = SINKS[sink];
            self.breaks(|| {
                format!(
                    "{sink}'s cursor passes offset {offset}: event {number} is neither confirmed nor a durable letter"
                )
            });
        }
    }
}
