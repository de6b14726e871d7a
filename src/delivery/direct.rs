//! `storage = "none"`: an event is taken once every sink that wants it has confirmed it.
//!
//! No journal, dead letters, parked topics or dedupe: what is not confirmed in time is a 503, and Alma comes again. A
//! sink that is not connected refuses at once. A window is still judged like a pump's: what is refused among others is
//! sent alone, so that one bad event does not turn its neighbours away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::batch::Batch;
use super::guarded_sink::{GuardedSink, GuardedSinkParts, until};
use super::handles::{Handles, PumpHandle, Request};
use super::reader::{Made, MakeMessage, TICK, make_guarded};
use super::status::SinkState;
use super::{BackOff, SinkSetup};
use crate::alma::Verified;
use crate::clock::{Clock, Timestamp};
use crate::config::SinkName;
use crate::journal::{Intake, NotTaken, Taken};
use crate::message::{Message, StoredEvent};
use crate::sinks::{Failure, Reason, Windows};
use crate::telemetry::Metrics;

/// Events that wait for one sink; one more is refused.
const QUEUE: usize = 2 * Windows::WHOLE.events;

/// The intake that publishes before it answers.
pub struct Direct {
    lines: RwLock<Lines>,
    handles: Handles,
    /// How long an event may take; no attempt takes longer either, because nobody waits for its outcome.
    deadline: Duration,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

/// The ways to all sinks.
#[derive(Default)]
struct Lines {
    by_sink: BTreeMap<SinkName, Line>,
    /// Sinks without which no event is taken: one that is missing may be the one that wants it.
    expected: BTreeSet<SinkName>,
}

impl Lines {
    /// Whether every sink that is configured is there, so that it can be told whether one wants an event.
    fn complete(&self) -> Result<(), NotTaken> {
        match self.expected.iter().find(|name| !self.by_sink.contains_key(name)) {
            Some(name) => Err(not_confirmed(name, "it is configured and does not run")),
            None => Ok(()),
        }
    }
}

/// The way to one sink.
struct Line {
    make: Arc<dyn MakeMessage>,
    queue: mpsc::Sender<Item>,
    handle: PumpHandle,
    task: JoinHandle<()>,
}

/// An event for one sink.
struct Item {
    message: Message,
    ticket: Ticket,
}

/// Who waits for an event.
struct Ticket {
    /// None once it was told.
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Holds the body's share of `body_memory`.
    _event: Arc<Verified>,
}

impl Ticket {
    /// Tells what became of the event, unless that was told before. Nobody may wait any more.
    fn tell(mut self, outcome: Result<(), Failure>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(outcome));
        }
    }

    /// The event is confirmed, whatever becomes of the others of its window.
    fn confirm(&mut self) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(Ok(())));
        }
    }
}

impl Direct {
    /// Without sinks yet. `deadline` is what is left of `answer_within` once a body is read.
    pub fn new(deadline: Duration, metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        Self { lines: RwLock::default(), handles: Handles::default(), deadline, metrics, clock }
    }

    /// The sinks, for the admin listener.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    fn lines(&self) -> RwLockReadGuard<'_, Lines> {
        self.lines.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines_mut(&self) -> RwLockWriteGuard<'_, Lines> {
        self.lines.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the sinks are `all`. Those of `new` start, or take the place of the one of their name, for which
    /// events wait while the old one ends; the others stay as they are, and those that are not in `all` end. What waits
    /// for a sink that ends is published first, at most `within`. Needs tokio's runtime.
    ///
    /// It is one change: every event finds either all sinks as they were or all as they are now, so that none falls
    /// between a sink that does not ask for it any more and one that does not ask for it yet.
    pub async fn apply(&self, new: Vec<SinkSetup>, all: BTreeSet<SinkName>, within: Duration) {
        let (mut starts, mut ending) = (BTreeMap::new(), Vec::new());
        let prepared: Vec<_> = new.into_iter().map(|setup| self.prepare(setup)).collect();
        {
            let mut lines = self.lines_mut();
            for (name, line, start) in prepared {
                self.handles.set(&name, line.handle.clone());
                ending.extend(lines.by_sink.insert(name.clone(), line).map(|old| (name.clone(), old)));
                starts.insert(name, start);
            }
            let gone: Vec<SinkName> = lines.by_sink.keys().filter(|name| !all.contains(*name)).cloned().collect();
            for name in gone {
                self.handles.unset(&name);
                ending.extend(lines.by_sink.remove_entry(&name));
            }
            lines.expected = all;
        }
        let ends = ending.into_iter().map(|(name, old)| (starts.remove(&name), name, old)).collect::<Vec<_>>();
        // Those that follow nobody start at once. A task can't have ended before it started.
        for start in starts.into_values() {
            start.send(()).ok();
        }
        join_all(ends.into_iter().map(|(start, name, old)| async move {
            end(&name, old, within).await;
            start.map(|start| start.send(()))
        }))
        .await;
    }

    /// A sink that waits for the word to start. It starts all the same if the word never comes.
    fn prepare(&self, setup: SinkSetup) -> (SinkName, Line, oneshot::Sender<()>) {
        let SinkSetup { config, sink, make } = setup;
        let sink = GuardedSink::new(GuardedSinkParts {
            sink,
            name: config.name.clone(),
            kind: &config.kind,
            delays: BackOff::SINK.delays(fastrand::Rng::new()),
            longest: self.deadline,
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
        });
        let (queue, items) = mpsc::channel(QUEUE);
        let (ask, requests) = mpsc::channel(1);
        let handle = PumpHandle { status: sink.status.subscribe(), requests: ask, dead_letters: None };
        let worker = Worker { sink, items, requests };
        let (start, started) = oneshot::channel();
        let task = tokio::spawn(async move {
            drop(started.await);
            worker.run().await;
        });
        (config.name, Line { make, queue, handle, task }, start)
    }

    /// Ends all sinks.
    pub async fn stop(&self, within: Duration) {
        let lines = std::mem::take(&mut self.lines_mut().by_sink);
        join_all(lines.into_iter().map(|(name, line)| async move { end(&name, line, within).await })).await;
    }

    /// Hands an event to every sink that wants it.
    fn hand_out(&self, event: Verified, received: Timestamp) -> Result<Vec<Waiting>, NotTaken> {
        let event = Arc::new(event);
        let stored = StoredEvent {
            source: event.source().clone(),
            received,
            recorded: self.clock.now(),
            body: event.body().clone(),
        };
        let lines = self.lines();
        lines.complete()?;
        let mut made = Vec::new();
        for (name, line) in &lines.by_sink {
            match make_guarded(&*line.make, &stored) {
                Made::Message(message) => made.push((name, line, message)),
                Made::Unwanted => {}
                Made::Panicked => return Err(not_confirmed(name, "making the message panicked")),
            }
        }
        // All are made before one is sent: an event that is refused here has gone nowhere.
        let send = |(name, line, message): (&SinkName, &Line, Message)| {
            let (reply, outcome) = oneshot::channel();
            let item = Item { message, ticket: Ticket { reply: Some(reply), _event: Arc::clone(&event) } };
            line.queue.try_send(item).map_err(|error| match error {
                TrySendError::Full(_) => not_confirmed(name, "too many events wait"),
                TrySendError::Closed(_) => not_confirmed(name, "it is stopped"),
            })?;
            Ok(Waiting { sink: name.clone(), outcome })
        };
        made.into_iter().map(send).collect()
    }
}

/// An event on its way to one sink.
struct Waiting {
    sink: SinkName,
    outcome: oneshot::Receiver<Result<(), Failure>>,
}

fn not_confirmed(sink: &SinkName, why: impl std::fmt::Display) -> NotTaken {
    NotTaken::NotConfirmed(format!("sink {sink}: {why}"))
}

/// Closes a line and awaits its worker, at most `within`.
async fn end(name: &SinkName, line: Line, within: Duration) {
    let Line { queue, mut task, .. } = line;
    drop(queue);
    if timeout(within, &mut task).await.is_err() {
        tracing::warn!(sink = %name, ?within, "sink did not end in time");
        task.abort();
    }
}

impl Intake for Direct {
    fn take(&self, event: Verified, received: Timestamp) -> impl Future<Output = Result<Taken, NotTaken>> + Send {
        // Before the first poll, so that the event goes its way even if nobody waits.
        let handed = self.hand_out(event, received);
        async move {
            let waiting = handed?;
            if waiting.is_empty() {
                self.metrics.unwanted(1);
                return Ok(Taken::Stored);
            }
            let all = join_all(waiting.into_iter().map(|waiting| async move {
                match waiting.outcome.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(failure)) => Err(not_confirmed(&waiting.sink, failure)),
                    Err(_) => Err(not_confirmed(&waiting.sink, "it stopped")),
                }
            }));
            match timeout(self.deadline, all).await {
                Ok(outcomes) => outcomes.into_iter().collect::<Result<(), _>>().map(|()| Taken::Stored),
                Err(_) => Err(NotTaken::NotConfirmed(format!("not by every sink within {:?}", self.deadline))),
            }
        }
    }

    fn ready(&self) -> Result<(), NotTaken> {
        let lines = self.lines();
        lines.complete()?;
        for (name, line) in &lines.by_sink {
            match &line.handle.status.borrow().state {
                SinkState::Up => {}
                SinkState::BackingOff { why, .. } => return Err(not_confirmed(name, why)),
                other => return Err(not_confirmed(name, other.as_str())),
            }
        }
        Ok(())
    }
}

/// What publishes for one sink.
struct Worker {
    sink: GuardedSink,
    items: mpsc::Receiver<Item>,
    requests: mpsc::Receiver<Request>,
}

impl Worker {
    /// Until the line is closed and nothing waits any more.
    async fn run(mut self) {
        loop {
            if !self.sink.is_up() && self.ended_before_up().await {
                break;
            }
            let first = tokio::select! {
                item = self.items.recv() => match item {
                    Some(item) => item,
                    None => break,
                },
                // There is nothing to try: the sink is connected and nothing is parked.
                Some(_) = self.requests.recv() => continue,
                () = sleep(TICK) => continue,
            };
            if self.sink.is_up() {
                let batch = self.window(first);
                self.publish(batch).await;
            } else {
                first.ticket.tell(Err(self.why_down()));
            }
        }
        self.sink.close().await;
    }

    /// Connects, and refuses meanwhile what comes, but that the first try is waited for; whether the line was closed
    /// first.
    async fn ended_before_up(&mut self) -> bool {
        while !self.sink.is_up() {
            let why = self.why_down();
            let Some(next_try) = self.sink.next_try() else {
                self.sink.connect(std::future::pending()).await;
                continue;
            };
            tokio::select! {
                () = refuse(&mut self.items, &why) => return true,
                () = until(Some(next_try)) => {}
                Some(_) = self.requests.recv() => {}
            }
            let refusing = async {
                refuse(&mut self.items, &why).await;
                std::future::pending().await
            };
            self.sink.connect(refusing).await;
        }
        false
    }

    fn why_down(&self) -> Failure {
        match &self.sink.status.borrow().state {
            SinkState::BackingOff { why, .. } => why.clone(),
            _ => Failure::new(Reason::Unreachable, "not connected"),
        }
    }

    /// What waits, up to a window.
    fn window(&mut self, first: Item) -> Batch<Ticket> {
        let mut bytes = first.message.data.len();
        let mut batch = Batch::new();
        batch.push(first.ticket, first.message);
        let most = self.sink.fit(Windows::WHOLE);
        while batch.len() < most.events && bytes < most.bytes {
            let Ok(item) = self.items.try_recv() else { break };
            bytes += item.message.data.len();
            batch.push(item.ticket, item.message);
        }
        batch
    }

    async fn publish(&mut self, batch: Batch<Ticket>) {
        let mut queue = VecDeque::from([batch]);
        while let Some(batch) = queue.pop_front() {
            if !self.sink.is_up() {
                let why = self.why_down();
                batch.into_iter().for_each(|(ticket, _)| ticket.tell(Err(why.clone())));
                continue;
            }
            // A slow neighbour must not use up the time that Alma waits for an event.
            let sent = self.sink.send_telling(batch, &mut queue, Ticket::confirm).await;
            sent.confirmed.into_iter().for_each(|(ticket, _)| ticket.tell(Ok(())));
            let failed = sent.needs_operator.into_iter().chain(sent.refused_alone);
            failed.for_each(|(ticket, _, failure)| ticket.tell(Err(failure)));
            let Some(failure) = sent.lost else { continue };
            sent.retry.into_iter().for_each(|(ticket, _)| ticket.tell(Err(failure.clone())));
            let is_panic = failure.reason == Reason::Panic;
            self.sink.lost(failure).await;
            if is_panic {
                // The neighbours of the message that panicked wait for one try to connect.
                until(self.sink.next_try()).await;
                self.sink.connect(std::future::pending()).await;
            }
        }
    }
}

/// Refuses what comes, until the line is closed.
async fn refuse(items: &mut mpsc::Receiver<Item>, why: &Failure) {
    while let Some(item) = items.recv().await {
        item.ticket.tell(Err(why.clone()));
    }
}
