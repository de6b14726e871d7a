//! The ways to the running pumps: what they do, and what may be asked of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::metrics::DeliveryMetrics;
use super::status::SinkSnapshot;
use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::dead_letters::{DeadLetters, LetterId};
use crate::message::Message;
use crate::sinks::{Failure, Reason};

/// What became of a dead letter that was to be published again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// The sink confirmed it, and it is removed.
    Taken,
    /// No letter has this id.
    Gone,
    /// The letter is kept for this reason.
    Kept(String),
}

/// What became of a window of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that the sink confirmed.
    pub published: u64,
    /// Of the published messages, those that the broker had before.
    pub duplicates: u64,
    /// Messages that the sink did not take, by reason. They do not become dead letters.
    pub failed: BTreeMap<Reason, u64>,
}

impl Replayed {
    pub(super) fn fail(&mut self, reason: Reason) {
        *self.failed.entry(reason).or_default() += 1;
    }
}

/// What is asked of a pump. The pump looks at requests between windows, and at once while it backs off.
#[derive(Debug)]
pub(super) enum Request {
    /// Try the parked topics, and the connection, now.
    RetryParked,
    /// Answer once no parked topic is due any more.
    ParkedTried(oneshot::Sender<()>),
    /// Publish dead letters again.
    Retry(Retry),
    /// Publish the messages of a replay.
    Replay(Vec<Message>, oneshot::Sender<Replayed>),
}

/// Dead letters that are to be published again, one by one, until a deadline.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) store: DeadLetters,
    /// The letters that are not done yet.
    pub(super) left: VecDeque<LetterId>,
    pub(super) done: Vec<(LetterId, Retried)>,
    /// The last failure of the first letter that is left.
    pub(super) failure: Option<Failure>,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Vec<(LetterId, Retried)>>,
}

impl Retry {
    /// Answers. The letters that are left are kept, for `why`.
    pub(super) fn end(mut self, why: &str) {
        self.done.extend(self.left.into_iter().map(|id| (id, Retried::Kept(why.to_owned()))));
        drop(self.reply.send(self.done));
    }
}

/// A handle to a running pump. Cheap to clone; may outlive the pump.
#[derive(Clone, Debug)]
pub struct PumpHandle {
    pub(super) status: watch::Receiver<SinkSnapshot>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) dead_letters: Option<DeadLetters>,
}

/// The sink's pump has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sink is stopped")]
pub struct PumpEnded;

impl PumpHandle {
    /// What the sink is doing now.
    pub fn status(&self) -> SinkSnapshot {
        let mut status = self.status.borrow().clone();
        if let Some(letters) = &self.dead_letters {
            status.dead_letters = letters.summary();
        }
        for parked in &mut status.parked {
            let of_topic = status.dead_letters.by_topic.get(&parked.topic);
            parked.letters = of_topic.map_or(0, |reasons| reasons.values().sum());
        }
        status
    }

    /// The sink's dead letters, or `None` with `storage = "none"`.
    pub fn dead_letters(&self) -> Option<&DeadLetters> {
        self.dead_letters.as_ref()
    }

    /// Makes the sink try its parked topics and a lost connection now. For reloads. Does nothing if many requests wait
    /// already.
    pub fn retry_parked(&self) {
        drop(self.requests.try_send(Request::RetryParked));
    }

    /// Waits until the sink is connected and has tried every parked topic that is due, to the last letter. For `drain`.
    pub async fn tried_parked(&self) -> Result<(), PumpEnded> {
        self.ask(Request::ParkedTried).await
    }

    /// Publishes letters of `store` through this sink, under the ids of their events, and removes those that are
    /// confirmed. They take turns with live events. Letters that were not tried before `until` are kept. The answer
    /// comes soon after `until`, but a sink that hangs may delay it by its own deadline, so bound the wait.
    ///
    /// If the future is dropped, the sink begins no further letter.
    pub async fn retry(
        &self,
        store: &DeadLetters,
        letters: Vec<LetterId>,
        until: Instant,
    ) -> Result<Vec<(LetterId, Retried)>, PumpEnded> {
        let (store, left) = (store.clone(), letters.into());
        let retry = |reply| Request::Retry(Retry { store, left, done: Vec::new(), failure: None, until, reply });
        self.ask(retry).await
    }

    /// Publishes a window of a replay (at most 512 messages) between windows of live events. Waits until each message is
    /// confirmed or refused, which may take for ever while the broker is down. If the future is dropped, the sink sends
    /// no more of the window.
    pub async fn replay(&self, window: Vec<Message>) -> Result<Replayed, PumpEnded> {
        self.ask(|reply| Request::Replay(window, reply)).await
    }

    /// Sends a request and awaits the answer.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request + Send) -> Result<T, PumpEnded> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| PumpEnded)?;
        answer.await.map_err(|_| PumpEnded)
    }

    /// Waits until the status fits. For `drain` and tests.
    pub async fn wait_for(
        &self,
        mut fits: impl FnMut(&SinkSnapshot) -> bool + Send,
    ) -> Result<SinkSnapshot, PumpEnded> {
        self.status.clone().wait_for(|status| fits(status)).await.map(|status| status.clone()).map_err(|_| PumpEnded)
    }
}

/// The handles of all running sinks, for the admin listener. Cheap to clone, and kept up to date by every reload.
#[derive(Clone, Debug, Default)]
pub struct Handles(Arc<RwLock<BTreeMap<SinkName, PumpHandle>>>);

impl Handles {
    pub(super) fn set(&self, name: &SinkName, handle: PumpHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), handle);
    }

    pub(super) fn unset(&self, name: &SinkName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The handle of one sink, or `None` if it does not run.
    pub fn get(&self, name: &SinkName) -> Option<PumpHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All handles, sorted by name.
    pub fn all(&self) -> Vec<PumpHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What all sinks are doing, sorted by name.
    pub fn statuses(&self) -> Vec<SinkSnapshot> {
        self.all().iter().map(PumpHandle::status).collect()
    }

    /// Makes all sinks try their parked topics and lost connections now. For reloads.
    pub fn retry_parked(&self) {
        self.all().iter().for_each(PumpHandle::retry_parked);
    }

    /// Sets the gauges that are computed from snapshots. Call it before each scrape.
    pub fn set_gauges(&self, metrics: &DeliveryMetrics, now: Timestamp) {
        for status in self.statuses() {
            let age = status.backlog.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
            metrics.sink_backlog(&status.name, status.backlog.events, age, status.parked.len());
        }
    }
}
