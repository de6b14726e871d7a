//! The journal as the rest of the bridge holds it.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use super::dedupe::key_of;
use super::error::JournalOpenError;
use super::format::SEGMENT_START;
use super::open::{first_cursor, open};
use super::reader::JournalReader;
use super::retained::Retained;
use super::state::{Shared, SinkEntry};
use super::stats::JournalStats;
use super::writer::{Append, Writer, WriterCommand};
use super::{Backlog, Intake, JournalLock, JournalOptions, NotTaken, Offset, Registration, Taken, maintenance};
use crate::alma::Verified;
use crate::clock::Timestamp;
use crate::config::{SinkName, SourceName};
use crate::storage::{blocking, remove_if_there};

/// Bytes of the newest files that [`Journal::newest_events`] reads: at least one file of the usual size.
const LOOK_BACK: u64 = 64 * 1024 * 1024;

/// The durable log. Cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    commands: Sender<WriterCommand>,
    /// Bounds the queue for the writer. Callers wait while it is full.
    queue: Arc<Semaphore>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The first thread that panicked.
    died: watch::Sender<Option<&'static str>>,
}

/// A sink's place in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkBacklog {
    /// The name under which the journal keeps the place.
    pub name: SinkName,
    /// Everything before it is settled.
    pub cursor: Offset,
    /// What waits for the sink. If the oldest event can't be read, its time is that of its segment.
    pub backlog: Backlog,
    /// Whether the sink is configured. If not, it only keeps its place and its events.
    pub configured: bool,
}

/// Why a sink can't be forgotten.
#[derive(Debug, thiserror::Error)]
pub enum ForgetError {
    /// The journal has no such sink.
    #[error("no sink of this name is known to the journal")]
    Unknown,
    /// The configuration still names it.
    #[error("the sink is configured; take it out of the configuration first")]
    Configured,
    /// The list of sinks could not be written.
    #[error("can't write the list of sinks: {0}")]
    Io(#[from] io::Error),
}

impl Journal {
    /// Opens the journal, or creates it, repairs what a crash left, and starts the threads. Blocks. The time it takes does
    /// not depend on the backlog.
    pub fn open(mut options: JournalOptions) -> Result<Self, JournalOpenError> {
        let lock = options.lock.take().map(Arc::new);
        let dir = options.dir.clone();
        let (journal, writer) = Self::open_idle(options)?;
        let maintained = Arc::clone(&journal.0.shared);
        let runtime = Handle::try_current().ok();
        let threads = vec![
            spawn("journal-writer", lock.clone(), &journal.0.died, move || writer.run(runtime)),
            spawn("journal-maint", lock, &journal.0.died, move || maintenance::run(&maintained)),
        ];
        let threads: Vec<_> =
            threads.into_iter().collect::<io::Result<_>>().map_err(JournalOpenError::io("start threads for", &dir))?;
        journal.threads().extend(threads);
        Ok(journal)
    }

    /// Opens the journal without its threads. Nothing is written yet.
    fn open_idle(options: JournalOptions) -> Result<(Self, Writer), JournalOpenError> {
        let queue = Arc::new(Semaphore::new(options.limits.queue));
        let (shared, dedupe) = open(options)?;
        let shared = Arc::new(shared);
        let (commands, queued) = channel();
        let previous = shared.state().previous();
        let writer = Writer::start(Arc::clone(&shared), queued, dedupe, previous);
        let (died, _) = watch::channel(None);
        Ok((Self(Arc::new(Inner { shared, commands, queue, threads: Mutex::default(), died })), writer))
    }

    /// Opens the journal without its threads. A test takes their steps.
    #[cfg(test)]
    pub(crate) fn open_stepped(options: JournalOptions) -> Result<(Self, super::Steps), JournalOpenError> {
        let (journal, writer) = Self::open_idle(options)?;
        let steps = super::Steps::new(Arc::clone(&journal.0.shared), writer);
        Ok((journal, steps))
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves with the name of a thread of the journal if one panics. Then no event is taken or deleted any more until the
    /// process is started again.
    pub async fn died(&self) -> &'static str {
        let mut died = self.0.died.subscribe();
        loop {
            if let Some(thread) = *died.borrow_and_update() {
                return thread;
            }
            if died.changed().await.is_err() {
                // The journal is gone, so nobody can report a panic any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns the sink's reader, or `None` if the sink is unknown or has one already.
    pub fn reader(&self, sink: &SinkName) -> Option<JournalReader> {
        JournalReader::new(&self.0.shared, sink)
    }

    /// Adds a sink while the journal runs, or takes one back that was retired; durable when it returns. Blocks.
    pub fn register(&self, registration: &Registration) -> io::Result<()> {
        let shared = &self.0.shared;
        let mut files = shared.small_files();
        let mut taken_over = None;
        {
            let mut state = shared.state();
            if let Some(place) = state.sinks.get_mut(&registration.name) {
                (place.configured, place.best_effort) = (true, registration.best_effort);
                return Ok(());
            }
            let mut place = SinkEntry::new(first_cursor(&state, registration));
            (place.configured, place.best_effort) = (true, registration.best_effort);
            state.sinks.insert(registration.name.clone(), place);
            if let Some(other) = &registration.continues
                && state.sinks.get(other).is_some_and(|place| !place.configured && !place.reading)
            {
                taken_over = state.sinks.remove_entry(other);
            }
        }
        if let Err(error) = shared.write_sinks(&mut files) {
            let mut state = shared.state();
            state.sinks.remove(&registration.name);
            state.sinks.extend(taken_over);
            return Err(error);
        }
        if let Some((name, _)) = taken_over {
            shared.remove_cursor(&mut files, &name);
        }
        Ok(())
    }

    /// The configuration does not name the sink any more: it keeps its place and what waits for it until it is
    /// registered again or forgotten. Nothing where it is unknown.
    pub fn retire(&self, sink: &SinkName) {
        if let Some(place) = self.0.shared.state().sinks.get_mut(sink) {
            (place.configured, place.best_effort) = (false, false);
        }
    }

    /// Lets go of a retired sink's place and of what waits for it alone; durable when it returns. Blocks.
    pub fn forget(&self, sink: &SinkName) -> Result<(), ForgetError> {
        let shared = &self.0.shared;
        let mut files = shared.small_files();
        let place = {
            let mut state = shared.state();
            let place = state.sinks.get(sink).ok_or(ForgetError::Unknown)?;
            if place.configured {
                return Err(ForgetError::Configured);
            }
            state.sinks.remove(sink)
        };
        // Were the cursor to stay longer than the name, it could come back with the name.
        files.cursors.remove(sink);
        let path = shared.paths.cursors.join(sink.as_str());
        let gone = remove_if_there(&*shared.disk, &path)
            .and_then(|()| shared.disk.sync_dir(&shared.paths.cursors))
            .and_then(|()| shared.write_sinks(&mut files));
        if let Err(error) = gone {
            let place = place.map(|place| SinkEntry { on_disk: None, ..place });
            let mut state = shared.state();
            state.sinks.extend(place.map(|place| (sink.clone(), place)));
            // The list on disk may be without it already: what is taken now must not pass it by.
            state.unregistered = Some(format!("can't write the list of sinks: {error}"));
            return Err(error.into());
        }
        shared.wake.wake();
        Ok(())
    }

    /// Whether the sink has a place, configured or not.
    pub fn knows(&self, sink: &SinkName) -> bool {
        self.0.shared.state().sinks.contains_key(sink)
    }

    /// Every sink that the journal knows, in order of their names. May read one record a sink.
    pub fn sinks(&self) -> Vec<SinkBacklog> {
        let shared = &self.0.shared;
        let all: Vec<_> =
            shared.state().sinks.iter().map(|(name, place)| (name.clone(), place.cursor, place.configured)).collect();
        let status = |(name, cursor, configured): (SinkName, super::cursor::Cursor, bool)| SinkBacklog {
            backlog: shared.backlog_of(&name),
            name,
            cursor: Offset(cursor.offset),
            configured,
        };
        all.into_iter().map(status).collect()
    }

    /// The cursor of every sink and how many events it has not passed, without a look at the disk.
    #[cfg(test)]
    pub(crate) fn places(&self) -> Vec<(SinkName, Offset, u64)> {
        let state = self.0.shared.state();
        let place = |(name, place): (&SinkName, &SinkEntry)| {
            (name.clone(), Offset(place.cursor.offset), state.events_from(place.cursor.offset))
        };
        state.sinks.iter().map(place).collect()
    }

    /// Sizes and health.
    pub fn stats(&self) -> JournalStats {
        let state = self.0.shared.state();
        let waiting_bytes = state.waiting_bytes();
        JournalStats {
            waiting_bytes,
            delivered_bytes: state.all_bytes().saturating_sub(waiting_bytes),
            max_size: self.0.shared.config.max_size,
            free_bytes: state.free,
            min_free: self.0.shared.config.min_free,
            damaged_records: state.damaged,
            set_aside: state.set_aside.clone(),
            next_offset: Offset(state.end()),
            segments: state.segments.len(),
            failing: state.failure(),
        }
    }

    /// Returns the retained events that were made durable at `from` or later, and before `to` if it is given, in order.
    /// Reading them blocks.
    pub fn scan(&self, from: Timestamp, to: Option<Timestamp>) -> Retained {
        let shared = &self.0.shared;
        let segments = shared.state().segments.clone();
        Retained::new(Arc::clone(&shared.disk), shared.paths.clone(), segments, from, to)
    }

    /// When the newest event of each of these sources was made durable. Reads only the newest 64 MiB or so, and leaves out
    /// sources that are not there. Blocks.
    pub fn newest_events(&self, sources: &[SourceName]) -> BTreeMap<SourceName, Timestamp> {
        let shared = &self.0.shared;
        let segments = shared.state().segments.clone();
        let (mut newest, mut left) = (BTreeMap::new(), LOOK_BACK);
        for segment in segments.into_iter().rev() {
            if newest.len() == sources.len() || left == 0 {
                break;
            }
            left = left.saturating_sub(segment.length);
            let (disk, paths) = (Arc::clone(&shared.disk), shared.paths.clone());
            let events = Retained::new(disk, paths, [segment].into(), Timestamp::default(), None);
            // Delivery reports what can't be read.
            let in_order = events.map_while(Result::ok).map(|(_, event)| (event.source, event.recorded));
            for (source, recorded) in in_order.collect::<BTreeMap<_, _>>() {
                if sources.contains(&source) {
                    newest.entry(source).or_insert(recorded);
                }
            }
        }
        newest
    }

    /// Stops taking events, writes those that are queued, names the durable end, writes the cursors, and ends the threads.
    /// Events that are settled afterwards will be published again. The caller must bound the wait, because the disk may
    /// hang.
    pub async fn close(&self) {
        self.0.queue.close();
        drop(self.0.commands.send(WriterCommand::Close));
        let threads = std::mem::take(&mut *self.threads());
        let joined = blocking(move || threads.into_iter().all(|thread| thread.join().is_ok())).await;
        if !joined.unwrap_or(false) {
            tracing::error!("journal: a thread of the journal panicked");
        }
    }

    /// Makes the writer panic.
    #[cfg(test)]
    pub(crate) fn break_writer(&self) {
        drop(self.0.commands.send(WriterCommand::Panic));
    }

    /// Does the work of the maintenance thread synchronously.
    #[cfg(test)]
    pub(super) fn maintain(&self) {
        self.0.shared.maintain();
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> Timestamp {
        self.0.shared.clock.now()
    }
}

impl Intake for Journal {
    async fn take(&self, event: Verified, received: Timestamp) -> Result<Taken, NotTaken> {
        let key = key_of(event.source(), event.digest());
        let permit = Arc::clone(&self.0.queue).acquire_owned().await.map_err(|_| NotTaken::NotRunning)?;
        let (answer, answered) = oneshot::channel();
        let append = Append { event, received, key, answer, _permit: permit };
        self.0.commands.send(WriterCommand::Append(append)).map_err(|_| NotTaken::NotRunning)?;
        answered.await.unwrap_or(Err(NotTaken::NotRunning))
    }

    fn ready(&self) -> Result<(), NotTaken> {
        let config = &self.0.shared.config;
        let state = self.0.shared.state();
        if state.closed {
            return Err(NotTaken::NotRunning);
        }
        if let Some(why) = state.failure() {
            return Err(NotTaken::DiskFailing(why));
        }
        let waiting = state.waiting_bytes();
        // No event is smaller than this. Events of best_effort sinks give way.
        let gives_way =
            state.sinks.values().all(|place| place.best_effort || state.locate(place.cursor.offset).is_none());
        if waiting + SEGMENT_START > config.max_size && !gives_way {
            return Err(NotTaken::Full { waiting, max_size: config.max_size });
        }
        if state.free < config.min_free {
            return Err(NotTaken::DiskFull { free: state.free, min_free: config.min_free });
        }
        Ok(())
    }
}

fn spawn(
    name: &'static str,
    lock: Option<Arc<JournalLock>>,
    died: &watch::Sender<Option<&'static str>>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let death = Death { thread: name, died: died.clone() };
    let held = move || {
        run();
        drop(death);
        // Another process may write only after the thread has ended.
        drop(lock);
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(held)
}

/// Reports it if the thread that owns this panics.
struct Death {
    thread: &'static str,
    died: watch::Sender<Option<&'static str>>,
}

impl Drop for Death {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.died.send_if_modified(|died| died.replace(self.thread).is_none());
        }
    }
}
