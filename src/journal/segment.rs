//! A segment as the journal knows it: which offsets it holds, and how much of its file is durable.

use super::format::{Previous, SEGMENT_START, SegmentHeader};
use crate::clock::Timestamp;

/// A segment, as far as it is durable.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: u64,
    /// One past its last offset.
    pub(super) end: u64,
    /// Bytes of its file, the header included.
    pub(super) length: u64,
    /// `None` if the header could not be read yet. Readers try again.
    pub(super) seed: Option<u32>,
    /// Whether `length` and `end` are what is durable. If not, they are upper bounds, and the next segment must not repeat
    /// them.
    pub(super) exact: bool,
    pub(super) created: Timestamp,
    pub(super) previous: Option<Previous>,
    /// When the last record was made durable, or a little later.
    pub(super) newest: Timestamp,
}

impl Segment {
    pub(super) fn empty(header: &SegmentHeader) -> Self {
        Self {
            first: header.first,
            end: header.first,
            length: SEGMENT_START,
            seed: Some(header.seed),
            exact: true,
            created: header.created,
            previous: header.previous,
            newest: header.created,
        }
    }

    pub(super) fn records(&self) -> u64 {
        self.end - self.first
    }

    /// Bytes after the header.
    pub(super) fn content(&self) -> u64 {
        self.length.saturating_sub(SEGMENT_START)
    }

    /// How many records a reader at this offset loses if the whole segment is lost, or 1 if nobody knows.
    pub(super) fn lost_from(&self, offset: u64) -> u64 {
        if self.exact { self.end - offset.max(self.first) } else { 1 }
    }

    /// What the next segment says of this one, or `None` if it is not known exactly.
    pub(super) fn as_previous(&self) -> Option<Previous> {
        self.exact.then_some(Previous { first: self.first, length: self.length, end: self.end })
    }
}
