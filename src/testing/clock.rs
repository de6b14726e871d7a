//! A wall clock that a test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};

/// Starts at a fixed moment of 2024. It moves when the test says so, and along with tokio's clock if it was made by
/// [`TestClock::running`].
pub(crate) struct TestClock {
    set: AtomicU64,
    running_since: Option<Instant>,
}

impl TestClock {
    /// A clock that stands still.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { set: AtomicU64::new(1_704_164_645_000_000), running_since: None })
    }

    /// A clock that follows tokio's, which a test may pause.
    pub(crate) fn running() -> Arc<Self> {
        Arc::new(Self { set: AtomicU64::new(1_000_000), running_since: Some(Instant::now()) })
    }

    /// Moves the clock forward.
    pub(crate) fn pass(&self, time: Duration) {
        self.set.fetch_add(micros(time), Ordering::SeqCst);
    }

    /// Moves the clock back.
    pub(crate) fn go_back(&self, time: Duration) {
        self.set.fetch_sub(micros(time), Ordering::SeqCst);
    }

    /// Moves the clock by so many seconds, in either direction.
    pub(crate) fn jump(&self, seconds: i64) {
        let by = Duration::from_secs(seconds.unsigned_abs());
        if seconds < 0 { self.go_back(by) } else { self.pass(by) }
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let ran = self.running_since.map(|since| micros(since.elapsed())).unwrap_or_default();
        Timestamp::from_micros(self.set.load(Ordering::SeqCst) + ran)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("tests move the clock by less than 500,000 years")
}
