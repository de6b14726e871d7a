//! What a pump reads: windows of its feed, made into messages ahead of their turn.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::status::SinkSnapshot;
use crate::config::SinkName;
use crate::journal::{Feed, Offset};
use crate::message::{Message, Messages, StoredEvent};
use crate::sinks::Windows;

/// How long the pump waits for a window that is in the journal while it could do something else.
pub(super) const AT_HAND: Duration = Duration::from_millis(50);
/// How old the backlog in `/status` may be.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Makes an event into one sink's message.
pub trait MakeMessage: Send + Sync + 'static {
    /// Returns the message, or `None` if the sink does not ask for the event.
    fn make(&self, event: &StoredEvent) -> Option<Message>;
}

impl MakeMessage for Messages {
    fn make(&self, event: &StoredEvent) -> Option<Message> {
        Messages::make(self, event, None)
    }
}

impl<M: Fn(&StoredEvent) -> Option<Message> + Send + Sync + 'static> MakeMessage for M {
    fn make(&self, event: &StoredEvent) -> Option<Message> {
        self(event)
    }
}

/// What became of an event.
pub(super) enum Made {
    Message(Message),
    Unwanted,
    Panicked,
}

/// Makes a message. A panic is an outcome.
pub(super) fn make_guarded(make: &dyn MakeMessage, event: &StoredEvent) -> Made {
    match catch_unwind(AssertUnwindSafe(|| make.make(event))) {
        Ok(Some(message)) => Made::Message(message),
        Ok(None) => Made::Unwanted,
        Err(_) => Made::Panicked,
    }
}

/// What every sink asks for, to count the events that no sink asks for.
///
/// The first sink by name counts each such event once, when its cursor passes the event. So the count needs no parsing
/// before the 2xx, and lags by that sink's backlog.
#[derive(Clone, Default)]
pub struct Filters(Arc<RwLock<BTreeMap<SinkName, Arc<dyn MakeMessage>>>>);

impl Filters {
    /// Sets what a sink asks for.
    pub(super) fn set(&self, sink: &SinkName, make: Arc<dyn MakeMessage>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(sink.clone(), make);
    }

    /// Removes a sink that has ended.
    pub(super) fn unset(&self, sink: &SinkName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(sink);
    }

    /// Whether `sink` is the one that counts, and no other sink asks for the event.
    fn nobody_wants(&self, sink: &SinkName, event: &StoredEvent) -> bool {
        let filters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        filters.first_key_value().is_some_and(|(first, _)| first == sink)
            && filters.values().skip(1).all(|make| matches!(make_guarded(&**make, event), Made::Unwanted))
    }
}

/// A window whose messages are made.
pub(super) struct Prepared {
    pub(super) events: Vec<(Offset, StoredEvent, Made)>,
    pub(super) end: Offset,
    /// How many of the events count as unwanted.
    pub(super) unwanted: u64,
}

/// The feed of one pump. Reads one window ahead.
pub(super) struct Reader<F> {
    feed: F,
    windows: Windows,
    pub(super) make: Arc<dyn MakeMessage>,
    filters: Filters,
    sink: SinkName,
    ahead: Option<Prepared>,
    closed: bool,
    status: watch::Sender<SinkSnapshot>,
}

impl<F: Feed> Reader<F> {
    pub(super) fn new(
        feed: F,
        windows: Windows,
        make: Arc<dyn MakeMessage>,
        filters: Filters,
        sink: SinkName,
        status: watch::Sender<SinkSnapshot>,
    ) -> Self {
        let mut reader = Self { feed, windows, make, filters, sink, ahead: None, closed: false, status };
        reader.refresh_backlog();
        reader
    }

    /// The next window, or `None` once the journal is closed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Prepared> {
        if self.ahead.is_none() {
            self.read().await;
        }
        self.ahead.take()
    }

    /// Whether the journal is closed and its last window was taken.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed && self.ahead.is_none()
    }

    /// Whether the next window needs no new event: it is read, or is in the journal.
    pub(super) fn has_more(&mut self) -> bool {
        self.ahead.is_some() || (!self.closed && self.feed.has_more())
    }

    /// The next window, or `None` if the disk does not give it within [`AT_HAND`]. Cancel-safe.
    pub(super) async fn at_hand(&mut self) -> Option<Prepared> {
        timeout(AT_HAND, self.next()).await.ok().flatten()
    }

    /// Reads one window ahead and keeps the backlog in `/status` fresh, for as long as it is polled. Cancel-safe.
    pub(super) async fn read_ahead(&mut self) -> Infallible {
        loop {
            let full = self.ahead.is_some() || self.closed;
            tokio::select! {
                biased;
                () = self.read(), if !full => {}
                () = sleep(TICK) => {}
            }
            self.refresh_backlog();
        }
    }

    async fn read(&mut self) {
        match self.feed.next_window(self.windows.events, self.windows.bytes).await {
            Ok(window) => {
                let mut unwanted = 0;
                let events = window.events.into_iter().map(|(offset, event)| {
                    let made = make_guarded(&*self.make, &event);
                    if matches!(made, Made::Unwanted) && self.filters.nobody_wants(&self.sink, &event) {
                        unwanted += 1;
                    }
                    (offset, event, made)
                });
                let events = events.collect();
                self.ahead = Some(Prepared { events, end: window.end, unwanted });
            }
            Err(_) => self.closed = true,
        }
    }

    /// Claims events that are about to be sent or set aside. The journal has given up those before the returned cursor.
    pub(super) fn claim(&mut self, events: &[Offset]) -> Offset {
        self.feed.claim(events)
    }

    /// Ends the claim on these events.
    pub(super) fn release(&mut self, settled: &[Offset], waiting: &[Offset]) {
        self.feed.release(settled, waiting);
    }

    /// Everything before `to` is settled.
    pub(super) fn advance(&mut self, to: Offset) {
        self.feed.advance(to);
        self.refresh_backlog();
    }

    pub(super) fn refresh_backlog(&mut self) {
        let backlog = self.feed.backlog();
        self.status.send_if_modified(|status| {
            let changed = status.backlog != backlog;
            status.backlog = backlog;
            changed
        });
    }

    /// Forgets what was read ahead, and reads on from the cursor.
    pub(super) fn rewind(&mut self) {
        self.ahead = None;
        self.feed.rewind();
    }

    pub(super) fn into_feed(mut self) -> F {
        self.rewind();
        self.feed
    }
}
