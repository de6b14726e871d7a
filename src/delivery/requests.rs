//! What others ask of a pump: dead letters to be published again, and the windows of a replay.
//!
//! A replay goes through the pump and not through a second sink with the same settings. Only one task may drive a sink
//! (two file sinks would cut each other's files), and a replay needs deadlines and back-off as live events do. It
//! comes window by window, and a window of live events goes between two of them.
//!
//! Letters go one by one, because only what was refused alone counts as refused. After [`TURN`], live events have their
//! turn. A retry ends when all its letters were tried, at its deadline, or when its caller is gone.
//!
//! Neither moves the cursor.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::handles::{Replayed, Request, Retried, Retry};
use super::parking::Parking;
use super::publisher::{Publisher, Stop};
use super::reader::{Made, make_guarded};
use crate::dead_letters::{DeadLetters, LetterId};
use crate::journal::Feed;
use crate::message::Message;
use crate::sinks::{Failure, Windows};

/// How long letters are tried before live events have their turn.
const TURN: Duration = Duration::from_millis(100);

impl<F: Feed> Publisher<F> {
    /// Serves each request for one turn. A request that needs more turns stays open.
    pub(super) async fn serve_requests(&mut self, parking: &mut Parking, stop: &CancellationToken) -> Result<(), Stop> {
        while self.inbox.has_room()
            && let Ok(request) = self.inbox.requests.try_recv()
        {
            self.inbox.note(request);
        }
        for _ in 0..self.inbox.open.len() {
            match self.inbox.open.pop_front() {
                Some(Request::Retry(retry)) => {
                    if let Some(unfinished) = self.retry(retry, parking).await {
                        self.inbox.open.push_back(Request::Retry(unfinished));
                    }
                }
                Some(Request::Replay(messages, reply)) => {
                    let replayed = self.replay(messages, &reply, parking, stop).await?;
                    drop(reply.send(replayed));
                }
                Some(request) => self.inbox.open.push_back(request),
                None => {}
            }
        }
        Ok(())
    }

    /// Gives a retry one turn, and returns it if it needs more.
    async fn retry(&mut self, mut retry: Retry, parking: &mut Parking) -> Option<Retry> {
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
            match self.retry_letter(&retry.store, id, parking).await {
                Ok(retried) => {
                    retry.left.pop_front();
                    retry.done.push((id, retried));
                }
                // The next turn begins with this letter.
                Err(failure) => retry.failure = Some(failure),
            }
        }
        // A parked topic may have waited for just this letter.
        self.inbox.retry_parked |= retry.done.iter().any(|(_, retried)| *retried == Retried::Taken);
        let why = self.why_not_tried(retry.failure.take());
        retry.end(&why);
        None
    }

    /// Tries a letter once. An error says nothing about the letter: the connection is lost.
    async fn retry_letter(
        &mut self,
        store: &DeadLetters,
        id: LetterId,
        parking: &mut Parking,
    ) -> Result<Retried, Failure> {
        let letter = match store.get(id).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Ok(Retried::Gone),
            Err(error) => return Ok(Retried::Kept(error.to_string())),
        };
        let mut batch = Batch::new();
        match make_guarded(&*self.reader.make, &letter.event) {
            Made::Message(message) => match parking.one_too_many(&message.topic) {
                Some(failure) => return Ok(Retried::Kept(failure.to_string())),
                None => batch.push(id, message),
            },
            Made::Unwanted => return Ok(Retried::Kept("the sink does not ask for it any more".to_owned())),
            Made::Panicked => return Ok(Retried::Kept("making the message panicked".to_owned())),
        }
        let mut sent = self.send(batch, &mut VecDeque::new()).await;
        if let Some(failure) = &sent.lost {
            self.sink.lost(failure.clone()).await;
        }
        match (sent.refused_alone.or_else(|| sent.needs_operator.pop()), sent.lost) {
            (Some((_, _, failure)), _) => Ok(Retried::Kept(failure.to_string())),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(match store.remove(vec![id]).await {
                Ok(_) => Retried::Taken,
                Err(error) => Retried::Kept(format!("taken, but not removed: {error}")),
            }),
        }
    }

    /// Publishes a window of a replay until each message is confirmed or refused, or until the caller is gone.
    async fn replay(
        &mut self,
        messages: Vec<Message>,
        reply: &oneshot::Sender<Replayed>,
        parking: &mut Parking,
        stop: &CancellationToken,
    ) -> Result<Replayed, Stop> {
        let (mut replayed, mut all) = (Replayed::default(), Batch::new());
        for message in messages {
            match parking.turned_away(&message.topic) {
                Some(failure) => replayed.fail(failure.reason),
                None => all.push((), message),
            }
        }
        let mut queue = VecDeque::from([all]);
        while let Some(mut batch) = queue.pop_front().filter(|batch| !batch.is_empty()) {
            self.ensure_up(stop).await?;
            if reply.is_closed() {
                break;
            }
            if let Some(rest) = batch.cut(self.sink.fit(Windows::WHOLE)) {
                queue.push_front(rest);
            }
            let sent = self.send(batch, &mut queue).await;
            replayed.published += sent.confirmed.len() as u64;
            replayed.duplicates += sent.duplicates;
            let failed = sent.needs_operator.into_iter().chain(sent.refused_alone);
            failed.for_each(|((), _, failure)| replayed.fail(failure.reason));
            if !sent.retry.is_empty() {
                queue.push_front(sent.retry);
            }
            if let Some(failure) = sent.lost {
                self.sink.lost(failure).await;
            }
        }
        Ok(replayed)
    }
}
