//! Many events on several connections, and which of them were taken.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, loan, request};

/// Sends unique events on several connections until told to stop; the numbers of those that got 204.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Taken>>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Taken {
    numbers: Vec<u64>,
    slowest: Duration,
}

impl Load {
    /// `next` is the number of the next event. Any answer but 204 is a failure; a connection that ends is not.
    pub(crate) fn start(address: SocketAddr, next: &Arc<AtomicU64>, connections: usize) -> Self {
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Taken::default())));
        let worker = |_| {
            let (stop, taken, next) = (Arc::clone(&stop), Arc::clone(&taken), Arc::clone(next));
            std::thread::spawn(move || {
                let Some(mut client) = Client::try_connect(address) else { return };
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    client.write(&request("/webhooks", &loan(number)));
                    match client.try_answer() {
                        Some(answer) if answer.status == 204 => {
                            let mut taken = taken.lock().expect("no panic");
                            taken.numbers.push(number);
                            taken.slowest = taken.slowest.max(begun.elapsed());
                        }
                        Some(answer) => panic!("{} for event {number}", answer.status),
                        // Killed.
                        None => return,
                    }
                }
            })
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

    /// Stops, and gives the numbers of those that were taken.
    pub(crate) fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().expect("no panic");
        }
        std::mem::take(&mut self.taken.lock().expect("no panic").numbers)
    }
}

/// The number of an event that [`loan`] made, from its CloudEvents document.
pub(crate) fn number_of(event: &Value) -> u64 {
    event["data"]["item_loan"]["loan_id"].as_str().expect("a loan").parse().expect("a number")
}
