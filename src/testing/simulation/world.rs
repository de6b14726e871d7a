//! What the world outside the process knows, and so what the promise is held against.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::event;
use super::schedule::{Mood, OTHER, Refusal, SINKS, TOPICS};
use crate::config::SinkName;
use crate::journal::{Offset, Taken};
use crate::testing::disk::SimDisk;

/// Shared by all that is outside. Outlives every process.
#[derive(Clone)]
pub(super) struct World(Arc<Mutex<Known>>);

/// What is known.
pub(super) struct Known {
    pub(super) disk: SimDisk,
    /// Answered 2xx.
    pub(super) acknowledged: BTreeSet<u64>,
    pub(super) brokers: [Broker; SINKS.len()],
    pub(super) owed: [Owed; SINKS.len()],
    pub(super) letters: [LettersKnown; SINKS.len()],
    /// When each event was first sent, in steps.
    offered: BTreeMap<u64, u64>,
    /// What had which offset, ever.
    offsets: BTreeMap<Offset, u64>,
    /// A repeat may be stored again.
    pub(super) forgetful: bool,
    /// The first thing that broke the promise.
    pub(super) broken: Option<String>,
    pub(super) tally: Tally,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Count {
    Steps,
    Acknowledged,
    Refused503,
    Repeats,
    Published,
    PublishedAgain,
    /// Windows that were begun while one ahead of them was in flight.
    Overlapped,
    Letters,
    Kills,
    PowerCuts,
    FailedStarts,
    Parked,
    GivenUp,
    Renamed,
    Forgotten,
    UnreadableFiles,
    DamagedLetters,
    UnreadableLetters,
    Retries,
    /// Letters that a retry had published.
    Taken,
    /// Retries that ended after their deadline.
    Overdue,
}

/// How often each thing happened. A run in which something never happened proves little.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(BTreeMap<Count, u64>);

impl Tally {
    pub(super) fn get(&self, count: Count) -> u64 {
        self.0.get(&count).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, count: Count, times: u64) {
        if times > 0 {
            *self.0.entry(count).or_default() += times;
        }
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(count, times)| self.add(*count, *times));
    }

    pub(super) fn saw_everything(&self) -> bool {
        self.0.len() == Count::Overdue as usize + 1
    }
}

/// What the journal owes a sink, whatever its name.
#[derive(Default)]
pub(super) struct Owed {
    /// The generation of the name that the journal has put down last.
    pub(super) registered: Option<u32>,
    /// Since which step it has a place; `None` if it has none.
    since: Option<u64>,
    /// Acknowledged while it had a place.
    due: BTreeSet<u64>,
    /// What it was made to pass because the journal was full.
    given_up: Vec<Range<Offset>>,
    /// What its pump has in flight or has settled. The journal does not count it when it gives events up.
    claimed: BTreeSet<Offset>,
}

/// What the world knows of the letters of one sink.
#[derive(Default)]
pub(super) struct LettersKnown {
    /// Events whose letters are damaged, with what is left of their bodies.
    pub(super) rotten: BTreeMap<u64, Vec<u8>>,
    /// Events whose letters another sink was asked to publish.
    given: BTreeMap<u64, Given>,
}

/// A letter that another sink was to publish.
struct Given {
    to: usize,
    /// The other sink confirmed it since.
    is_taken: bool,
}

impl LettersKnown {
    /// Another sink is asked to publish letters of this one.
    pub(super) fn gives(&mut self, to: usize, numbers: impl Iterator<Item = u64>) {
        self.given.extend(numbers.map(|number| (number, Given { to, is_taken: false })));
    }

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
            // Both are configured from the first event on.
            owed: [(); SINKS.len()].map(|()| Owed { since: Some(0), ..Owed::default() }),
            letters: [(); SINKS.len()].map(|()| LettersKnown::default()),
            offered: BTreeMap::new(),
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

/// A sink's name after so many renames.
pub(super) fn name(sink: usize, generation: u32) -> SinkName {
    let name = SINKS[sink];
    if generation == 0 { name.to_owned() } else { format!("{name}-{generation}") }.parse().expect("a name")
}

/// Which sink has a name, or had it.
pub(super) fn index(name: &SinkName) -> Option<usize> {
    let base = name.as_str().split('-').next();
    SINKS.iter().position(|sink| Some(*sink) == base)
}

/// Where the dead letters of all sinks are.
pub(super) const LETTERS: &str = "/data/journal/dead";
/// Room for all dead letters of one sink, in bytes.
pub(super) const ROOM: u64 = 1 << 20;

/// Where the dead letters of a sink are under one of its names.
pub(super) fn letter_folder(sink: usize, generation: u32) -> PathBuf {
    Path::new(LETTERS).join(name(sink, generation).as_str())
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

    /// An event is sent.
    pub(super) fn offers(&mut self, number: u64) {
        self.offered.entry(number).or_insert(self.tally.get(Count::Steps));
    }

    /// An event is answered 2xx. Each sink that has a place is to get it; of a repeat only what was sent after it began.
    pub(super) fn acknowledges(&mut self, number: u64, how: Taken) {
        let is_new = self.acknowledged.insert(number);
        self.tally.add(Count::Acknowledged, u64::from(is_new));
        self.tally.add(Count::Repeats, u64::from(matches!(how, Taken::Repeat(_))));
        if !is_new && how == Taken::Stored && !self.forgetful {
            self.breaks(|| format!("event {number} was taken before, and is stored again"));
        }
        let offered = self.offered.get(&number).copied().unwrap_or_default();
        for place in &mut self.owed {
            let gets = |since| how == Taken::Stored || (is_new && since < offered);
            if place.since.is_some_and(gets) {
                place.due.insert(number);
            }
        }
    }

    /// The journal has put down a sink under this name.
    pub(super) fn registers(&mut self, sink: usize, generation: u32) {
        let place = &mut self.owed[sink];
        let renamed = place.registered.replace(generation).is_some_and(|before| before != generation);
        self.tally.add(Count::Renamed, u64::from(renamed));
        place.since.get_or_insert(self.tally.get(Count::Steps));
    }

    /// [`OTHER`] is being forgotten: if that goes wrong, an operator can't rely on its place either.
    pub(super) fn forgets(&mut self) {
        self.tally.add(Count::Forgotten, 1);
        let place = &mut self.owed[OTHER];
        place.since = None;
        place.due.clear();
    }

    /// A pump is about to settle events.
    pub(super) fn claims(&mut self, sink: usize, events: &[Offset], cursor: Offset) {
        self.owed[sink].claimed.extend(events.iter().filter(|offset| **offset >= cursor));
    }

    /// A pump did not settle what it had claimed.
    pub(super) fn releases(&mut self, sink: usize, waiting: &[Offset]) {
        for offset in waiting {
            self.owed[sink].claimed.remove(offset);
        }
    }

    /// A sink's cursor is at `to`.
    pub(super) fn ends_claims(&mut self, sink: usize, to: Offset) {
        let place = &mut self.owed[sink];
        place.claimed = place.claimed.split_off(&to);
    }

    /// A pump begins again.
    pub(super) fn forgets_claims(&mut self, sink: usize) {
        self.owed[sink].claimed.clear();
    }

    /// How many of these events do not count as given up.
    pub(super) fn claimed(&self, sink: usize, events: Range<Offset>) -> u64 {
        self.owed[sink].claimed.range(events).count() as u64
    }

    /// A sink is made to pass events because the journal is full.
    pub(super) fn gives_up(&mut self, sink: usize, events: Range<Offset>, count: u64) {
        self.tally.add(Count::GivenUp, count);
        self.owed[sink].given_up.push(events);
    }

    fn is_given_up(&self, sink: usize, offset: Offset) -> bool {
        self.owed[sink].given_up.iter().any(|events| events.contains(&offset))
    }

    /// What a sink is owed and does not have. Letters that rotted or that another sink has are no loss, but the bytes of
    /// those that rotted must be kept.
    pub(super) fn lost(&mut self, sink: usize, kept: &BTreeSet<u64>) -> Vec<u64> {
        let confirmed = &self.brokers[sink].confirmed;
        let is_settled = |number: &u64| confirmed.contains(number) || kept.contains(number);
        // The same event may be stored more than once.
        let all_given_up = |number: &u64| {
            let mut offsets = self.offsets.iter().filter(|(_, event)| *event == number).map(|(offset, _)| *offset);
            let first = offsets.next();
            first.is_some_and(|first| self.is_given_up(sink, first)) && offsets.all(|o| self.is_given_up(sink, o))
        };
        let due = self.owed[sink].due.iter().filter(|number| event::is_wanted(sink, **number)).copied();
        let mut lost: Vec<_> = due.filter(|number| !is_settled(number) && !all_given_up(number)).collect();
        lost.retain(|number| match self.letters[sink].rotten.get(number) {
            Some(bytes) => {
                let mut dirs = self.letter_folders(sink).flat_map(|dir| [dir.join("damaged"), dir]);
                if !dirs.any(|dir| self.disk.find(&dir, bytes).is_some()) {
                    let why = format!("the damaged letter of event {number} of {} is not kept", SINKS[sink]);
                    self.broken.get_or_insert(why);
                }
                false
            }
            None => !self.letters[sink].is_taken(*number),
        });
        lost
    }

    /// Where the letters of a sink are or were, under any of its names.
    pub(super) fn letter_folders(&self, sink: usize) -> impl Iterator<Item = PathBuf> + use<> {
        // A name may have letters before the world hears of it.
        let newest = self.owed[sink].registered.map_or(0, |last| last + 1);
        (0..=newest).map(move |generation| letter_folder(sink, generation))
    }

    /// Whether a letter of a sink is durable.
    fn has_letter(&self, sink: usize, number: u64) -> bool {
        let needle = event::head(number);
        self.letter_folders(sink).any(|dir| self.disk.has_durably(&dir, needle.as_bytes()))
    }

    /// A sink is told that the broker has an event.
    pub(super) fn confirms(&mut self, sink: usize, number: u64) {
        self.brokers[sink].confirmed.insert(number);
        self.letters.iter_mut().for_each(|letters| letters.confirms(sink, number));
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
        self.tally.add(Count::Published, 1);
        if !event::is_wanted(sink, number) {
            self.breaks(|| format!("{} gets event {number}, which it does not ask for", SINKS[sink]));
        }
        if !self.brokers[sink].arrived.insert(number) {
            self.tally.add(Count::PublishedAgain, 1);
        }
    }

    /// A cursor passes this event: it must be settled.
    pub(super) fn passes(&mut self, sink: usize, offset: Offset, number: u64) {
        let settled = !event::is_wanted(sink, number)
            || self.brokers[sink].confirmed.contains(&number)
            || self.is_given_up(sink, offset)
            || self.letters[sink].rotten.contains_key(&number)
            || self.letters[sink].is_taken(number)
            || self.has_letter(sink, number);
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
