//! What a start finds in `segments/`, and what it mends there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::dedupe::Known;
use super::format::{Key, Previous, SEGMENT_START, SegmentHeader, most_records};
use super::heads::{Found, Head, heads, move_away, next_of_damaged, remove_empty};
use super::open::OpenError;
use super::scan::{Item, Scan, Span};
use super::state::{Paths, Segment};
use crate::clock::Timestamp;
use crate::storage::{Disk, DiskFile};

/// Read at once while a segment is read whole.
pub(super) const SCAN_BLOCK: usize = 1024 * 1024;

/// The segments as they are, each as far as it is durable.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Segment>,
    /// Above every offset that was ever given, as far as segments can tell.
    pub(super) next: u64,
    /// Digests of segments that were read whole: the last, as a rule.
    pub(super) known: HashMap<u64, Vec<Known>>,
    /// What could not be made durable yet.
    pub(super) unsure: Option<Unsure>,
    /// The last segment, where it is unreadable whole; one before it is missed by whoever reads on.
    pub(super) lost: Option<u64>,
}

/// Reads the heads of all segments and the whole of the last. `mend`: cut off what is torn, move away what is broken.
pub(super) fn recover(disk: &dyn Disk, paths: &Paths, mend: bool) -> Result<Recovered, OpenError> {
    let all = heads(disk, paths)?;
    let next = all.last().map_or(1, |last| last.first + 1).max(next_of_damaged(disk, paths));
    let (segments, known) = (VecDeque::new(), HashMap::new());
    let mut recovered = Recovered { segments, next, known, unsure: None, lost: None };
    let passed_over = passed_over(&all);
    let named: HashMap<u64, Previous> =
        all.iter().filter_map(|found| found.header()?.previous).map(|named| (named.first, named)).collect();
    let created: Vec<Option<Timestamp>> = all.iter().map(|found| Some(found.header()?.created)).collect();
    let next_created = |index: usize| created[index + 1..].iter().flatten().next().copied();
    // After it nothing was ever acknowledged.
    let newest = all.iter().rposition(|found| found.header().is_some() || found.has_room());
    for (index, found) in all.iter().enumerate() {
        let named = named.get(&found.first);
        let mut segment = match &found.head {
            Head::Read(..) if passed_over.contains(&found.first) => {
                if mend {
                    remove_empty(disk, paths, found.first);
                }
                continue;
            }
            // A segment behind the last commit would hide what of that is not sure yet.
            Head::Unread(_) if passed_over.contains(&found.first) || newest.is_none_or(|newest| newest < index) => {
                continue;
            }
            Head::Broken => {
                // If no record fits into it, it was being created.
                if found.has_room() {
                    recovered.next = recovered.next.max(found.bound());
                    recovered.lost = (index + 1 == created.len()).then_some(found.first);
                }
                if mend {
                    move_away(disk, paths, found);
                }
                continue;
            }
            Head::Unread(error) => {
                if mend {
                    error!(segment = found.first, %error, "journal: the head of a segment can't be read; readers try again before its events count as lost");
                }
                let before = created[..index].iter().rev().flatten().next().copied();
                Segment::unread(found, before.or(next_created(index)).unwrap_or_default())
            }
            Head::Read(header, _) => Segment::empty(header),
        };
        if let Some(named) = named {
            (segment.length, segment.end, segment.exact) = (named.length, named.end, true);
            segment.newest = next_created(index).unwrap_or_default().max(segment.created);
        } else if let Head::Read(header, file) = &found.head {
            let (size, may_be_torn) = (found.size.unwrap_or_default(), Some(index) == newest);
            let file = Opened { first: found.first, size, file };
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
fn passed_over(found: &[Found]) -> HashSet<u64> {
    let mut passed_over = HashSet::new();
    for (index, later) in found.iter().enumerate() {
        if let Some(named) = later.header().and_then(|header| header.previous) {
            let from = found.partition_point(|found| found.first <= named.first);
            passed_over.extend(found[from.min(index)..index].iter().map(|found| found.first));
        }
    }
    passed_over
}

/// A segment's file whose head is known.
struct Opened<'a> {
    first: u64,
    size: u64,
    file: &'a Arc<dyn DiskFile>,
}

impl Recovered {
    /// Reads a segment of whose durable end no other segment tells.
    #[allow(clippy::too_many_arguments, reason = "a part of `recover`, with what that has at hand")]
    fn read_whole(
        &mut self,
        disk: &dyn Disk,
        paths: &Paths,
        file: &Opened<'_>,
        header: &SegmentHeader,
        may_be_torn: bool,
        mend: bool,
        segment: &mut Segment,
    ) -> Result<(), OpenError> {
        let read = read_tail(file, header, if may_be_torn { How::Torn } else { How::Whole });
        let tail = read.or_else(|error| {
            error!(segment = file.first, %error, "journal: a segment can't be read whole; what can't is left as it is");
            read_tail(file, header, How::Salvaged)
        });
        let tail = tail.map_err(OpenError::io("read", &paths.segment(file.first)))?;
        self.next = self.next.max(tail.used);
        let (sure, rest) = tail.mend(disk, paths, mend, segment, file.size);
        self.known.insert(file.first, sure);
        self.unsure = rest.or(self.unsure.take());
        Ok(())
    }
}

/// A segment of whose durable end no other segment tells: the last, as a rule.
struct Tail {
    how: How,
    newest: Timestamp,
    /// Above every offset in it, torn or not.
    used: u64,
    /// What the last intact head of a group proves: all before this place is durable, and all below this offset.
    proven: (u64, u64),
    /// Where the intact part ends.
    intact: (u64, u64),
    known: Vec<(u64, Key, Timestamp)>,
}

/// What may be wrong with such a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// What is damaged at its end was never acknowledged.
    Torn,
    /// A later segment was written, though nothing is left that tells of this one: damage is damage.
    Whole,
    /// The disk does not give all of it. It may yet do so: nothing is written or cut off, and the readers try again
    /// before they count it as lost.
    Salvaged,
}

fn read_tail(opened: &Opened<'_>, header: &SegmentHeader, how: How) -> io::Result<Tail> {
    let part = Span { file: Arc::clone(opened.file), seed: header.seed, length: opened.size, end: None };
    let mut scan = Scan::new(part, SEGMENT_START, header.first, SCAN_BLOCK).salvage(how == How::Salvaged);
    let (mut newest, mut used, mut known) = (header.created, header.first, Vec::new());
    // Without a group not even its header: the next segment is to name it.
    let mut proven = (0, header.first);
    // The first damage after the last intact head of a group.
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
    ) -> (Vec<Known>, Option<Unsure>) {
        (segment.length, segment.end) = self.intact;
        segment.newest = self.newest;
        segment.exact = self.how != How::Salvaged;
        let (mut durable, mut unsure) = (segment.end, None);
        if self.how == How::Salvaged {
            durable = self.proven.1;
        } else if mend && (segment.length < size || self.proven.0 < segment.length) {
            let (path, end) = (paths.segment(segment.first), segment.end);
            let tail = Unsure { path, from: self.proven.0, to: segment.length, end };
            if segment.length < size {
                info!(segment = segment.first, bytes = size - segment.length, "journal: a torn tail is cut off");
            }
            if let Err(error) = tail.make_durable(disk) {
                durable = self.proven.1;
                if self.how == How::Torn {
                    warn!(segment = segment.first, %error, "journal: the last commit can't be made sure of; it is not published, and events get 503, until it can");
                    (segment.length, segment.end) = (self.proven.0.max(SEGMENT_START), durable);
                    unsure = Some(tail);
                }
            }
        }
        let known = self.known.into_iter().filter(|(offset, ..)| *offset < durable);
        (known.map(|(_, key, recorded)| Known::new(key, recorded)).collect(), unsure)
    }
}

/// A tail that is whole, and may be in the page cache only.
#[derive(Clone, Debug)]
pub(super) struct Unsure {
    path: PathBuf,
    from: u64,
    /// The segment's length and end, once it is sure.
    pub(super) to: u64,
    pub(super) end: u64,
}

impl Unsure {
    /// What is in the page cache only, and may be there because a sync of it failed, is written anew: a sync of pages
    /// that count as clean would say nothing.
    pub(super) fn make_durable(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(&self.path, true)?;
        let mut bytes = vec![0; usize::try_from(self.to - self.from).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut bytes, self.from)?;
        if file.size()? > self.to {
            file.set_size(self.to)?;
        }
        file.write_at(&bytes[..read], self.from)?;
        file.sync_data()
    }
}
