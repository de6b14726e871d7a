//! The line of a request, and the limit of lines that strangers can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one kind in one [`PERIOD`].
const LINES: u32 = 10;

/// How long a flood is summed up.
const PERIOD: Duration = Duration::from_secs(1);

/// Lets some lines through and counts the others.
#[derive(Debug, Default)]
pub(super) struct RateLimit(Mutex<Option<Period>>);

#[derive(Debug)]
struct Period {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl RateLimit {
    /// Whether a line may be written now; with how many were left out since the last one.
    pub(super) fn allow(&self, now: Instant) -> Option<u64> {
        let mut period = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let period = period.get_or_insert(Period { began: now, lines: 0, left_out: 0 });
        if now.duration_since(period.began) >= PERIOD {
            (period.began, period.lines) = (now, 0);
        }
        if period.lines == LINES {
            period.left_out += 1;
            return None;
        }
        period.lines += 1;
        Some(std::mem::take(&mut period.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_summed_up() {
        let limit = RateLimit::default();
        let start = Instant::now();
        let allowed = (0..1_000).filter(|_| limit.allow(start).is_some()).count();
        assert_eq!(allowed, 10);
        assert_eq!(limit.allow(start + PERIOD), Some(990), "the first line behind it says how many were left out");
        assert_eq!(limit.allow(start + PERIOD), Some(0));
    }
}
