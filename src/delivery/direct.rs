//! `storage = "none"`: an event is taken once every sink that wants it has confirmed it.
//!
//! There is no journal and there are no dead letters, parked topics or deduplication. An event that is not confirmed in
//! time gets a 503, and Alma sends it again. A sink that is not connected refuses at once. As in a pump, what was refused
//! among others is sent alone, so that one bad event does not turn its neighbours away.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::backoff::BackOff;
use super::batch::Batch;
use super::guarded_sink::{GuardedSink, until};
use super::handles::{Handles, PumpHandle, Request};
use super::metrics::DeliveryMetrics;
use super::reader::{Made, MakeMessage, TICK, make_guarded};
use super::setup::SinkSetup;
use super::status::SinkState;
use crate::alma::Verified;
use crate::clock::{Clock, Timestamp};
use crate::config::SinkName;
use crate::journal::{Intake, NotTaken, Taken};
use crate::message::{Message, StoredEvent};
use crate::sinks::{Failure, Reason, Windows};

/// How many events may wait for one sink. One more is refused.
const QUEUE: usize = 2 * Windows::WHOLE.events;

/// The intake that publishes before it answers.
pub struct Direct {
    lines: RwLock<Lines>,
    handles: Handles,
    /// How long an event may take. An attempt takes no longer either, because nobody would wait for its outcome.
    deadline: Duration,
    metrics: DeliveryMetrics,
    clock: Arc<dyn Clock>,
}

/// The lines to all sinks.
#[derive(Default)]
struct Lines {
    by_sink: BTreeMap<SinkName, Line>,
    /// The configured sinks. Without one of them no event is taken, because that sink may want it.
    expected: BTreeSet<SinkName>,
}

impl Lines {
    /// Fails unless every configured sink runs.
    fn complete(&self) -> Result<(), NotTaken> {
        match self.expected.iter().find(|name| !self.by_sink.contains_key(name)) {
            Some(name) => Err(not_confirmed(name, "it is configured and does not run")),
            None => Ok(()),
        }
    }
}

/// What leads to one sink.
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

/// The caller that waits for an event.
struct Ticket {
    /// `None` once the caller was told.
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
    /// Holds the body's share of `body_memory`.
    _event: Arc<Verified>,
}

impl Ticket {
    /// Tells the caller what became of the event, unless it knows already or is gone.
    fn tell(mut self, outcome: Result<(), Failure>) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(outcome));
        }
    }

    /// Tells the caller at once that the event is confirmed, whatever becomes of its neighbours.
    fn confirm(&mut self) {
        if let Some(reply) = self.reply.take() {
            drop(reply.send(Ok(())));
        }
    }
}

impl Direct {
    /// Makes an intake without sinks. `deadline` is what is left of `answer_within` after a body is read.
    pub fn new(deadline: Duration, metrics: DeliveryMetrics, clock: Arc<dyn Clock>) -> Self {
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

    /// Changes the sinks to `all`. Those in `new` start, or replace the sink of the same name; events wait while the old
    /// one ends. Sinks that are not in `all` end. A sink that ends first publishes what waits for it, at most for
    /// `within`. Needs tokio's runtime.
    ///
    /// This is one change: an event finds either all sinks as they were or all as they are now. Otherwise it could fall
    /// between a sink that no longer asks for it and one that does not ask for it yet.
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
        // Sinks that replace none start at once. A task can't have ended before it started.
        for start in starts.into_values() {
            start.send(()).ok();
        }
        join_all(ends.into_iter().map(|(start, name, old)| async move {
            end(&name, old, within).await;
            start.map(|start| start.send(()))
        }))
        .await;
    }

    /// Makes a sink that starts when it is told to, or when the sender is dropped.
    fn prepare(&self, setup: SinkSetup) -> (SinkName, Line, oneshot::Sender<()>) {
        let SinkSetup { config, sink, make } = setup;
        let (metrics, clock) = (self.metrics.clone(), Arc::clone(&self.clock));
        let delays = BackOff::SINK.delays(fastrand::Rng::new());
        let sink = GuardedSink::new(&config, sink, delays, self.deadline, metrics, clock);
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
        // All messages are made before one is sent, so that an event that is refused here has gone nowhere.
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

/// Closes a line and awaits its worker, at most for `within`.
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
        // Not in the future, so that the event is published even if nobody polls it.
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
    /// Publishes until the line is closed and nothing waits any more.
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
                // There is nothing to try: the sink is connected, and no topic is ever parked.
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

    /// Connects, and refuses the events that arrive after the first try failed. Returns whether the line was closed first.
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
        self.sink.held().unwrap_or_else(|| Failure::new(Reason::Unreachable, "not connected"))
    }

    /// Takes what waits, up to a window.
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

/// Refuses the events that arrive, until the line is closed.
async fn refuse(items: &mut mpsc::Receiver<Item>, why: &Failure) {
    while let Some(item) = items.recv().await {
        item.ticket.tell(Err(why.clone()));
    }
}
