//! `[journal]`: the durable log and its limits.

use std::time::Duration;

use super::settings::{Table, Walk};

/// The durable log and its limits, in bytes of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Whether there is a journal at all.
    pub storage: Storage,
    /// For undelivered events. An event that would exceed it gets 503.
    pub max_size: u64,
    /// Free bytes of the disk. Below them, every event gets 503.
    pub min_free: u64,
    /// How long delivered events stay for replay.
    pub retain: Duration,
    /// How many bytes of delivered events stay for replay.
    pub retain_size: u64,
    /// How long the bridge recognises a repeat.
    pub dedupe_window: Duration,
    /// How many of the newest events the bridge recognises.
    pub dedupe_max: usize,
    /// For the dead letters of one sink. Beyond it, the sink waits.
    pub dead_max_size: u64,
}

/// Where events are kept until they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the journal.
    Disk,
    /// Nowhere: the 2xx waits for every sink that asks for the event.
    None,
}

impl Journal {
    pub(super) fn read(mut table: Table, walk: &mut Walk) -> Self {
        let journal = Self {
            storage: table.choice("storage", "disk", &[("disk", Storage::Disk), ("none", Storage::None)], walk),
            max_size: table.size("max_size", "8GiB", walk),
            min_free: table.size("min_free", "256MiB", walk),
            retain: table.duration("retain", "24h", walk),
            retain_size: table.size("retain_size", "1GiB", walk),
            dedupe_window: table.duration("dedupe_window", "12h", walk),
            dedupe_max: table.count("dedupe_max", "500000", 0, walk),
            dead_max_size: table.size("dead_max_size", "1GiB", walk),
        };
        table.finish(walk, |_| None);
        journal
    }
}
