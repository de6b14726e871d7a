//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// For what should take a moment; a slow machine may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` gives something, or fails saying what was waited for.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_up_to(PATIENCE, what, look)
}

/// As [`wait_for`], for what takes its time.
pub(crate) fn wait_up_to<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
