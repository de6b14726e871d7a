//! Reads durable events from the segments, beginning at an offset.

use std::io;
use std::sync::Arc;

use super::cursor::{Cursor, Hint};
use super::format::SEGMENT_START;
use super::heads::read_head;
use super::scan::{Item, Scan, ScanPlace, Span};
use super::segment::Segment;
use super::state::Shared;
use super::{Backlog, Offset, Window};
use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::storage::{DiskFile, is_unreadable};

/// Bytes of one read. The events of a block share its memory.
pub(super) const BLOCK: usize = 256 * 1024;
/// Bytes of one read that only looks when the oldest event was received.
const PEEK_BLOCK: usize = 4096;

/// Where reading continues.
#[derive(Clone)]
pub(super) struct ReadPlace {
    pub(super) offset: u64,
    start: From,
    file: Option<(u64, Arc<dyn DiskFile>)>,
}

/// What is known of the place in the segment's file.
#[derive(Clone, Copy)]
enum From {
    Hint(Option<Hint>),
    Scan(u64, ScanPlace),
}

impl ReadPlace {
    pub(super) fn at(cursor: Cursor) -> Self {
        Self { offset: cursor.offset, start: From::Hint(cursor.hint), file: None }
    }

    /// The hint for a cursor at this place.
    pub(super) fn hint(&self) -> Option<Hint> {
        match self.start {
            From::Hint(hint) => hint,
            From::Scan(segment, place) => Some(Hint { segment, at: place.group_at() }),
        }
    }
}

/// The place of an event that was read.
pub(super) struct Mark {
    pub(super) offset: u64,
    pub(super) hint: Hint,
    pub(super) received: Timestamp,
}

/// How much to read.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) block: usize,
    pub(super) salvage: bool,
}

pub(super) struct Read {
    pub(super) window: Window,
    pub(super) place: ReadPlace,
    pub(super) marks: Vec<Mark>,
}

impl Shared {
    /// What waits for a sink. Reads one record if it is not known yet when the oldest event was received.
    pub(super) fn backlog_of(&self, sink: &SinkName) -> Backlog {
        let cursor = {
            let state = self.state();
            let Some(place) = state.sinks.get(sink) else { return Backlog::default() };
            let known = place.oldest.is_some_and(|(offset, _)| offset == place.cursor.offset);
            if known || state.events_from(place.cursor.offset) == 0 {
                return state.backlog(place);
            }
            place.cursor
        };
        let bounds = Bounds { events: 1, bytes: 0, block: PEEK_BLOCK, salvage: false };
        let read = self.read(ReadPlace::at(cursor), bounds);
        let mut state = self.state();
        let received = read.ok().and_then(|read| read.marks.first().map(|mark| mark.received));
        // An event that can't be read came after its segment was created. A failing disk is not asked again every second.
        let created = state.locate(cursor.offset).map(|index| state.segments[index].created);
        let received = received.or(created);
        if let Some(place) = state.sinks.get_mut(sink) {
            place.oldest = received.map(|received| (cursor.offset, received)).or(place.oldest);
        }
        state.sinks.get(sink).map_or_else(Backlog::default, |place| state.backlog(place))
    }

    /// Reads until it reaches a bound, the end of a segment that had events, or the durable end.
    pub(super) fn read(&self, mut place: ReadPlace, bounds: Bounds) -> io::Result<Read> {
        loop {
            let Some((mut segment, missing)) = self.segment_at(place.offset) else {
                let window = Window { events: Vec::new(), end: Offset(place.offset) };
                return Ok(Read { window, place, marks: Vec::new() });
            };
            if let Some((missing, lost)) = missing {
                self.report_missing(missing, lost);
            }
            place.offset = place.offset.max(segment.first);
            let Some(file) = self.open_segment(&mut place, &mut segment, bounds.salvage)? else {
                // An empty window, so that the next segment gets all its tries: it may be whole though this one is lost.
                place.offset = segment.end;
                let window = Window { events: Vec::new(), end: Offset(segment.end) };
                return Ok(Read { window, place, marks: Vec::new() });
            };
            let read = self.read_segment(place, &segment, &file, bounds)?;
            if !read.window.events.is_empty() {
                return Ok(read);
            }
            place = read.place;
        }
    }

    /// Returns the segment of the next record at or above an offset. If the segment before it is missing, also returns where
    /// that one began and how many records at or above the offset it had.
    fn segment_at(&self, offset: u64) -> Option<(Segment, Option<(u64, u64)>)> {
        let state = self.state();
        let index = state.locate(offset)?;
        let segment = state.segments[index].clone();
        let before = index.checked_sub(1).map(|before| state.segments[before].first);
        let missing = segment.previous.filter(|previous| previous.end > offset && before != Some(previous.first));
        Some((segment, missing.map(|previous| (previous.first, previous.end - offset.max(previous.first)))))
    }

    /// Opens a segment, and reads its header if the start could not. Returns `None` if the whole segment is lost.
    fn open_segment(
        &self,
        place: &mut ReadPlace,
        segment: &mut Segment,
        salvage: bool,
    ) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let opened = match place.file.take().filter(|(first, _)| *first == segment.first) {
            Some((_, file)) => Ok(file),
            None => self.disk.open(&self.paths.segment(segment.first), false),
        };
        let known = opened.and_then(|file| {
            let whole = segment.seed.is_some() || self.learn(segment, &*file)?;
            Ok((file, whole))
        });
        match known {
            Ok((file, true)) => {
                place.file = Some((segment.first, Arc::clone(&file)));
                Ok(Some(file))
            }
            Ok((_, false)) => {
                self.lose_segment(segment, place.offset, "both its heads are broken");
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report_missing(segment.first, segment.lost_from(place.offset));
                Ok(None)
            }
            Err(error) if salvage && is_unreadable(&error) => {
                self.lose_segment(segment, place.offset, &error.to_string());
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the header that the start could not read. Returns whether it is whole.
    fn learn(&self, segment: &mut Segment, file: &dyn DiskFile) -> io::Result<bool> {
        let (Ok(header), size) = (read_head(file, segment.first)?, file.size()?) else { return Ok(false) };
        (segment.seed, segment.previous, segment.created) = (Some(header.seed), header.previous, header.created);
        if !segment.exact {
            segment.length = size.max(SEGMENT_START);
        }
        let mut state = self.state();
        if let Some(known) = state.segments.iter_mut().find(|known| known.first == segment.first) {
            known.clone_from(segment);
        }
        Ok(true)
    }

    fn read_segment(
        &self,
        mut place: ReadPlace,
        segment: &Segment,
        file: &Arc<dyn DiskFile>,
        bounds: Bounds,
    ) -> io::Result<Read> {
        // A segment without a seed is not opened.
        let seed = segment.seed.unwrap_or_default();
        let part = Span { file: Arc::clone(file), seed, length: segment.length, end: Some(segment.end) };
        let mut scan = begin(part, segment, &place, bounds)?.salvage(bounds.salvage);
        let (mut events, mut marks, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        let mut before = scan.place();
        while events.len() < bounds.events
            && let Some(item) = scan.next()?
        {
            match item {
                Item::Record(record) if record.offset >= place.offset => {
                    let size = record.event.body.len();
                    if !events.is_empty() && bytes + size > bounds.bytes {
                        place.start = From::Scan(segment.first, before);
                        place.offset = record.offset;
                        return Ok(Read { window: Window { events, end: Offset(record.offset) }, place, marks });
                    }
                    bytes += size;
                    let hint = Hint { segment: segment.first, at: before.group_at() };
                    marks.push(Mark { offset: record.offset, hint, received: record.event.received });
                    events.push((Offset(record.offset), record.event));
                }
                Item::Damage(damage) if scan.expected() > place.offset || damage.lost == 0 => {
                    self.report_damage(segment.first, &**file, damage);
                }
                Item::Record(_) | Item::Damage(_) | Item::Group(_) => {}
            }
            before = scan.place();
        }
        place.start = From::Scan(segment.first, scan.place());
        place.offset = scan.expected().max(place.offset);
        if scan.at() >= segment.length {
            // No byte is damaged, yet records are missing at the end: the next header names too many.
            place.offset = place.offset.max(segment.end);
        }
        Ok(Read { window: Window { events, end: Offset(place.offset) }, place, marks })
    }
}

/// Begins at the known place, or at the segment's first record if none is known.
fn begin(part: Span, segment: &Segment, place: &ReadPlace, bounds: Bounds) -> io::Result<Scan> {
    match place.start {
        From::Scan(first, at) if first == segment.first => return Ok(Scan::resume(part, at, bounds.block)),
        From::Hint(Some(hint)) if hint.segment == segment.first && hint.at >= SEGMENT_START => {
            if let Some(scan) = Scan::from_hint(&part, hint.at, place.offset, bounds.block)? {
                return Ok(scan);
            }
        }
        From::Scan(..) | From::Hint(_) => {}
    }
    Ok(Scan::new(part, SEGMENT_START, segment.first, bounds.block))
}
