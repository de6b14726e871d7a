//! What a start finds in `segments/`, and what it repairs there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::dedupe::KnownEvent;
use super::error::JournalOpenError;
use super::format::{DedupeKey, Previous, SEGMENT_START, SegmentHeader, most_records};
use super::heads::{FoundSegment, SegmentHead, heads, move_away, next_of_damaged, remove_empty};
use super::paths::Paths;
use super::scan::{Item, Scan, Span};
use super::segment::Segment;
use super::unproven::UnprovenTail;
use crate::clock::Timestamp;
use crate::storage::{Disk, DiskFile};

/// Bytes of one read while a whole segment is read.
pub(super) const SCAN_BLOCK: usize = 1024 * 1024;

/// The segments, each as far as it is durable.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Segment>,
    /// An offset above all that were ever assigned, as far as the segments tell.
    pub(super) next: u64,
    /// Digests of the segments that were read whole. As a rule, that is the last one.
    pub(super) known: HashMap<u64, Vec<KnownEvent>>,
    /// A tail that could not be made durable yet.
    pub(super) unproven: Option<UnprovenTail>,
    /// The last segment, if all of it is unreadable. Readers notice an earlier one themselves.
    pub(super) lost: Option<u64>,
}

/// Reads the heads of all segments and the whole of the last. `mend`: cut off what is torn, move away what is broken.
pub(super) fn recover(disk: &dyn Disk, paths: &Paths, mend: bool) -> Result<Recovered, JournalOpenError> {
    let all = heads(disk, paths)?;
    let next = all.last().map_or(1, |last| last.first + 1).max(next_of_damaged(disk, paths));
    let (segments, known) = (VecDeque::new(), HashMap::new());
    let mut recovered = Recovered { segments, next, known, unproven: None, lost: None };
    let passed_over = passed_over(&all);
    let named: HashMap<u64, Previous> =
        all.iter().filter_map(|found| found.header()?.previous).map(|named| (named.first, named)).collect();
    let created: Vec<Option<Timestamp>> = all.iter().map(|found| Some(found.header()?.created)).collect();
    let next_created = |index: usize| created[index + 1..].iter().flatten().next().copied();
    // No event after it was ever acknowledged.
    let newest = all.iter().rposition(|found| found.header().is_some() || found.has_room());
    for (index, found) in all.iter().enumerate() {
        let named = named.get(&found.first);
        let mut segment = match &found.head {
            SegmentHead::Read(..) if passed_over.contains(&found.first) => {
                if mend {
                    remove_empty(disk, paths, found.first);
                }
                continue;
            }
            // A segment after the last commit would hide what of that commit is not sure to be durable.
            SegmentHead::Unread(_)
                if passed_over.contains(&found.first) || newest.is_none_or(|newest| newest < index) =>
            {
                continue;
            }
            SegmentHead::Broken => {
                // If it has no room for a record, it was being created when the process died.
                if found.has_room() {
                    recovered.next = recovered.next.max(found.bound());
                    recovered.lost = (index + 1 == created.len()).then_some(found.first);
                }
                if mend {
                    move_away(disk, paths, found);
                }
                continue;
            }
            SegmentHead::Unread(error) => {
                if mend {
                    error!(segment = found.first, %error, "journal: the head of a segment can't be read; readers try again before its events count as lost");
                }
                let before = created[..index].iter().rev().flatten().next().copied();
                unread_segment(found, before.or(next_created(index)).unwrap_or_default())
            }
            SegmentHead::Read(header, _) => Segment::empty(header),
        };
        if let Some(named) = named {
            (segment.length, segment.end, segment.exact) = (named.length, named.end, true);
            segment.newest = next_created(index).unwrap_or_default().max(segment.created);
        } else if let SegmentHead::Read(header, file) = &found.head {
            let (size, may_be_torn) = (found.size.unwrap_or_default(), Some(index) == newest);
            let file = OpenedSegment { first: found.first, size, file };
            recovered.read_whole(disk, paths, &file, header, may_be_torn, mend, &mut segment)?;
        }
        if let Some(later) = all.get(index + 1).filter(|_| !segment.exact) {
            // A bound that is too high would hide the next segment's records.
            segment.end = segment.end.min(later.first);
        }
        recovered.next = recovered.next.max(segment.end);
        recovered.segments.push_back(segment);
    }
    Ok(recovered)
}

/// Segments that a later head passes over when it names the one before it: they never had a record.
fn passed_over(found: &[FoundSegment]) -> HashSet<u64> {
    let mut passed_over = HashSet::new();
    for (index, later) in found.iter().enumerate() {
        if let Some(named) = later.header().and_then(|header| header.previous) {
            let from = found.partition_point(|found| found.first <= named.first);
            passed_over.extend(found[from.min(index)..index].iter().map(|found| found.first));
        }
    }
    passed_over
}

/// A segment's file, with a header that is whole.
struct OpenedSegment<'a> {
    first: u64,
    size: u64,
    file: &'a Arc<dyn DiskFile>,
}

impl Recovered {
    /// Reads a segment whose durable end no other segment names.
    #[allow(clippy::too_many_arguments, reason = "a part of `recover`, with what that has at hand")]
    fn read_whole(
        &mut self,
        disk: &dyn Disk,
        paths: &Paths,
        file: &OpenedSegment<'_>,
        header: &SegmentHeader,
        may_be_torn: bool,
        mend: bool,
        segment: &mut Segment,
    ) -> Result<(), JournalOpenError> {
        let read = read_tail(file, header, if may_be_torn { How::Torn } else { How::Whole });
        let tail = read.or_else(|error| {
            error!(segment = file.first, %error, "journal: a segment can't be read whole; what can't is left as it is");
            read_tail(file, header, How::Salvaged)
        });
        let tail = tail.map_err(JournalOpenError::io("read", &paths.segment(file.first)))?;
        self.next = self.next.max(tail.used);
        let (sure, rest) = tail.mend(disk, paths, mend, segment, file.size);
        self.known.insert(file.first, sure);
        self.unproven = rest.or(self.unproven.take());
        Ok(())
    }
}

/// A segment whose durable end no other segment names. As a rule, that is the last one.
struct Tail {
    how: How,
    newest: Timestamp,
    /// An offset above all in the segment, those of torn records included.
    used: u64,
    /// What the last intact head of a group proves: all before this place is durable, and all below this offset.
    proven: (u64, u64),
    /// The end of the intact part.
    intact: (u64, u64),
    known: Vec<(u64, DedupeKey, Timestamp)>,
}

/// How the end of such a segment may be damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Damage at the end is a torn write, which was never acknowledged.
    Torn,
    /// A later segment was written, though nothing is left that tells of this one: damage is damage.
    Whole,
    /// The disk does not give all of it. It may yet do so: nothing is written or cut off, and the readers try again
    /// before they count it as lost.
    Salvaged,
}

fn read_tail(opened: &OpenedSegment<'_>, header: &SegmentHeader, how: How) -> io::Result<Tail> {
    let part = Span { file: Arc::clone(opened.file), seed: header.seed, length: opened.size, end: None };
    let mut scan = Scan::new(part, SEGMENT_START, header.first, SCAN_BLOCK).salvage(how == How::Salvaged);
    let (mut newest, mut used, mut known) = (header.created, header.first, Vec::new());
    // Without a group, not even the header is proven to be durable, and the next segment will name it.
    let mut proven = (0, header.first);
    // The first damage after the last intact group header.
    let mut torn = None;
    while let Some(item) = scan.next()? {
        match item {
            Item::Group(group) => {
                (proven, torn) = ((group.durable_end, group.first), None);
                newest = newest.max(group.recorded);
                used = used.max(group.first + u64::from(group.count));
            }
            Item::Record(record) => known.push((record.offset, record.key, record.event.recorded)),
            Item::Damage(damage) => _ = torn.get_or_insert((damage.from, scan.expected() - damage.lost)),
        }
    }
    used = used.max(scan.expected());
    let mut intact = torn.unwrap_or((scan.at().max(SEGMENT_START), scan.expected()));
    if torn.is_some() {
        used = used.max(intact.1 + most_records(opened.size - intact.0));
    }
    match how {
        How::Torn => {}
        How::Whole => intact = (opened.size.max(SEGMENT_START), scan.expected()),
        How::Salvaged => intact = (opened.size.max(SEGMENT_START), used),
    }
    Ok(Tail { how, newest, used, proven, intact, known })
}

impl Tail {
    /// Cuts off what is torn, makes durable what is not proven to be; gives the digests of what may be relied on, and
    /// what may not yet.
    fn mend(
        self,
        disk: &dyn Disk,
        paths: &Paths,
        mend: bool,
        segment: &mut Segment,
        size: u64,
    ) -> (Vec<KnownEvent>, Option<UnprovenTail>) {
        (segment.length, segment.end) = self.intact;
        segment.newest = self.newest;
        segment.exact = self.how != How::Salvaged;
        let (mut durable, mut unproven) = (segment.end, None);
        if self.how == How::Salvaged {
            durable = self.proven.1;
        } else if mend && (segment.length < size || self.proven.0 < segment.length) {
            let (path, end) = (paths.segment(segment.first), segment.end);
            let tail = UnprovenTail { path, from: self.proven.0, to: segment.length, end };
            if segment.length < size {
                info!(segment = segment.first, bytes = size - segment.length, "journal: a torn tail is cut off");
            }
            if let Err(error) = tail.make_durable(disk) {
                durable = self.proven.1;
                if self.how == How::Torn {
                    warn!(segment = segment.first, %error, "journal: the last commit can't be made sure of; it is not published, and events get 503, until it can");
                    (segment.length, segment.end) = (self.proven.0.max(SEGMENT_START), durable);
                    unproven = Some(tail);
                }
            }
        }
        let known = self.known.into_iter().filter(|(offset, ..)| *offset < durable);
        (known.map(|(_, key, recorded)| KnownEvent::new(key, recorded)).collect(), unproven)
    }
}

/// A segment whose header can't be read, as far as its file and the next segment describe it.
fn unread_segment(found: &FoundSegment, created: Timestamp) -> Segment {
    Segment {
        first: found.first,
        end: found.bound(),
        length: found.size.unwrap_or_default().max(SEGMENT_START),
        seed: None,
        exact: false,
        created,
        previous: None,
        // The time is unknown, so the segment must not count as old.
        newest: Timestamp::from_micros(u64::MAX),
    }
}
