//! The journal: an append-only log of segments on disk. A 2xx means that the event is in it.
//!
//! The module `format` describes what is on disk, what a crash can leave there, and how a start repairs it.
//!
//! # Threads
//!
//! The *writer* takes the queued events, writes them as one commit group, syncs the file, and answers all of them. It
//! alone recognises repeats. It answers a repeat once the first copy is durable. The *maintenance* thread writes cursors
//! and digests after the progress that they record, and deletes delivered segments. Readers run on the runtime's blocking
//! threads and see only what is synced.
//!
//! # Layout
//!
//! - `format`, `scan`: segments, and how reading continues after damage.
//! - `cursor`, `digests`: the small files. `lock`: keeps a second process out.
//! - `heads`, `recover`, `open`: what a start does. `state`: what the threads share.
//! - `claims`: events in flight, which a full journal does not give up.
//! - `writer`, `dedupe`: writing. `reader`, `reading`, `retained`: reading. `maintenance`, `damage`: upkeep.

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
    /// The folder. [`Journal::open`] creates it if it is missing.
    pub dir: PathBuf,
    /// The section `[journal]` of the configuration.
    pub config: config::Journal,
    /// The sinks of the configuration.
    pub sinks: Vec<Registration>,
    /// The file system.
    pub disk: Arc<dyn Disk>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Counts syncs, damage, and events that are given up.
    pub metrics: JournalMetrics,
    /// Proves that no other process writes the folder. Only a test with a fake disk has none.
    pub lock: Option<JournalLock>,
    /// Sizes that the operator does not choose.
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

/// What the journal must know of a configured sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The name under which the sink keeps its place.
    pub name: SinkName,
    /// Where the sink starts if the journal does not know it.
    pub start: Start,
    /// The sink whose place it takes over if the journal does not know it.
    pub continues: Option<SinkName>,
    /// Whether a full journal may give up its oldest waiting events.
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

/// Sizes that the operator does not choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalLimits {
    /// A segment ends once it has this many bytes.
    pub segment_bytes: u64,
    /// A commit group ends once it has this many bytes. It has at least one event.
    pub group_bytes: u64,
    /// How many events may wait for the writer.
    pub queue: usize,
}

impl JournalLimits {
    /// 64 MiB a segment, or less if `max_size` is small, because space is given back by whole segments.
    pub fn of(config: &config::Journal) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { segment_bytes: (config.max_size / 8).clamp(MIB, 64 * MIB), group_bytes: 4 * MIB, queue: 1024 }
    }
}

/// Takes verified events and says when they are durable: the journal, or the pumps if `storage = "none"`.
pub trait Intake: Send + Sync + 'static {
    /// Resolves once the event is durable, or is a repeat of a durable one, or can't be made durable.
    ///
    /// The event is processed even if the caller drops the future.
    fn take(&self, event: Verified, received: Timestamp) -> impl Future<Output = Result<Taken, NotTaken>> + Send;

    /// Whether an event could be made durable right now. `/readyz` reports it.
    fn ready(&self) -> Result<(), NotTaken>;
}

/// How an event was taken, as `Alma-Bridge-Outcome` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The event is new, and durable now.
    Stored,
    /// The same bytes of the same source have been durable since this moment, to the second.
    Repeat(Timestamp),
}

/// Why an event was not taken. The answer is 503, so that Alma sends it again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The undelivered events have reached `max_size`.
    #[error("journal full: {} wait, max_size is {}", units::size(*.waiting), units::size(*.max_size))]
    Full {
        /// Bytes of undelivered events.
        waiting: u64,
        /// The configured bound in bytes.
        max_size: u64,
    },
    /// The disk has less than `min_free` left.
    #[error("disk nearly full: {} free, min_free is {}; free some space", units::size(*.free), units::size(*.min_free))]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// The configured bound in bytes.
        min_free: u64,
    },
    /// A write or fsync failed, and no new segment could be opened since.
    #[error("disk failing: {0}")]
    DiskFailing(String),
    /// `storage = "none"`, and not every sink confirmed the event.
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

/// An event's place in the journal. Offsets grow, may skip numbers, and are never assigned twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl std::fmt::Display for Offset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a pump reads from: a sink's place in the journal, or a queue if `storage = "none"`.
///
/// Reading runs ahead of the cursor. [`Feed::next_window`] moves only the place of reading, [`Feed::advance`] moves the
/// cursor, and [`Feed::rewind`] takes the place of reading back to the cursor.
pub trait Feed: Send {
    /// Waits for fsynced events, and returns up to `max_events` of them or `max_bytes` of bodies, but at least one event.
    /// Cancel-safe.
    ///
    /// A window has no events if everything that it covers is damaged.
    fn next_window(
        &mut self,
        max_events: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Window, FeedClosed>> + Send;

    /// Whether [`Feed::next_window`] would wait for nothing but the disk.
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

    /// Moves the cursor to `to`, unless it is there already or further. Everything before `to` must be settled for this
    /// sink: confirmed, unwanted, given up, or a durable dead letter.
    fn advance(&mut self, to: Offset);

    /// Goes back to the cursor, and ends all claims.
    fn rewind(&mut self);

    /// Returns what the cursor has not passed.
    fn backlog(&self) -> Backlog;
}

/// Events in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// The events with their offsets.
    pub events: Vec<(Offset, StoredEvent)>,
    /// Where the cursor goes once all of the window is settled. It is above every offset in it.
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

/// The journal is closing or has died. Nothing more will come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is closed")]
pub struct FeedClosed;
