//! The active segment: how it begins, how its durable end is named, how it ends.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{IDLE, Writer};
use crate::clock::Timestamp;
use crate::journal::NotTaken;
use crate::journal::format::{GROUP_HEADER, GroupHeader, SEGMENT_START, SegmentHeader};
use crate::journal::segment::Segment;
use crate::storage::{DiskFile, create_in_folder};

/// The segment that the writer appends to.
pub(super) struct Active {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) first: u64,
    pub(super) seed: u32,
    /// The durable length, where the next group begins.
    pub(super) length: u64,
    /// When its first record was made durable.
    pub(super) since: Option<Timestamp>,
    /// Whether an empty group at the end names the durable end.
    pub(super) named: bool,
    /// Of the newest events of dedupe, how many are its own: for `digests/`, once it is sealed.
    pub(super) known: usize,
}

impl Writer {
    /// A write or a sync failed: the segment ends at what was synced before, and the file is not touched again.
    pub(super) fn fail(&mut self, error: &io::Error) -> NotTaken {
        error!(%error, "journal: write or sync failed; the segment ends, events get 503 until another can be opened");
        let why = error.to_string();
        self.seal();
        self.shared.state().failing = Some(why.clone());
        self.retry_at = Instant::now();
        NotTaken::DiskFailing(why)
    }

    /// Writes an empty group, which names the durable end.
    pub(in crate::journal) fn name_end(&mut self) {
        let Some(active) = self.active.as_mut().filter(|active| !active.named && active.since.is_some()) else {
            return;
        };
        let now = self.shared.clock.now();
        let (first, durable_end) = (self.next, active.length);
        let group = GroupHeader { count: 0, first, recorded: now, durable_end, bytes: 0 }.encode(active.seed);
        match active.file.write_at(&group, active.length).and_then(|()| active.file.sync_data()) {
            Ok(()) => {
                active.length += GROUP_HEADER as u64;
                active.named = true;
                if let Some(segment) = self.shared.state().segments.back_mut() {
                    segment.length = active.length;
                }
            }
            Err(error) => drop(self.fail(&error)),
        }
    }

    /// Ends the segment and begins another.
    pub(super) fn rotate(&mut self) {
        self.seal();
        self.try_open();
    }

    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        let known = self.dedupe.newest(active.known);
        let mut state = self.shared.state();
        // The next segment names the last one that has records.
        if state.segments.back().is_some_and(|segment| segment.records() > 0) {
            self.previous = state.previous();
        }
        // Where the last sync failed, offsets were given that are not in the segment.
        state.next = self.next;
        state.sealed.push((active.first, known));
        drop(state);
        self.shared.wake.wake();
    }

    pub(super) fn try_open(&mut self) {
        match self.open() {
            Ok(()) => {
                if self.shared.state().failing.take().is_some() {
                    info!("journal: a new segment is open; events are taken again");
                }
            }
            Err(error) => {
                let why = format!("can't open a segment: {error}");
                if self.shared.state().failing.replace(why).is_none() {
                    warn!(%error, "journal: can't open a segment; events get 503, tried again every second");
                }
                self.retry_at = Instant::now() + IDLE;
            }
        }
    }

    fn open(&mut self) -> io::Result<()> {
        // The next head says of all before it that it is durable, and its repeats are answered by that.
        let unproven = self.shared.state().unproven.clone();
        if let Some(unproven) = unproven {
            unproven.make_durable(&*self.shared.disk)?;
            let mut state = self.shared.state();
            state.unproven = None;
            if let Some(segment) = state.segments.back_mut() {
                (segment.length, segment.end) = (unproven.to, unproven.end);
            }
            self.previous = state.previous();
            drop(state);
            self.shared.grown.notify_waiters();
        }
        let first = self.next;
        let path = self.shared.paths.segment(first);
        let mut seed = [0; 4];
        getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
        let seed = u32::from_le_bytes(seed);
        let header = SegmentHeader { seed, first, created: self.shared.clock.now(), previous: self.previous };
        let opened = create_in_folder(&*self.shared.disk, &path).and_then(|file| {
            file.write_at(&header.encode(), 0)?;
            file.sync_data()?;
            self.shared.disk.sync_dir(&self.shared.paths.segments)?;
            Ok(file)
        });
        let file = opened.inspect_err(|_| {
            // The name can't be used again. The file has no records.
            self.next += 1;
            self.shared.state().next = self.next;
            drop(self.shared.disk.remove(&path));
        })?;
        self.shared.state().segments.push_back(Segment::empty(&header));
        self.active = Some(Active { file, first, seed, length: SEGMENT_START, since: None, named: true, known: 0 });
        Ok(())
    }
}
