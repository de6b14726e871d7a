//! What a pump reads: windows of its feed, made into messages ahead of their turn.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::status::SinkStatus;
use crate::config::SinkName;
use crate::journal::{Feed, Offset};
use crate::message::{Message, Messages, StoredEvent};
use crate::sinks::Windows;

/// How long a window that is to overlap the one on its way may take to be read: meanwhile nobody sees its confirms.
const AT_HAND: Duration = Duration::from_millis(50);
/// How old what `/status` says of the backlog may get.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Makes an event into one sink's message.
pub trait MakeMessage: Send + Sync + 'static {
    /// The message, or none where the sink does not ask for the event.
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

/// Makes a message; a panic is an outcome.
pub(super) fn make_guarded(make: &dyn MakeMessage, event: &StoredEvent) -> Made {
    match catch_unwind(AssertUnwindSafe(|| make.make(event))) {
        Ok(Some(message)) => Made::Message(message),
        Ok(None) => Made::Unwanted,
        Err(_) => Made::Panicked,
    }
}

/// What every sink asks for, to count the events that none does.
///
/// Each such event is counted once: by the first sink in the order of names, when its cursor passes the event. So the
/// count needs no parsing before the 2xx, and is late by that sink's backlog.
#[derive(Clone, Default)]
pub struct Filters(Arc<RwLock<BTreeMap<SinkName, Arc<dyn MakeMessage>>>>);

impl Filters {
    /// A sink begins, or asks for something else.
    pub(super) fn set(&self, sink: &SinkName, make: Arc<dyn MakeMessage>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(sink.clone(), make);
    }

    /// A sink ends.
    pub(super) fn unset(&self, sink: &SinkName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(sink);
    }

    /// Whether `sink` counts, and no sink asks for the event; `sink` itself does not.
    fn nobody_wants(&self, sink: &SinkName, event: &StoredEvent) -> bool {
        let filters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        filters.first_key_value().is_some_and(|(first, _)| first == sink)
            && filters.values().skip(1).all(|make| matches!(make_guarded(&**make, event), Made::Unwanted))
    }
}

/// A window, made ready.
pub(super) struct Prepared {
    pub(super) events: Vec<(Offset, StoredEvent, Made)>,
    pub(super) end: Offset,
    /// Of the events, those to be counted as wanted by nobody.
    pub(super) unwanted: u64,
}

/// The feed of one pump, read one window ahead.
pub(super) struct Reader<F> {
    feed: F,
    windows: Windows,
    pub(super) make: Arc<dyn MakeMessage>,
    filters: Filters,
    sink: SinkName,
    ahead: Option<Prepared>,
    closed: bool,
    status: watch::Sender<SinkStatus>,
}

impl<F: Feed> Reader<F> {
    pub(super) fn new(
        feed: F,
        windows: Windows,
        make: Arc<dyn MakeMessage>,
        filters: Filters,
        sink: SinkName,
        status: watch::Sender<SinkStatus>,
    ) -> Self {
        let mut reader = Self { feed, windows, make, filters, sink, ahead: None, closed: false, status };
        reader.refresh_backlog();
        reader
    }

    /// The next window; none when the journal is closed. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Prepared> {
        if self.ahead.is_none() {
            self.read().await;
        }
        self.ahead.take()
    }

    /// Whether the journal is closed and all that it gave was taken.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed && self.ahead.is_none()
    }

    /// Whether the next window is there, or needs the disk alone.
    pub(super) fn has_more(&mut self) -> bool {
        self.ahead.is_some() || (!self.closed && self.feed.has_more())
    }

    /// The next window, where the disk gives it soon. Cancel-safe.
    pub(super) async fn at_hand(&mut self) -> Option<Prepared> {
        timeout(AT_HAND, self.next()).await.ok().flatten()
    }

    /// Reads one window ahead and keeps the backlog's figures fresh, for as long as it is driven. Cancel-safe.
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

    /// Claims events that are about to be sent or set aside; those before the cursor that it returns were given up.
    pub(super) fn claim(&mut self, events: &[Offset]) -> Offset {
        self.feed.claim(events)
    }

    /// Ends the claim on these.
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

    /// Forgets what was read ahead: reading goes on from the cursor.
    pub(super) fn rewind(&mut self) {
        self.ahead = None;
        self.feed.rewind();
    }

    pub(super) fn into_feed(mut self) -> F {
        self.rewind();
        self.feed
    }
}
