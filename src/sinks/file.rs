//! `type = "file"`: one CloudEvents line per event, in one file per topic.
//!
//! # On disk
//! - `{dir}/{topic}.jsonl` takes the events: one JSON document a line. Files are 0600, folders 0700.
//! - A file that would pass `rotate` bytes becomes `{dir}/rotated/{topic}/{number}.jsonl`, ten digits, growing, so that
//!   names sort by age; the newest `keep` of a topic stay. No name can be another topic's, and none is longer than the
//!   255 bytes that file systems take. To follow a topic, read `{topic}.jsonl`; when its inode is another, read the old
//!   one to its end, then the new one from its beginning.
//!
//! # What is promised
//! - A line is confirmed once its file is fsynced, and the folder too where a file was created or renamed in it.
//! - A half line at the end of a file (a crash) is cut off when the file is opened.
//! - After a failed write or fsync the file is opened anew and cut back to what was last known durable; nothing behind
//!   that is taken for durable, and its lines are written again.
//! - A file that somebody removes or replaces is noticed with the next window, and made anew.
//! - At most 64 files are open.
//! - One sink writes to a folder: the folder is locked while the sink is connected. Reading needs no lock.
//!
//! # Errors
//! | what | reason |
//! |---|---|
//! | no room: disk, quota, largest file | busy |
//! | all else: rights, a folder that is a file, a folder that another sink has, I/O errors | unreachable |
//! | a write that the disk has not ended | timeout |
//!
//! All are tried again for ever: the message is never at fault.

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

/// How long a window may take: a slow disk's fsync of every topic in it.
const DEADLINE: Duration = Duration::from_secs(30);

/// For another sink of this process, which is being replaced by this one, to let go of the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries at the lock.
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

/// Writes topics to files.
pub struct FileSink {
    files: Arc<Mutex<Files>>,
    /// The last work given to a thread: a disk that hangs keeps one thread, not one a try.
    running: Option<JoinHandle<()>>,
}

impl FileSink {
    /// Touches nothing yet.
    pub fn new(settings: &config::FileSink) -> Self {
        Self { files: Arc::new(Mutex::new(Files::new(settings))), running: None }
    }

    /// Works on the files on a thread that may block; one at a time.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Files) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Err(Failure::new(Reason::Timeout, "the disk has not ended an earlier write"));
        }
        let files = Arc::clone(&self.files);
        let (done, result) = oneshot::channel();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            drop(done.send(work(&mut files)));
        }));
        let result = result.await;
        // Not reached where the caller's deadline ended the wait.
        self.running = None;
        result.map_err(|_| Failure::new(Reason::Unreachable, "the thread that writes died"))
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
            // A topic is told once, and there are no more topics than messages.
            let (tell, mut told) = mpsc::channel(window.len());
            let append =
                self.work(move |files| files.append(&lines, |places, result| drop(tell.try_send((places, result)))));
            // On a slow disk a topic whose file is synced counts, whatever becomes of those after it.
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
                // A panic of the thread was already an outcome.
                drop(running.await);
                self.running = None;
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.abandon().await;
            // What was confirmed is durable; there is nothing to flush.
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

/// What an error of the disk means.
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
