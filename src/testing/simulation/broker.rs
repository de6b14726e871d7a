//! A sink at a simulated broker, and a feed that is watched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::event;
use super::schedule::{Mood, Refusal, SINKS};
use super::world::{Count, World};
use crate::journal::{Backlog, Feed, FeedClosed, JournalReader, Offset, Window};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Outcomes, Reason, Sink, Windows};

/// The sink whose windows overlap, and how many events they have then: so few that there is a next one.
const OVERLAPPING: usize = 0;
const WINDOW: usize = 3;

/// One process's sink.
pub(super) struct SimSink {
    pub(super) world: World,
    pub(super) index: usize,
    pub(super) random: Rng,
    up: bool,
    /// What the broker made of windows that were begun.
    begun: VecDeque<(Vec<String>, Vec<Outcome>)>,
    /// Events whose confirms it was told.
    told: BTreeSet<u64>,
}

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(Failure::new(reason, "simulated"))
}

fn ids(window: &[Message]) -> Vec<String> {
    window.iter().map(|message| message.id.to_string()).collect()
}

impl SimSink {
    pub(super) fn new(world: World, index: usize, seed: u64) -> Self {
        Self { world, index, random: Rng::with_seed(seed), up: false, begun: VecDeque::new(), told: BTreeSet::new() }
    }

    fn mood(&self) -> Mood {
        self.world.lock().brokers[self.index].mood
    }

    /// A dead process sends nothing and learns nothing.
    async fn stay_alive(&self) {
        if self.world.lock().disk.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    /// The broker's answer to one message, where nothing is wrong with the broker.
    fn judge(&self, message: &Message, condemned: bool, nacks: bool) -> Outcome {
        let mut known = self.world.lock();
        let Some(number) = event::number_of(message) else {
            let sink = SINKS[self.index];
            known.breaks(|| {
                format!("{sink} publishes another body under id {} and topic {}", message.id, message.topic)
            });
            return failed(Reason::Malformed);
        };
        match known.brokers[self.index].topics[event::topic(number)] {
            Refusal::Rights => return failed(Reason::Rights),
            Refusal::Missing => return failed(Reason::Missing),
            Refusal::Nacks if nacks => return failed(Reason::Nacked),
            Refusal::Nacks | Refusal::None => {}
        }
        if event::is_refused(number) || condemned {
            return failed(Reason::TooLarge);
        }
        known.arrives(self.index, number);
        Outcome::CONFIRMED
    }

    /// What the broker makes of a window, but that nobody is told yet.
    fn answer(&mut self, window: &[Message]) -> Vec<Outcome> {
        self.see_copies(window);
        let mood = self.mood();
        let is_refused = |message: &Message| event::number(&message.data).is_none_or(event::is_refused);
        // Two windows may share a request, which is refused with all that is in it.
        let shares = self.begun.back().is_some_and(|(_, ahead)| ahead.contains(&failed(Reason::TooLarge)));
        let harsh = mood == Mood::Harsh && window.len() > 1 && (shares || window.iter().any(is_refused));
        let mut broken = false;
        let mut answers = Vec::new();
        for message in window {
            broken |= mood == Mood::Breaks && self.random.u8(0..3) == 0;
            let deaf = mood == Mood::Deaf && self.random.bool();
            answers.push(match mood {
                Mood::Busy => failed(Reason::Busy),
                _ if broken || deaf => failed(Reason::Unreachable),
                _ => {
                    let condemned = harsh && self.random.u8(0..3) > 0;
                    let nacks = self.random.bool();
                    self.judge(message, condemned, nacks)
                }
            });
        }
        if broken {
            self.up = false;
        }
        if mood == Mood::Liar {
            answers = answers.into_iter().map(|_| failed(Reason::Timeout)).collect();
        }
        answers
    }

    /// Nothing is on its way any more.
    fn cut(&mut self) {
        self.up = false;
        self.begun.clear();
    }

    /// Tells the sink of the first so many messages of a window.
    fn tell(&mut self, window: &[Message], answers: Vec<Outcome>, count: usize, outcomes: &mut Outcomes) {
        let mut known = self.world.lock();
        for (place, (message, answer)) in window.iter().zip(answers).take(count).enumerate() {
            if let (Outcome::Confirmed { .. }, Some(number)) = (&answer, event::number(&message.data)) {
                known.confirms(self.index, number);
                self.told.insert(number);
            }
            outcomes.set(place, answer);
        }
    }

    /// As long as no process died and the disk does as it should, nothing that was confirmed is sent again: neither after
    /// a deadline, nor because another message of its window was refused. But another sink's letter may be.
    fn see_copies(&self, window: &[Message]) {
        let mut known = self.world.lock();
        let copy = window.iter().filter_map(|message| event::number(&message.data)).find(|it| self.told.contains(it));
        let copy = copy.filter(|number| !known.letters.iter().any(|letters| letters.is_for(self.index, *number)));
        let may_repeat = known.forgetful || known.tally.get(Count::Kills) + known.tally.get(Count::PowerCuts) > 0;
        if let Some(number) = copy.filter(|_| !may_repeat) {
            known.breaks(|| format!("event {number} is sent to {} again though it was confirmed", SINKS[self.index]));
        }
    }
}

impl Sink for SimSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        self.cut();
        Box::pin(async {
            sleep(Duration::from_millis(self.random.u64(1..20))).await;
            self.stay_alive().await;
            match self.mood() {
                Mood::Unreachable => Err(Failure::new(Reason::Unreachable, "simulated")),
                Mood::Hangs => std::future::pending().await,
                _ => {
                    self.up = true;
                    Ok(Vec::new())
                }
            }
        })
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !self.up {
                self.world.lock().breaks(|| "a sink that is not connected is given something".to_owned());
            }
            let begun = self.begun.pop_front();
            sleep(Duration::from_millis(self.random.u64(1..30))).await;
            self.stay_alive().await;
            match self.mood() {
                Mood::Unreachable => {
                    self.up = false;
                    return outcomes.fail_open(&Failure::new(Reason::Unreachable, "simulated"));
                }
                Mood::Hangs => std::future::pending().await,
                _ => {}
            }
            let (begun, answers) = begun.unwrap_or_else(|| (ids(window), self.answer(window)));
            if begun != ids(window) {
                self.world.lock().breaks(|| "another window than the oldest that was begun is published".to_owned());
            }
            // The answer may be on its way when the process dies.
            sleep(Duration::from_millis(self.random.u64(0..10))).await;
            self.stay_alive().await;
            if self.mood() == Mood::Deaf {
                std::future::pending::<()>().await;
            }
            if self.mood() == Mood::Slow {
                let count = self.random.usize(0..=window.len());
                self.tell(window, answers, count, outcomes);
                return std::future::pending().await;
            }
            self.tell(window, answers, window.len(), outcomes);
        })
    }

    fn windows(&self) -> Windows {
        match self.index {
            OVERLAPPING => Windows { events: WINDOW, overlap: true, ..Windows::WHOLE },
            _ => Windows::WHOLE,
        }
    }

    fn begin(&mut self, window: &[Message]) -> bool {
        let is_dead = self.world.lock().disk.is_dead();
        let takes = self.up && !is_dead && !matches!(self.mood(), Mood::Unreachable | Mood::Hangs);
        if takes {
            self.world.lock().tally.add(Count::Overlapped, u64::from(!self.begun.is_empty()));
            let outcomes = self.answer(window);
            self.begun.push_back((ids(window), outcomes));
        }
        takes
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        self.cut();
        Box::pin(std::future::ready(()))
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        self.cut();
        Box::pin(std::future::ready(()))
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn is_up(&self) -> bool {
        self.up
    }
}

/// A sink's place in the journal; sees to it that the cursor passes nothing that is not settled.
pub(super) struct Watched {
    feed: JournalReader,
    world: World,
    index: usize,
    /// Read, and not yet passed.
    read: BTreeMap<Offset, u64>,
    passed: Offset,
}

impl Watched {
    pub(super) fn new(feed: JournalReader, world: World, index: usize) -> Self {
        world.lock().forgets_claims(index);
        Self { feed, world, index, read: BTreeMap::new(), passed: Offset(0) }
    }
}

impl Feed for Watched {
    async fn next_window(&mut self, max_events: usize, max_bytes: usize) -> Result<Window, FeedClosed> {
        let window = self.feed.next_window(max_events, max_bytes).await?;
        let mut known = self.world.lock();
        for (offset, event) in &window.events {
            if *offset < self.passed {
                let passed = self.passed;
                known.breaks(|| format!("offset {offset} is read again though the cursor passed {passed}"));
            }
            let number = known.has_read(*offset, &event.body);
            self.read.extend(number.map(|number| (*offset, number)));
        }
        Ok(window)
    }

    fn has_more(&mut self) -> bool {
        self.feed.has_more()
    }

    fn claim(&mut self, events: &[Offset]) -> Offset {
        let cursor = self.feed.claim(events);
        self.world.lock().claims(self.index, events, cursor);
        cursor
    }

    fn release(&mut self, settled: &[Offset], waiting: &[Offset]) {
        self.feed.release(settled, waiting);
        self.world.lock().releases(self.index, waiting);
    }

    fn advance(&mut self, to: Offset) {
        let left = self.read.split_off(&to);
        let mut known = self.world.lock();
        for (offset, number) in std::mem::replace(&mut self.read, left) {
            known.passes(self.index, offset, number);
        }
        known.ends_claims(self.index, to);
        drop(known);
        self.passed = self.passed.max(to);
        self.feed.advance(to);
    }

    fn rewind(&mut self) {
        self.world.lock().forgets_claims(self.index);
        self.feed.rewind();
    }

    fn backlog(&self) -> Backlog {
        self.feed.backlog()
    }
}
