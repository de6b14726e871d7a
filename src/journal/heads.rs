//! Reads the headers of all segments at a start.

use std::io;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::error::JournalOpenError;
use super::format::{
    BadSegmentHeader, SEGMENT_HEADER, SEGMENT_START, SegmentHeader, file_name, most_records, parse_file_name,
};
use super::paths::Paths;
use crate::storage::{Disk, DiskFile, is_unreadable};

/// A segment of unknown size counts as if it used this many offsets. No segment has so many.
const UNKNOWN: u64 = 1 << 32;

/// A segment's file that the start found.
pub(super) struct FoundSegment {
    pub(super) first: u64,
    pub(super) size: Option<u64>,
    pub(super) head: SegmentHead,
}

/// What the start knows of a segment's header.
pub(super) enum SegmentHead {
    Read(SegmentHeader, Arc<dyn DiskFile>),
    /// Both copies are damaged.
    Broken,
    /// The disk could not read it. It may do so later.
    Unread(io::Error),
}

impl FoundSegment {
    pub(super) fn header(&self) -> Option<&SegmentHeader> {
        match &self.head {
            SegmentHead::Read(header, _) => Some(header),
            SegmentHead::Broken | SegmentHead::Unread(_) => None,
        }
    }

    /// An offset above every one that can be in the segment.
    pub(super) fn bound(&self) -> u64 {
        self.first + self.size.map_or(UNKNOWN, most_records)
    }

    /// Whether a record fits into it.
    pub(super) fn has_room(&self) -> bool {
        self.size.is_none_or(|size| size > SEGMENT_START)
    }
}

/// Returns all segments in order.
pub(super) fn heads(disk: &dyn Disk, paths: &Paths) -> Result<Vec<FoundSegment>, JournalOpenError> {
    let names = match disk.list(&paths.segments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(JournalOpenError::io("list", &paths.segments))?,
    };
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| parse_file_name(name, ".log")).collect();
    firsts.sort_unstable();
    firsts.into_iter().map(|first| look(disk, paths, first)).collect()
}

fn look(disk: &dyn Disk, paths: &Paths, first: u64) -> Result<FoundSegment, JournalOpenError> {
    let path = paths.segment(first);
    let file = match disk.open(&path, false) {
        Err(error) if is_unreadable(&error) => {
            return Ok(FoundSegment { first, size: None, head: SegmentHead::Unread(error) });
        }
        file => file.map_err(JournalOpenError::io("read", &path))?,
    };
    let size = file.size();
    let head = match (read_head(&*file, first), &size) {
        (Ok(Ok(header)), Ok(_)) => SegmentHead::Read(header, file),
        (Ok(Err(BadSegmentHeader::Version(version))), _) => {
            return Err(JournalOpenError::UnknownFormat { path, found: format!("version {version}") });
        }
        (Ok(Err(BadSegmentHeader::Broken)), Ok(_)) => SegmentHead::Broken,
        (Err(error), _) if is_unreadable(&error) => SegmentHead::Unread(error),
        (Err(error), _) => return Err(JournalOpenError::io("read", &path)(error)),
        (_, Err(error)) => SegmentHead::Unread(io::Error::new(error.kind(), error.to_string())),
    };
    Ok(FoundSegment { first, size: size.ok(), head })
}

/// Reads the header of the segment that begins at this offset.
pub(super) fn read_head(file: &dyn DiskFile, first: u64) -> io::Result<Result<SegmentHeader, BadSegmentHeader>> {
    let mut head = [0; SEGMENT_HEADER];
    let read = file.read_at(&mut head, 0)?;
    let header = SegmentHeader::decode(&head[..read]);
    Ok(header.and_then(|header| if header.first == first { Ok(header) } else { Err(BadSegmentHeader::Broken) }))
}

/// Returns an offset above those of all segments in `damaged/`.
pub(super) fn next_of_damaged(disk: &dyn Disk, paths: &Paths) -> u64 {
    let used = |name: &String| {
        let first = parse_file_name(name, ".log")?;
        let size = disk.open(&paths.damaged.join(name), false).and_then(|file| file.size());
        Some(first + size.map_or(UNKNOWN, most_records))
    };
    disk.list(&paths.damaged).unwrap_or_default().iter().filter_map(used).max().unwrap_or(0)
}

/// Moves a segment whose header is broken to `damaged/`, or removes it if it has no record.
pub(super) fn move_away(disk: &dyn Disk, paths: &Paths, found: &FoundSegment) {
    let path = paths.segment(found.first);
    let done = if found.has_room() {
        let kept = paths.damaged.join(file_name(found.first, ".log"));
        error!(segment = found.first, kept = %kept.display(), "journal damaged: both heads of a segment are broken");
        disk.rename(&path, &kept).and_then(|()| disk.sync_dir(&paths.damaged))
    } else {
        info!(segment = found.first, "journal: a segment that was being created at the crash is removed");
        disk.remove(&path)
    };
    if let Err(error) = done.and_then(|()| disk.sync_dir(&paths.segments)) {
        warn!(segment = found.first, %error, "journal: a broken segment can't be moved away");
    }
}

/// Removes a segment without records.
pub(super) fn remove_empty(disk: &dyn Disk, paths: &Paths, first: u64) {
    let removed = disk.remove(&paths.segment(first)).and_then(|()| disk.sync_dir(&paths.segments));
    if let Err(error) = removed {
        warn!(segment = first, %error, "journal: a segment without events can't be removed");
    }
}
