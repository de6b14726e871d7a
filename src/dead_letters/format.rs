//! The format of dead-letter files: encoding, decoding, and the search after damage. No I/O.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{DeadLetter, LetterId};
use crate::clock::Timestamp;
use crate::config::SourceName;
use crate::journal::Offset;
use crate::message::StoredEvent;
use crate::sinks::{Failure, Reason};

/// First bytes of a file.
const MAGIC: &[u8; 8] = b"ALMADEAD";
/// The version that the documentation of `dead_letters` describes.
const VERSION: u32 = 1;
/// Magic, version, seed, CRC.
pub(super) const FILE_HEADER: usize = 8 + 4 + 4 + 4;
/// Mark, payload's length, header's CRC, payload's CRC, state.
pub(super) const FRAME_HEADER: usize = 4 + 4 + 4 + 4 + 4;
/// Where the state is in a frame's header.
pub(super) const STATE_AT: usize = 16;
/// No payload is longer, because bodies are bounded by `max_body`. A greater length is damage.
const MAX_PAYLOAD: usize = 1 << 30;

/// Why a file can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFileHeader {
    #[error("damaged header")]
    Damaged,
    #[error("format version {0}, expected {VERSION}")]
    Version(u32),
}

/// The random number that a file's CRCs begin from, so that no body can pose as a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seed(pub(super) u32);

impl Seed {
    fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }

    /// The first bytes of a frame.
    fn mark(self) -> [u8; 4] {
        self.crc(b"mark").to_le_bytes()
    }

    /// The state of a letter that is gone. Any other is a letter that is still there, so that damage to the state
    /// repeats a letter and never loses one.
    pub(super) fn gone(self) -> [u8; 4] {
        self.crc(b"gone").to_le_bytes()
    }

    /// The header of a new file.
    pub(super) fn file_header(self) -> [u8; FILE_HEADER] {
        let mut header = [0; FILE_HEADER];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.0.to_le_bytes());
        let crc = crc32c::crc32c(&header[..16]);
        header[16..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The seed of a file that begins with these bytes.
    pub(super) fn of_file(bytes: &[u8]) -> Result<Self, BadFileHeader> {
        let header = bytes.get(..FILE_HEADER).ok_or(BadFileHeader::Damaged)?;
        if &header[..8] != MAGIC || crc32c::crc32c(&header[..16]) != u32_at(header, 16) {
            return Err(BadFileHeader::Damaged);
        }
        match u32_at(header, 8) {
            VERSION => Ok(Self(u32_at(header, 12))),
            other => Err(BadFileHeader::Version(other)),
        }
    }

    /// Makes a frame of a payload.
    pub(super) fn frame(self, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(FRAME_HEADER + payload.len());
        frame.extend_from_slice(&self.mark());
        let length = u32::try_from(payload.len()).expect("a letter is shorter than 4 GiB");
        frame.extend_from_slice(&length.to_le_bytes());
        let crc = self.crc(&frame[..8]);
        frame.extend_from_slice(&crc.to_le_bytes());
        frame.extend_from_slice(&self.crc(payload).to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        frame
    }

    /// The length of the payload behind a frame's header that begins here, where one does.
    fn payload_length(self, bytes: &[u8]) -> Option<usize> {
        let header = bytes.get(..FRAME_HEADER)?;
        let whole = header[..4] == self.mark() && self.crc(&header[..8]) == u32_at(header, 8);
        let length = usize::try_from(u32_at(header, 4)).ok()?;
        (whole && length <= MAX_PAYLOAD).then_some(length)
    }

    /// Returns the payload of a frame if its CRC is right.
    pub(super) fn payload(self, frame: &[u8]) -> Option<&[u8]> {
        let length = self.payload_length(frame)?;
        let payload = frame.get(FRAME_HEADER..FRAME_HEADER + length)?;
        (self.crc(payload) == u32_at(frame, 12)).then_some(payload)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What is found in a file after its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FoundLetter {
    /// A whole frame, at this place.
    Frame(Range<usize>),
    /// Bytes that are no frame, up to the next whole frame or the end of the file.
    Damaged(Range<usize>),
    /// A torn frame, which was never acknowledged.
    Half(Range<usize>),
}

/// Looks through a whole file for frames.
pub(super) fn scan(seed: Seed, bytes: &[u8]) -> Vec<FoundLetter> {
    let mut found = Vec::new();
    let mut at = FILE_HEADER;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match seed.payload_length(rest) {
            Some(length) if rest.len() < FRAME_HEADER + length => {
                found.push(FoundLetter::Half(at..bytes.len()));
                break;
            }
            Some(length) => {
                let range = at..at + FRAME_HEADER + length;
                let whole = seed.payload(&bytes[range.clone()]).is_some();
                at = range.end;
                found.push(if whole { FoundLetter::Frame(range) } else { FoundLetter::Damaged(range) });
            }
            None if rest.len() < FRAME_HEADER || rest.iter().all(|b| *b == 0) => {
                found.push(FoundLetter::Half(at..bytes.len()));
                break;
            }
            None => {
                let next = next_frame(seed, bytes, at + 1);
                found.push(FoundLetter::Damaged(at..next));
                at = next;
            }
        }
    }
    found
}

fn next_frame(seed: Seed, bytes: &[u8], from: usize) -> usize {
    memchr::memmem::find_iter(&bytes[from..], &seed.mark())
        .map(|at| from + at)
        .find(|at| seed.payload_length(&bytes[*at..]).is_some())
        .unwrap_or(bytes.len())
}

/// Encodes a letter: numbers, then texts with their lengths, then the body.
pub(super) fn encode(letter: &DeadLetter) -> Vec<u8> {
    let mut payload = Vec::with_capacity(letter.event.body.len() + 256);
    let event = &letter.event;
    for number in
        [letter.id.0, letter.offset.0, event.received.as_micros(), event.recorded.as_micros(), letter.died.as_micros()]
    {
        payload.extend_from_slice(&number.to_le_bytes());
    }
    for text in [letter.failure.reason.as_str(), event.source.as_str(), &letter.topic, &letter.failure.detail] {
        let text = &text[..text.floor_char_boundary(usize::from(u16::MAX))];
        payload.extend_from_slice(&u16::try_from(text.len()).expect("cut to it").to_le_bytes());
        payload.extend_from_slice(text.as_bytes());
    }
    payload.extend_from_slice(&event.body);
    payload
}

/// Decodes a letter, or returns `None` if the payload is not understood.
pub(super) fn decode(payload: &[u8]) -> Option<DeadLetter> {
    let mut rest = payload;
    let mut number = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_le_bytes(*head))
    };
    let [id, offset, received, recorded, died] = [number()?, number()?, number()?, number()?, number()?];
    let mut text = || {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (text, tail) = tail.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        rest = tail;
        std::str::from_utf8(text).ok()
    };
    let [reason, source, topic, detail] = [text()?, text()?, text()?, text()?];
    let reason = Reason::ALL.into_iter().find(|known| known.as_str() == reason)?;
    Some(DeadLetter {
        id: LetterId(id),
        offset: Offset(offset),
        died: Timestamp::from_micros(died),
        topic: Arc::from(topic),
        failure: Failure::new(reason, detail),
        event: StoredEvent {
            source: source.parse::<SourceName>().ok()?,
            received: Timestamp::from_micros(received),
            recorded: Timestamp::from_micros(recorded),
            body: Bytes::copy_from_slice(rest),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(0x5eed);

    fn file(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = SEED.file_header().to_vec();
        for payload in payloads {
            bytes.extend_from_slice(&SEED.frame(payload));
        }
        bytes
    }

    #[test]
    fn frames_are_found_where_they_were_written() {
        let bytes = file(&[b"one", b"", b"three"]);
        assert_eq!(Seed::of_file(&bytes), Ok(SEED));
        let payloads: Vec<_> = scan(SEED, &bytes)
            .into_iter()
            .map(|found| match found {
                FoundLetter::Frame(range) => SEED.payload(&bytes[range]).expect("whole").to_vec(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(payloads, [&b"one"[..], b"", b"three"]);
    }

    #[test]
    fn any_cut_leaves_the_frames_before_it_and_one_half() {
        let bytes = file(&[b"one", b"two"]);
        let first = FILE_HEADER + FRAME_HEADER + 3;
        for end in first + 1..bytes.len() {
            let found = scan(SEED, &bytes[..end]);
            assert_eq!(found, [FoundLetter::Frame(FILE_HEADER..first), FoundLetter::Half(first..end)], "cut at {end}");
        }
    }

    #[test]
    fn a_flipped_byte_costs_its_own_frame_only() {
        let bytes = file(&[b"one", b"two", b"three"]);
        let second = FILE_HEADER + FRAME_HEADER + 3;
        let third = second + FRAME_HEADER + 3;
        for at in second..third {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            let found = scan(SEED, &bytes);
            let state = (second + STATE_AT..second + FRAME_HEADER).contains(&at);
            let expected = if state { FoundLetter::Frame(second..third) } else { FoundLetter::Damaged(second..third) };
            assert_eq!(
                found,
                [FoundLetter::Frame(FILE_HEADER..second), expected, FoundLetter::Frame(third..bytes.len())],
                "flipped at {at}"
            );
        }
    }

    #[test]
    fn a_tail_of_zeros_was_never_written() {
        let mut bytes = file(&[b"one"]);
        let end = bytes.len();
        bytes.resize(end + 4096, 0);
        assert_eq!(scan(SEED, &bytes)[1], FoundLetter::Half(end..end + 4096));
    }

    #[test]
    fn a_body_that_holds_a_frame_of_another_seed_is_no_frame() {
        let inner = Seed(1).frame(b"inner");
        let bytes = file(&[&inner]);
        let mut damaged = bytes.clone();
        damaged[FILE_HEADER] ^= 1;
        assert_eq!(scan(SEED, &damaged), [FoundLetter::Damaged(FILE_HEADER..bytes.len())]);
    }

    #[test]
    fn a_header_of_another_version_is_told_from_damage() {
        let mut header = SEED.file_header();
        assert_eq!(Seed::of_file(&header[..FILE_HEADER - 1]), Err(BadFileHeader::Damaged));
        header[8] = 9;
        assert_eq!(Seed::of_file(&header), Err(BadFileHeader::Damaged));
        let crc = crc32c::crc32c(&header[..16]);
        header[16..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Seed::of_file(&header), Err(BadFileHeader::Version(9)));
    }

    #[test]
    fn a_letter_comes_back_as_it_was() {
        let letter = DeadLetter {
            id: LetterId(3),
            offset: Offset(9),
            died: Timestamp::from_micros(30),
            topic: Arc::from("alma.löan"),
            failure: Failure::new(Reason::TooLarge, "ä".repeat(40_000)),
            event: StoredEvent {
                source: "alma".parse().expect("a name"),
                received: Timestamp::from_micros(10),
                recorded: Timestamp::from_micros(20),
                body: Bytes::from_static(b"\x00\xff{}"),
            },
        };
        let payload = encode(&letter);
        let back = decode(&payload).expect("decodes");
        assert_eq!(back.failure.detail.len(), 65_534, "cut between characters");
        assert_eq!((back.id, back.offset, back.died), (letter.id, letter.offset, letter.died));
        assert_eq!((&back.topic, back.failure.reason), (&letter.topic, Reason::TooLarge));
        assert_eq!(back.event.body, letter.event.body);
        assert_eq!((back.event.received, back.event.recorded), (letter.event.received, letter.event.recorded));
        for end in 0..payload.len() - letter.event.body.len() {
            assert!(decode(&payload[..end]).is_none(), "cut at {end}");
        }
    }
}
