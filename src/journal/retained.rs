//! Reads retained events without being a sink, for a replay or from another process.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Offset;
use super::error::JournalOpenError;
use super::format::SEGMENT_START;
use super::heads::read_head;
use super::open::check_format;
use super::paths::Paths;
use super::recover::{SCAN_BLOCK, recover};
use super::scan::{Item, Scan, Span};
use super::segment::Segment;
use crate::clock::Timestamp;
use crate::message::StoredEvent;
use crate::storage::{Disk, is_unreadable};

/// Retained events in order. It skips and counts damaged events and those of segments that are gone.
pub struct Retained {
    disk: Arc<dyn Disk>,
    paths: Paths,
    segments: VecDeque<Segment>,
    from: Timestamp,
    to: Option<Timestamp>,
    scan: Option<Scan>,
    damaged: u64,
    gone: u64,
}

impl Retained {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        paths: Paths,
        mut segments: VecDeque<Segment>,
        from: Timestamp,
        to: Option<Timestamp>,
    ) -> Self {
        let mut gone = 0;
        let mut before: Option<u64> = None;
        for segment in &segments {
            // Segments before the oldest one were deleted as they should be.
            let missing = segment.previous.filter(|named| before.is_some_and(|before| before < named.first));
            let is_due = segment.created >= from;
            gone += missing.filter(|_| is_due).map_or(0, |named| named.end - named.first);
            before = Some(segment.first);
        }
        segments.retain(|segment| segment.records() > 0 && segment.newest >= from);
        Self { disk, paths, segments, from, to, scan: None, damaged: 0, gone }
    }

    /// Records of missing segments that may be of the requested time.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Records that could not be read so far.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Returns the next event, whatever its time, or `None` at the end.
    fn step(&mut self) -> io::Result<Option<(Offset, StoredEvent)>> {
        loop {
            let Some(scan) = &mut self.scan else {
                let Some(segment) = self.segments.pop_front() else { return Ok(None) };
                let opened = self.disk.open(&self.paths.segment(segment.first), false).and_then(|file| {
                    let head = if segment.seed.is_none() { read_head(&*file, segment.first)?.ok() } else { None };
                    let seed = segment.seed.or(head.map(|head| head.seed));
                    Ok((seed, file.size()?, file))
                });
                let (seed, size, file) = match opened {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        let is_due = self.to.is_none_or(|to| segment.created < to);
                        self.gone += if is_due { segment.lost_from(segment.first) } else { 0 };
                        continue;
                    }
                    Err(error) if segment.seed.is_none() && is_unreadable(&error) => {
                        self.damaged += segment.lost_from(segment.first);
                        continue;
                    }
                    opened => opened?,
                };
                let Some(seed) = seed else {
                    self.damaged += segment.lost_from(segment.first);
                    continue;
                };
                let length = if segment.exact { segment.length } else { size };
                let part = Span { file, seed, length, end: segment.exact.then_some(segment.end) };
                self.scan = Some(Scan::new(part, SEGMENT_START, segment.first, SCAN_BLOCK));
                continue;
            };
            match scan.next()? {
                Some(Item::Record(record)) => return Ok(Some((Offset(record.offset), record.event))),
                Some(Item::Damage(damage)) => self.damaged += damage.lost,
                Some(Item::Group(_)) => {}
                None => self.scan = None,
            }
        }
    }
}

impl Iterator for Retained {
    type Item = io::Result<(Offset, StoredEvent)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Some((offset, event))) => {
                    if event.recorded >= self.from && self.to.is_none_or(|to| event.recorded < to) {
                        return Some(Ok((offset, event)));
                    }
                }
                Ok(None) => return None,
                Err(error) => {
                    // An error ends the reading, because the next call would meet it again.
                    (self.scan, self.segments) = (None, VecDeque::new());
                    return Some(Err(error));
                }
            }
        }
    }
}

/// A journal as it was when it was opened, read without its lock and without changing it.
pub struct Snapshot {
    disk: Arc<dyn Disk>,
    paths: Paths,
    segments: VecDeque<Segment>,
}

impl Snapshot {
    /// Opens a journal for reading only. Blocks.
    pub fn open(dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, JournalOpenError> {
        check_format(&*disk, dir)?;
        let paths = Paths::new(dir);
        let segments = recover(&*disk, &paths, false)?.segments;
        Ok(Self { disk, paths, segments })
    }

    /// Like [`super::Journal::scan`].
    pub fn scan(&self, from: Timestamp, to: Option<Timestamp>) -> Retained {
        Retained::new(Arc::clone(&self.disk), self.paths.clone(), self.segments.clone(), from, to)
    }
}
