//! What a pump is asked from outside: letters to be tried again, and the windows of a replay.
//!
//! A replay goes through the pump, not through a second sink of the same settings: a sink is driven by one task alone
//! (two file sinks would cut each other's files), and what holds for live events holds for it as well: deadlines,
//! back-off, one attempt at a time. It comes window by window, each asked for when the one before is settled, and a pump
//! that has live events publishes a window of those between two. The cursor does not move by it.
//!
//! Letters go one by one, since only what was refused alone counts as refused. After [`TURN`] a window of live events has
//! its turn. A retry ends when all its letters were tried, at its deadline, or if nobody awaits the answer any more.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::dead_letters::{DeadLetters, LetterId};
use super::guarded_sink::Attempt;
use super::pump::{Pump, REQUESTS, Stop};
use super::reader::{Made, make_guarded};
use super::status::{Request, Retried, Retry};
use crate::journal::Feed;
use crate::message::Message;
use crate::sinks::{Class, Failure, Outcome, Reason, Windows};

/// Letters are tried for so long before live events have their turn.
const TURN: Duration = Duration::from_millis(100);

/// What became of a replay's window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that the sink confirmed.
    pub published: u64,
    /// Of these, those that the broker had before.
    pub duplicates: u64,
    /// Messages that it did not take, by reason; nothing is set aside.
    pub failed: BTreeMap<Reason, u64>,
}

impl Replayed {
    fn fail(&mut self, reason: Reason, messages: usize) {
        *self.failed.entry(reason).or_default() += messages as u64;
    }
}

impl<F: Feed> Pump<F> {
    /// Serves what is asked by now, each for one turn. A retry that takes more of them stays in `stashed`.
    pub(super) async fn serve_requests(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        while self.stashed.len() < REQUESTS
            && let Ok(request) = self.requests.try_recv()
        {
            self.note(request);
        }
        for _ in 0..self.stashed.len() {
            match self.stashed.pop_front() {
                Some(Request::Retry(retry)) => {
                    if let Some(unfinished) = self.retry(retry).await {
                        self.stashed.push_back(Request::Retry(unfinished));
                    }
                }
                Some(Request::Replay(messages, reply)) => {
                    let replayed = self.replay(messages, &reply, stop).await?;
                    drop(reply.send(replayed));
                }
                Some(Request::Turn(reply)) => drop(reply.send(())),
                Some(Request::RetryParked) => self.retry_now = true,
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn note(&mut self, request: Request) {
        match request {
            Request::RetryParked => self.retry_now = true,
            request => self.stashed.push_back(request),
        }
    }

    /// Ends retries whose time is up, and those that nobody waits for, while the sink takes nothing.
    pub(super) fn end_overdue_retries(&mut self) {
        let now = Instant::now();
        for request in std::mem::take(&mut self.stashed) {
            match request {
                Request::Retry(retry) if retry.reply.is_closed() => {}
                Request::Retry(mut retry) if retry.until <= now => {
                    let why = self.why_not_tried(retry.failure.take());
                    retry.end(&why);
                }
                request => self.stashed.push_back(request),
            }
        }
    }

    /// One turn of a retry; gives it back if more of them are needed.
    async fn retry(&mut self, mut retry: Retry) -> Option<Retry> {
        let over = Instant::now() + TURN;
        while let Some(id) = retry.left.front().copied() {
            if retry.reply.is_closed() {
                return None;
            }
            let now = Instant::now();
            if retry.until <= now {
                break;
            }
            if over <= now || !self.sink.is_up() {
                return Some(retry);
            }
            match self.retry_letter(&retry.store, id).await {
                Ok(retried) => {
                    retry.left.pop_front();
                    retry.told.push((id, retried));
                }
                // It stays the next one.
                Err(failure) => retry.failure = Some(failure),
            }
        }
        // What was taken may have been what a parked topic waited for.
        self.retry_now |= retry.told.iter().any(|(_, retried)| *retried == Retried::Taken);
        let why = self.why_not_tried(retry.failure.take());
        retry.end(&why);
        None
    }

    fn why_not_tried(&self, failure: Option<Failure>) -> String {
        match failure.or_else(|| self.sink.held()) {
            Some(failure) => format!("the sink did not take it in time: {failure}"),
            None => "the sink did not come to it in time".to_owned(),
        }
    }

    /// Tries a letter once. An error says nothing about the letter: the connection is lost.
    async fn retry_letter(&mut self, store: &DeadLetters, id: LetterId) -> Result<Retried, Failure> {
        let letter = match store.get(id).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Ok(Retried::Gone),
            Err(error) => return Ok(Retried::Kept(error.to_string())),
        };
        let message = match make_guarded(&*self.reader.make, &letter.event) {
            Made::Message(message) => message,
            Made::Unwanted => return Ok(Retried::Kept("the sink does not ask for it any more".to_owned())),
            Made::Panicked => return Ok(Retried::Kept("making the message panicked".to_owned())),
        };
        let failure = match self.sink.attempt(std::slice::from_ref(&message), self.reader.read_ahead()).await {
            Attempt::Outcomes(outcomes) => match outcomes.into_iter().next() {
                Some(Outcome::Failed(failure)) => failure,
                _ => {
                    return Ok(match store.remove(vec![id]).await {
                        Ok(_) => Retried::Taken,
                        Err(error) => Retried::Kept(format!("taken, but not removed: {error}")),
                    });
                }
            },
            Attempt::Panicked(failure) => {
                self.sink.lost(failure.clone()).await;
                failure
            }
        };
        if self.judge.class(failure.reason) != Class::Retry {
            return Ok(Retried::Kept(failure.to_string()));
        }
        if self.sink.is_up() {
            self.sink.lost(failure.clone()).await;
        }
        Err(failure)
    }

    /// Publishes a window of a replay until each message is confirmed or refused, for as long as somebody waits for it.
    async fn replay(
        &mut self,
        messages: Vec<Message>,
        reply: &oneshot::Sender<Replayed>,
        stop: &CancellationToken,
    ) -> Result<Replayed, Stop> {
        let mut replayed = Replayed::default();
        let mut all = Batch::new();
        for message in messages {
            match self.turned_away(&message.topic) {
                Some(failure) => replayed.fail(failure.reason, 1),
                None => all.push((), message),
            }
        }
        let mut queue = VecDeque::from([all]);
        while let Some(batch) = queue.pop_front() {
            if batch.is_empty() {
                continue;
            }
            self.ensure_up(stop).await?;
            if reply.is_closed() {
                break;
            }
            self.replay_batch(batch, &mut queue, &mut replayed).await;
        }
        Ok(replayed)
    }

    /// One batch of a replay; what it leaves to be sent goes to the front of the queue.
    async fn replay_batch(&mut self, mut batch: Batch<()>, queue: &mut VecDeque<Batch<()>>, replayed: &mut Replayed) {
        if let Some(rest) = batch.cut(self.sink.fit(Windows::WHOLE)) {
            queue.push_front(rest);
        }
        let sent = batch.len();
        let outcomes = match self.sink.attempt(&batch.messages, self.reader.read_ahead()).await {
            Attempt::Outcomes(outcomes) => outcomes,
            Attempt::Panicked(failure) => {
                Self::replay_refused(batch, sent, failure.reason, queue, replayed);
                return self.sink.lost(failure).await;
            }
        };
        let had_before = |outcome: &&Outcome| matches!(outcome, Outcome::Confirmed { duplicate: true });
        replayed.duplicates += outcomes.iter().filter(had_before).count() as u64;
        let sorted = batch.sort(outcomes, self.judge);
        replayed.published += sorted.confirmed.len() as u64;
        for ((), _, failure) in &sorted.needs_operator {
            replayed.fail(failure.reason, 1);
        }
        if let (refused, Some(failure)) = sorted.refused {
            Self::replay_refused(refused, sent, failure.reason, queue, replayed);
        }
        if let (again, Some(failure)) = sorted.retry {
            queue.push_front(again);
            self.sink.lost(failure).await;
        }
    }

    /// As with live events, only what was refused when it was sent alone counts as refused.
    fn replay_refused(
        refused: Batch<()>,
        sent: usize,
        reason: Reason,
        queue: &mut VecDeque<Batch<()>>,
        replayed: &mut Replayed,
    ) {
        match refused.bisect(sent) {
            Ok(batches) => batches.into_iter().rev().for_each(|batch| queue.push_front(batch)),
            Err(_) => replayed.fail(reason, 1),
        }
    }
}
