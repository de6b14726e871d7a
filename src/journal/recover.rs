//! What a start finds in `segments/`, and what it mends there.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::dedupe::Known;
use super::disk::{Disk, DiskFile};
use super::format::{
    BadHeader, Key, Previous, SEGMENT_HEADER, SEGMENT_START, SegmentHeader, file_name, most_records, parse_file_name,
};
use super::open::OpenError;
use super::scan::{Item, Scan, Span};
use super::state::{Paths, Segment};
use crate::clock::Timestamp;

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

/// A segment's file, opened.
struct Found {
    first: u64,
    size: u64,
    file: Arc<dyn DiskFile>,
    header: Option<SegmentHeader>,
}

/// Reads the heads of all segments and the whole of the last. `mend`: cut off what is torn, move away what is broken.
pub(super) fn recover(disk: &dyn Disk, paths: &Paths, mend: bool) -> Result<Recovered, OpenError> {
    let found = heads(disk, paths)?;
    let mut next = found.last().map_or(1, |last| last.first + 1).max(next_of_damaged(disk, paths));
    let named: HashMap<u64, Previous> =
        found.iter().filter_map(|found| found.header.as_ref()?.previous).map(|named| (named.first, named)).collect();
    let created: Vec<Option<Timestamp>> =
        found.iter().map(|found| found.header.as_ref().map(|header| header.created)).collect();
    // Behind it nothing was ever acknowledged.
    let newest = found.iter().rposition(|found| found.header.is_some() || found.size > SEGMENT_START);
    let (mut segments, mut known, mut lost, mut unsure) = (VecDeque::new(), HashMap::new(), None, None);
    for (index, found) in found.into_iter().enumerate() {
        let Some(header) = &found.header else {
            // No record fits into so few bytes: it was being created.
            if found.size > SEGMENT_START {
                next = next.max(found.first + most_records(found.size));
                lost = (index + 1 == created.len()).then_some(found.first);
            }
            if mend {
                set_aside(disk, paths, &found);
            }
            continue;
        };
        let mut segment = Segment::empty(header);
        if let Some(named) = named.get(&found.first) {
            (segment.length, segment.end) = (named.length, named.end);
            let next = created[index + 1..].iter().flatten().next().copied();
            segment.newest = next.unwrap_or_default().max(header.created);
        } else {
            let may_be_torn = Some(index) == newest;
            let tail = read_tail(&found, header, may_be_torn, false).or_else(|error| {
                error!(segment = found.first, %error, "journal: a segment can't be read whole; what can't is left as it is");
                read_tail(&found, header, false, true)
            });
            let tail = tail.map_err(OpenError::io("read", &paths.segment(found.first)))?;
            next = next.max(tail.used);
            let (sure, rest) = tail.mend(disk, paths, mend, &mut segment, found.size);
            known.insert(found.first, sure);
            unsure = rest.or(unsure);
        }
        next = next.max(segment.end);
        segments.push_back(segment);
    }
    Ok(Recovered { segments, next, known, unsure, lost })
}

fn heads(disk: &dyn Disk, paths: &Paths) -> Result<Vec<Found>, OpenError> {
    let names = match disk.list(&paths.segments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(OpenError::io("list", &paths.segments))?,
    };
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| parse_file_name(name, ".log")).collect();
    firsts.sort_unstable();
    firsts
        .into_iter()
        .map(|first| {
            let path = paths.segment(first);
            let failed = |error| OpenError::io("read", &path)(error);
            let file = disk.open(&path, false).map_err(failed)?;
            let mut head = [0; SEGMENT_HEADER];
            let read = file.read_at(&mut head, 0).map_err(failed)?;
            let header = match SegmentHeader::decode(&head[..read]) {
                Ok(header) => Some(header).filter(|header| header.first == first),
                Err(BadHeader::Broken) => None,
                Err(BadHeader::Version(version)) => {
                    return Err(OpenError::UnknownFormat { path: path.clone(), found: format!("version {version}") });
                }
            };
            Ok(Found { first, size: file.size().map_err(failed)?, file, header })
        })
        .collect()
}

/// Above the offsets of segments that were moved away because their heads were broken.
fn next_of_damaged(disk: &dyn Disk, paths: &Paths) -> u64 {
    let used = |name: &String| {
        let first = parse_file_name(name, ".log")?;
        let size = disk.open(&paths.damaged.join(name), false).and_then(|file| file.size()).unwrap_or(0);
        Some(first + most_records(size))
    };
    disk.list(&paths.damaged).unwrap_or_default().iter().filter_map(used).max().unwrap_or(0)
}

fn set_aside(disk: &dyn Disk, paths: &Paths, found: &Found) {
    let path = paths.segment(found.first);
    let done = if found.size <= SEGMENT_START {
        info!(segment = found.first, "journal: a segment that was being created at the crash is removed");
        disk.remove(&path)
    } else {
        let kept = paths.damaged.join(file_name(found.first, ".log"));
        error!(segment = found.first, kept = %kept.display(), "journal damaged: both heads of a segment are broken");
        disk.rename(&path, &kept).and_then(|()| disk.sync_dir(&paths.damaged))
    };
    if let Err(error) = done.and_then(|()| disk.sync_dir(&paths.segments)) {
        warn!(segment = found.first, %error, "journal: a broken segment can't be moved away");
    }
}

/// A segment of whose durable end no other segment tells: the last, as a rule.
struct Tail {
    newest: Timestamp,
    /// Above every offset in it, torn or not.
    used: u64,
    /// What the last intact head of a group proves: all before this place is durable, and all below this offset.
    proven: (u64, u64),
    /// Where the intact part ends.
    intact: (u64, u64),
    known: Vec<(u64, Key, Timestamp)>,
}

/// `may_be_torn`: what is damaged at its end was never acknowledged. Not so where a later segment was written, though
/// the head is lost that would tell of this one.
///
/// `salvage`: the disk does not give all of it. It may yet do so: nothing is cut off, and the readers try again before
/// they count it as lost.
fn read_tail(found: &Found, header: &SegmentHeader, may_be_torn: bool, salvage: bool) -> io::Result<Tail> {
    let part = Span { file: Arc::clone(&found.file), seed: header.seed, length: found.size, end: None };
    let mut scan = Scan::new(part, SEGMENT_START, header.first, SCAN_BLOCK).salvage(salvage);
    let (mut newest, mut used, mut known) = (header.created, header.first, Vec::new());
    // Without a group not even its header: the next segment is to name it.
    let mut proven = (0, header.first);
    // The first damage behind the last intact head of a group.
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
        used = used.max(intact.1 + most_records(found.size - intact.0));
    }
    if !may_be_torn {
        let end = if salvage { used } else { scan.expected() };
        intact = (found.size.max(SEGMENT_START), end);
        proven = intact;
    }
    Ok(Tail { newest, used, proven, intact, known })
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
        let (mut durable, mut unsure) = (segment.end, None);
        if mend && (segment.length < size || self.proven.0 < segment.length) {
            let (path, end) = (paths.segment(segment.first), segment.end);
            let tail = Unsure { path, from: self.proven.0, to: segment.length, end };
            if segment.length < size {
                info!(segment = segment.first, bytes = size - segment.length, "journal: a torn tail is cut off");
            }
            if let Err(error) = tail.make_durable(disk) {
                warn!(segment = segment.first, %error, "journal: the last commit can't be made sure of; it is not published, and events get 503, until it can");
                durable = self.proven.1;
                (segment.length, segment.end) = (self.proven.0.max(SEGMENT_START), durable);
                unsure = Some(tail);
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
