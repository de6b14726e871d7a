//! Reads a segment item by item, and continues after damage.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::format::{DedupeKey, GROUP_HEADER, GroupHeader, ITEM_MAGIC, RECORD_HEADER, RecordHeader, most_records};
use crate::clock::Timestamp;
use crate::config::SourceName;
use crate::message::StoredEvent;
use crate::storage::DiskFile;

/// Bytes of one read while the next intact item is searched.
const SEARCH_BLOCK: usize = 64 * 1024;
/// The unit in which a disk fails to read. After a failed read, the rest is read in these units.
const PAGE: usize = 4096;

/// What a scan finds.
pub(super) enum Item {
    Group(GroupHeader),
    Record(Record),
    Damage(Damage),
}

/// An intact record.
pub(super) struct Record {
    pub(super) offset: u64,
    pub(super) key: DedupeKey,
    pub(super) event: StoredEvent,
}

/// Bytes that are neither a record nor a group, where one must begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) from: u64,
    pub(super) to: u64,
    /// How many records are missing.
    pub(super) lost: u64,
}

/// The position of a scan, from which it can continue later.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanPlace {
    at: u64,
    expected: u64,
    group: Option<Group>,
}

impl ScanPlace {
    /// Where a scan must begin to find the next record together with its group.
    pub(super) fn group_at(&self) -> u64 {
        self.group.filter(|group| self.at < group.end).map_or(self.at, |group| group.at)
    }
}

/// The group that a record belongs to.
#[derive(Clone, Copy, Debug)]
struct Group {
    at: u64,
    end: u64,
    recorded: Timestamp,
}

/// The part of a segment that is read.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) seed: u32,
    /// The durable length, where reading stops.
    pub(super) length: u64,
    /// One past the last offset before `length`, if it is known.
    pub(super) end: Option<u64>,
}

/// A place of reading.
pub(super) struct Scan {
    part: Span,
    at: u64,
    expected: u64,
    group: Option<Group>,
    block: Bytes,
    block_at: u64,
    block_size: usize,
    salvage: bool,
    source: Option<SourceName>,
}

enum Parsed {
    Group(GroupHeader),
    Record(Box<Record>, u64),
    /// The head is intact, the payload is not.
    Spoilt(RecordHeader, u64),
    Nothing,
}

impl Scan {
    /// Begins at a place where an item begins; `expected` is the offset of the next record there. At least
    /// `block_size` bytes are read at once, where there are so many.
    pub(super) fn new(part: Span, at: u64, expected: u64, block_size: usize) -> Self {
        Self {
            part,
            at,
            expected,
            group: None,
            block: Bytes::new(),
            block_at: 0,
            block_size,
            salvage: false,
            source: None,
        }
    }

    /// Continues where an earlier scan of the segment stopped.
    pub(super) fn resume(part: Span, place: ScanPlace, block_size: usize) -> Self {
        Self { group: place.group, ..Self::new(part, place.at, place.expected, block_size) }
    }

    /// Returns the position.
    pub(super) fn place(&self) -> ScanPlace {
        ScanPlace { at: self.at, expected: self.expected, group: self.group }
    }

    /// Treats bytes that the disk can't read as damage instead of an error.
    pub(super) fn salvage(mut self, salvage: bool) -> Self {
        self.salvage = salvage;
        self
    }

    /// Where the next item begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The offset of the next record.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }

    /// Begins at a place that may be wrong. Returns `None` unless an item at or before the wanted offset is there.
    pub(super) fn from_hint(part: &Span, at: u64, wanted: u64, block_size: usize) -> io::Result<Option<Self>> {
        let mut scan = Self::new(part.clone(), at, wanted, block_size);
        scan.expected = match scan.parse(at)? {
            Parsed::Group(group) => group.first,
            Parsed::Record(record, _) => record.offset,
            Parsed::Spoilt(..) | Parsed::Nothing => return Ok(None),
        };
        Ok(Some(scan).filter(|scan| scan.expected <= wanted))
    }

    /// Returns the next item, or `None` at the durable end.
    pub(super) fn next(&mut self) -> io::Result<Option<Item>> {
        if self.at >= self.part.length {
            return Ok(None);
        }
        match self.parse(self.at)? {
            Parsed::Group(group) if group.first == self.expected => {
                let end = self.at + (GROUP_HEADER as u64) + u64::from(group.bytes);
                self.group = Some(Group { at: self.at, end, recorded: group.recorded });
                self.at += GROUP_HEADER as u64;
                Ok(Some(Item::Group(group)))
            }
            Parsed::Record(record, to) if record.offset == self.expected => {
                self.at = to;
                self.expected += 1;
                Ok(Some(Item::Record(*record)))
            }
            Parsed::Spoilt(record, to) if record.offset == self.expected => {
                let damage = Damage { from: self.at, to, lost: 1 };
                self.at = to;
                self.expected += 1;
                Ok(Some(Item::Damage(damage)))
            }
            _ => self.search().map(|damage| Some(Item::Damage(damage))),
        }
    }

    fn parse(&mut self, at: u64) -> io::Result<Parsed> {
        let head = self.bytes(at, RECORD_HEADER)?;
        if let Some(group) = GroupHeader::decode(self.part.seed, &head).filter(|group| group.durable_end == at) {
            return Ok(Parsed::Group(group));
        }
        let Some(record) = RecordHeader::decode(self.part.seed, &head) else { return Ok(Parsed::Nothing) };
        let to = at + (RECORD_HEADER + record.payload()) as u64;
        if to > self.part.length {
            return Ok(Parsed::Nothing);
        }
        let whole = self.bytes(at, RECORD_HEADER + record.payload())?;
        let payload = whole.get(RECORD_HEADER..).unwrap_or_default();
        let (name, body) = payload.split_at_checked(record.source as usize).unwrap_or_default();
        let Some(source) = self.source_name(name).filter(|_| record.fits(self.part.seed, payload)) else {
            return Ok(Parsed::Spoilt(record, to));
        };
        // If the group's header is lost, the time of receipt is the best guess at when the event was made durable.
        let group = self.group.filter(|group| at < group.end);
        let recorded = group.map_or(record.received, |group| group.recorded);
        let event = StoredEvent { source, received: record.received, recorded, body: whole.slice_ref(body) };
        Ok(Parsed::Record(Box::new(Record { offset: record.offset, key: record.key, event }), to))
    }

    /// Nearly all events of a journal come from one source, so its name is kept instead of allocated for each.
    fn source_name(&mut self, bytes: &[u8]) -> Option<SourceName> {
        if self.source.as_ref().is_none_or(|source| source.as_str().as_bytes() != bytes) {
            self.source = Some(std::str::from_utf8(bytes).ok()?.parse().ok()?);
        }
        self.source.clone()
    }

    /// Searches the next intact item after this place, and goes there, or to the durable end.
    fn search(&mut self) -> io::Result<Damage> {
        let (from, expected) = (self.at, self.expected);
        self.group = None;
        let mut at = from + 1;
        while at < self.part.length {
            let block = self.bytes(at, SEARCH_BLOCK)?;
            if block.len() < ITEM_MAGIC.len() {
                break;
            }
            let Some(found) = memmem::find(&block, ITEM_MAGIC) else {
                at += (block.len() - (ITEM_MAGIC.len() - 1)) as u64;
                continue;
            };
            at += found as u64;
            let plausible = |offset: u64| offset >= expected && offset - expected <= most_records(at - from);
            let offset = match self.parse(at)? {
                Parsed::Group(group) => Some(group.first),
                Parsed::Record(record, _) => Some(record.offset),
                Parsed::Spoilt(..) | Parsed::Nothing => None,
            };
            if let Some(offset) = offset.filter(|offset| plausible(*offset)) {
                (self.at, self.expected) = (at, offset);
                return Ok(Damage { from, to: at, lost: offset - expected });
            }
            at += 1;
        }
        self.at = self.part.length;
        self.expected = self.part.end.unwrap_or(expected).max(expected);
        Ok(Damage { from, to: self.at, lost: self.expected - expected })
    }

    /// Returns the bytes at a place: as many as requested, or fewer if the segment ends before.
    fn bytes(&mut self, at: u64, want: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.part.length.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = want.min(left);
        let within = at.checked_sub(self.block_at).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = within.filter(|skip| skip.checked_add(want).is_some_and(|end| end <= self.block.len())) {
            return Ok(self.block.slice(skip..skip + want));
        }
        let mut block = BytesMut::zeroed(want.max(self.block_size).min(left));
        let read = match self.part.file.read_at(&mut block, at) {
            Err(_) if self.salvage => self.read_pages(&mut block, at),
            read => read?,
        };
        block.truncate(read);
        (self.block, self.block_at) = (block.freeze(), at);
        Ok(self.block.slice(..want.min(read)))
    }

    /// Reads page by page. Pages that can't be read stay zero.
    fn read_pages(&self, block: &mut [u8], at: u64) -> usize {
        let mut place = at;
        for page in block.chunks_mut(PAGE) {
            if self.part.file.read_at(page, place).is_err() {
                page.fill(0);
            }
            place += page.len() as u64;
        }
        block.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::format::RECORD_HEADER;
    use crate::storage::{Disk as _, RealDisk};

    const SEED: u32 = 77;

    /// A group of records with these offsets, for this place.
    fn group(at: u64, offsets: std::ops::Range<u64>) -> Vec<u8> {
        let mut records = Vec::new();
        let (first, count) = (offsets.start, u32::try_from(offsets.end - offsets.start).expect("few"));
        for offset in offsets {
            let place = (offset, Timestamp::from_micros(offset), &[0; 16]);
            RecordHeader::append(&mut records, SEED, place, "alma", b"{}").expect("fits");
        }
        let bytes = u32::try_from(records.len()).expect("few");
        let header = GroupHeader { count, first, recorded: Timestamp::from_micros(9), durable_end: at, bytes };
        [header.encode(SEED).as_slice(), &records].concat()
    }

    /// What is read of these bytes, from offset 1: offsets, and what is lost.
    fn read(bytes: &[u8], block: usize) -> Vec<Result<u64, Damage>> {
        let temp = tempfile::tempdir().expect("a folder");
        let file = RealDisk.create(&temp.path().join("segment")).expect("made");
        file.write_at(bytes, 0).expect("written");
        let part = Span { file, seed: SEED, length: bytes.len() as u64, end: None };
        let mut scan = Scan::new(part, 0, 1, block);
        let mut found = Vec::new();
        while let Some(item) = scan.next().expect("read") {
            match item {
                Item::Record(record) => found.push(Ok(record.offset)),
                Item::Damage(damage) => found.push(Err(damage)),
                Item::Group(_) => {}
            }
        }
        found
    }

    #[test]
    fn reads_on_behind_damage_whatever_the_block() {
        let first = group(0, 1..3);
        let second = group(first.len() as u64, 3..5);
        let mut bytes = [first.as_slice(), &second].concat();
        let record = RECORD_HEADER + 6;
        bytes[GROUP_HEADER + record + 9] ^= 1;
        let from = (GROUP_HEADER + record) as u64;
        let damage = Damage { from, to: first.len() as u64, lost: 1 };
        for block in [1, 60, 100, 4096] {
            assert_eq!(read(&bytes, block), [Ok(1), Err(damage), Ok(3), Ok(4)], "{block}");
        }
    }

    /// A head of a group is one only in its own place; a record of another time is seen by its offset.
    #[test]
    fn what_is_intact_but_does_not_belong_there_is_passed_over() {
        let first = group(0, 1..2);
        let at = first.len() as u64;
        let misplaced = group(7, 2..3);
        let stray = at + misplaced.len() as u64;
        let early = group(stray, 900..901);
        let end = stray + early.len() as u64;
        let bytes = [first, misplaced, early, group(end, 3..4)].concat();
        let head = Damage { from: at, to: at + GROUP_HEADER as u64, lost: 0 };
        assert_eq!(read(&bytes, 4096), [Ok(1), Err(head), Ok(2), Err(Damage { from: stray, to: end, lost: 0 }), Ok(3)]);
    }
}
