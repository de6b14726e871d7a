//! Requests that may be events from Alma, and got 503 for a reason that only a person can correct.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;

/// How long such a request needs a person. This is longer than Alma retries, so an error that persists shows up again.
/// Anybody can send a request whose signature is merely well-formed, and must not be able to keep the alarm up for
/// ever.
const REMEMBERED: Duration = Duration::from_hours(24);

/// Requests with a well-formed signature that were turned away. Alma gives up on each event after four tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// How many there were.
    pub requests: u64,
    /// When the last one arrived.
    pub last: Timestamp,
    /// The path of the last one, escaped and cut.
    pub path: String,
}

/// The requests that were turned away recently.
#[derive(Debug, Default)]
pub(super) struct TurnedAwayRecord(Mutex<Option<TurnedAway>>);

impl TurnedAwayRecord {
    /// Notes one more request.
    pub(super) fn count(&self, path: String, at: Timestamp) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = record.take().filter(|before| is_remembered(before, at));
        let (requests, last) = before.map_or((0, at), |before| (before.requests, before.last.max(at)));
        *record = Some(TurnedAway { requests: requests + 1, last, path });
    }

    /// The recent requests, or `None` if there are none.
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
    fn requests_are_forgotten_a_day_after_the_last() {
        let hour = |hour: u64| Timestamp::from_micros(hour * 3_600_000_000);
        let seen = |requests, last, path: &str| Some(TurnedAway { requests, last, path: path.into() });
        let record = TurnedAwayRecord::default();
        assert_eq!(record.seen(hour(1)), None);
        record.count("/a".into(), hour(1));
        record.count("/b".into(), hour(20));
        assert_eq!(record.seen(hour(43)), seen(2, hour(20), "/b"));
        assert_eq!(record.seen(hour(44)), None);
        record.count("/c".into(), hour(50));
        assert_eq!(record.seen(hour(51)), seen(1, hour(50), "/c"), "the count starts again");
    }
}
