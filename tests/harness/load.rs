//! Many events on several connections, and which of them were taken.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, loan, request};

/// Sends unique events on several connections until told to stop; the numbers of those that got 204.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Taken>>,
    /// Each gives `None` if its connection was refused or ended.
    workers: Vec<JoinHandle<Option<()>>>,
}

#[derive(Default)]
struct Taken {
    numbers: Vec<u64>,
    slowest: Duration,
}

impl Load {
    /// `next` is the number of the next event. Each connection sends one event at least. Any answer but 204 is a failure.
    pub(crate) fn start(address: SocketAddr, next: &Arc<AtomicU64>, connections: usize) -> Self {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Taken::default())));
        let worker = |_| {
            let (stop, taken, next) = (Arc::clone(&stop), Arc::clone(&taken), Arc::clone(next));
            std::thread::spawn(move || work(address, &stop, &taken, &next))
        };
        let workers = (0..connections).map(worker).collect();
        Self { stop, taken, workers }
    }

    /// How many were taken so far.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().expect("no panic").numbers.len()
    }

    /// How long the slowest answer took so far.
    pub(crate) fn slowest(&self) -> Duration {
        self.taken.lock().expect("no panic").slowest
    }

    /// Stops, and gives the numbers of those that were taken. Fails if a connection was refused or ended before.
    pub(crate) fn end(self) -> Vec<u64> {
        let connections = self.workers.len();
        let (taken, lost) = self.stopped();
        assert_eq!(lost, 0, "{lost} of {connections} connections were refused or ended");
        taken
    }

    /// The same where the bridge was killed or stopped, and its connections ended with it.
    pub(crate) fn end_with_lost_connections(self) -> Vec<u64> {
        self.stopped().0
    }

    /// What was taken, and how many connections were lost.
    fn stopped(self) -> (Vec<u64>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let served: Vec<_> = self.workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
        let taken = std::mem::take(&mut self.taken.lock().expect("no panic").numbers);
        (taken, served.iter().filter(|served| served.is_none()).count())
    }
}

/// One connection's part. `None` if it was refused or ended.
fn work(address: SocketAddr, stop: &AtomicBool, taken: &Mutex<Taken>, next: &AtomicU64) -> Option<()> {
    let mut client = Client::try_connect(address)?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        client.write(&request("/webhooks", &loan(number)));
        let answer = client.try_answer()?;
        assert_eq!(answer.status, 204, "event {number}");
        let mut taken = taken.lock().expect("no panic");
        taken.numbers.push(number);
        taken.slowest = taken.slowest.max(begun.elapsed());
        if stop.load(Ordering::Relaxed) {
            return Some(());
        }
    }
}

/// The number of an event that [`loan`] made, from its CloudEvents document.
pub(crate) fn number_of(event: &Value) -> u64 {
    event["data"]["item_loan"]["loan_id"].as_str().expect("a loan").parse().expect("a number")
}
