//! `type = "file"`: one CloudEvents line per event, in one file per topic.
//!
//! # On disk
//! - `{dir}/{topic}.jsonl` gets the events: one JSON document per line. Files have mode 0600, folders 0700.
//! - A file that would exceed `rotate` bytes becomes `{dir}/rotated/{topic}/{number}.jsonl`. The number grows and has
//!   ten digits, so names sort by age. The newest `keep` files of a topic stay. No name can belong to another topic,
//!   and none exceeds the 255 bytes that file systems allow. To follow a topic, read `{topic}.jsonl`. When its inode
//!   changes, read the old file to its end, and then the new one from its beginning.
//!
//! # Guarantees
//! - A line is confirmed once its file is fsynced, and also the folder if a file was created or renamed in it.
//! - An incomplete line at the end of a file, as a crash leaves it, is cut off when the file is opened.
//! - After a failed write or fsync, the file is opened again and cut back to its last durable length. The lines after
//!   that are written again.
//! - A file that somebody removes or replaces is noticed with the next window, and created again.
//! - At most 64 files are open at once.
//! - One sink writes to a folder: the folder is locked while the sink is connected. Reading needs no lock.
//!
//! # Errors
//! | what | reason |
//! |---|---|
//! | no room: disk, quota, largest file | busy |
//! | anything else: rights, a folder that is a file, a folder that another sink has, I/O errors | unreachable |
//! | a write that the disk has not finished | timeout |
//!
//! The pump retries all of them for ever, because the message is never the cause.

mod files;
mod folders;
mod lock;
mod probe;
mod tail;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::tools::{Check, TailOptions};
use super::{Failure, Outcome, Outcomes, Reason, Sink, SinkType};
use crate::config;
use crate::message::Message;
use files::Files;

pub use probe::probe;
pub use tail::tail;

/// How long a window may take. A slow disk has to fsync every topic in it.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long to wait for the folder. A sink of this process that is being replaced may still hold it.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts to lock the folder.
const LOCK_RETRY: Duration = Duration::from_millis(20);

impl SinkType for config::FileSink {
    fn build(&self, _: &config::Sink, _: usize) -> Box<dyn Sink> {
        Box::new(FileSink::new(self))
    }

    fn tail<'a>(&'a self, _: &'a config::Sink, options: TailOptions) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(tail(self, options))
    }

    fn probe<'a>(&'a self, _: &'a config::Sink, _: usize, _: &'a [String]) -> BoxFuture<'a, Vec<Check>> {
        Box::pin(probe(self))
    }
}

/// Writes events to topic files.
pub struct FileSink {
    files: Arc<Mutex<Files>>,
    /// The last work that was given to a thread, so that a disk that hangs blocks one thread instead of one per
    /// attempt.
    running: Option<JoinHandle<()>>,
}

impl FileSink {
    /// A sink that has not touched the disk yet.
    pub fn new(settings: &config::FileSink) -> Self {
        Self { files: Arc::new(Mutex::new(Files::new(settings))), running: None }
    }

    /// Works on the files on a blocking thread, one task at a time.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Err(Failure::new(Reason::Timeout, "the disk has not finished an earlier write"));
        }
        let files = Arc::clone(&self.files);
        let (done, result) = oneshot::channel();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            drop(done.send(work(&mut files)));
        }));
        let result = result.await;
        // Not reached if the caller's deadline ended the wait.
        self.running = None;
        result.map_err(|_| Failure::new(Reason::Unreachable, "the thread that writes the files panicked"))
    }
}

impl Sink for FileSink {
    fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(async move {
            let deadline = Instant::now() + LOCK_PATIENCE;
            while !self.work(Files::begin).await?? {
                if Instant::now() >= deadline {
                    return Err(self.work(|files| files.in_use()).await?);
                }
                sleep(LOCK_RETRY).await;
            }
            Ok(Vec::new())
        })
    }

    fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let lines: Vec<_> = window.iter().map(|message| (message.topic.clone(), line(message))).collect();
            // Each topic is reported once, and there are at most as many topics as messages.
            let (tell, mut told) = mpsc::channel(window.len());
            let append =
                self.work(move |files| files.append(&lines, |places, result| drop(tell.try_send((places, result)))));
            // On a slow disk, a topic counts once its file is synced, whatever happens to the next topics.
            let collect = async {
                while let Some((places, result)) = told.recv().await {
                    let outcome = result.map_or_else(Outcome::Failed, |()| Outcome::CONFIRMED);
                    for place in places {
                        outcomes.set(place, outcome.clone());
                    }
                }
            };
            let (appended, ()) = tokio::join!(append, collect);
            if let Err(failure) = appended {
                outcomes.fail_open(&failure);
            }
        })
    }

    fn abandon(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(running) = &mut self.running {
                // If the thread panicked, that was already reported as an outcome.
                drop(running.await);
                self.running = None;
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.abandon().await;
            // Nothing to flush: what was confirmed is durable.
            self.files.lock().unwrap_or_else(PoisonError::into_inner).close();
        })
    }

    fn has_broker(&self) -> bool {
        false
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

/// The failure for an error of the disk.
fn failure(path: &Path, error: &io::Error) -> Failure {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    let reason = match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => Reason::Busy,
        _ => Reason::Unreachable,
    };
    Failure::new(reason, format!("{}: {error}", path.display()))
}

fn line(message: &Message) -> Bytes {
    let mut line = Vec::from(message.structured_line());
    line.push(b'\n');
    line.into()
}
