//! Limits the log lines that anybody can cause: unproven requests, failed handshakes, wrong tokens.
//!
//! Each kind of line has its own limit, so a flood of one kind does not hide another. The lines of a kind that are left
//! out are summed up in one line a second. Lines about proven events are not limited.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Maximum lines of one kind in one [`PERIOD`].
const LINES: u32 = 10;

/// The period for which lines are counted. Those left out are summed up after it.
const PERIOD: Duration = Duration::from_secs(1);

/// Lines that differ only in numbers and names. There are few kinds, because no part of a kind comes from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineKind {
    /// The log message.
    pub what: &'static str,
    /// The outcome of the request.
    pub outcome: Option<&'static str>,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why the request was refused. `None` if it succeeded.
    pub reason: Option<Cow<'static, str>>,
}

impl LineKind {
    /// The kind of lines with this message that are not about a request.
    pub const fn message(what: &'static str) -> Self {
        Self { what, outcome: None, status: None, reason: None }
    }
}

/// Lets some lines of each kind through and sums up the others.
#[derive(Debug, Default)]
pub struct StrangersLines {
    kinds: Mutex<Vec<Counted>>,
    some_left_out: Notify,
}

#[derive(Debug)]
struct Counted {
    kind: LineKind,
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl StrangersLines {
    /// Whether a line of this kind may be written now. If not, it is counted as left out.
    pub fn allow(&self, kind: LineKind) -> bool {
        self.allow_at(kind, Instant::now())
    }

    fn allow_at(&self, kind: LineKind, now: Instant) -> bool {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counted) = kinds.iter_mut().find(|counted| counted.kind == kind) else {
            kinds.push(Counted { kind, began: now, lines: 1, left_out: 0 });
            return true;
        };
        if now.duration_since(counted.began) >= PERIOD {
            (counted.began, counted.lines) = (now, 0);
        }
        if counted.lines == LINES {
            counted.left_out += 1;
            self.some_left_out.notify_one();
            return false;
        }
        counted.lines += 1;
        true
    }

    /// Calls [`StrangersLines::sum_up`] a second after a line is left out. Never returns, and sleeps while no lines are
    /// left out.
    pub async fn sum_up_each_second(&self) {
        loop {
            self.some_left_out.notified().await;
            tokio::time::sleep(PERIOD).await;
            self.sum_up();
        }
    }

    /// Writes one line for each kind that had lines left out since the last call.
    pub fn sum_up(&self) {
        for (LineKind { what, outcome, status, reason }, left_out) in self.take_left_out() {
            match reason.as_deref() {
                None => tracing::info!(outcome, status, left_out, "{what}, more of these in the last second"),
                Some(reason) => {
                    tracing::warn!(outcome, status, reason, left_out, "{what}, more of these in the last second");
                }
            }
        }
    }

    fn take_left_out(&self) -> Vec<(LineKind, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let some = kinds.iter_mut().filter(|counted| counted.left_out > 0);
        some.map(|counted| (counted.kind.clone(), std::mem::take(&mut counted.left_out))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_summed_up_and_hides_no_other_kind() {
        let lines = StrangersLines::default();
        let start = Instant::now();
        let flood = LineKind { reason: Some("mismatch".into()), ..LineKind::message("request refused") };
        let other = LineKind { reason: Some("no room".into()), ..flood.clone() };
        let allowed = |kind: &LineKind, now| lines.allow_at(kind.clone(), now);
        assert_eq!((0..1_000).filter(|_| allowed(&flood, start)).count(), 10);
        assert!(allowed(&other, start), "another kind has a limit of its own");
        assert_eq!(lines.take_left_out(), [(flood.clone(), 990)]);
        assert_eq!(lines.take_left_out(), []);
        assert!(!allowed(&flood, start), "summing up does not begin a new second");
        assert!(allowed(&flood, start + PERIOD));
        assert_eq!(lines.take_left_out(), [(flood, 1)]);
    }
}
