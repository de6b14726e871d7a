//! Parked topics: an operator must mend something, and their events wait as dead letters until it is done.
//!
//! A letter that can't be read stops no other: a topic that the broker takes again flows, and the bridge tries the
//! letter again every minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Delays;
use super::batch::Batch;
use super::dead_letters::{DeadLetter, DeadLetterError, LetterId};
use super::guarded_sink::Attempt;
use super::pump::{Pump, Stop};
use super::reader::{Made, make_guarded};
use super::status::ParkedTopic;
use crate::clock::Timestamp;
use crate::journal::Feed;
use crate::message::Topic;
use crate::sinks::{Failure, Reason, Windows};

/// How often a parked topic is tried.
const RETRY_EVERY: Duration = Duration::from_mins(1);

/// A parked topic.
pub(super) struct Parked {
    pub(super) why: Failure,
    since: Timestamp,
    pub(super) next_try: Instant,
    /// Between tries that lose the connection: live events come first meanwhile.
    delays: Delays,
    /// The broker takes its events again. Only letters that can't be read are left.
    pub(super) flows: bool,
}

/// What a try of a parked topic came to.
enum Flushed {
    /// All its letters are published, or stay for other reasons; so many could not be read.
    Taken(usize),
    /// It still waits for its operator.
    Still(Failure),
    /// The connection is lost: the topic is tried again once there is one.
    Lost,
}

impl<F: Feed> Pump<F> {
    /// At the start: the topics of the letters that are there.
    pub(super) fn park_what_waits(&mut self) {
        let since = self.sink.clock.now();
        let judge = self.judge;
        for (topic, reasons) in self.dead_letters.summary().by_topic {
            if let Some(reason) = reasons.into_keys().find(|reason| judge.parks(*reason)) {
                let why = Failure::new(reason, "parked before the start");
                let delays = self.sink.fork_delays();
                self.parked.insert(topic, Parked { why, since, next_try: Instant::now(), delays, flows: false });
            }
        }
        self.show_parked();
    }

    pub(super) fn park(&mut self, topic: &Topic, why: Failure) {
        tracing::warn!(sink = %self.sink.name, %topic, reason = %why.reason, detail = why.detail, "topic is parked");
        let (since, delays) = (self.sink.clock.now(), self.sink.fork_delays());
        let parked = Parked { why, since, next_try: Instant::now() + RETRY_EVERY, delays, flows: false };
        self.parked.insert(topic.as_str().into(), parked);
        self.show_parked();
    }

    fn show_parked(&self) {
        let show = |(topic, parked): (&Arc<str>, &Parked)| ParkedTopic {
            topic: Arc::clone(topic),
            why: parked.why.clone(),
            since: parked.since,
            letters: 0,
        };
        let shown = self.parked.iter().filter(|(_, parked)| !parked.flows).map(show).collect();
        self.sink.status.send_modify(|status| status.parked = shown);
    }

    /// Tries the parked topics that are due.
    pub(super) async fn retry_parked(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        let now = Instant::now();
        let all = std::mem::take(&mut self.retry_now);
        for parked in self.parked.values_mut().filter(|_| all) {
            parked.next_try = now;
        }
        let due = self.parked.iter().filter(|(_, parked)| parked.next_try <= now);
        for topic in due.map(|(topic, _)| Arc::clone(topic)).collect::<Vec<_>>() {
            let flushed = self.flush(&topic, stop).await?;
            let is_lost = matches!(flushed, Flushed::Lost);
            self.note_flush(&topic, flushed);
            if is_lost {
                break;
            }
        }
        Ok(())
    }

    fn note_flush(&mut self, topic: &Arc<str>, flushed: Flushed) {
        let Some(parked) = self.parked.get_mut(topic) else { return };
        let sink = &self.sink.name;
        let now = Instant::now();
        match flushed {
            Flushed::Taken(0) => {
                if !parked.flows {
                    tracing::info!(%sink, topic = &**topic, "topic is taken again");
                }
                self.parked.remove(topic);
            }
            Flushed::Taken(unread) => {
                if !parked.flows {
                    tracing::warn!(%sink, topic = &**topic, unread, "topic is taken again, but some dead letters can't be read");
                }
                (parked.flows, parked.next_try) = (true, now + RETRY_EVERY);
            }
            Flushed::Still(why) => {
                parked.next_try = now + RETRY_EVERY;
                // Its next letters bear this reason, and those of another would not be tried again.
                if self.judge.parks(why.reason) {
                    (parked.why, parked.flows) = (why, false);
                } else {
                    tracing::warn!(%sink, topic = &**topic, detail = why.detail, "parked topic waits");
                }
            }
            Flushed::Lost => {
                parked.next_try = now + parked.delays.after_failure();
                return;
            }
        }
        if let Some(parked) = self.parked.get_mut(topic) {
            parked.delays.reset();
        }
        self.show_parked();
    }

    /// Publishes a topic's letters in order, the oldest that can be read alone first, and removes what is confirmed.
    async fn flush(&mut self, topic: &Arc<str>, stop: &CancellationToken) -> Result<Flushed, Stop> {
        let judge = self.judge;
        let (mut after, mut unread, mut probed) = (None, 0, false);
        loop {
            let whole = self.sink.fit(Windows::WHOLE);
            let (max, bytes) = if probed { (whole.events, whole.bytes) } else { (1, 1) };
            let next = self.dead_letters.next_of(Arc::clone(topic), move |why| judge.parks(why), after, max, bytes);
            let found = match next.await {
                Ok(found) => found,
                Err(error) => return Ok(Flushed::Still(unkept(&error))),
            };
            unread += found.unread;
            if found.last.is_none() {
                break;
            }
            after = found.last;
            let batch = self.make_again(&found.letters);
            probed |= !batch.is_empty();
            let mut queue = if batch.is_empty() { Vec::new() } else { vec![batch] };
            while let Some(batch) = queue.pop() {
                if stop.is_cancelled() {
                    return Err(Stop);
                }
                if let Some(end) = self.flush_batch(batch, &mut queue, stop).await? {
                    return Ok(end);
                }
            }
        }
        if unread > 0 && !probed {
            let detail = format!("{unread} dead letters can't be read, and none else tells whether the topic is taken");
            return Ok(Flushed::Still(Failure::new(Reason::Busy, detail)));
        }
        Ok(Flushed::Taken(unread))
    }

    /// One batch of letters; what it leaves to be sent in smaller ones goes on the stack `queue`.
    async fn flush_batch(
        &mut self,
        batch: Batch<LetterId>,
        queue: &mut Vec<Batch<LetterId>>,
        stop: &CancellationToken,
    ) -> Result<Option<Flushed>, Stop> {
        if !self.sink.is_up() {
            return Ok(Some(Flushed::Lost));
        }
        let sent = batch.len();
        let outcomes = match self.sink.attempt(&batch.messages, self.reader.read_ahead()).await {
            Attempt::Outcomes(outcomes) => outcomes,
            Attempt::Panicked(failure) => {
                self.sink.lost(failure.clone()).await;
                self.ensure_up(stop).await?;
                return Ok(self.flush_refused(batch, sent, failure, queue).await);
            }
        };
        let sorted = batch.sort(outcomes, self.judge);
        let taken: Vec<_> = sorted.confirmed.into_iter().map(|(id, _)| id).collect();
        if !taken.is_empty() {
            // Where that fails they are published again, under the same ids.
            if let Err(error) = self.dead_letters.remove(taken).await {
                return Ok(Some(Flushed::Still(unkept(&error))));
            }
        }
        if let (_, Some(failure)) = sorted.retry {
            self.sink.lost(failure).await;
            return Ok(Some(Flushed::Lost));
        }
        if let Some((_, _, failure)) = sorted.needs_operator.into_iter().next() {
            return Ok(Some(Flushed::Still(failure)));
        }
        match sorted.refused {
            (refused, Some(failure)) => Ok(self.flush_refused(refused, sent, failure, queue).await),
            _ => Ok(None),
        }
    }

    /// The topic takes events, but not all of these: one that is refused alone stays a dead letter, for another reason.
    async fn flush_refused(
        &mut self,
        refused: Batch<LetterId>,
        sent: usize,
        failure: Failure,
        queue: &mut Vec<Batch<LetterId>>,
    ) -> Option<Flushed> {
        match refused.bisect(sent) {
            Ok(batches) => {
                queue.extend(batches.into_iter().rev());
                None
            }
            Err(alone) => {
                let kept = self.dead_letters.reclassify(alone.0, failure, self.sink.clock.now()).await;
                kept.err().map(|error| Flushed::Still(unkept(&error)))
            }
        }
    }

    /// Messages of letters. One that can't be made any more, or that the sink does not ask for any more, stays a letter.
    fn make_again(&self, letters: &[DeadLetter]) -> Batch<LetterId> {
        let mut batch = Batch::new();
        for letter in letters {
            if let Made::Message(message) = make_guarded(&*self.reader.make, &letter.event) {
                batch.push(letter.id, message);
            }
        }
        batch
    }
}

fn unkept(error: &DeadLetterError) -> Failure {
    Failure::new(Reason::Busy, format!("dead letters can't be read or removed: {error}"))
}
