//! Passes the delivery reports of one window from librdkafka's thread to the sink.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::error::RDKafkaErrorCode as Code;
use tokio::sync::Notify;

/// A message's place in its window, and its outcome.
pub(super) type Report = (usize, Result<(), Code>);

/// Collects reports, and wakes the waiting task once there are enough. A wake-up for each would cost more than the
/// report.
#[derive(Default)]
pub(super) struct Reports {
    came: Mutex<Came>,
    enough: Notify,
}

#[derive(Default)]
struct Came {
    reports: Vec<Report>,
    wanted: usize,
}

impl Reports {
    fn came(&self) -> MutexGuard<'_, Came> {
        // Plain values, which are complete even if another thread panicked.
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a report. Never blocks for long.
    pub(super) fn put(&self, report: Report) {
        let mut came = self.came();
        came.reports.push(report);
        if came.reports.len() == came.wanted {
            drop(came);
            self.enough.notify_one();
        }
    }

    /// Waits for `wanted` reports, and takes all that arrived. Cancel-safe.
    pub(super) async fn take(&self, wanted: usize) -> Vec<Report> {
        loop {
            {
                let mut came = self.came();
                if came.reports.len() >= wanted {
                    came.wanted = 0;
                    return std::mem::take(&mut came.reports);
                }
                came.wanted = wanted;
            }
            self.enough.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_waiting_task_is_woken_once_there_are_enough() {
        let reports = Arc::new(Reports::default());
        reports.put((0, Ok(())));
        let waiting = tokio::spawn({
            let reports = Arc::clone(&reports);
            async move { reports.take(3).await.len() }
        });
        tokio::task::yield_now().await;
        reports.put((1, Ok(())));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        reports.put((2, Err(Code::MessageTimedOut)));
        assert_eq!(waiting.await.expect("no panic"), 3);
        reports.put((3, Ok(())));
        assert_eq!(reports.take(1).await, [(3, Ok(()))], "earlier reports are not returned again");
    }
}
