//! The maintenance thread. It writes cursors and digests after the progress that they record, and deletes delivered
//! segments.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::cursor::{Cursor, CursorFile, write_list};
use super::dedupe::seconds;
use super::digests;
use super::format::file_name;
use super::state::{JournalState, Shared, SmallFiles};
use crate::config::SinkName;
use crate::storage::remove_if_there;

/// The shortest time between two writes of the cursors.
const CURSORS_EVERY: Duration = Duration::from_millis(200);
/// How often retention and free space are checked while nothing happens.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Runs until the journal closes. The last thing it does is to write the cursors.
pub(super) fn run(shared: &Arc<Shared>) {
    loop {
        let woken = shared.wake.wait(TIDY_EVERY);
        let began = Instant::now();
        // This is read before the work, so that whatever was settled before the close is still written.
        let closed = shared.state().closed;
        shared.maintain();
        if closed {
            return;
        }
        // More may be settled meanwhile. A close ends the wait early.
        while woken && !shared.state().closed {
            let left = CURSORS_EVERY.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            shared.wake.wait_out(left);
        }
    }
}

impl Shared {
    /// Does all that is due: cursors, digests, deletion, free space.
    pub(super) fn maintain(&self) {
        let mut files = self.small_files();
        self.register_pending(&mut files);
        self.flush_cursors(&mut files);
        self.write_digests(&mut files);
        self.remove_empty();
        self.delete_old();
        self.forget_digests(&mut files);
        drop(files);
        if self.ask_free() < self.config.min_free {
            self.make_room(self.config.min_free);
        }
    }

    /// Asks the disk for its free bytes. Returns the last answer if it fails.
    pub(super) fn ask_free(&self) -> u64 {
        match self.disk.free(&self.paths.dir) {
            Ok(free) => {
                self.state().free = free;
                free
            }
            Err(error) => {
                warn!(%error, "journal: the disk does not tell its free space");
                self.state().free
            }
        }
    }

    /// Makes all cursors durable that have moved.
    pub(super) fn flush_cursors(&self, files: &mut SmallFiles) {
        let moved: Vec<(SinkName, Cursor)> = {
            let state = self.state();
            let moved = state.sinks.iter().filter(|(_, place)| place.on_disk != Some(place.cursor));
            moved.map(|(name, place)| (name.clone(), place.cursor)).collect()
        };
        for (name, cursor) in moved {
            let written = self.write_cursor(files, &name, cursor);
            files.complain("cursor", written);
        }
    }

    /// Makes one cursor durable.
    pub(super) fn write_cursor(&self, files: &mut SmallFiles, name: &SinkName, cursor: Cursor) -> io::Result<()> {
        let file = files.cursors.entry(name.clone()).or_insert_with(|| CursorFile::new(&self.paths.cursors, name));
        file.write(&*self.disk, cursor)?;
        if let Some(place) = self.state().sinks.get_mut(name) {
            place.on_disk = Some(cursor);
        }
        Ok(())
    }

    /// Writes the list of sinks if the start could not.
    fn register_pending(&self, files: &mut SmallFiles) {
        if self.state().unregistered.is_none() {
            return;
        }
        let why = self.write_sinks(files).err().map(|error| format!("can't write the list of sinks: {error}"));
        self.state().unregistered = why;
    }

    /// Makes the cursor of every sink durable that has none on disk, and then the list of sinks.
    pub(super) fn write_sinks(&self, files: &mut SmallFiles) -> io::Result<()> {
        let sinks: Vec<(SinkName, Option<Cursor>)> = {
            let state = self.state();
            let new = |place: &super::state::SinkEntry| place.on_disk.is_none().then_some(place.cursor);
            state.sinks.iter().map(|(name, place)| (name.clone(), new(place))).collect()
        };
        // A start would set a sink without a cursor back to the oldest segment.
        for (name, new) in &sinks {
            if let Some(cursor) = new {
                self.write_cursor(files, name, *cursor)?;
            }
        }
        write_list(&*self.disk, &self.paths.sinks, sinks.iter().map(|(name, _)| name))
    }

    fn write_digests(&self, files: &mut SmallFiles) {
        let mut sealed = std::mem::take(&mut self.state().sealed).into_iter();
        for (first, known) in sealed.by_ref() {
            let newest = &known[known.len().saturating_sub(self.config.dedupe_max)..];
            let Some(latest) = newest.iter().map(|known| known.seconds).max() else { continue };
            let written = digests::write(&*self.disk, &self.paths.digests, first, newest);
            let done = written.is_ok();
            files.complain("digests", written);
            if !done {
                // The next run tries again. Until then the segment stays, unless its room is needed.
                let mut state = self.state();
                state.sealed.push((first, known));
                state.sealed.extend(sealed);
                return;
            }
            files.digests.push_back((first, newest.len(), latest));
            files.digests.make_contiguous().sort_unstable();
        }
    }

    /// Removes digests that are too old, or older than `dedupe_max` others.
    fn forget_digests(&self, files: &mut SmallFiles) {
        let oldest = seconds(self.clock.now().before(self.config.dedupe_window));
        let mut newer: usize = files.digests.iter().map(|(_, count, _)| count).sum();
        while let Some((first, count, newest)) = files.digests.front().copied() {
            newer -= count;
            if newest >= oldest && newer < self.config.dedupe_max {
                return;
            }
            if let Err(error) = remove_if_there(&*self.disk, &self.paths.digests.join(file_name(first, ""))) {
                warn!(%error, "journal: can't remove old digests");
                return;
            }
            files.digests.pop_front();
        }
    }

    /// Removes segments without records, except for the last, which is being written. Each start and each failed write
    /// leaves one, and they would pile up while a sink is stuck.
    fn remove_empty(&self) {
        let empty: Vec<u64> = {
            let state = self.state();
            let sealed = state.segments.len().saturating_sub(1);
            state.segments.iter().take(sealed).filter(|segment| segment.records() == 0).map(|s| s.first).collect()
        };
        for first in &empty {
            if let Err(error) = remove_if_there(&*self.disk, &self.paths.segment(*first)) {
                warn!(%error, "journal: can't remove a segment without events");
                return;
            }
            self.state().segments.retain(|segment| segment.first != *first);
        }
        if !empty.is_empty()
            && let Err(error) = self.disk.sync_dir(&self.paths.segments)
        {
            // After a crash they would be there again, and be removed again.
            warn!(%error, "journal: can't sync the folder of segments");
        }
    }

    /// Deletes delivered segments that are older than `retain` or do not fit `retain_size`.
    fn delete_old(&self) {
        let due = {
            let state = self.state();
            let now = self.clock.now();
            let kept = state.sealed.iter().map(|(first, _)| *first).min().unwrap_or(u64::MAX);
            let with_digests = state.segments.partition_point(|segment| segment.first < kept);
            let deletable = state.deletable().min(with_digests);
            let mut delivered: u64 = state.segments.iter().take(deletable).map(|segment| segment.length).sum();
            let mut due = 0;
            for segment in state.segments.iter().take(deletable) {
                let stays = segment.records() > 0
                    && now.since(segment.newest) <= self.config.retain
                    && delivered <= self.config.retain_size;
                if stays {
                    break;
                }
                delivered -= segment.length;
                due += 1;
            }
            due
        };
        self.delete_oldest(due);
    }

    /// Deletes the oldest delivered segments until this many bytes are free. Returns how many are free.
    pub(super) fn make_room(&self, wanted: u64) -> u64 {
        let mut files = self.small_files();
        self.flush_cursors(&mut files);
        self.write_digests(&mut files);
        loop {
            let free = self.ask_free();
            let deletable = self.state().deletable();
            if free >= wanted || deletable == 0 || self.delete_oldest(1) == 0 {
                // If the disk was full, there may be room for the digests now.
                self.write_digests(&mut files);
                return free;
            }
        }
    }

    /// Deletes the oldest segments, and returns how many. The caller has checked that they may be deleted.
    fn delete_oldest(&self, count: usize) -> usize {
        let mut deleted = 0;
        while deleted < count {
            let Some(first) = self.state().segments.front().map(|segment| segment.first) else { break };
            if let Err(error) = remove_if_there(&*self.disk, &self.paths.segment(first)) {
                warn!(%error, "journal: can't delete a delivered segment");
                break;
            }
            self.state().segments.pop_front();
            deleted += 1;
        }
        if deleted > 0 {
            info!(segments = deleted, "journal: delivered segments deleted");
            if let Err(error) = self.disk.sync_dir(&self.paths.segments) {
                // After a crash they would be there again, and be removed again.
                warn!(%error, "journal: can't sync the folder of segments");
            }
        }
        deleted
    }

    /// Moves `best_effort` sinks past the oldest waiting segments until a group of this size fits `max_size`, or until
    /// another sink needs the oldest segment. Returns the bytes that still wait.
    pub(super) fn give_up(&self, size: u64) -> u64 {
        let mut state = self.state();
        loop {
            let waiting = state.waiting_bytes();
            if waiting.saturating_add(size) <= self.config.max_size {
                return waiting;
            }
            let slowest = state.sinks.values().map(|place| place.cursor.offset).min().unwrap_or(0);
            let Some(index) = state.locate(slowest) else { return waiting };
            let end = state.segments[index].end;
            let held = state.sinks.values().any(|place| !place.best_effort && place.cursor.offset < end);
            if held {
                return waiting;
            }
            self.pass_over(&mut state, index);
        }
    }

    /// Moves every cursor past a segment.
    fn pass_over(&self, state: &mut JournalState, index: usize) {
        let (end, last) = (state.segments[index].end, index + 1 == state.segments.len());
        let to = if last { state.end_cursor() } else { Cursor { offset: end, hint: None } };
        let behind: Vec<_> =
            state.sinks.iter().filter(|(_, place)| place.cursor.offset < end).map(|(name, _)| name.clone()).collect();
        for name in behind {
            let Some(offset) = state.sinks.get(&name).map(|place| place.cursor.offset) else { continue };
            let events = state.events_from(offset) - state.events_from(end);
            let Some(place) = state.sinks.get_mut(&name) else { continue };
            place.cursor = to;
            // The pump tells what becomes of what it has in flight.
            let spared = place.claims.pass_over(offset..end);
            self.count_given_up(&name, events.saturating_sub(spared));
        }
        self.wake.wake();
    }

    /// Counts events that a sink lost to a full journal.
    pub(super) fn count_given_up(&self, sink: &SinkName, events: u64) {
        if events > 0 {
            self.metrics.given_up(sink, events);
            warn!(%sink, events, "journal full: the oldest waiting events of a best_effort sink are given up");
        }
    }
}
