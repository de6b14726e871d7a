//! Requests that may be events of Alma's and were answered 503 for what only a person can mend.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// For how long one calls for a person: longer than Alma tries, so that what still goes wrong comes again. Anybody can
/// send a request whose signature is only well-formed, and must not keep the alarm up for ever.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Requests with a well-formed signature that were turned away. Alma gives each of its events up after four tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// How many.
    pub requests: u64,
    /// When the last was.
    pub last: Timestamp,
    /// Its path, escaped and bounded.
    pub path: String,
}

/// What is remembered of them.
#[derive(Debug, Default)]
pub(super) struct TurnedAwayRecord(Mutex<Option<TurnedAway>>);

impl TurnedAwayRecord {
    /// One more was.
    pub(super) fn count(&self, path: String, at: Timestamp) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = record.take().filter(|before| is_remembered(before, at));
        let (requests, last) = before.map_or((0, at), |before| (before.requests, before.last.max(at)));
        *record = Some(TurnedAway { requests: requests + 1, last, path });
    }

    /// Those of late.
    pub(super) fn seen(&self, now: Timestamp) -> Option<TurnedAway> {
        let record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        record.clone().filter(|record| is_remembered(record, now))
    }
}

fn is_remembered(record: &TurnedAway, now: Timestamp) -> bool {
    now.since(record.last) < REMEMBERED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_forgotten_a_day_after_the_last() {
        let hour = |hour: u64| Timestamp::from_micros(hour * 3_600_000_000);
        let seen = |requests, last, path: &str| Some(TurnedAway { requests, last, path: path.into() });
        let record = TurnedAwayRecord::default();
        assert_eq!(record.seen(hour(1)), None);
        record.count("/a".into(), hour(1));
        record.count("/b".into(), hour(20));
        assert_eq!(record.seen(hour(43)), seen(2, hour(20), "/b"));
        assert_eq!(record.seen(hour(44)), None);
        record.count("/c".into(), hour(50));
        assert_eq!(record.seen(hour(51)), seen(1, hour(50), "/c"), "the count begins anew");
    }
}
