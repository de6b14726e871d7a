//! How the journal's other threads wake the maintenance thread.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Wakes the keeper.
#[derive(Default)]
pub(super) struct WakeSignal {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl WakeSignal {
    /// Something is to be done, by and by: one that is wanted already is not woken again.
    pub(super) fn wake(&self) {
        let before = std::mem::replace(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner), true);
        if !before {
            self.changed.notify_one();
        }
    }

    /// Something is to be done at once.
    pub(super) fn hurry(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Waits so long whoever wakes, but no longer than to the closing; what was missed is still pending.
    pub(super) fn wait_out(&self, at_most: Duration) {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout(pending, at_most));
    }

    /// Waits until someone wakes, at most so long; whether someone did.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(pending, at_most, |pending| !*pending);
        std::mem::take(&mut *waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}
