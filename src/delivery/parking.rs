//! Parked topics: their events wait as dead letters until an operator has fixed what the broker complains about.
//!
//! A letter that can't be read stops no other. Once the broker takes a topic again, the topic flows, and the bridge tries
//! the letter again every minute.
//!
//! Letters take turns with live events, because a gibibyte of them may take minutes. A parked topic's own live events
//! become letters meanwhile, so that its order is kept.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Delays;
use super::batch::Batch;
use super::guarded_sink::GuardedSink;
use super::handles::Request;
use super::publisher::{Publisher, Stop};
use super::reader::{Made, MakeMessage, make_guarded};
use super::status::ParkedTopic;
use crate::clock::Timestamp;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters, LetterId};
use crate::journal::Feed;
use crate::message::Topic;
use crate::sinks::{Failure, Reason, Windows};

/// How often the bridge tries a parked topic.
const RETRY_EVERY: Duration = Duration::from_mins(1);

/// How many batches of letters one topic may publish before live events have their turn. More than the one window of live
/// events that follows, so that a topic catches up with its own events.
const TURN: usize = 3;

/// The topics whose events are not sent: parked ones, and those over `max_topics`.
pub(super) struct Parking {
    max_topics: usize,
    /// Topics seen since the start.
    seen: HashSet<Topic>,
    parked: BTreeMap<Arc<str>, Parked>,
}

struct Parked {
    why: Failure,
    since: Timestamp,
    next_try: Instant,
    /// The back-off between tries that lose the connection: live events come first meanwhile.
    delays: Delays,
    /// The broker takes the topic's events again. Only letters that can't be read are left.
    flows: bool,
    progress: Progress,
}

/// How far the present try of a parked topic has come.
#[derive(Default)]
struct Progress {
    /// The last letter that was looked at.
    after: Option<LetterId>,
    /// How many letters could not be read.
    unread: usize,
    /// The broker has taken a letter that was sent alone.
    probed: bool,
}

/// How a turn of a parked topic ended.
enum Flushed {
    /// There may be more letters.
    Unfinished,
    /// All letters are published, or kept for other reasons, except this many that could not be read.
    Taken(usize),
    /// The topic stays parked.
    Still(Failure),
    /// The connection is lost. The topic is tried again over the next one.
    Lost,
}

impl Parking {
    /// Parks the topics whose letters wait for an operator since an earlier run, and tries them first.
    pub(super) fn new(max_topics: usize, letters: &DeadLetters, sink: &mut GuardedSink) -> Self {
        let mut parking = Self { max_topics, seen: HashSet::new(), parked: BTreeMap::new() };
        for (topic, reasons) in letters.summary().by_topic {
            if let Some(reason) = reasons.into_keys().find(|reason| sink.judge.parks(*reason)) {
                let why = Failure::new(reason, "parked before the start");
                parking.insert(topic, why, Instant::now(), sink);
            }
        }
        parking
    }

    pub(super) fn park(&mut self, topic: &Topic, why: Failure, sink: &mut GuardedSink) {
        tracing::warn!(sink = %sink.name, %topic, reason = %why.reason, detail = why.detail, "topic is parked");
        self.insert(topic.as_str().into(), why, Instant::now() + RETRY_EVERY, sink);
    }

    fn insert(&mut self, topic: Arc<str>, why: Failure, next_try: Instant, sink: &mut GuardedSink) {
        let (since, delays) = (sink.clock.now(), sink.fork_delays());
        self.parked.insert(topic, Parked { why, since, next_try, delays, flows: false, progress: Progress::default() });
        self.show(sink);
    }

    fn show(&self, sink: &GuardedSink) {
        let show = |(topic, parked): (&Arc<str>, &Parked)| ParkedTopic {
            topic: Arc::clone(topic),
            why: parked.why.clone(),
            since: parked.since,
            letters: 0,
        };
        let shown = self.parked.iter().filter(|(_, parked)| !parked.flows).map(show).collect();
        sink.status.send_modify(|status| status.parked = shown);
    }

    /// Why messages of this topic are not sent, or `None` if they are.
    pub(super) fn turned_away(&mut self, topic: &Topic) -> Option<Failure> {
        self.one_too_many(topic).or_else(|| {
            let parked = self.parked.get(topic.as_str()).filter(|parked| !parked.flows);
            parked.map(|parked| parked.why.clone())
        })
    }

    /// Counts a topic. Live events, replays and retried letters share the count. Otherwise a letter could open a topic
    /// whose next event is refused again.
    pub(super) fn one_too_many(&mut self, topic: &Topic) -> Option<Failure> {
        if self.seen.contains(topic) {
            return None;
        }
        if self.seen.len() < self.max_topics {
            self.seen.insert(topic.clone());
            return None;
        }
        let max_topics = self.max_topics;
        Some(Failure::new(
            Reason::TooManyTopics,
            format!(
                "one topic more than max_topics = {max_topics}; raise max_topics, reload, then \"dead-letters retry --all\""
            ),
        ))
    }

    /// Whether the topic is not parked, or flows again.
    pub(super) fn flows(&self, topic: &str) -> bool {
        self.parked.get(topic).is_none_or(|parked| parked.flows)
    }

    /// When the next parked topic is due, or `None` if none is parked.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.parked.values().map(|parked| parked.next_try).min()
    }

    /// Whether a parked topic is to be tried now.
    pub(super) fn is_due(&self) -> bool {
        self.next_try().is_some_and(|next_try| next_try <= Instant::now())
    }

    /// Gives one turn to the parked topic that has been due for longest. All are due if somebody asked for it.
    pub(super) async fn retry<F: Feed>(
        &mut self,
        publisher: &mut Publisher<F>,
        stop: &CancellationToken,
    ) -> Result<(), Stop> {
        let now = Instant::now();
        if std::mem::take(&mut publisher.inbox.retry_parked) {
            self.parked.values_mut().for_each(|parked| parked.next_try = parked.next_try.min(now));
        }
        let due = self.parked.iter_mut().filter(|(_, parked)| parked.next_try <= now);
        if let Some((topic, parked)) = due.min_by_key(|(_, parked)| parked.next_try) {
            let topic = Arc::clone(topic);
            let flushed = flush(&topic, &mut parked.progress, publisher, stop).await?;
            self.note(&topic, flushed, &publisher.sink);
        }
        if !self.is_due() {
            for request in std::mem::take(&mut publisher.inbox.open) {
                match request {
                    Request::ParkedTried(reply) => drop(reply.send(())),
                    request => publisher.inbox.open.push_back(request),
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, topic: &Arc<str>, flushed: Flushed, sink: &GuardedSink) {
        let Some(parked) = self.parked.get_mut(topic) else { return };
        let (name, now) = (&sink.name, Instant::now());
        let progress = std::mem::take(&mut parked.progress);
        parked.next_try = now + RETRY_EVERY;
        match flushed {
            Flushed::Unfinished => {
                (parked.next_try, parked.progress) = (now, progress);
                return;
            }
            Flushed::Taken(unread) => {
                if !parked.flows && unread == 0 {
                    tracing::info!(sink = %name, topic = &**topic, "topic is taken again");
                } else if !parked.flows {
                    tracing::warn!(sink = %name, topic = &**topic, unread, "topic is taken again, but some dead letters can't be read");
                }
                parked.flows = true;
                if unread == 0 {
                    self.parked.remove(topic);
                }
            }
            // The topic's next letters bear this reason. With a reason that does not park, nothing would try them again.
            Flushed::Still(why) if sink.judge.parks(why.reason) => (parked.why, parked.flows) = (why, false),
            Flushed::Still(why) => {
                tracing::warn!(sink = %name, topic = &**topic, detail = why.detail, "parked topic waits");
            }
            Flushed::Lost => {
                parked.next_try = now + parked.delays.after_failure();
                return;
            }
        }
        if let Some(parked) = self.parked.get_mut(topic) {
            parked.delays.reset();
        }
        self.show(sink);
    }
}

/// Publishes a topic's letters in order for one turn, and removes those that are confirmed. The oldest letter that can be
/// read goes alone, because only then does its outcome tell whether the topic is taken.
async fn flush<F: Feed>(
    topic: &Arc<str>,
    progress: &mut Progress,
    publisher: &mut Publisher<F>,
    stop: &CancellationToken,
) -> Result<Flushed, Stop> {
    let judge = publisher.sink.judge;
    for _ in 0..TURN {
        let whole = publisher.sink.fit(Windows::WHOLE);
        let (max, bytes) = if progress.probed { (whole.events, whole.bytes) } else { (1, 1) };
        let next =
            publisher.dead_letters.next_of(Arc::clone(topic), move |why| judge.parks(why), progress.after, max, bytes);
        let found = match next.await {
            Ok(found) => found,
            Err(error) => return Ok(Flushed::Still(unkept(&error))),
        };
        if found.last.is_none() {
            return Ok(match progress.unread {
                unread if unread == 0 || progress.probed => Flushed::Taken(unread),
                unread => {
                    let detail =
                        format!("{unread} dead letters can't be read, and none else tells whether the topic is taken");
                    Flushed::Still(Failure::new(Reason::Busy, detail))
                }
            });
        }
        let batch = make_again(&found.letters, &*publisher.reader.make);
        let probed = !batch.is_empty();
        if let Some(end) = send_letters(batch, publisher, stop).await? {
            return Ok(end);
        }
        progress.after = found.last;
        progress.unread += found.unread;
        progress.probed |= probed;
    }
    Ok(Flushed::Unfinished)
}

/// Publishes some letters. Returns how the flush ends, or `None` if it goes on.
async fn send_letters<F: Feed>(
    letters: Batch<LetterId>,
    publisher: &mut Publisher<F>,
    stop: &CancellationToken,
) -> Result<Option<Flushed>, Stop> {
    let mut queue = VecDeque::from([letters]);
    while let Some(batch) = queue.pop_front().filter(|batch| !batch.is_empty()) {
        if stop.is_cancelled() {
            return Err(Stop);
        }
        if !publisher.sink.is_up() {
            return Ok(Some(Flushed::Lost));
        }
        let sent = publisher.send(batch, &mut queue).await;
        let taken: Vec<_> = sent.confirmed.into_iter().map(|(id, _)| id).collect();
        let mut kept = Ok(());
        if !taken.is_empty() {
            // If this fails, the bridge publishes them again, under the same ids.
            kept = publisher.dead_letters.remove(taken).await.map(drop);
        }
        if let Some(failure) = sent.lost {
            publisher.sink.lost(failure).await;
            if !sent.retry.is_empty() {
                return Ok(Some(Flushed::Lost));
            }
            // Sending panicked: the rest of the letters finds out which one is to blame.
            publisher.ensure_up(stop).await?;
        }
        if let Some((_, _, failure)) = sent.needs_operator.into_iter().next() {
            return Ok(Some(Flushed::Still(failure)));
        }
        // The topic takes events, but not this one: it stays a dead letter for another reason.
        if let Some((id, _, failure)) = sent.refused_alone {
            kept = kept.and(publisher.dead_letters.reclassify(id, failure, publisher.sink.clock.now()).await);
        }
        if let Err(error) = kept {
            return Ok(Some(Flushed::Still(unkept(&error))));
        }
    }
    Ok(None)
}

/// Makes the messages of letters. A letter whose event can't be made, or is not wanted any more, stays a letter.
fn make_again(letters: &[DeadLetter], make: &dyn MakeMessage) -> Batch<LetterId> {
    let mut batch = Batch::new();
    for letter in letters {
        if let Made::Message(message) = make_guarded(make, &letter.event) {
            batch.push(letter.id, message);
        }
    }
    batch
}

fn unkept(error: &DeadLetterError) -> Failure {
    Failure::new(Reason::Busy, format!("dead letters can't be read or removed: {error}"))
}
