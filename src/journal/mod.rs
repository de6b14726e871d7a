//! The journal: an append-only log of segments on disk. A 2xx means that the event is in it.
//!
//! The module `format` tells what is on disk, what a crash can leave behind and what is done about it.
//!
//! # Threads
//!
//! The *writer* takes what is queued, writes it as one group, syncs, and answers all of it. It alone knows which events
//! are known already: a repeat is answered once its first is durable. The *keeper* writes cursors and digests behind
//! what they stand for, and deletes what was delivered. Readers read on the runtime's blocking threads, only what is
//! synced.
//!
//! # Layout
//!
//! - `format`, `scan`: segments, and how reading continues after damage.
//! - `cursor`, `digests`: the small files. `lock`: one process at a time.
//! - `heads`, `recover`, `open`: a start. `state`: what all share.
//! - `claims`: what a pump settles is not given up.
//! - `writer`, `dedupe`: the way in. `reader`, `retained`: the ways out. `keeper`, `damage`: the house.
//! - `metrics`: what is counted and measured.

#[doc(hidden)]
pub mod bench_api;
mod claims;
mod cursor;
mod damage;
mod dedupe;
mod digests;
mod error;
mod format;
mod handle;
mod heads;
mod lock;
mod maintenance;
mod metrics;
mod open;
mod paths;
mod reader;
mod reading;
mod recover;
mod retained;
mod scan;
mod segment;
mod state;
mod stats;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod tests;
mod unproven;
mod wake;
mod writer;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::JournalOpenError;
pub use handle::{ForgetError, Journal, SinkBacklog};
pub use lock::JournalLock;
pub use metrics::JournalMetrics;
pub use reader::JournalReader;
pub use retained::{Retained, Snapshot};
pub use stats::JournalStats;
#[cfg(test)]
pub(crate) use steps::Steps;

use crate::alma::Verified;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{self, SinkName, Start};
use crate::message::StoredEvent;
use crate::storage::{Disk, RealDisk};
use crate::units;

/// What a journal is opened with.
pub struct JournalOptions {
    /// Its folder; made where it is missing.
    pub dir: PathBuf,
    /// The bounds.
    pub config: config::Journal,
    /// The sinks of the configuration.
    pub sinks: Vec<Registration>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where syncs, damage and what is given up are counted.
    pub metrics: JournalMetrics,
    /// Proof that no other process writes the folder; none only where the disk is not the machine's.
    pub lock: Option<JournalLock>,
    /// Sizes that are not the operator's.
    pub limits: JournalLimits,
}

impl JournalOptions {
    /// The journal of a configuration on the machine's own disk and clock, without sinks yet.
    pub fn of(config: &config::Config, metrics: &JournalMetrics, lock: JournalLock) -> Self {
        Self {
            dir: config.journal_dir(),
            config: config.journal.clone(),
            sinks: Vec::new(),
            disk: RealDisk::shared(),
            clock: SystemClock::shared(),
            metrics: metrics.clone(),
            lock: Some(lock),
            limits: JournalLimits::of(&config.journal),
        }
    }
}

/// A sink of the configuration, as the journal must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name, under which it keeps its place.
    pub name: SinkName,
    /// Where it begins if the journal does not know it.
    pub start: Start,
    /// Whose place it takes over if the journal does not know it.
    pub continues: Option<SinkName>,
    /// Whether its oldest waiting events give way when the journal is full.
    pub best_effort: bool,
}

impl From<&config::Sink> for Registration {
    fn from(sink: &config::Sink) -> Self {
        Self {
            name: sink.name.clone(),
            start: sink.start,
            continues: sink.continues.clone(),
            best_effort: sink.best_effort,
        }
    }
}

/// Sizes that are not the operator's to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// A segment ends when it has so many bytes.
    pub segment_bytes: u64,
    /// A commit group ends when it has so many bytes; it has at least one event.
    pub group_bytes: u64,
    /// Events queued for the writer.
    pub queue: usize,
}

impl JournalLimits {
    /// 64 MiB a segment, less where `max_size` is small: space is given back by segments.
    pub fn of(config: &config::Journal) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { segment_bytes: (config.max_size / 8).clamp(MIB, 64 * MIB), group_bytes: 4 * MIB, queue: 1024 }
    }
}

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
    /// The same bytes at the same source are durable already: since this moment, to the second.
    Repeat(Timestamp),
}

/// Why an event was not taken: a 503, for Alma to come again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// `max_size` of undelivered events is reached.
    #[error("journal full: {} wait, max_size is {}", units::size(*.waiting), units::size(*.max_size))]
    Full {
        /// Bytes of undelivered events.
        waiting: u64,
        /// The bound.
        max_size: u64,
    },
    /// The disk has less than `min_free` left.
    #[error("disk nearly full: {} free, min_free is {}; free some space", units::size(*.free), units::size(*.min_free))]
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
    /// Another process holds the journal's lock.
    #[error("waiting: another alma-bridge uses this journal; is a second one running?")]
    Held,
    /// The bridge is opening its journal, or closing it.
    #[error("not running")]
    NotRunning,
    /// The bridge was told to stop.
    #[error("stopping")]
    Stopping,
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

    /// Whether [`Feed::next_window`] would give one without a wait, but for the disk.
    fn has_more(&mut self) -> bool;

    /// Claims events that are about to be sent or made dead letters, and returns the cursor.
    ///
    /// The journal gave up the events before the cursor and counted them, so the caller must drop those. It does not
    /// count the others as given up, even if it moves the cursor past them, until [`Feed::release`] says what became of
    /// them.
    fn claim(&mut self, events: &[Offset]) -> Offset;

    /// Ends the claim on events that are settled and on events that still wait. Those that wait count as given up if the
    /// journal moved the cursor past them meanwhile.
    fn release(&mut self, settled: &[Offset], waiting: &[Offset]);

    /// Everything before `to` is settled for this sink: confirmed, unwanted, given up, or a durable dead letter. Never
    /// goes back.
    fn advance(&mut self, to: Offset);

    /// Reads on from the cursor, and ends all claims.
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
