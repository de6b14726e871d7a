//! What metrics and `/status` show of the journal.

use super::Offset;

/// Sizes and health, for metrics and `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalStats {
    /// Bytes of undelivered events: what `max_size` bounds.
    pub waiting_bytes: u64,
    /// All other bytes of segments.
    pub delivered_bytes: u64,
    /// The configured bound on `waiting_bytes`.
    pub max_size: u64,
    /// Bytes free on the disk, at most a second old.
    pub free_bytes: u64,
    /// The configured lower bound on `free_bytes`.
    pub min_free: u64,
    /// Durable records that were found to be lost since the start.
    pub damaged_records: u64,
    /// Files that could not be used since the start: which, why, and where they are kept.
    pub set_aside: Vec<String>,
    /// One past the last durable offset.
    pub next_offset: Offset,
    /// Number of segments.
    pub segments: usize,
    /// Why nothing can be written just now.
    pub failing: Option<String>,
}
