//! The journal: an append-only log of segments on disk. A 2xx means that the event is in it.

use std::future::Future;

use crate::alma::Verified;
use crate::clock::Timestamp;
use crate::message::StoredEvent;

/// What takes a verified event and says when it is durable: the journal, or with `storage = "none"` the pumps.
pub trait Intake: Send + Sync + 'static {
    /// Resolves once the event is durable (or is a repeat of one that is), or can't be made so.
    ///
    /// The event goes its way even if the returned future is dropped.
    fn take(&self, event: Verified, received: Timestamp) -> impl Future<Output = Result<Taken, NotTaken>> + Send;

    /// Whether an event can be taken durably right now: what `/readyz` says.
    fn ready(&self) -> Result<(), NotTaken>;
}

/// How an event was taken; the word of `Alma-Bridge-Outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is durable.
    Stored,
    /// The same bytes at the same source are durable already.
    Repeat,
}

/// Why an event was not taken: a 503, for Alma to come again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// `max_size` of undelivered events is reached.
    #[error("journal full: {waiting} bytes wait, max_size is {max_size}")]
    Full {
        /// Bytes of undelivered events.
        waiting: u64,
        /// The bound.
        max_size: u64,
    },
    /// The disk has less than `min_free` left.
    #[error("disk nearly full: {free} bytes free, min_free is {min_free}")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// The bound.
        min_free: u64,
    },
    /// A write or fsync failed and no new segment could be opened yet.
    #[error("disk failing: {0}")]
    DiskFailing(String),
    /// With `storage = "none"`: not every sink confirmed it.
    #[error("not confirmed: {0}")]
    NotConfirmed(String),
    /// The bridge is closing its journal, or still waits for its lock.
    #[error("not running")]
    NotRunning,
}

/// An event's place in the journal: a count that only grows and is never given twice. It may skip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a pump reads from: a sink's place in the journal, or with `storage = "none"` a queue.
///
/// Reading runs ahead of the cursor: [`Feed::next_window`] moves the place of reading only, [`Feed::advance`] the
/// cursor, and [`Feed::rewind`] takes the place of reading back to the cursor.
pub trait Feed: Send {
    /// Waits until there is something to read, then gives up to `max_events` events or `max_bytes` of bodies, at least
    /// one event, none that is not yet fsynced. Cancel-safe.
    ///
    /// A window may be empty of events where all it passed was damaged.
    fn next_window(
        &mut self,
        max_events: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Window, FeedClosed>> + Send;

    /// Everything before `to` is settled for this sink: confirmed, unwanted, or a durable dead letter. Never goes back.
    fn advance(&mut self, to: Offset);

    /// Reads on from the cursor.
    fn rewind(&mut self);

    /// What the cursor has not passed.
    fn backlog(&self) -> Backlog;
}

/// Some events in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The events, with their offsets.
    pub events: Vec<(Offset, StoredEvent)>,
    /// The cursor's place once all of it is settled: above every offset in it.
    pub end: Offset,
}

/// What waits for one sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that the cursor has not passed.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
}

/// The journal is closing or has died; nothing more will come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is closed")]
pub struct FeedClosed;
