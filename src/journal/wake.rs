//! How the journal's other threads wake the maintenance thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Wakes the maintenance thread.
#[derive(Default)]
pub(super) struct WakeSignal {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl WakeSignal {
    /// Requests work soon. Does nothing if work is requested already.
    pub(super) fn wake(&self) {
        let before = std::mem::replace(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner), true);
        if !before {
            self.changed.notify_one();
        }
    }

    /// Requests work at once.
    pub(super) fn hurry(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Waits this long, or until the journal closes. Requests that come meanwhile stay pending.
    pub(super) fn wait_out(&self, at_most: Duration) {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout(pending, at_most));
    }

    /// Waits for a request, at most this long. Returns whether there was one.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(pending, at_most, |pending| !*pending);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}
