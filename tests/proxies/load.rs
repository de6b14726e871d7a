//! Events at a steady rate, each on a connection of its own, and what became of each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::{loan, request, wait_for};
use crate::proxy::Door;

/// How long Alma waits for an answer.
pub(crate) const ALMA_WAITS: Duration = Duration::from_secs(5);

/// One event that was sent.
pub(crate) struct Sent {
    number: u64,
    /// None if the connection was refused, or ended without an answer.
    status: Option<u16>,
    took: Duration,
}

/// A load that goes on until it is ended.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<Mutex<Vec<Sent>>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each of `workers` sends an event every `pause`, or later if the answer takes longer.
    pub(crate) fn start(door: &Door, workers: usize, pause: Duration) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let next = Arc::new(AtomicU64::new(1));
        let worker = |_| {
            let (stop, sent, next, door) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&next), door.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let event = send(&door, next.fetch_add(1, Ordering::Relaxed));
                    sent.lock().expect("no panic").push(event);
                    std::thread::park_timeout(pause.saturating_sub(begun.elapsed()));
                }
            })
        };
        let workers = (0..workers).map(worker).collect();
        Self { stop, sent, workers }
    }

    fn count(&self) -> usize {
        self.sent.lock().expect("no panic").len()
    }

    /// Waits until so many more events were sent than now.
    pub(crate) fn wait_for_more(&self, more: usize) {
        let goal = self.count() + more;
        wait_for("more events to be sent", || (self.count() >= goal).then_some(()));
    }

    pub(crate) fn end(self) -> Outcomes {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.thread().unpark();
            worker.join().expect("no panic");
        }
        Outcomes(std::mem::take(&mut self.sent.lock().expect("no panic")))
    }
}

fn send(door: &Door, number: u64) -> Sent {
    let begun = Instant::now();
    let answer = door.try_client().and_then(|mut client| {
        client.write(&request("/webhooks", &loan(number)));
        client.try_answer()
    });
    Sent { number, status: answer.map(|answer| answer.status), took: begun.elapsed() }
}

/// What became of all events of a load.
pub(crate) struct Outcomes(Vec<Sent>);

impl Outcomes {
    pub(crate) fn total(&self) -> usize {
        self.0.len()
    }

    /// The numbers of those that were answered 204.
    pub(crate) fn taken(&self) -> BTreeSet<u64> {
        self.0.iter().filter(|sent| sent.status == Some(204)).map(|sent| sent.number).collect()
    }

    /// The answers other than 204, none for a connection that was refused or ended.
    pub(crate) fn others(&self) -> Vec<Option<u16>> {
        self.0.iter().map(|sent| sent.status).filter(|status| *status != Some(204)).collect()
    }

    pub(crate) fn slowest(&self) -> Duration {
        self.0.iter().map(|sent| sent.took).max().expect("something was sent")
    }

    /// All were answered 204 while Alma would have waited.
    pub(crate) fn assert_all_taken(&self) {
        assert_eq!(self.others(), [], "of {}", self.total());
        assert!(self.slowest() < ALMA_WAITS, "{:?}", self.slowest());
    }
}
