//! A sink's reader: it reads ahead of the cursor, and moves the cursor when events are settled.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::cursor::Cursor;
use super::reading::{BLOCK, Bounds, Mark, ReadPlace};
use super::state::{Shared, SinkEntry};
use super::{Backlog, Feed, FeedClosed, Offset, Window};
use crate::config::SinkName;
use crate::storage::blocking;

/// A reader that got at least this many events, and all there were, is under load and has caught up.
const BUSY: u32 = 8;
/// Such a reader pauses this long for each event of its last window, so that the next window holds more. To read, send and
/// confirm a window costs about the same however many events it holds.
const PAUSE_PER_EVENT: Duration = Duration::from_micros(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(10);
/// How often a failed read is tried again, once a second, before the bytes count as damaged.
const READ_TRIES: u32 = 10;

/// Reads events for a sink. Each sink has at most one reader.
pub struct JournalReader {
    shared: Arc<Shared>,
    sink: SinkName,
    place: ReadPlace,
    /// Events that were read, and that the cursor has not passed.
    marks: VecDeque<Mark>,
    failed_reads: u32,
    /// No window is read before this moment.
    paused: Option<Instant>,
}

impl JournalReader {
    /// Returns the sink's reader, or `None` if the sink is unknown or has one already.
    pub(super) fn new(shared: &Arc<Shared>, sink: &SinkName) -> Option<Self> {
        let mut state = shared.state();
        let place = state.sinks.get_mut(sink).filter(|place| !place.reading)?;
        place.reading = true;
        let place = ReadPlace::at(place.cursor);
        drop(state);
        Some(Self {
            shared: Arc::clone(shared),
            sink: sink.clone(),
            place,
            marks: VecDeque::new(),
            failed_reads: 0,
            paused: None,
        })
    }

    /// Whether there is something to read. Skips events that were given up.
    fn look(&mut self) -> Result<bool, FeedClosed> {
        let state = self.shared.state();
        let place = state.sinks.get(&self.sink).filter(|_| !state.closed).ok_or(FeedClosed)?;
        if place.cursor.offset > self.place.offset {
            self.place = ReadPlace::at(place.cursor);
            self.marks.clear();
        }
        Ok(state.locate(self.place.offset).is_some())
    }

    /// Changes the sink's place, unless the sink was forgotten.
    fn at_place<T: Default>(&self, change: impl FnOnce(&mut SinkEntry) -> T) -> T {
        self.shared.state().sinks.get_mut(&self.sink).map(change).unwrap_or_default()
    }

    /// Ends all claims. Events that were in flight will be read again, or count as given up if the cursor has passed them.
    fn end_claims(&self) {
        let given_up = self.at_place(|place| place.claims.abandon(place.cursor.offset));
        self.shared.count_given_up(&self.sink, given_up);
    }

    async fn read(&mut self, bounds: Bounds) -> Result<Option<Window>, FeedClosed> {
        let (shared, place) = (Arc::clone(&self.shared), self.place.clone());
        let read = blocking(move || shared.read(place, bounds)).await.map_err(|_| FeedClosed)?;
        match read {
            Ok(read) => {
                self.failed_reads = 0;
                self.place = read.place;
                self.marks.extend(read.marks);
                Ok(Some(read.window))
            }
            Err(error) => {
                if self.failed_reads.is_multiple_of(READ_TRIES) {
                    error!(sink = %self.sink, %error, "journal: can't read; tried again every second");
                }
                self.failed_reads = self.failed_reads.saturating_add(1);
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(None)
            }
        }
    }
}

impl Feed for JournalReader {
    async fn next_window(&mut self, max_events: usize, max_bytes: usize) -> Result<Window, FeedClosed> {
        let shared = Arc::clone(&self.shared);
        if let Some(until) = self.paused {
            sleep_until(until).await;
            self.paused = None;
        }
        loop {
            let mut grown = pin!(shared.grown.notified());
            // Enabled before we look, so that events that come meanwhile are not missed.
            grown.as_mut().enable();
            if self.look()? {
                let salvage = self.failed_reads >= READ_TRIES;
                let bounds = Bounds { events: max_events.max(1), bytes: max_bytes, block: BLOCK, salvage };
                if let Some(window) = self.read(bounds).await? {
                    let caught_up = shared.state().locate(window.end.0).is_none();
                    let busy = u32::try_from(window.events.len()).ok().filter(|count| caught_up && *count >= BUSY);
                    self.paused = busy.map(|count| Instant::now() + PAUSE_MAX.min(PAUSE_PER_EVENT * count));
                    return Ok(window);
                }
            } else {
                grown.await;
            }
        }
    }

    fn has_more(&mut self) -> bool {
        self.paused.is_none_or(|until| until <= Instant::now()) && self.look().unwrap_or(false)
    }

    fn claim(&mut self, events: &[Offset]) -> Offset {
        self.at_place(|place| {
            // Only events of such a sink are ever given up. Others need not pay for it.
            if place.best_effort {
                place.claims.claim(events, place.cursor.offset);
            }
            Offset(place.cursor.offset)
        })
    }

    fn release(&mut self, settled: &[Offset], waiting: &[Offset]) {
        let given_up = self.at_place(|place| {
            place.claims.settle(settled, place.cursor.offset);
            place.claims.release(waiting, place.cursor.offset)
        });
        self.shared.count_given_up(&self.sink, given_up);
    }

    fn advance(&mut self, to: Offset) {
        while self.marks.front().is_some_and(|mark| mark.offset < to.0) {
            self.marks.pop_front();
        }
        let next = self.marks.front();
        let hint = next.map(|mark| mark.hint).or_else(|| self.place.hint().filter(|_| self.place.offset == to.0));
        let oldest = next.map(|mark| (to.0, mark.received));
        let mut state = self.shared.state();
        if let Some(place) = state.sinks.get_mut(&self.sink).filter(|place| place.cursor.offset < to.0) {
            place.cursor = Cursor { offset: to.0, hint };
            place.oldest = oldest;
            place.claims.advance(to.0);
            drop(state);
            self.shared.wake.wake();
        }
    }

    fn rewind(&mut self) {
        self.end_claims();
        let cursor = self.shared.state().sinks.get(&self.sink).map(|place| place.cursor);
        if let Some(cursor) = cursor {
            self.place = ReadPlace::at(cursor);
            self.marks.clear();
        }
    }

    fn backlog(&self) -> Backlog {
        self.shared.backlog_of(&self.sink)
    }
}

impl Drop for JournalReader {
    fn drop(&mut self) {
        self.end_claims();
        if let Some(place) = self.shared.state().sinks.get_mut(&self.sink) {
            place.reading = false;
        }
    }
}
