//! What a pump shows of itself: for `/status`, the gauges and the commands. No personal data.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::requests::Replayed;
use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::dead_letters::{DeadLetters, LetterId, LetterSummary};
use crate::journal::Backlog;
use crate::message::Message;
use crate::sinks::Failure;

/// A snapshot of one sink.
#[derive(Clone, Debug)]
pub struct SinkStatus {
    /// Its name.
    pub name: SinkName,
    /// The word of the configuration: `kafka`.
    pub kind: &'static str,
    /// What it is doing.
    pub state: SinkState,
    /// Since when.
    pub since: Timestamp,
    /// What the last connect found to fall short.
    pub warnings: Vec<String>,
    /// What its cursor has not passed; about a second old while nothing is delivered.
    pub backlog: Backlog,
    /// Topics whose events go to the dead letters until they are taken again, in order of their names.
    pub parked: Vec<ParkedTopic>,
    /// Its dead letters.
    pub dead_letters: LetterSummary,
    /// When an event was last confirmed.
    pub last_confirm: Option<Timestamp>,
    /// Events confirmed since the start.
    pub confirmed: u64,
    /// Of these, those that the broker had before.
    pub duplicates: u64,
}

/// What a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkState {
    /// It connects for the first time, or again at once.
    Connecting,
    /// It is connected and takes events.
    Up,
    /// It waits: the broker can't be reached, an operator must mend something, or dead letters can't be kept.
    BackingOff {
        /// Why.
        why: Failure,
        /// When it tries again.
        next_try: Timestamp,
    },
    /// It was stopped.
    Stopped,
}

impl SinkState {
    /// The word for `/status`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::BackingOff { .. } => "retrying",
            Self::Stopped => "stopped",
        }
    }
}

/// A topic whose events wait as dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedTopic {
    /// Its name.
    pub topic: Arc<str>,
    /// What the broker said last.
    pub why: Failure,
    /// Since when; after a restart, since that.
    pub since: Timestamp,
    /// Its letters that wait.
    pub letters: u64,
}

/// What became of a letter that was to be published again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// The sink confirmed it; it is removed.
    Taken,
    /// There is no such letter.
    Gone,
    /// It stays: the sink refused it, or asks for no such event any more.
    Kept(String),
}

/// What a pump is asked from outside; looked at between windows, and at once while it backs off.
#[derive(Debug)]
pub(super) enum Request {
    /// Try the parked topics, and the connection, now.
    RetryParked,
    /// Publish letters again.
    Retry(Retry),
    /// Answer when it is this one's turn.
    Turn(oneshot::Sender<()>),
    /// Publish these messages of a replay.
    Replay(Vec<Message>, oneshot::Sender<Replayed>),
}

/// Letters that are to be published again, one by one, before a moment.
#[derive(Debug)]
pub(super) struct Retry {
    /// Where they are kept.
    pub(super) store: DeadLetters,
    /// Those that were not tried yet.
    pub(super) left: VecDeque<LetterId>,
    /// What became of the others.
    pub(super) told: Vec<(LetterId, Retried)>,
    /// The last failure of the one that is tried.
    pub(super) failure: Option<Failure>,
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Vec<(LetterId, Retried)>>,
}

impl Retry {
    /// Answers. What is left stays, for `why`.
    pub(super) fn end(mut self, why: &str) {
        self.told.extend(self.left.into_iter().map(|id| (id, Retried::Kept(why.to_owned()))));
        drop(self.reply.send(self.told));
    }
}

/// A way to a running pump. Cheap to clone; outlives it.
#[derive(Clone, Debug)]
pub struct PumpHandle {
    pub(super) status: watch::Receiver<SinkStatus>,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) dead_letters: Option<DeadLetters>,
}

/// The sink's pump does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sink is stopped")]
pub struct Stopped;

impl PumpHandle {
    /// What the sink is doing now.
    pub fn status(&self) -> SinkStatus {
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

    /// The dead letters, for `list`, `show` and `drop`; none with `storage = "none"`.
    pub fn dead_letters(&self) -> Option<&DeadLetters> {
        self.dead_letters.as_ref()
    }

    /// Has the parked topics, and a connection that is down, tried again now: after a reload. Does nothing where many
    /// such requests wait already.
    pub fn retry_parked(&self) {
        drop(self.requests.try_send(Request::RetryParked));
    }

    /// Has letters of `store` published by this sink, with the ids of their events; what is confirmed is removed. They
    /// take turns with live events. What was not tried before `until` is kept. The answer comes soon after that moment,
    /// but a sink that hangs may delay it by its own deadline: bound it.
    ///
    /// If the answer is not awaited any more, the sink does not begin another letter.
    pub async fn retry(
        &self,
        store: &DeadLetters,
        letters: Vec<LetterId>,
        until: Instant,
    ) -> Result<Vec<(LetterId, Retried)>, Stopped> {
        let (reply, answer) = oneshot::channel();
        let (store, left) = (store.clone(), letters.into());
        let retry = Retry { store, left, told: Vec::new(), failure: None, until, reply };
        self.requests.send(Request::Retry(retry)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Waits until the sink is connected and every parked topic was tried: for `drain`.
    pub async fn tried_parked(&self) -> Result<(), Stopped> {
        // An answered request tells that the connection stands, and a second one that what is done between two requests
        // was done: the parked topics were tried.
        for _ in 0..2 {
            let (reply, answer) = oneshot::channel();
            self.requests.send(Request::Turn(reply)).await.map_err(|_| Stopped)?;
            answer.await.map_err(|_| Stopped)?;
        }
        Ok(())
    }

    /// Has a window of a replay published (at most 512 messages), between windows of live events. Waits until each is
    /// confirmed or refused, which a broker that is down may delay for ever; dropped, what is not yet sent is left.
    pub async fn replay(&self, window: Vec<Message>) -> Result<Replayed, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Replay(window, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Waits until the status fits: for `drain` and tests.
    pub async fn wait_for(&self, mut fits: impl FnMut(&SinkStatus) -> bool + Send) -> Result<SinkStatus, Stopped> {
        self.status.clone().wait_for(|status| fits(status)).await.map(|status| status.clone()).map_err(|_| Stopped)
    }
}
