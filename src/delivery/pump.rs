//! One sink's pump: takes windows from its feed, and moves the cursor once all before it is settled.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{BackOff, Delays};
use super::chunk::{Chunk, Judge};
use super::link::{Attempt, Link, LinkParts, until};
use super::metrics::DeliveryMetrics;
use super::parking::Parked;
use super::reader::{Filters, Made, MakeMessage, Prepared, Reader, TICK};
use super::status::{PumpHandle, Request};
use super::work::{SlotId, Work};
use crate::clock::Clock;
use crate::config;
use crate::dead_letters::DeadLetters;
use crate::journal::Feed;
use crate::message::{Message, Topic};
use crate::sinks::{Failure, Outcome, Reason, Sink};

/// Requests that wait for a pump; one more waits for room, or is dropped where it asks for nothing but haste.
pub(super) const REQUESTS: usize = 16;

/// What a pump is made of.
pub struct PumpOptions<F> {
    /// The sink as configured.
    pub config: config::Sink,
    /// The sink itself.
    pub sink: Box<dyn Sink>,
    /// Its place in the journal.
    pub feed: F,
    /// Makes its messages.
    pub make: Arc<dyn MakeMessage>,
    /// Where it sets aside what the sink refuses.
    pub dead_letters: DeadLetters,
    /// What all sinks ask for.
    pub filters: Filters,
    /// Counted and set as things happen.
    pub metrics: DeliveryMetrics,
    /// Gives the moments of status and letters.
    pub clock: Arc<dyn Clock>,
    /// Bounds of the waits between tries.
    pub back_off: BackOff,
    /// Their jitter.
    pub rng: fastrand::Rng,
}

/// A sink with its feed, driven by [`Pump::run`].
pub struct Pump<F> {
    pub(super) link: Link,
    pub(super) reader: Reader<F>,
    pub(super) dead_letters: DeadLetters,
    pub(super) judge: Judge,
    setup_grace: Duration,
    max_topics: usize,
    /// Topics seen since the start.
    topics: HashSet<Topic>,
    /// Topics that fail in a way that an operator mends, within their grace.
    mending: HashMap<Topic, Mending>,
    /// Topics past their grace.
    pub(super) parked: BTreeMap<Arc<str>, Parked>,
    /// The parked topics are due, whatever their times say.
    pub(super) retry_now: bool,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Requests that came while the sink was not connected.
    pub(super) stashed: VecDeque<Request>,
}

/// A topic within its grace.
struct Mending {
    since: Instant,
    delays: Delays,
    next_try: Instant,
}

/// The pump is to stop, or its feed is closed.
#[derive(Debug)]
pub(super) struct Stop;

impl<F: Feed> Pump<F> {
    /// A pump that does nothing yet, and the way to ask it. Topics that have letters an operator's mending would free
    /// are parked from the start, and tried first.
    pub fn new(options: PumpOptions<F>) -> (Self, PumpHandle) {
        let PumpOptions { config, sink, feed, make, dead_letters, filters, metrics, clock, back_off, rng } = options;
        filters.set(&config.name, Arc::clone(&make));
        let link = Link::new(LinkParts {
            sink,
            name: config.name.clone(),
            kind: config.kind.as_str(),
            delays: back_off.delays(rng),
            longest: Duration::MAX,
            metrics,
            clock,
        });
        let (ask, requests) = mpsc::channel(REQUESTS);
        let handle =
            PumpHandle { status: link.status.subscribe(), requests: ask, dead_letters: Some(dead_letters.clone()) };
        let mut pump = Self {
            reader: Reader::new(feed, link.windows(), make, filters, config.name, link.status.clone()),
            link,
            dead_letters,
            judge: Judge::of(&config.kind),
            setup_grace: config.setup_grace,
            max_topics: config.max_topics,
            topics: HashSet::new(),
            mending: HashMap::new(),
            parked: BTreeMap::new(),
            retry_now: false,
            requests,
            stashed: VecDeque::new(),
        };
        pump.park_what_waits();
        (pump, handle)
    }

    /// Delivers until `stop`, or until the feed is closed; then closes the sink.
    ///
    /// What is being sent when `stop` comes is awaited, under the sink's own deadline; what waits for a try is left to
    /// the next start. To end at once, drop the future: the feed is in the pump.
    pub async fn run(&mut self, stop: &CancellationToken) {
        // A panic of the pump's own is a fault of ours; the events behind it are to flow all the same.
        while AssertUnwindSafe(self.drive(stop)).catch_unwind().await.is_err() {
            tracing::error!(sink = %self.link.name, "pump panicked; it begins again from its cursor");
            self.reader.rewind();
            self.mending.clear();
            self.link.lost(Failure::new(Reason::Panic, "the pump panicked")).await;
        }
        self.reader.rewind();
        self.link.close().await;
    }

    /// Ends what an unfinished [`Pump::run`] left behind.
    pub async fn abandon(&mut self) {
        self.link.abandon().await;
    }

    /// The feed, to be read on from its cursor.
    pub fn into_feed(self) -> F {
        self.reader.into_feed()
    }

    async fn drive(&mut self, stop: &CancellationToken) {
        let mut work = Work::default();
        while self.step(&mut work, stop).await.is_ok() {}
    }

    async fn step(&mut self, work: &mut Work, stop: &CancellationToken) -> Result<(), Stop> {
        self.ensure_up(stop).await?;
        self.serve_requests(stop).await?;
        self.retry_parked(stop).await?;
        let next_parked = self.parked.values().map(|parked| parked.next_try).min();
        let next_mending =
            work.waiting_topics().filter_map(|topic| self.mending.get(topic)).map(|it| it.next_try).min();
        // With the feed closed, what waits for an operator is all that is left.
        let reads = work.has_room() && (work.is_empty() || !self.reader.is_closed());
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stop),
            // Before the requests, which are looked at first thing in the next step: neither waits for more than one of
            // the other.
            prepared = self.reader.next(), if reads => match prepared {
                Some(prepared) => self.sort_in(prepared, work),
                None if work.is_empty() => return Err(Stop),
                None => return Ok(()),
            },
            () = until(next_mending), if next_mending.is_some() => {}
            // What is not finished goes on if no live event waits for its turn.
            () = std::future::ready(()), if !self.stashed.is_empty() => return Ok(()),
            Some(request) = self.requests.recv() => {
                self.note(request);
                return Ok(());
            }
            () = until(next_parked), if next_parked.is_some() => return Ok(()),
            // Whether the connection still stands is looked at again.
            () = sleep(TICK) => {
                self.reader.refresh_backlog();
                return Ok(());
            }
        }
        self.deliver(work, stop).await
    }

    /// Connects, for ever; at once where it is asked to.
    pub(super) async fn ensure_up(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        while !self.link.is_up() {
            self.wait(self.link.next_try(), stop).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Stop),
                _ = self.link.connect(self.reader.read_ahead()) => {}
            }
        }
        Ok(())
    }

    /// Waits until `at` or until something is asked.
    pub(super) async fn wait(&mut self, at: Option<Instant>, stop: &CancellationToken) -> Result<(), Stop> {
        self.end_overdue_retries();
        let room = self.stashed.len() < REQUESTS;
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stop),
            Some(request) = self.requests.recv(), if room => self.note(request),
            () = until(at) => {}
            never = self.reader.read_ahead() => match never {},
        }
        Ok(())
    }

    /// Settles a window, and those that overlap it: at the end all is confirmed, unwanted, a durable dead letter, or of a
    /// topic that waits for its next try.
    async fn deliver(&mut self, work: &mut Work, stop: &CancellationToken) -> Result<(), Stop> {
        loop {
            // While letters can't be kept others are tried, and the sink is given nothing before what it has begun.
            if work.begun.is_none() {
                self.bury(work, stop).await?;
            }
            self.pass(work);
            let Some(mut chunk) = self.next_chunk(work) else { break };
            // What was begun was claimed then, and is sent as it was begun.
            if !self.link.has_begun() {
                self.claim(&mut chunk, work);
                if chunk.is_empty() {
                    continue;
                }
            }
            self.overlap(&chunk, work, stop).await;
            self.send(chunk, work, stop).await?;
        }
        // A topic of which nothing is left begins a new grace with its next failure.
        self.mending.retain(|topic, _| work.waiting_topics().any(|waiting| waiting == topic));
        if self.mending.is_empty() {
            self.link.release();
        }
        Ok(())
    }

    /// What is sent next, no larger than windows are now. What was begun is sent as it was begun.
    fn next_chunk(&self, work: &mut Work) -> Option<Chunk<SlotId>> {
        let now = Instant::now();
        let is_due = |topic: &Topic| self.mending.get(topic).is_none_or(|mending| mending.next_try <= now);
        if self.link.has_begun() {
            return work.next(is_due);
        }
        loop {
            let mut chunk = work.next(is_due)?;
            if let Some(rest) = chunk.cut(self.link.windows()) {
                work.queue.push_front(rest);
            }
            match chunk.topic() {
                Some(topic) if !is_due(topic) => work.wait(&topic.clone(), chunk),
                _ => return Some(chunk),
            }
        }
    }

    /// Moves the cursor up to what is not settled.
    fn pass(&mut self, work: &mut Work) {
        let (until, unwanted) = work.pass();
        if let Some(until) = until {
            self.reader.advance(until);
        }
        self.link.metrics.unwanted(unwanted);
    }

    /// Begins the next window behind `chunk`, where the sink can and nothing else is to be done.
    async fn overlap(&mut self, chunk: &Chunk<SlotId>, work: &mut Work, stop: &CancellationToken) {
        // What is sent alone stays alone: its outcome is final, and nobody else may be to blame for it.
        let may = self.link.windows().overlap && chunk.len() > 1 && work.is_clear() && self.is_calm();
        if !may || !self.link.is_up() || stop.is_cancelled() || !self.reader.has_more() {
            return;
        }
        // It was begun behind the window before it, or is now.
        if !self.link.has_begun() && !self.link.begin(&chunk.messages) {
            return;
        }
        let Some(prepared) = self.reader.at_hand().await else { return };
        self.sort_in(prepared, work);
        if let Some(mut next) = work.queue.pop_front() {
            self.claim(&mut next, work);
            if next.is_empty() {
                return;
            }
            if self.link.begin(&next.messages) {
                work.begun = Some(next);
            } else {
                self.unclaim(&next, work);
                work.queue.push_front(next);
            }
        }
    }

    /// Whether live events are all there is to do: no topic is in its grace, and nobody waits for a turn between windows.
    fn is_calm(&self) -> bool {
        let now = Instant::now();
        self.mending.is_empty()
            && self.requests.is_empty()
            && self.stashed.is_empty()
            && !self.retry_now
            && self.parked.values().all(|parked| parked.next_try > now)
    }

    /// Tells apart what is to be sent and what is not.
    fn sort_in(&mut self, prepared: Prepared, work: &mut Work) {
        let mut chunk = Chunk::new();
        for (offset, event, made) in prepared.events {
            let slot = work.add(offset, event);
            match made {
                Made::Unwanted => work.settle(slot),
                Made::Panicked => {
                    self.link.metrics.publish_error(&self.link.name, Reason::Panic, 1);
                    work.bury_unmade(slot, Failure::new(Reason::Panic, "making the message panicked"));
                }
                Made::Message(message) => match self.turned_away(&message.topic) {
                    Some(failure) => work.bury(slot, message, failure),
                    // It would fail as those before it do, and their order is kept.
                    None if self.mending.contains_key(&message.topic) => work.wait_one(slot, message),
                    None => chunk.push(slot, message),
                },
            }
        }
        if !chunk.is_empty() {
            work.queue.push_back(chunk);
        }
        work.end_window(prepared.end, prepared.unwanted);
    }

    /// Why messages of this topic are not even sent.
    pub(super) fn turned_away(&mut self, topic: &Topic) -> Option<Failure> {
        self.one_too_many(topic).or_else(|| {
            let parked = self.parked.get(topic.as_str()).filter(|parked| !parked.flows);
            parked.map(|parked| parked.why.clone())
        })
    }

    /// Counts a topic. Live events, replays and letters that are tried again share the count: else a letter could open a
    /// topic whose next event is refused again.
    pub(super) fn one_too_many(&mut self, topic: &Topic) -> Option<Failure> {
        if self.topics.contains(topic) {
            return None;
        }
        if self.topics.len() < self.max_topics {
            self.topics.insert(topic.clone());
            return None;
        }
        let detail = format!(
            "one topic more than max_topics = {}; raise max_topics, reload, then \"dead-letters retry --all\"",
            self.max_topics
        );
        Some(Failure::new(Reason::TooManyTopics, detail))
    }

    /// Makes dead letters durable; where they can't be, the sink waits.
    async fn bury(&mut self, work: &mut Work, stop: &CancellationToken) -> Result<(), Stop> {
        let mut waited = false;
        loop {
            let claimed = self.claim_burials(work);
            if claimed.is_empty() {
                break;
            }
            let letters = work.letters(self.link.clock.now());
            let Err(error) = self.dead_letters.append(letters).await else {
                self.reader.release(&claimed, &[]);
                self.tell_of_burials(work);
                work.settle_burials();
                break;
            };
            self.reader.release(&[], &claimed);
            waited = true;
            let wait = self.link.delay();
            self.link.hold(Failure::new(Reason::Busy, format!("dead letters can't be kept: {error}")), wait);
            // What makes room must not wait for it.
            if self.stashed.is_empty() {
                self.wait(Some(Instant::now() + wait), stop).await?;
            }
            self.ensure_up(stop).await?;
            self.serve_requests(stop).await?;
            self.retry_parked(stop).await?;
            let (parked, judge) = (&self.parked, self.judge);
            work.unbury(|topic, why| judge.parks(why.reason) && parked.get(topic).is_none_or(|parked| parked.flows));
        }
        if waited {
            self.link.release();
        }
        Ok(())
    }

    /// A line for letters of topics that are not parked: that a topic is parked was said once.
    fn tell_of_burials(&self, work: &Work) {
        let mut by_reason: BTreeMap<Reason, (u64, &str)> = BTreeMap::new();
        for failure in work.pending_letters.iter().map(|pending| &pending.failure) {
            if !self.judge.parks(failure.reason) {
                by_reason.entry(failure.reason).or_insert((0, &failure.detail)).0 += 1;
            }
        }
        for (reason, (letters, detail)) in by_reason {
            tracing::warn!(sink = %self.link.name, %reason, letters, detail, "dead letters set aside");
        }
    }

    async fn send(&mut self, chunk: Chunk<SlotId>, work: &mut Work, stop: &CancellationToken) -> Result<(), Stop> {
        if !self.link.is_up() {
            // Nothing is in flight, and the journal may give up what waits until the sink is connected.
            self.unclaim(&chunk, work);
            self.recall(work);
            work.queue.push_front(chunk);
            return self.ensure_up(stop).await;
        }
        let offsets = work.offsets(&chunk.keys);
        match self.link.attempt(&chunk.messages, self.reader.read_ahead()).await {
            Attempt::Outcomes(outcomes) => {
                self.release(&offsets, &outcomes);
                self.judge(chunk, outcomes, work).await;
            }
            Attempt::Panicked(failure) => {
                self.reader.release(&[], &offsets);
                let sent = chunk.len();
                Self::judge_refused(chunk, sent, failure.clone(), work);
                self.link.lost(failure).await;
            }
        }
        if !self.link.has_begun() {
            self.recall(work);
        }
        Ok(())
    }

    async fn judge(&mut self, chunk: Chunk<SlotId>, outcomes: Vec<Outcome>, work: &mut Work) {
        let (sent, alone) = (chunk.len(), chunk.topic().is_some());
        let sorted = chunk.sort(outcomes, self.judge);
        // A queue that is full may take some of a topic's messages all the time: that ends no grace.
        let failing: HashSet<&Topic> = sorted.mend.iter().map(|(_, message, _)| &message.topic).collect();
        for (slot, topic) in sorted.confirmed {
            work.settle(slot);
            if !self.mending.is_empty() && !failing.contains(&topic) {
                self.mending.remove(&topic);
            }
        }
        if let (refused, Some(failure)) = sorted.refused {
            Self::judge_refused(refused, sent, failure, work);
        }
        let (retry, lost) = sorted.retry;
        if lost.is_some() {
            work.queue.push_front(retry);
        }
        if let Some(failure) = lost {
            self.recall(work);
            self.link.lost(failure).await;
        }
        // When the rest is in the queue: it takes its topics' messages out of there.
        if !sorted.mend.is_empty() {
            self.judge_mend(sorted.mend, alone, work);
        }
        if self.mending.is_empty() {
            self.link.release();
        }
    }

    /// Only what was refused when it was sent alone is a dead letter: brokers condemn whole batches for one message.
    fn judge_refused(refused: Chunk<SlotId>, sent: usize, failure: Failure, work: &mut Work) {
        match refused.apart(sent) {
            Ok(chunks) => chunks.into_iter().rev().for_each(|chunk| work.queue.push_front(chunk)),
            Err(alone) => {
                let (slot, message) = *alone;
                work.bury(slot, message, failure);
            }
        }
    }

    /// What an operator mends is sent again, each topic by itself after a back-off of its own, while the others flow. After
    /// its grace it is parked, if it failed when it was sent by itself.
    fn judge_mend(&mut self, mend: Vec<(SlotId, Message, Failure)>, alone: bool, work: &mut Work) {
        let now = Instant::now();
        let mut by_topic: Vec<(Topic, Failure, Chunk<SlotId>)> = Vec::new();
        for (slot, message, failure) in mend {
            let known = by_topic.iter().position(|(topic, ..)| *topic == message.topic);
            let at = known.unwrap_or_else(|| {
                by_topic.push((message.topic.clone(), failure, Chunk::new()));
                by_topic.len() - 1
            });
            by_topic[at].2.push(slot, message);
        }
        for (topic, why, mut chunk) in by_topic {
            chunk.extend(work.take_topic(&topic));
            let chunk = chunk.in_order();
            let delays = self.link.fork_delays();
            let mending =
                self.mending.entry(topic.clone()).or_insert_with(|| Mending { since: now, delays, next_try: now });
            let over = mending.since + self.setup_grace;
            if alone && now >= over {
                self.mending.remove(&topic);
                self.park(&topic, why.clone());
                for (slot, message) in chunk.into_iter() {
                    work.bury(slot, message, why.clone());
                }
            } else {
                mending.next_try = (now + mending.delays.after_failure()).min(over).max(now);
                let wait = mending.next_try - now;
                self.link.hold(why, wait);
                work.wait(&topic, chunk);
            }
        }
    }
}
