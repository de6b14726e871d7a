//! A sink under guard: every call has a deadline, a panic is an outcome, and a lost connection is made again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::backoff::Delays;
use super::batch::{Batch, Judge, Sent};
use super::metrics::DeliveryMetrics;
use super::status::{SinkSnapshot, SinkState};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, SinkName};
use crate::message::{Message, Topic};
use crate::sinks::{Failure, Outcome, Outcomes, Reason, Sink, Windows};

/// How long a sink may take to end an attempt or to close. After that, the pump leaves it to itself.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// After this many halvings, one event is left of [`Windows::WHOLE`].
const MOST_HALVINGS: u32 = Windows::WHOLE.events.ilog2();

/// The sink of one pump.
pub(super) struct GuardedSink {
    sink: Box<dyn Sink>,
    pub(super) name: SinkName,
    kind: &'static str,
    pub(super) judge: Judge,
    connected: bool,
    /// Windows that were begun and are not yet published.
    begun: usize,
    /// How many times windows are halved, because one missed its deadline.
    halvings: u32,
    /// When the next connect is due, or `None` if it is due at once.
    next_try: Option<Instant>,
    delays: Delays,
    longest: Duration,
    pub(super) status: watch::Sender<SinkSnapshot>,
    pub(super) metrics: DeliveryMetrics,
    pub(super) clock: Arc<dyn Clock>,
}

impl GuardedSink {
    /// `longest` bounds the sink's own deadline.
    pub(super) fn new(
        config: &config::Sink,
        sink: Box<dyn Sink>,
        delays: Delays,
        longest: Duration,
        metrics: DeliveryMetrics,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (name, kind, judge) = (config.name.clone(), config.kind.as_str(), Judge::of(&config.kind));
        let (status, _) = watch::channel(SinkSnapshot {
            name: name.clone(),
            kind,
            has_broker: sink.has_broker(),
            state: SinkState::Connecting,
            since: clock.now(),
            warnings: Vec::new(),
            backlog: crate::journal::Backlog::default(),
            parked: Vec::new(),
            dead_letters: crate::dead_letters::LetterSummary::default(),
            last_confirm: None,
            confirmed: 0,
            duplicates: 0,
        });
        Self {
            sink,
            name,
            kind,
            judge,
            connected: false,
            begun: 0,
            halvings: 0,
            next_try: None,
            delays,
            longest,
            status,
            metrics,
            clock,
        }
    }

    /// Whether the sink takes events now.
    pub(super) fn is_up(&self) -> bool {
        self.connected && self.sink.is_up()
    }

    /// The windows of live events that the sink takes now.
    pub(super) fn windows(&self) -> Windows {
        self.fit(self.sink.windows())
    }

    /// These windows, as small as they must be after missed deadlines.
    pub(super) const fn fit(&self, windows: Windows) -> Windows {
        windows.halved(self.halvings)
    }

    /// Whether a window was begun and is not yet published.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// Begins a window whose outcomes [`GuardedSink::send`] awaits later. Returns whether the sink took it.
    pub(super) fn begin(&mut self, window: &[Message]) -> bool {
        let begun = catch_unwind(AssertUnwindSafe(|| self.sink.begin(window)));
        let Ok(begun) = begun else {
            // Nobody knows how much of the window is on its way. The next connect ends it.
            self.metrics.publish_error(&self.name, Reason::Panic, window.len() as u64);
            self.connected = false;
            self.next_try = Some(Instant::now() + self.delays.after_failure());
            return false;
        };
        self.begun += usize::from(begun);
        begun
    }

    /// When the next connect is due, or `None` if it is due at once.
    pub(super) const fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// Tries once to connect, while `beside` runs. A failure sets the time of the next try.
    pub(super) async fn connect(&mut self, beside: impl Future<Output = Infallible>) {
        if self.connected {
            tracing::warn!(sink = %self.name, "sink lost its connection");
        }
        self.connected = false;
        self.begun = 0;
        // A sink that keeps failing keeps showing why.
        if self.held().is_none() {
            self.set_state(SinkState::Connecting);
        }
        let deadline = self.deadline();
        let sink = &mut self.sink;
        let connect = timeout(deadline, AssertUnwindSafe(async { sink.connect().await }).catch_unwind());
        let failure = match run_beside(connect, beside).await {
            Ok(Ok(Ok(warnings))) => {
                self.connected = true;
                self.next_try = None;
                for warning in warnings.iter().filter(|warning| !self.status.borrow().warnings.contains(warning)) {
                    tracing::warn!(sink = %self.name, warning, "sink falls short");
                }
                self.status.send_modify(|status| status.warnings = warnings);
                tracing::info!(sink = %self.name, kind = self.kind, "sink is connected");
                return self.set_state(SinkState::Up);
            }
            Ok(Ok(Err(failure))) => failure,
            Ok(Err(panic)) => Failure::new(Reason::Panic, panic_text("connecting", &*panic)),
            Err(_) => Failure::new(Reason::Timeout, format!("not connected within {deadline:?}")),
        };
        self.metrics.publish_error(&self.name, failure.reason, 1);
        self.lost(failure).await;
    }

    /// Sends a batch, or awaits the oldest that was begun, while `beside` runs. What is confirmed by the deadline counts.
    /// Messages that were refused among others go to the front of `queue`.
    pub(super) async fn send<K>(
        &mut self,
        batch: Batch<K>,
        queue: &mut VecDeque<Batch<K>>,
        beside: impl Future<Output = Infallible>,
    ) -> Sent<K> {
        let outcomes = self.attempt(&batch.messages, Outcomes::open(batch.len()), beside).await;
        batch.sort(outcomes, self.judge, queue)
    }

    /// Like [`GuardedSink::send`], but tells about each confirmed message at once.
    pub(super) async fn send_telling<K>(
        &mut self,
        mut batch: Batch<K>,
        queue: &mut VecDeque<Batch<K>>,
        mut tell: impl FnMut(&mut K),
    ) -> Sent<K> {
        let (outcomes, mut confirmed) = Outcomes::telling(batch.len());
        let keys = &mut batch.keys;
        let telling = async {
            while let Some(place) = confirmed.recv().await {
                tell(&mut keys[place]);
            }
            std::future::pending().await
        };
        let outcomes = self.attempt(&batch.messages, outcomes, telling).await;
        batch.sort(outcomes, self.judge, queue)
    }

    /// Returns one outcome for each message. Those without one by the deadline have [`Reason::Timeout`]; if sending
    /// panics, all have [`Reason::Panic`].
    async fn attempt(
        &mut self,
        window: &[Message],
        mut outcomes: Outcomes,
        beside: impl Future<Output = Infallible>,
    ) -> Vec<Outcome> {
        self.begun = self.begun.saturating_sub(1);
        let deadline = self.deadline();
        let begun = Instant::now();
        let sink = &mut self.sink;
        let publish = AssertUnwindSafe(async { sink.publish_into(window, &mut outcomes).await }).catch_unwind();
        let published = run_beside(timeout(deadline, publish), beside).await;
        if let Ok(Err(panic)) = published {
            let failure = Failure::new(Reason::Panic, panic_text("sending", &*panic));
            self.metrics.publish_error(&self.name, failure.reason, window.len() as u64);
            return vec![Outcome::Failed(failure); window.len()];
        }
        let (left, of) = (outcomes.count_open(), window.len());
        let why = match published {
            Ok(_) => format!("the sink gave no outcome for {left} of {of} messages"),
            Err(_) => format!("no answer within {deadline:?} for {left} of {of} messages"),
        };
        let outcomes = outcomes.close(&Failure::new(Reason::Timeout, why));
        self.resize(window, &outcomes, begun.elapsed());
        self.count(window, &outcomes);
        outcomes
    }

    /// Halves the windows after a missed deadline. Doubles them after a full window that was confirmed within a quarter
    /// of the deadline: clients have deadlines of their own, down to half of the sink's, and twice as much still fits.
    fn resize(&mut self, window: &[Message], outcomes: &[Outcome], took: Duration) {
        let is_late = |outcome: &Outcome| matches!(outcome, Outcome::Failed(why) if why.reason == Reason::Timeout);
        if outcomes.iter().any(is_late) {
            self.halvings = (self.halvings + 1).min(MOST_HALVINGS);
        } else if self.halvings > 0 {
            let windows = self.windows();
            let bytes: usize = window.iter().map(|message| message.data.len()).sum();
            // A smaller window says nothing about how long a full one takes.
            let is_full = window.len() >= windows.events || bytes >= windows.bytes / 2;
            let is_confirmed = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Confirmed { .. }));
            if is_full && is_confirmed && took.saturating_mul(4) <= self.deadline() {
                self.halvings -= 1;
            }
        }
    }

    /// Gives up the connection: ends what is left of the attempt and backs off before the next connect.
    pub(super) async fn lost(&mut self, failure: Failure) {
        self.end_attempt().await;
        self.connected = false;
        let wait = self.delays.after_failure();
        self.next_try = Some(Instant::now() + wait);
        self.hold(failure, wait);
    }

    /// Shows that nothing is sent to the sink for `wait`, and why.
    pub(super) fn hold(&mut self, why: Failure, wait: Duration) {
        let wait_micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let next_try = Timestamp::from_micros(self.clock.now().as_micros().saturating_add(wait_micros));
        let is_new = self.status.borrow().state.failure().is_none_or(|before| before.reason != why.reason);
        if is_new {
            tracing::warn!(sink = %self.name, reason = %why.reason, detail = why.detail, "sink is retrying");
        }
        self.set_state(SinkState::BackingOff { why, next_try });
    }

    /// Why nothing is sent to the sink now, or `None` if it is not held back.
    pub(super) fn held(&self) -> Option<Failure> {
        self.status.borrow().state.failure().cloned()
    }

    /// The next wait of the sink's back-off, for a failure that does not cost the connection.
    pub(super) fn delay(&mut self) -> Duration {
        self.delays.after_failure()
    }

    /// A separate back-off, for one topic.
    pub(super) fn fork_delays(&mut self) -> Delays {
        self.delays.fork()
    }

    /// Shows that nothing holds the sink back any more, unless its connection is lost.
    pub(super) fn release(&self) {
        if self.connected && self.status.borrow().state != SinkState::Up {
            tracing::info!(sink = %self.name, "sink takes events again");
            self.set_state(SinkState::Up);
        }
    }

    fn set_state(&self, state: SinkState) {
        let now = self.clock.now();
        self.metrics.sink_up(&self.name, self.kind, state == SinkState::Up);
        self.status.send_modify(|status| {
            if std::mem::discriminant(&status.state) != std::mem::discriminant(&state) {
                status.since = now;
            }
            status.state = state;
        });
    }

    /// Counts the outcomes of a window. A confirm resets the back-off.
    fn count(&mut self, window: &[Message], outcomes: &[Outcome]) {
        let now = self.clock.now();
        let mut by_topic: Vec<(&Topic, u64)> = Vec::new();
        let (mut confirmed, mut duplicates) = (0, 0);
        for (message, outcome) in window.iter().zip(outcomes) {
            match outcome {
                Outcome::Confirmed { duplicate } => {
                    confirmed += 1;
                    duplicates += u64::from(*duplicate);
                    if message.replay.is_none() {
                        self.metrics.delivered(&self.name, now.since(message.received));
                    }
                    match by_topic.iter_mut().find(|(topic, _)| *topic == &message.topic) {
                        Some((_, count)) => *count += 1,
                        None => by_topic.push((&message.topic, 1)),
                    }
                }
                Outcome::Failed(failure) => self.metrics.publish_error(&self.name, failure.reason, 1),
            }
        }
        for (topic, count) in by_topic {
            self.metrics.published(&self.name, topic, count);
        }
        if confirmed > 0 {
            self.delays.reset();
            self.status.send_modify(|status| {
                status.last_confirm = Some(now);
                status.confirmed += confirmed;
                status.duplicates += duplicates;
            });
        }
    }

    async fn end_attempt(&mut self) {
        self.begun = 0;
        let sink = &mut self.sink;
        // It does not matter if this panics or hangs: the next connect ends the old attempt too.
        drop(timeout(CLOSE_WITHIN, AssertUnwindSafe(async { sink.abandon().await }).catch_unwind()).await);
    }

    /// Ends an attempt and stops, without a graceful close.
    pub(super) async fn abandon(&mut self) {
        self.end_attempt().await;
        self.connected = false;
        self.set_state(SinkState::Stopped);
    }

    /// Closes the connection gracefully, within [`CLOSE_WITHIN`].
    pub(super) async fn close(&mut self) {
        let sink = &mut self.sink;
        if timeout(CLOSE_WITHIN, AssertUnwindSafe(async { sink.close().await }).catch_unwind()).await.is_err() {
            tracing::warn!(sink = %self.name, within = ?CLOSE_WITHIN, "sink did not close in time");
        }
        self.connected = false;
        self.set_state(SinkState::Stopped);
    }

    fn deadline(&self) -> Duration {
        self.sink.deadline().min(self.longest)
    }
}

/// Runs `work` to its end, and `beside` until then.
async fn run_beside<T>(work: impl Future<Output = T>, beside: impl Future<Output = Infallible>) -> T {
    let (work, beside) = (pin!(work), pin!(beside));
    tokio::select! {
        biased;
        done = work => done,
        never = beside => match never {},
    }
}

/// Waits until `at`. Returns at once if it is `None`.
pub(super) async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}

/// Says where a panic happened, without its text, which may hold a piece of a body. The panic hook prints it on stderr.
fn panic_text(doing: &str, _: &(dyn std::any::Any + Send)) -> String {
    format!("{doing} panicked")
}
