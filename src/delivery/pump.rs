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
use super::batch::{Batch, Judge};
use super::dead_letters::DeadLetters;
use super::guarded_sink::{Attempt, GuardedSink, GuardedSinkParts, until};
use super::in_flight::{InFlight, SlotId};
use super::parking::Parked;
use super::reader::{Filters, Made, MakeMessage, Prepared, Reader, TICK};
use super::status::{PumpHandle, Request};
use crate::clock::Clock;
use crate::config;
use crate::journal::Feed;
use crate::message::{Message, Topic};
use crate::sinks::{Failure, Outcome, Reason, Sink};
use crate::telemetry::Metrics;

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
    pub metrics: Metrics,
    /// Gives the moments of status and letters.
    pub clock: Arc<dyn Clock>,
    /// Bounds of the waits between tries.
    pub back_off: BackOff,
    /// Their jitter.
    pub rng: fastrand::Rng,
}

/// A sink with its feed, driven by [`Pump::run`].
pub struct Pump<F> {
    pub(super) sink: GuardedSink,
    pub(super) reader: Reader<F>,
    pub(super) dead_letters: DeadLetters,
    pub(super) judge: Judge,
    setup_grace: Duration,
    max_topics: usize,
    /// Topics seen since the start.
    topics: HashSet<Topic>,
    /// Topics that fail in a way that an operator mends, within their grace.
    graces: HashMap<Topic, Grace>,
    /// Topics past their grace.
    pub(super) parked: BTreeMap<Arc<str>, Parked>,
    /// The parked topics are due, whatever their times say.
    pub(super) retry_now: bool,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Requests that came while the sink was not connected.
    pub(super) stashed: VecDeque<Request>,
}

/// A topic within its grace.
struct Grace {
    since: Instant,
    delays: Delays,
    next_try: Instant,
}

/// The pump is to stop, or its feed is closed.
#[derive(Debug)]
pub(super) struct Stop;

impl<F: Feed> Pump<F> {
    /// A pump that does nothing yet, and the way to ask it. Topics that have letters an operator's fix would free
    /// are parked from the start, and tried first.
    pub fn new(options: PumpOptions<F>) -> (Self, PumpHandle) {
        let PumpOptions { config, sink, feed, make, dead_letters, filters, metrics, clock, back_off, rng } = options;
        filters.set(&config.name, Arc::clone(&make));
        let sink = GuardedSink::new(GuardedSinkParts {
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
            PumpHandle { status: sink.status.subscribe(), requests: ask, dead_letters: Some(dead_letters.clone()) };
        let mut pump = Self {
            reader: Reader::new(feed, sink.windows(), make, filters, config.name, sink.status.clone()),
            sink,
            dead_letters,
            judge: Judge::of(&config.kind),
            setup_grace: config.setup_grace,
            max_topics: config.max_topics,
            topics: HashSet::new(),
            graces: HashMap::new(),
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
            tracing::error!(sink = %self.sink.name, "pump panicked; it begins again from its cursor");
            self.reader.rewind();
            self.graces.clear();
            self.sink.lost(Failure::new(Reason::Panic, "the pump panicked")).await;
        }
        self.reader.rewind();
        self.sink.close().await;
    }

    /// Ends what an unfinished [`Pump::run`] left behind.
    pub async fn abandon(&mut self) {
        self.sink.abandon().await;
    }

    /// The feed, to be read on from its cursor.
    pub fn into_feed(self) -> F {
        self.reader.into_feed()
    }

    async fn drive(&mut self, stop: &CancellationToken) {
        let mut in_flight = InFlight::default();
        while self.step(&mut in_flight, stop).await.is_ok() {}
    }

    async fn step(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        self.ensure_up(stop).await?;
        self.serve_requests(stop).await?;
        self.retry_parked(stop).await?;
        let next_parked = self.parked.values().map(|parked| parked.next_try).min();
        let next_grace =
            in_flight.waiting_topics().filter_map(|topic| self.graces.get(topic)).map(|it| it.next_try).min();
        // With the feed closed, what waits for an operator is all that is left.
        let reads = in_flight.has_room() && (in_flight.is_empty() || !self.reader.is_closed());
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stop),
            // Before the requests, which are looked at first thing in the next step: neither waits for more than one of
            // the other.
            prepared = self.reader.next(), if reads => match prepared {
                Some(prepared) => self.sort_in(prepared, in_flight),
                None if in_flight.is_empty() => return Err(Stop),
                None => return Ok(()),
            },
            () = until(next_grace), if next_grace.is_some() => {}
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
        self.deliver(in_flight, stop).await
    }

    /// Connects, for ever; at once where it is asked to.
    pub(super) async fn ensure_up(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        while !self.sink.is_up() {
            self.wait(self.sink.next_try(), stop).await?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Stop),
                _ = self.sink.connect(self.reader.read_ahead()) => {}
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
    async fn deliver(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        loop {
            // While letters can't be kept others are tried, and the sink is given nothing before what it has begun.
            if in_flight.begun.is_none() {
                self.bury(in_flight, stop).await?;
            }
            self.pass(in_flight);
            let Some(mut batch) = self.next_batch(in_flight) else { break };
            // What was begun was claimed then, and is sent as it was begun.
            if !self.sink.has_begun() {
                self.claim(&mut batch, in_flight);
                if batch.is_empty() {
                    continue;
                }
            }
            self.overlap(&batch, in_flight, stop).await;
            self.send(batch, in_flight, stop).await?;
        }
        // A topic of which nothing is left begins a new grace with its next failure.
        self.graces.retain(|topic, _| in_flight.waiting_topics().any(|waiting| waiting == topic));
        if self.graces.is_empty() {
            self.sink.release();
        }
        Ok(())
    }

    /// What is sent next, no larger than windows are now. What was begun is sent as it was begun.
    fn next_batch(&self, in_flight: &mut InFlight) -> Option<Batch<SlotId>> {
        let now = Instant::now();
        let is_due = |topic: &Topic| self.graces.get(topic).is_none_or(|grace| grace.next_try <= now);
        if self.sink.has_begun() {
            return in_flight.next(is_due);
        }
        loop {
            let mut batch = in_flight.next(is_due)?;
            if let Some(rest) = batch.cut(self.sink.windows()) {
                in_flight.queue.push_front(rest);
            }
            match batch.topic() {
                Some(topic) if !is_due(topic) => in_flight.wait(&topic.clone(), batch),
                _ => return Some(batch),
            }
        }
    }

    /// Moves the cursor up to what is not settled.
    fn pass(&mut self, in_flight: &mut InFlight) {
        let (until, unwanted) = in_flight.pass();
        if let Some(until) = until {
            self.reader.advance(until);
        }
        self.sink.metrics.unwanted(unwanted);
    }

    /// Begins the next window behind `batch`, where the sink can and nothing else is to be done.
    async fn overlap(&mut self, batch: &Batch<SlotId>, in_flight: &mut InFlight, stop: &CancellationToken) {
        // What is sent alone stays alone: its outcome is final, and nobody else may be to blame for it.
        let may = self.sink.windows().overlap && batch.len() > 1 && in_flight.is_clear() && self.is_calm();
        if !may || !self.sink.is_up() || stop.is_cancelled() || !self.reader.has_more() {
            return;
        }
        // It was begun behind the window before it, or is now.
        if !self.sink.has_begun() && !self.sink.begin(&batch.messages) {
            return;
        }
        let Some(prepared) = self.reader.at_hand().await else { return };
        self.sort_in(prepared, in_flight);
        if let Some(mut next) = in_flight.queue.pop_front() {
            self.claim(&mut next, in_flight);
            if next.is_empty() {
                return;
            }
            if self.sink.begin(&next.messages) {
                in_flight.begun = Some(next);
            } else {
                self.unclaim(&next, in_flight);
                in_flight.queue.push_front(next);
            }
        }
    }

    /// Whether live events are all there is to do: no topic is in its grace, and nobody waits for a turn between windows.
    fn is_calm(&self) -> bool {
        let now = Instant::now();
        self.graces.is_empty()
            && self.requests.is_empty()
            && self.stashed.is_empty()
            && !self.retry_now
            && self.parked.values().all(|parked| parked.next_try > now)
    }

    /// Tells apart what is to be sent and what is not.
    fn sort_in(&mut self, prepared: Prepared, in_flight: &mut InFlight) {
        let mut batch = Batch::new();
        for (offset, event, made) in prepared.events {
            let slot = in_flight.add(offset, event);
            match made {
                Made::Unwanted => in_flight.settle(slot),
                Made::Panicked => {
                    self.sink.metrics.publish_error(&self.sink.name, Reason::Panic, 1);
                    in_flight.bury_unmade(slot, Failure::new(Reason::Panic, "making the message panicked"));
                }
                Made::Message(message) => match self.turned_away(&message.topic) {
                    Some(failure) => in_flight.bury(slot, message, failure),
                    // It would fail as those before it do, and their order is kept.
                    None if self.graces.contains_key(&message.topic) => in_flight.wait_one(slot, message),
                    None => batch.push(slot, message),
                },
            }
        }
        if !batch.is_empty() {
            in_flight.queue.push_back(batch);
        }
        in_flight.end_window(prepared.end, prepared.unwanted);
    }

    /// Why messages of this topic are not even sent.
    pub(super) fn turned_away(&mut self, topic: &Topic) -> Option<Failure> {
        if !self.topics.contains(topic) {
            if self.topics.len() >= self.max_topics {
                let detail = format!("one topic more than max_topics = {}", self.max_topics);
                return Some(Failure::new(Reason::TooManyTopics, detail));
            }
            self.topics.insert(topic.clone());
        }
        self.parked.get(topic.as_str()).filter(|parked| !parked.flows).map(|parked| parked.why.clone())
    }

    /// Makes dead letters durable; where they can't be, the sink waits.
    async fn bury(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        let mut waited = false;
        loop {
            let claimed = self.claim_burials(in_flight);
            if claimed.is_empty() {
                break;
            }
            let letters = in_flight.letters(self.sink.clock.now());
            let Err(error) = self.dead_letters.append(letters).await else {
                self.reader.release(&claimed, &[]);
                self.tell_of_burials(in_flight);
                in_flight.settle_burials();
                break;
            };
            self.reader.release(&[], &claimed);
            waited = true;
            let wait = self.sink.delay();
            self.sink.hold(Failure::new(Reason::Busy, format!("dead letters can't be kept: {error}")), wait);
            // What makes room must not wait for it.
            if self.stashed.is_empty() {
                self.wait(Some(Instant::now() + wait), stop).await?;
            }
            self.ensure_up(stop).await?;
            self.serve_requests(stop).await?;
            self.retry_parked(stop).await?;
            let (parked, judge) = (&self.parked, self.judge);
            in_flight
                .unbury(|topic, why| judge.parks(why.reason) && parked.get(topic).is_none_or(|parked| parked.flows));
        }
        if waited {
            self.sink.release();
        }
        Ok(())
    }

    /// A line for letters of topics that are not parked: that a topic is parked was said once.
    fn tell_of_burials(&self, in_flight: &InFlight) {
        let mut by_reason: BTreeMap<Reason, (u64, &str)> = BTreeMap::new();
        for failure in in_flight.burials.iter().map(|burial| &burial.failure) {
            if !self.judge.parks(failure.reason) {
                by_reason.entry(failure.reason).or_insert((0, &failure.detail)).0 += 1;
            }
        }
        for (reason, (letters, detail)) in by_reason {
            tracing::warn!(sink = %self.sink.name, %reason, letters, detail, "dead letters set aside");
        }
    }

    async fn send(
        &mut self,
        batch: Batch<SlotId>,
        in_flight: &mut InFlight,
        stop: &CancellationToken,
    ) -> Result<(), Stop> {
        if !self.sink.is_up() {
            // Nothing is in flight, and the journal may give up what waits until the sink is connected.
            self.unclaim(&batch, in_flight);
            self.recall(in_flight);
            in_flight.queue.push_front(batch);
            return self.ensure_up(stop).await;
        }
        let offsets = in_flight.offsets(&batch.keys);
        match self.sink.attempt(&batch.messages, self.reader.read_ahead()).await {
            Attempt::Outcomes(outcomes) => {
                self.release(&offsets, &outcomes);
                self.judge(batch, outcomes, in_flight).await;
            }
            Attempt::Panicked(failure) => {
                self.reader.release(&[], &offsets);
                let sent = batch.len();
                Self::judge_refused(batch, sent, failure.clone(), in_flight);
                self.sink.lost(failure).await;
            }
        }
        if !self.sink.has_begun() {
            self.recall(in_flight);
        }
        Ok(())
    }

    async fn judge(&mut self, batch: Batch<SlotId>, outcomes: Vec<Outcome>, in_flight: &mut InFlight) {
        let (sent, alone) = (batch.len(), batch.topic().is_some());
        let sorted = batch.sort(outcomes, self.judge);
        // A queue that is full may take some of a topic's messages all the time: that ends no grace.
        let failing: HashSet<&Topic> = sorted.needs_operator.iter().map(|(_, message, _)| &message.topic).collect();
        for (slot, topic) in sorted.confirmed {
            in_flight.settle(slot);
            if !self.graces.is_empty() && !failing.contains(&topic) {
                self.graces.remove(&topic);
            }
        }
        if let (refused, Some(failure)) = sorted.refused {
            Self::judge_refused(refused, sent, failure, in_flight);
        }
        let (retry, lost) = sorted.retry;
        if lost.is_some() {
            in_flight.queue.push_front(retry);
        }
        if let Some(failure) = lost {
            self.recall(in_flight);
            self.sink.lost(failure).await;
        }
        // When the rest is in the queue: it takes its topics' messages out of there.
        if !sorted.needs_operator.is_empty() {
            self.judge_needs_operator(sorted.needs_operator, alone, in_flight);
        }
        if self.graces.is_empty() {
            self.sink.release();
        }
    }

    /// Only what was refused when it was sent alone is a dead letter: brokers condemn whole batches for one message.
    fn judge_refused(refused: Batch<SlotId>, sent: usize, failure: Failure, in_flight: &mut InFlight) {
        match refused.bisect(sent) {
            Ok(batches) => batches.into_iter().rev().for_each(|batch| in_flight.queue.push_front(batch)),
            Err(alone) => {
                let (slot, message) = *alone;
                in_flight.bury(slot, message, failure);
            }
        }
    }

    /// What an operator mends is sent again, each topic by itself after a back-off of its own, while the others flow. After
    /// its grace it is parked, if it failed when it was sent by itself.
    fn judge_needs_operator(
        &mut self,
        needs_operator: Vec<(SlotId, Message, Failure)>,
        alone: bool,
        in_flight: &mut InFlight,
    ) {
        let now = Instant::now();
        let mut by_topic: Vec<(Topic, Failure, Batch<SlotId>)> = Vec::new();
        for (slot, message, failure) in needs_operator {
            let known = by_topic.iter().position(|(topic, ..)| *topic == message.topic);
            let at = known.unwrap_or_else(|| {
                by_topic.push((message.topic.clone(), failure, Batch::new()));
                by_topic.len() - 1
            });
            by_topic[at].2.push(slot, message);
        }
        for (topic, why, mut batch) in by_topic {
            batch.extend(in_flight.take_topic(&topic));
            let batch = batch.in_order();
            let delays = self.sink.fork_delays();
            let grace = self.graces.entry(topic.clone()).or_insert_with(|| Grace { since: now, delays, next_try: now });
            let over = grace.since + self.setup_grace;
            if alone && now >= over {
                self.graces.remove(&topic);
                self.park(&topic, why.clone());
                for (slot, message) in batch.into_iter() {
                    in_flight.bury(slot, message, why.clone());
                }
            } else {
                grace.next_try = (now + grace.delays.after_failure()).min(over).max(now);
                let wait = grace.next_try - now;
                self.sink.hold(why, wait);
                in_flight.wait(&topic, batch);
            }
        }
    }
}
