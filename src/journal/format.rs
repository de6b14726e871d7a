//! The journal's files: what they look like, what a crash can leave behind, and what the reader does about it.
//!
//! # Constraints
//!
//! - An event that was answered 204 is found again after a crash at any moment, whatever the disk made of writes that
//!   were not yet synced: dropped, kept, cut, or torn by sectors of 512 bytes; new names in a folder likewise.
//! - Damage to bytes that were durable once (rot, a careless hand) costs the records it hits and no others, and is
//!   never silent.
//! - A start takes no longer because much waits: it reads the head of each segment and the whole of the last one.
//! - A backlog costs no memory, a delivered segment goes by one unlink.
//!
//! # The folder
//!
//! ```text
//! journal/                          0700, all files 0600
//!     format                        "alma-bridge journal 1\n"
//!     lock                          locked (flock), as is the folder itself, by the process that writes
//!     sinks                         names of all sinks, with a CRC; replaced by rename
//!     segments/{first offset}.log   20 digits
//!     cursors/{sink}                two slots
//!     digests/{first offset}        digests of a sealed segment's events, for dedupe; they outlive the segment
//!     damaged/                      bytes that were durable once and can't be read any more
//! ```
//!
//! Numbers are little-endian. Every CRC is CRC32C; those of a segment are seeded with a number drawn for that segment,
//! so that neither a body nor an old block of the disk can pose as a record of it.
//!
//! # A segment
//!
//! ```text
//! segment  = header (twice: at 0 and at 512) items
//! items    = { group { record } }
//! header   = magic[8] version:4 seed:4 first:8 created:8 previous first:8 previous length:8 previous end:8 crc:4
//! group    = magic[4] count:4 first:8 recorded:8 durable end:8 bytes:4 crc:4
//! record   = magic[4] body length:4 offset:8 received:8 key[16] source length:4 payload crc:4 crc:4 source body
//! ```
//!
//! An offset counts events; within a segment there are no gaps. `first` is the offset of the first record, of the
//! segment or the group. `end` is one past the last. `created`, `recorded` and `received` are microseconds of the wall
//! clock. `key` is what dedupe knows the event by. The segment's first 1,024 bytes are synced before anything follows.
//!
//! A group is what one fsync made durable. Its *durable end* is the length of the file that was synced before the group
//! was written, which is its own place: so an intact group head proves that all before it was durable. An empty group
//! is written after a second of idleness and at a clean stop, only to say so. The head of the next segment says it of
//! the last segment before it that has records: its length and its end. What lies beyond that length was never
//! acknowledged. Segments without records are removed once the next one is open.
//!
//! # What a crash leaves behind
//!
//! | found | what it is | what is done |
//! |---|---|---|
//! | the last segment is no longer than its header, which is not whole | it was being created; nothing in it was acknowledged | removed; its name counts as used |
//! | no record or group where one must begin, or a CRC that does not fit, and no intact group behind it | torn tail, not acknowledged | cut off from there (an info line) |
//! | the same with an intact group behind it, or before the length that the next segment names | loss | the bytes are copied to `damaged/`, the records counted, an error logged; reading goes on at the next record or group whose CRCs fit and whose offset is plausible |
//! | a whole group behind which nothing follows | it may be in the page cache only (SIGKILL, then power) | written again in its place and synced, before anyone relies on it |
//! | a segment both of whose headers are broken, or that is missing between two others | loss | moved to `damaged/`; the rest is read on |
//! | a segment between two others of which the later names the earlier | it never had a record, and the process was killed before it removed it | removed |
//! | one cursor slot is torn | the cursor was being written | the other slot, which is older: some events are published again |
//! | no slot can be read, or there is no file, for a name that `sinks` has | loss of the place | back to the oldest segment |
//! | a cursor for a name that `sinks` has not | a sink was being added, or taken over by another | used where the sink is configured, else removed |
//! | `sinks` can't be read | loss | names come from `cursors/`; a configured sink without a cursor starts at the oldest |
//! | digests are missing or torn | the segment had just been sealed | made again from the segment |
//! | `*.new` | a file was being replaced | overwritten at the next replacement |
//!
//! # What the disk does not give
//!
//! A read error of one file (EIO and its like; not a lack of memory or rights) never keeps the journal from starting.
//!
//! | not given | what is done about it |
//! |---|---|
//! | the head of a segment | its offsets count as used, and it stays. Whoever reads on tries again once a second; after ten tries its records are counted as lost and it is moved to `damaged/`. If it is the last one, the next does not name it, for nobody knows how long it is |
//! | `format`, or it says nothing that is a version | moved to `damaged/` and written anew if no segment contradicts. One whose heads are both broken does: it may be of another version |
//! | `sinks`, a cursor, digests | moved to `damaged/`, then as if damaged. A cursor stays while `sinks` can't be read, for then it is all that tells of its sink |
//!
//! Each start begins a new segment, above every offset found anywhere: in records (also of a torn tail), in heads and
//! names of segments, in cursors; and above as many as could have been in the bytes that were cut off.

use crate::clock::Timestamp;

/// The version in `format` and in the head of each segment.
pub(super) const VERSION: u32 = 1;
/// Bytes of a segment before its first group.
pub(super) const SEGMENT_HEADER: usize = 1024;
/// The same, as a place in a file.
pub(super) const SEGMENT_START: u64 = SEGMENT_HEADER as u64;
/// The second copy of the header is in a sector of its own.
const COPY_AT: usize = 512;
const HEADER_LENGTH: usize = 60;
/// Bytes of a group's head.
pub(super) const GROUP_HEADER: usize = 40;
/// Bytes of a record before its payload; no record is shorter.
pub(super) const RECORD_HEADER: usize = 52;
/// No source's name is longer ([`crate::config::names`]).
const MAX_SOURCE: u32 = 64;

const SEGMENT_MAGIC: &[u8; 8] = b"\xA7ALMALOG";
const GROUP_MAGIC: &[u8; 4] = b"\xA7ALG";
const RECORD_MAGIC: &[u8; 4] = b"\xA7ALR";
/// What groups and records begin with: the search for the next intact one looks for it.
pub(super) const ITEM_MAGIC: &[u8; 3] = b"\xA7AL";
const NO_SEGMENT: u64 = u64::MAX;

/// What an event is known by to dedupe: 16 bytes of SHA-256.
pub(super) type DedupeKey = [u8; 16];

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a range of four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a range of eight bytes"))
}

/// A file's name in `segments/` and `digests/`.
pub(super) fn file_name(first: u64, extension: &str) -> String {
    format!("{first:020}{extension}")
}

/// The first offset that such a name stands for.
pub(super) fn parse_file_name(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The head of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) seed: u32,
    pub(super) first: u64,
    pub(super) created: Timestamp,
    pub(super) previous: Option<Previous>,
}

/// What a segment says of the one before it: all of it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) first: u64,
    pub(super) length: u64,
    pub(super) end: u64,
}

/// Why a head of a segment can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSegmentHeader {
    /// Not whole.
    Broken,
    /// Whole, of a version that this program does not know.
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut header = [0; SEGMENT_HEADER];
        let previous = self.previous.unwrap_or(Previous { first: NO_SEGMENT, length: 0, end: 0 });
        header[..8].copy_from_slice(SEGMENT_MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.seed.to_le_bytes());
        let numbers = [self.first, self.created.as_micros(), previous.first, previous.length, previous.end];
        for (place, number) in header[16..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(self.seed, &header[..HEADER_LENGTH - 4]);
        header[HEADER_LENGTH - 4..HEADER_LENGTH].copy_from_slice(&crc.to_le_bytes());
        header.copy_within(..HEADER_LENGTH, COPY_AT);
        header
    }

    /// From a segment's first bytes, by whichever copy is whole.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadSegmentHeader> {
        let copies =
            [0, COPY_AT].map(|at| bytes.get(at..at + HEADER_LENGTH).map_or(Err(BadSegmentHeader::Broken), Self::copy));
        match copies {
            [Ok(header), _] | [_, Ok(header)] => Ok(header),
            [Err(BadSegmentHeader::Version(version)), _] | [_, Err(BadSegmentHeader::Version(version))] => {
                Err(BadSegmentHeader::Version(version))
            }
            _ => Err(BadSegmentHeader::Broken),
        }
    }

    fn copy(bytes: &[u8]) -> Result<Self, BadSegmentHeader> {
        let seed = u32_at(bytes, 12);
        let fits = crc32c::crc32c_append(seed, &bytes[..HEADER_LENGTH - 4]) == u32_at(bytes, HEADER_LENGTH - 4);
        if !bytes.starts_with(SEGMENT_MAGIC) || !fits {
            return Err(BadSegmentHeader::Broken);
        }
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(BadSegmentHeader::Version(version));
        }
        let [first, created, before, length, end] = [16, 24, 32, 40, 48].map(|at| u64_at(bytes, at));
        let previous = (before != NO_SEGMENT).then_some(Previous { first: before, length, end });
        Ok(Self { seed, first, created: Timestamp::from_micros(created), previous })
    }
}

/// The head of a commit group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) count: u32,
    pub(super) first: u64,
    pub(super) recorded: Timestamp,
    /// Its own place in the file.
    pub(super) durable_end: u64,
    /// Of the records behind the head.
    pub(super) bytes: u32,
}

impl GroupHeader {
    pub(super) fn encode(&self, seed: u32) -> [u8; GROUP_HEADER] {
        let mut header = [0; GROUP_HEADER];
        header[..4].copy_from_slice(GROUP_MAGIC);
        header[4..8].copy_from_slice(&self.count.to_le_bytes());
        header[8..16].copy_from_slice(&self.first.to_le_bytes());
        header[16..24].copy_from_slice(&self.recorded.as_micros().to_le_bytes());
        header[24..32].copy_from_slice(&self.durable_end.to_le_bytes());
        header[32..36].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[..36]);
        header[36..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// None unless the bytes begin with an intact head of a group.
    pub(super) fn decode(seed: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..GROUP_HEADER)?;
        let fits = bytes.starts_with(GROUP_MAGIC) && crc32c::crc32c_append(seed, &bytes[..36]) == u32_at(bytes, 36);
        fits.then(|| Self {
            count: u32_at(bytes, 4),
            first: u64_at(bytes, 8),
            recorded: Timestamp::from_micros(u64_at(bytes, 16)),
            durable_end: u64_at(bytes, 24),
            bytes: u32_at(bytes, 32),
        })
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) body: u32,
    pub(super) offset: u64,
    pub(super) received: Timestamp,
    pub(super) key: DedupeKey,
    pub(super) source: u32,
    payload_crc: u32,
}

impl RecordHeader {
    /// Appends a whole record. None, and nothing appended, where the body is longer than a record can say.
    pub(super) fn append(
        buffer: &mut Vec<u8>,
        seed: u32,
        place: (u64, Timestamp, &DedupeKey),
        source: &str,
        body: &[u8],
    ) -> Option<()> {
        let (offset, received, key) = place;
        let body_length = u32::try_from(body.len()).ok()?;
        let source_length = u32::try_from(source.len()).ok().filter(|length| *length <= MAX_SOURCE)?;
        let payload_crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, source.as_bytes()), body);
        let mut header = [0; RECORD_HEADER];
        header[..4].copy_from_slice(RECORD_MAGIC);
        header[4..8].copy_from_slice(&body_length.to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[16..24].copy_from_slice(&received.as_micros().to_le_bytes());
        header[24..40].copy_from_slice(key);
        header[40..44].copy_from_slice(&source_length.to_le_bytes());
        header[44..48].copy_from_slice(&payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[..48]);
        header[48..].copy_from_slice(&crc.to_le_bytes());
        buffer.extend_from_slice(&header);
        buffer.extend_from_slice(source.as_bytes());
        buffer.extend_from_slice(body);
        Some(())
    }

    /// None unless the bytes begin with an intact head of a record.
    pub(super) fn decode(seed: u32, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER)?;
        let fits = bytes.starts_with(RECORD_MAGIC) && crc32c::crc32c_append(seed, &bytes[..48]) == u32_at(bytes, 48);
        fits.then(|| Self {
            body: u32_at(bytes, 4),
            offset: u64_at(bytes, 8),
            received: Timestamp::from_micros(u64_at(bytes, 16)),
            key: bytes[24..40].try_into().expect("a range of sixteen bytes"),
            source: u32_at(bytes, 40),
            payload_crc: u32_at(bytes, 44),
        })
    }

    /// Of the source's name and the body.
    pub(super) fn payload(&self) -> usize {
        self.source as usize + self.body as usize
    }

    /// Whether the payload is what was written.
    pub(super) fn fits(&self, seed: u32, payload: &[u8]) -> bool {
        crc32c::crc32c_append(seed, payload) == self.payload_crc
    }
}

/// What a record takes of a file.
pub(super) fn record_length(source: &str, body: &[u8]) -> u64 {
    (RECORD_HEADER + source.len() + body.len()) as u64
}

/// How many records could have been in so many bytes.
pub(super) fn most_records(bytes: u64) -> u64 {
    bytes / RECORD_HEADER as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_loss_of_either_sector() {
        let previous = Some(Previous { first: 1, length: 5000, end: 9 });
        let header = SegmentHeader { seed: 7, first: 10, created: Timestamp::from_micros(3), previous };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header.clone()));
        for lost in [0..512, 512..1024] {
            let mut torn = bytes;
            torn[lost].fill(0);
            assert_eq!(SegmentHeader::decode(&torn), Ok(header.clone()));
        }
        assert_eq!(SegmentHeader::decode(&[0; SEGMENT_HEADER]), Err(BadSegmentHeader::Broken));
        assert_eq!(SegmentHeader::decode(&bytes[..20]), Err(BadSegmentHeader::Broken));
        let none = SegmentHeader { previous: None, ..header };
        assert_eq!(SegmentHeader::decode(&none.encode()), Ok(none));
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let group =
            GroupHeader { count: 2, first: 5, recorded: Timestamp::from_micros(8), durable_end: 1024, bytes: 99 };
        let bytes = group.encode(42);
        assert_eq!(GroupHeader::decode(42, &bytes), Some(group));
        assert_eq!(GroupHeader::decode(43, &bytes), None, "another segment's seed");
        let mut record = Vec::new();
        RecordHeader::append(&mut record, 42, (5, Timestamp::from_micros(8), &[1; 16]), "alma", b"{}").expect("fits");
        let header = RecordHeader::decode(42, &record).expect("whole");
        assert!(header.fits(42, &record[RECORD_HEADER..]) && header.payload() == 6);
        assert_eq!(record.len() as u64, record_length("alma", b"{}"));
        for bit in 0..record.len() * 8 {
            record[bit / 8] ^= 1 << (bit % 8);
            let sound = RecordHeader::decode(42, &record).is_some_and(|head| head.fits(42, &record[RECORD_HEADER..]));
            assert!(!sound, "bit {bit}");
            record[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn names_of_files() {
        assert_eq!(file_name(7, ".log"), "00000000000000000007.log");
        assert_eq!(parse_file_name("00000000000000000007.log", ".log"), Some(7));
        for other in ["7.log", "00000000000000000007", "0000000000000000000x.log", "99999999999999999999.log"] {
            assert_eq!(parse_file_name(other, ".log"), None, "{other}");
        }
    }
}
