//! A sink that does as a script says, and a feed in memory.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::dead_letters::DeadLetters;
use crate::journal::{Backlog, Feed, FeedClosed, Offset, Window};
use crate::message::{Message, StoredEvent};
use crate::sinks::{Failure, Outcome, Outcomes, Reason, Sink, Windows};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(Failure::new(reason, "scripted"))
}

/// Events are texts `topic id` with anything behind; some topics have a meaning.
pub(super) fn make(event: &StoredEvent) -> Option<Message> {
    let text = std::str::from_utf8(&event.body).expect("tests write texts");
    let mut words = text.split(' ');
    let (topic, id) = (words.next().expect("a topic"), words.next().expect("an id"));
    assert_ne!(topic, "panics", "scripted");
    (topic != "unwanted").then(|| Message::sample(topic, id, &event.body, event.received))
}

/// What a scripted sink does with a window.
pub(super) enum Answer {
    Outcomes(Vec<Outcome>),
    /// Never answers.
    Hang,
    /// Tells what is known of each, and then nothing more.
    Part(Vec<Option<Outcome>>),
    /// Confirms one after the other, each after so long, as on a slow link.
    Paced(Duration),
    /// Answers after a while.
    After(Duration, Vec<Outcome>),
    Panic,
}

impl Answer {
    pub(super) fn confirm(window: &[Message]) -> Self {
        Self::Outcomes(vec![Outcome::CONFIRMED; window.len()])
    }

    /// One outcome a message.
    pub(super) fn each(window: &[Message], outcome: impl Fn(&Message) -> Outcome) -> Self {
        Self::Outcomes(window.iter().map(outcome).collect())
    }
}

type Script = Box<dyn FnMut(&[Message]) -> Answer + Send>;

/// What a scripted sink was asked, and what it is to do.
pub(super) struct Scene {
    pub(super) script: Script,
    /// What the next connects give; none left: they work.
    pub(super) connects: VecDeque<Failure>,
    pub(super) deadline: Duration,
    pub(super) connect_takes: Duration,
    /// When each connect began.
    pub(super) tries: Vec<Instant>,
    pub(super) up: bool,
    /// Ids of each window that was published.
    pub(super) windows: Vec<Vec<String>>,
    /// Ids in the order in which they were confirmed.
    pub(super) confirmed: Vec<String>,
    pub(super) connected: usize,
    pub(super) abandoned: usize,
    pub(super) closed: usize,
    /// An attempt is under way or was left unfinished.
    unfinished: bool,
    /// How it takes its windows. Their sizes are asked for when a pump is made.
    pub(super) takes: Windows,
    /// What was begun and is not yet published: its ids, and what becomes of it.
    begun: VecDeque<(Vec<String>, Answer)>,
    /// Most windows that were on their way at once.
    pub(super) at_once: usize,
}

impl Scene {
    /// Notes a window that is sent.
    fn send(&mut self, window: &[Message]) -> Answer {
        assert!(self.up, "a sink that is not connected is given nothing");
        assert!((1..=512).contains(&window.len()), "a window of {}", window.len());
        self.windows.push(ids(window));
        (self.script)(window)
    }

    /// Nothing is on its way any more.
    fn end(&mut self) {
        self.unfinished = false;
        self.begun.clear();
        self.up = false;
    }
}

fn ids(window: &[Message]) -> Vec<String> {
    window.iter().map(|message| message.id.to_string()).collect()
}

/// Shared with the test.
#[derive(Clone)]
pub(super) struct ScriptedSink(pub(super) Arc<Mutex<Scene>>);

impl ScriptedSink {
    pub(super) const DEADLINE: Duration = Duration::from_secs(30);

    pub(super) fn new(script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Scene {
            script: Box::new(script),
            connects: VecDeque::new(),
            deadline: Self::DEADLINE,
            connect_takes: Duration::from_millis(1),
            tries: Vec::new(),
            up: false,
            windows: Vec::new(),
            confirmed: Vec::new(),
            connected: 0,
            abandoned: 0,
            closed: 0,
            unfinished: false,
            takes: Windows::WHOLE,
            begun: VecDeque::new(),
            at_once: 0,
        })))
    }
}

impl Sink for ScriptedSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(async {
            lock(&self.0).tries.push(Instant::now());
            let takes = lock(&self.0).connect_takes;
            tokio::time::sleep(takes).await;
            let mut scene = lock(&self.0);
            if let Some(failure) = scene.connects.pop_front() {
                return Err(failure);
            }
            scene.end();
            scene.connected += 1;
            scene.up = true;
            Ok(Vec::new())
        })
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], told: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let answer = {
                let mut scene = lock(&self.0);
                assert!(!scene.unfinished, "the old attempt is ended before the window is sent again");
                scene.unfinished = true;
                scene.at_once = scene.at_once.max(scene.begun.len().max(1));
                match scene.begun.pop_front() {
                    Some((begun, answer)) => {
                        assert_eq!(begun, ids(window), "what was begun is published first");
                        answer
                    }
                    None => scene.send(window),
                }
            };
            let mut hangs = false;
            let outcomes = match answer {
                Answer::Outcomes(outcomes) => outcomes.into_iter().map(Some).collect(),
                Answer::Hang => std::future::pending().await,
                Answer::Part(outcomes) => {
                    hangs = true;
                    outcomes
                }
                Answer::Paced(pace) => {
                    for (place, message) in window.iter().enumerate() {
                        tokio::time::sleep(pace).await;
                        lock(&self.0).confirmed.push(message.id.to_string());
                        told.set(place, Outcome::CONFIRMED);
                    }
                    Vec::new()
                }
                Answer::After(wait, outcomes) => {
                    tokio::time::sleep(wait).await;
                    outcomes.into_iter().map(Some).collect()
                }
                Answer::Panic => panic!("scripted"),
            };
            {
                let mut scene = lock(&self.0);
                scene.unfinished = hangs;
                for (place, (message, outcome)) in window.iter().zip(outcomes).enumerate() {
                    let Some(outcome) = outcome else { continue };
                    if matches!(outcome, Outcome::Confirmed { .. }) {
                        scene.confirmed.push(message.id.to_string());
                    }
                    told.set(place, outcome);
                }
            }
            if hangs {
                std::future::pending::<()>().await;
            }
        })
    }

    fn windows(&self) -> Windows {
        lock(&self.0).takes
    }

    fn begin(&mut self, window: &[Message]) -> bool {
        let mut scene = lock(&self.0);
        assert!(scene.begun.len() < 2, "two windows overlap");
        assert!(scene.begun.front().is_none_or(|(ids, _)| ids.len() > 1), "what is sent alone stays alone");
        let answer = scene.send(window);
        scene.begun.push_back((ids(window), answer));
        true
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut scene = lock(&self.0);
            scene.abandoned += 1;
            scene.end();
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut scene = lock(&self.0);
            scene.closed += 1;
            scene.up = false;
        })
    }

    fn deadline(&self) -> Duration {
        lock(&self.0).deadline
    }

    fn is_up(&self) -> bool {
        lock(&self.0).up
    }
}

#[derive(Default)]
pub(super) struct Log {
    events: Vec<(Offset, StoredEvent)>,
    /// Number of the next event to be read.
    pub(super) read: usize,
    pub(super) cursor: Offset,
    pub(super) rewound: usize,
    pub(super) closed: bool,
    pub(super) panics: usize,
    /// At each advance: the cursor, and the letters that were durable by then.
    pub(super) advances: Vec<(Offset, u64)>,
    /// Claimed, and neither settled nor waiting since.
    pub(super) in_flight: BTreeSet<Offset>,
    /// Counted as given up.
    pub(super) given_up: BTreeSet<Offset>,
    /// Released as settled.
    pub(super) settled: BTreeSet<Offset>,
}

impl Log {
    /// Gives up the events before `to`, as a full journal does.
    pub(super) fn give_up(&mut self, to: Offset) {
        let passed = self.events.iter().map(|(offset, _)| *offset).filter(|offset| (self.cursor..to).contains(offset));
        let spared = |offset: &Offset| self.in_flight.contains(offset) || self.settled.contains(offset);
        self.given_up.extend(passed.filter(|offset| !spared(offset)));
        self.cursor = to;
    }
}

/// Shared with the test.
#[derive(Clone, Default)]
pub(super) struct MemoryFeed {
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) letters: Option<DeadLetters>,
    came: Arc<Notify>,
}

impl MemoryFeed {
    /// Appends an event; the first has offset 1, and every second offset is skipped.
    pub(super) fn push(&self, text: &str, received: Timestamp) {
        let mut log = lock(&self.log);
        let offset = Offset(log.events.len() as u64 * 2 + 1);
        let event = StoredEvent {
            source: "alma".parse().expect("a name"),
            received,
            recorded: received,
            body: text.to_owned().into(),
        };
        log.events.push((offset, event));
        self.came.notify_waiters();
    }

    pub(super) fn close(&self) {
        lock(&self.log).closed = true;
        self.came.notify_waiters();
    }

    fn window(&self, max_events: usize, max_bytes: usize) -> Option<Result<Window, FeedClosed>> {
        let mut log = lock(&self.log);
        if log.panics > 0 {
            log.panics -= 1;
            panic!("scripted");
        }
        if log.read == log.events.len() {
            return log.closed.then_some(Err(FeedClosed));
        }
        let mut window = Window::default();
        let mut bytes = 0;
        for (offset, event) in log.events[log.read..].iter().take(max_events) {
            bytes += event.body.len();
            if bytes > max_bytes && !window.events.is_empty() {
                break;
            }
            window.events.push((*offset, event.clone()));
            window.end = Offset(offset.0 + 1);
        }
        log.read += window.events.len();
        Some(Ok(window))
    }
}

impl Feed for MemoryFeed {
    async fn next_window(&mut self, max_events: usize, max_bytes: usize) -> Result<Window, FeedClosed> {
        loop {
            let came = Arc::clone(&self.came);
            let mut came = std::pin::pin!(came.notified());
            came.as_mut().enable();
            if let Some(window) = self.window(max_events, max_bytes) {
                return window;
            }
            came.await;
        }
    }

    fn has_more(&mut self) -> bool {
        let log = lock(&self.log);
        log.read < log.events.len()
    }

    fn claim(&mut self, events: &[Offset]) -> Offset {
        let mut log = lock(&self.log);
        let cursor = log.cursor;
        log.in_flight.extend(events.iter().filter(|offset| **offset >= cursor));
        cursor
    }

    fn release(&mut self, settled: &[Offset], waiting: &[Offset]) {
        let mut log = lock(&self.log);
        log.settled.extend(settled);
        for offset in settled.iter().chain(waiting) {
            assert!(log.in_flight.remove(offset) || waiting.contains(offset), "{offset} was settled without a claim");
        }
        let cursor = log.cursor;
        log.given_up.extend(waiting.iter().filter(|offset| **offset < cursor));
    }

    fn advance(&mut self, to: Offset) {
        let mut log = lock(&self.log);
        if !log.given_up.is_empty() && to < log.cursor {
            return;
        }
        assert!(to >= log.cursor, "the cursor went back from {} to {to}", log.cursor);
        if to > log.cursor {
            log.cursor = to;
            let letters = self.letters.as_ref().map_or(0, |letters| letters.summary().letters());
            log.advances.push((to, letters));
        }
    }

    fn rewind(&mut self) {
        let mut log = lock(&self.log);
        log.rewound += 1;
        log.read = log.events.partition_point(|(offset, _)| *offset < log.cursor);
    }

    fn backlog(&self) -> Backlog {
        let log = lock(&self.log);
        let passed = log.events.partition_point(|(offset, _)| *offset < log.cursor);
        let oldest = log.events.get(passed).map(|(_, event)| event.received);
        Backlog { events: (log.events.len() - passed) as u64, oldest }
    }
}
