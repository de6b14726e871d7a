//! What is in the journal and how far each sink has read: the state that the writer, maintenance and readers share.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::claims::Claims;
use super::cursor::{Cursor, CursorFile, Hint};
use super::dedupe::KnownEvent;
use super::format::{Previous, SEGMENT_START};
use super::metrics::JournalMetrics;
use super::paths::Paths;
use super::segment::Segment;
use super::unproven::UnprovenTail;
use super::wake::WakeSignal;
use super::{Backlog, JournalLimits};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, SinkName};
use crate::storage::Disk;

/// A sink's place in the journal.
#[derive(Clone, Debug)]
pub(super) struct SinkEntry {
    pub(super) cursor: Cursor,
    /// The cursor that a start would find. `None` until this process has written it, because what the start read may be in
    /// the page cache only.
    pub(super) on_disk: Option<Cursor>,
    /// Whether the sink is configured. If not, it only holds its place.
    pub(super) configured: bool,
    pub(super) best_effort: bool,
    /// Whether it has a reader.
    pub(super) reading: bool,
    /// The offset of the oldest waiting event and when it was received, kept so that it is read only once.
    pub(super) oldest: Option<(u64, Timestamp)>,
    /// Events that the sink's pump has in flight or has settled. They don't count as given up.
    pub(super) claims: Claims,
}

impl SinkEntry {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            on_disk: None,
            configured: false,
            best_effort: false,
            reading: false,
            oldest: None,
            claims: Claims::default(),
        }
    }
}

/// The part of the journal's state that changes.
#[derive(Default)]
pub(super) struct JournalState {
    /// In order. The last one may be the one that is being written, and is never deleted.
    pub(super) segments: VecDeque<Segment>,
    pub(super) sinks: BTreeMap<SinkName, SinkEntry>,
    /// Why nothing can be written just now.
    pub(super) failing: Option<String>,
    /// Why the list of sinks could not be written yet. Until it is, no event is taken: a sink that is not on disk would miss
    /// it.
    pub(super) unregistered: Option<String>,
    /// A tail that must be made durable before the next segment says that it is.
    pub(super) unproven: Option<UnprovenTail>,
    /// Free bytes when the disk was last asked.
    pub(super) free: u64,
    /// The next event gets this offset, or a higher one.
    pub(super) next: u64,
    /// Closing, or closed.
    pub(super) closed: bool,
    /// Records found to be lost since the start.
    pub(super) damaged: u64,
    /// Files of the journal that could not be used, and what was done about each.
    pub(super) set_aside: Vec<String>,
    /// Damage that was reported already, by segment and place, with the number of lost records.
    pub(super) reported: HashMap<(u64, u64), u64>,
    /// Sealed segments whose digests are not on disk yet.
    pub(super) sealed: Vec<(u64, Vec<KnownEvent>)>,
}

impl JournalState {
    /// Returns why an event can't be made durable just now, or `None` if the disk is fine.
    pub(super) fn failure(&self) -> Option<String> {
        self.unregistered.clone().or_else(|| self.failing.clone())
    }

    /// What the next segment says of the last one that has records. Segments without records are removed once it is open.
    pub(super) fn previous(&self) -> Option<Previous> {
        self.segments.iter().rev().find(|segment| segment.records() > 0)?.as_previous()
    }

    /// Returns the index of the segment with the first record at or above this offset, or `None` if there is no such record.
    pub(super) fn locate(&self, offset: u64) -> Option<usize> {
        let index = self.segments.partition_point(|segment| segment.end <= offset);
        (index < self.segments.len()).then_some(index)
    }

    /// One past the last durable offset.
    pub(super) fn end(&self) -> u64 {
        self.segments.back().map_or(self.next, |segment| segment.end)
    }

    /// The cursor of a sink that has passed everything.
    pub(super) fn end_cursor(&self) -> Cursor {
        let hint = self.segments.back().map(|segment| Hint { segment: segment.first, at: segment.length });
        Cursor { offset: self.end(), hint }
    }

    /// The cursor of a sink that starts with the oldest event.
    pub(super) fn oldest_cursor(&self) -> Cursor {
        self.segments.front().map_or_else(|| self.end_cursor(), |segment| Cursor { offset: segment.first, hint: None })
    }

    /// Bytes that a cursor has not passed.
    pub(super) fn bytes_from(&self, cursor: Cursor) -> u64 {
        let Some(index) = self.locate(cursor.offset) else { return 0 };
        let all: u64 = self.segments.range(index..).map(Segment::content).sum();
        let segment = &self.segments[index];
        let passed = cursor.hint.filter(|hint| hint.segment == segment.first && cursor.offset > segment.first);
        all - passed.map_or(0, |hint| hint.at.clamp(SEGMENT_START, segment.length) - SEGMENT_START)
    }

    /// Events at or above an offset.
    pub(super) fn events_from(&self, offset: u64) -> u64 {
        let Some(index) = self.locate(offset) else { return 0 };
        self.segments.range(index..).map(|segment| segment.end - segment.first.max(offset)).sum()
    }

    /// The cursor furthest behind.
    fn slowest(&self) -> Option<Cursor> {
        self.sinks.values().map(|place| place.cursor).min_by_key(|cursor| cursor.offset)
    }

    /// Bytes of undelivered events, which `max_size` bounds.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.slowest().map_or(0, |cursor| self.bytes_from(cursor))
    }

    /// All bytes of segments.
    pub(super) fn all_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Whether every cursor on disk is past this segment.
    pub(super) fn is_delivered(&self, segment: &Segment) -> bool {
        self.sinks.values().all(|place| place.on_disk.is_some_and(|cursor| cursor.offset >= segment.end))
    }

    /// How many of the oldest segments may be deleted without a loss. Never the last.
    pub(super) fn deletable(&self) -> usize {
        let sealed = self.segments.len().saturating_sub(1);
        self.segments.iter().take(sealed).take_while(|segment| self.is_delivered(segment)).count()
    }

    /// What waits for a sink. Reads nothing, so `oldest` may be the time of the segment.
    pub(super) fn backlog(&self, place: &SinkEntry) -> Backlog {
        let offset = place.cursor.offset;
        let events = self.events_from(offset);
        // A start opens a segment above every offset, so a cursor may be below an empty segment.
        let Some(index) = self.locate(offset).filter(|_| events > 0) else { return Backlog::default() };
        let oldest = place.oldest.filter(|(at, _)| *at == offset).map(|(_, received)| received);
        Backlog { events, oldest: oldest.or(Some(self.segments[index].created)) }
    }
}

/// The cursors and digests, which one thread at a time writes.
#[derive(Default)]
pub(super) struct SmallFiles {
    pub(super) cursors: BTreeMap<SinkName, CursorFile>,
    /// The segments that have digests on disk, in order: first offset, how many, and the newest one's second.
    pub(super) digests: VecDeque<(u64, usize, u32)>,
    /// What can't be written just now. It is logged once.
    pub(super) troubled: BTreeSet<&'static str>,
}

impl SmallFiles {
    /// Logs the first failure of each kind, and the next success.
    pub(super) fn complain(&mut self, what: &'static str, written: io::Result<()>) {
        match written {
            Ok(()) if self.troubled.remove(what) => info!(what, "journal: can be written again"),
            Err(error) if self.troubled.insert(what) => {
                warn!(what, %error, "journal: can't be written; tried again. After a crash events would be published again");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// What the journal's threads and readers share.
///
/// Take the lock `files` before the lock `state`. Only `files` may be held during an fsync.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: JournalMetrics,
    pub(super) paths: Paths,
    pub(super) config: config::Journal,
    pub(super) limits: JournalLimits,
    state: Mutex<JournalState>,
    files: Mutex<SmallFiles>,
    /// Wakes readers when more is durable or the journal closes.
    pub(super) grown: Notify,
    pub(super) wake: WakeSignal,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "made in one place, from what that place was given")]
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        metrics: JournalMetrics,
        paths: Paths,
        config: config::Journal,
        limits: JournalLimits,
        state: JournalState,
        files: SmallFiles,
    ) -> Self {
        let (state, files) = (Mutex::new(state), Mutex::new(files));
        Self {
            disk,
            clock,
            metrics,
            paths,
            config,
            limits,
            state,
            files,
            grown: Notify::new(),
            wake: WakeSignal::default(),
        }
    }

    /// Locks the state. A panic can't have left it half changed, because nothing under this lock fails half-way.
    pub(super) fn state(&self) -> MutexGuard<'_, JournalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn small_files(&self) -> MutexGuard<'_, SmallFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends writing and reading.
    pub(super) fn mark_closed(&self) {
        self.state().closed = true;
        self.grown.notify_waiters();
        self.wake.hurry();
    }
}
