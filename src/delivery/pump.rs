//! One sink's pump: takes windows from its feed, and moves the cursor once everything before it is settled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::{BackOff, Delays};
use super::batch::Batch;
use super::guarded_sink::{GuardedSink, until};
use super::handles::PumpHandle;
use super::in_flight::{InFlight, SlotId};
use super::metrics::DeliveryMetrics;
use super::parking::Parking;
use super::publisher::{Inbox, Publisher, Stop};
use super::reader::{AT_HAND, Filters, Made, MakeMessage, Prepared, Reader, TICK};
use crate::clock::Clock;
use crate::config;
use crate::dead_letters::DeadLetters;
use crate::journal::Feed;
use crate::message::{Message, Topic};
use crate::sinks::{Failure, Reason, Sink};

/// The arguments of [`Pump::new`].
pub struct PumpOptions<F> {
    /// The sink as configured.
    pub config: config::Sink,
    /// The sink itself, not yet connected.
    pub sink: Box<dyn Sink>,
    /// The sink's place in the journal.
    pub feed: F,
    /// Makes events into the sink's messages.
    pub make: Arc<dyn MakeMessage>,
    /// Where the pump sets aside what the sink refuses.
    pub dead_letters: DeadLetters,
    /// What all sinks ask for.
    pub filters: Filters,
    /// Where the pump counts.
    pub metrics: DeliveryMetrics,
    /// The clock for status and dead letters.
    pub clock: Arc<dyn Clock>,
    /// The bounds of the waits between tries.
    pub back_off: BackOff,
    /// The jitter of these waits.
    pub rng: fastrand::Rng,
}

/// A sink with its feed, driven by [`Pump::run`].
pub struct Pump<F> {
    publisher: Publisher<F>,
    parking: Parking,
    setup_grace: Duration,
    /// Topics that need an operator and are not parked yet.
    graces: HashMap<Topic, Grace>,
}

/// The time that a topic has until it is parked.
struct Grace {
    since: Instant,
    delays: Delays,
    next_try: Instant,
}

impl<F: Feed> Pump<F> {
    /// Makes a pump that does nothing until [`Pump::run`], and a handle to it. Topics whose letters wait for an operator
    /// are parked from the start, and tried first.
    pub fn new(options: PumpOptions<F>) -> (Self, PumpHandle) {
        let PumpOptions { config, sink, feed, make, dead_letters, filters, metrics, clock, back_off, rng } = options;
        filters.set(&config.name, Arc::clone(&make));
        let mut sink = GuardedSink::new(&config, sink, back_off.delays(rng), Duration::MAX, metrics, clock);
        let (requests, inbox) = Inbox::new();
        let status = sink.status.subscribe();
        let handle = PumpHandle { status, requests, dead_letters: Some(dead_letters.clone()) };
        let parking = Parking::new(config.max_topics, &dead_letters, &mut sink);
        let reader = Reader::new(feed, sink.windows(), make, filters, config.name, sink.status.clone());
        let publisher = Publisher { sink, reader, dead_letters, inbox };
        (Self { publisher, parking, setup_grace: config.setup_grace, graces: HashMap::new() }, handle)
    }

    /// Delivers until `stop`, or until the feed is closed, and then closes the sink.
    ///
    /// After `stop`, the pump awaits what is being sent, under the sink's own deadline. It leaves what waits for another
    /// try to the next start. To end at once, drop the future: the feed is in the pump.
    pub async fn run(&mut self, stop: &CancellationToken) {
        // A panic here is a bug of the bridge. Events must flow all the same.
        while AssertUnwindSafe(self.drive(stop)).catch_unwind().await.is_err() {
            tracing::error!(sink = %self.publisher.sink.name, "pump panicked; it begins again from its cursor");
            self.publisher.reader.rewind();
            self.graces.clear();
            self.publisher.sink.lost(Failure::new(Reason::Panic, "the pump panicked")).await;
        }
        self.publisher.reader.rewind();
        self.publisher.sink.close().await;
    }

    /// Ends what an unfinished [`Pump::run`] left behind.
    pub async fn abandon(&mut self) {
        self.publisher.sink.abandon().await;
    }

    /// Returns the feed, which reads on from its cursor.
    pub fn into_feed(self) -> F {
        self.publisher.reader.into_feed()
    }

    async fn drive(&mut self, stop: &CancellationToken) {
        let mut in_flight = InFlight::default();
        while self.step(&mut in_flight, stop).await.is_ok() {}
    }

    async fn step(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        self.take_turns(stop).await?;
        let Publisher { reader, inbox, .. } = &mut self.publisher;
        let next_parked = self.parking.next_try();
        let next_grace =
            in_flight.waiting_topics().filter_map(|topic| self.graces.get(topic)).map(|it| it.next_try).min();
        // After the feed is closed, all that is left waits for an operator.
        let reads = in_flight.has_room() && (in_flight.is_empty() || !reader.is_closed());
        // What needs more turns goes on, unless the feed has a window, which may take a moment to be read.
        let unfinished = !inbox.open.is_empty() || self.parking.is_due();
        let read_soon = reads && reader.has_more();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Stop),
            // Live events come before requests here, and requests come first in the next step: neither waits for more
            // than one turn of the other.
            prepared = reader.next(), if reads => match prepared {
                Some(prepared) => self.sort_in(prepared, in_flight),
                None if in_flight.is_empty() => return Err(Stop),
                None => return Ok(()),
            },
            () = until(next_grace), if next_grace.is_some() => {}
            () = std::future::ready(()), if unfinished && !read_soon => return Ok(()),
            () = sleep(AT_HAND), if unfinished => return Ok(()),
            Some(request) = inbox.requests.recv() => {
                inbox.note(request);
                return Ok(());
            }
            () = until(next_parked), if next_parked.is_some() => return Ok(()),
            // The next step checks the connection.
            () = sleep(TICK) => {
                reader.refresh_backlog();
                return Ok(());
            }
        }
        self.deliver(in_flight, stop).await
    }

    /// Connects, and gives requests and parked topics their turn.
    async fn take_turns(&mut self, stop: &CancellationToken) -> Result<(), Stop> {
        self.publisher.ensure_up(stop).await?;
        self.publisher.serve_requests(&mut self.parking, stop).await?;
        self.parking.retry(&mut self.publisher, stop).await
    }

    /// Settles a window and those that overlap it. At the end, each event is confirmed, unwanted, a durable dead letter,
    /// or of a topic that waits for its next try.
    async fn deliver(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        loop {
            // This may publish other letters to make room, and what was begun comes before anything else.
            if in_flight.begun.is_none() {
                self.bury(in_flight, stop).await?;
            }
            self.pass(in_flight);
            let Some(mut batch) = self.next_batch(in_flight) else { break };
            // What was begun is claimed already, and must be published unchanged.
            if !self.publisher.sink.has_begun() {
                in_flight.claim(&mut batch, &mut self.publisher.reader);
                if batch.is_empty() {
                    continue;
                }
            }
            self.overlap(&batch, in_flight, stop).await;
            self.send(batch, in_flight, stop).await?;
        }
        // A topic with no messages left has a new grace after its next failure.
        self.graces.retain(|topic, _| in_flight.waiting_topics().any(|waiting| waiting == topic));
        if self.graces.is_empty() {
            self.publisher.sink.release();
        }
        Ok(())
    }

    /// The batch that is sent next, cut to the present size of windows unless it was begun.
    fn next_batch(&self, in_flight: &mut InFlight) -> Option<Batch<SlotId>> {
        let now = Instant::now();
        let is_due = |topic: &Topic| self.graces.get(topic).is_none_or(|grace| grace.next_try <= now);
        if self.publisher.sink.has_begun() {
            return in_flight.next(is_due);
        }
        loop {
            let mut batch = in_flight.next(is_due)?;
            if let Some(rest) = batch.cut(self.publisher.sink.windows()) {
                in_flight.queue.push_front(rest);
            }
            match batch.topic() {
                Some(topic) if !is_due(topic) => in_flight.wait(&topic.clone(), batch),
                _ => return Some(batch),
            }
        }
    }

    /// Moves the cursor to the oldest event that is not settled.
    fn pass(&mut self, in_flight: &mut InFlight) {
        let (until, unwanted) = in_flight.pass();
        if let Some(until) = until {
            self.publisher.reader.advance(until);
        }
        self.publisher.sink.metrics.unwanted(unwanted);
    }

    /// Begins the next window after `batch` if the sink can overlap them and nothing else is to be done.
    async fn overlap(&mut self, batch: &Batch<SlotId>, in_flight: &mut InFlight, stop: &CancellationToken) {
        // The outcome of a message that is sent alone is final, so nothing else may be to blame for it.
        let may = self.publisher.sink.windows().overlap && batch.len() > 1 && in_flight.is_clear() && self.is_calm();
        if !may || !self.publisher.sink.is_up() || stop.is_cancelled() || !self.publisher.reader.has_more() {
            return;
        }
        // The batch may have been begun while the one before it was on its way.
        if !self.publisher.sink.has_begun() && !self.publisher.sink.begin(&batch.messages) {
            return;
        }
        let Some(prepared) = self.publisher.reader.at_hand().await else { return };
        self.sort_in(prepared, in_flight);
        if let Some(mut next) = in_flight.queue.pop_front() {
            in_flight.claim(&mut next, &mut self.publisher.reader);
            if next.is_empty() {
                return;
            }
            if self.publisher.sink.begin(&next.messages) {
                in_flight.begun = Some(next);
            } else {
                in_flight.unclaim(&next, &mut self.publisher.reader);
                in_flight.queue.push_front(next);
            }
        }
    }

    /// Whether live events are all there is to do: no topic is in its grace, and nothing waits for a turn.
    fn is_calm(&self) -> bool {
        self.graces.is_empty() && self.publisher.inbox.is_empty() && !self.parking.is_due()
    }

    /// Adds a window: queues what is to be sent, and settles or sets aside the rest.
    fn sort_in(&mut self, prepared: Prepared, in_flight: &mut InFlight) {
        let mut batch = Batch::new();
        for (offset, event, made) in prepared.events {
            let slot = in_flight.add(offset, event);
            match made {
                Made::Unwanted => in_flight.settle(slot),
                Made::Panicked => {
                    self.publisher.sink.metrics.publish_error(&self.publisher.sink.name, Reason::Panic, 1);
                    in_flight.bury_unmade(slot, Failure::new(Reason::Panic, "making the message panicked"));
                }
                Made::Message(message) => match self.parking.turned_away(&message.topic) {
                    Some(failure) => in_flight.bury(slot, message, failure),
                    // It would fail too, and the order of the topic is kept.
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

    async fn send(
        &mut self,
        batch: Batch<SlotId>,
        in_flight: &mut InFlight,
        stop: &CancellationToken,
    ) -> Result<(), Stop> {
        let Publisher { sink, reader, .. } = &mut self.publisher;
        if !sink.is_up() {
            // Nothing is on its way, and a full journal may give up what waits until the sink is connected.
            in_flight.unclaim(&batch, reader);
            in_flight.recall(reader);
            in_flight.queue.push_front(batch);
            return self.publisher.ensure_up(stop).await;
        }
        let (slots, one_topic) = (batch.keys.clone(), batch.topic().is_some());
        let sent = self.publisher.send(batch, &mut in_flight.queue).await;
        let Publisher { sink, reader, .. } = &mut self.publisher;
        in_flight.release(&slots, sent.confirmed.iter().map(|(slot, _)| *slot), reader);
        // A full queue may take some of a topic's messages each time. That does not end the topic's grace.
        let failing: HashSet<&Topic> = sent.needs_operator.iter().map(|(_, message, _)| &message.topic).collect();
        for (slot, topic) in sent.confirmed {
            in_flight.settle(slot);
            if !self.graces.is_empty() && !failing.contains(&topic) {
                self.graces.remove(&topic);
            }
        }
        if let Some((slot, message, failure)) = sent.refused_alone {
            in_flight.bury(slot, message, failure);
        }
        if !sent.retry.is_empty() {
            in_flight.queue.push_front(sent.retry);
        }
        if sent.lost.is_some() || !sink.has_begun() {
            in_flight.recall(reader);
        }
        if let Some(failure) = sent.lost {
            sink.lost(failure).await;
        }
        // Only now is the rest in the queue, where the messages of these topics are looked for.
        if !sent.needs_operator.is_empty() {
            self.wait_for_operator(sent.needs_operator, one_topic, in_flight);
        }
        if self.graces.is_empty() {
            self.publisher.sink.release();
        }
        Ok(())
    }

    /// Makes dead letters durable. If that fails, the sink waits.
    async fn bury(&mut self, in_flight: &mut InFlight, stop: &CancellationToken) -> Result<(), Stop> {
        let mut waited = false;
        loop {
            let claimed = in_flight.claim_burials(&mut self.publisher.reader);
            if claimed.is_empty() {
                break;
            }
            let letters = in_flight.letters(self.publisher.sink.clock.now());
            let Err(error) = self.publisher.dead_letters.append(letters).await else {
                self.publisher.reader.release(&claimed, &[]);
                in_flight.tell_of_burials(&self.publisher.sink.name, self.publisher.sink.judge);
                in_flight.settle_burials();
                break;
            };
            self.publisher.reader.release(&[], &claimed);
            waited = true;
            let wait = self.publisher.sink.delay();
            self.publisher.sink.hold(Failure::new(Reason::Busy, format!("dead letters can't be kept: {error}")), wait);
            // An open request or a parked topic may make room.
            if self.publisher.inbox.open.is_empty() && !self.parking.is_due() {
                self.publisher.wait(Some(Instant::now() + wait), stop).await?;
            }
            self.take_turns(stop).await?;
            let (parking, judge) = (&self.parking, self.publisher.sink.judge);
            in_flight.unbury(|topic, why| judge.parks(why.reason) && parking.flows(topic));
        }
        if waited {
            self.publisher.sink.release();
        }
        Ok(())
    }

    /// Sends topics that need an operator again, each by itself after a back-off of its own, while the others flow. A
    /// topic is parked when it fails by itself after its grace.
    fn wait_for_operator(
        &mut self,
        failed: Vec<(SlotId, Message, Failure)>,
        one_topic: bool,
        in_flight: &mut InFlight,
    ) {
        let now = Instant::now();
        let mut by_topic = BTreeMap::new();
        for (slot, message, failure) in failed {
            let (_, batch) = by_topic.entry(message.topic.clone()).or_insert_with(|| (failure, Batch::new()));
            batch.push(slot, message);
        }
        for (topic, (why, mut batch)) in by_topic {
            batch.extend(in_flight.take_topic(&topic));
            let batch = batch.in_order();
            let delays = self.publisher.sink.fork_delays();
            let grace = self.graces.entry(topic.clone()).or_insert_with(|| Grace { since: now, delays, next_try: now });
            let over = grace.since + self.setup_grace;
            if one_topic && now >= over {
                self.graces.remove(&topic);
                self.parking.park(&topic, why.clone(), &mut self.publisher.sink);
                for (slot, message) in batch.into_iter() {
                    in_flight.bury(slot, message, why.clone());
                }
            } else {
                grace.next_try = (now + grace.delays.after_failure()).min(over).max(now);
                let wait = grace.next_try - now;
                self.publisher.sink.hold(why, wait);
                in_flight.wait(&topic, batch);
            }
        }
    }
}
