//! Dead letters: the events that one sink could not take, kept until they are taken after all or dropped by hand.
//!
//! # What is promised
//! - [`DeadLetters::append`] returns once the letters are fsynced, so that the cursor may pass them.
//! - A letter leaves only by [`DeadLetters::remove`]: after the sink confirmed it, or by `dead-letters drop`.
//! - Over `dead_max_size` bytes of letters nothing is appended: the sink waits. Files are written anew without the
//!   letters that are gone, so that they have little more than that (`compact`).
//! - The same event again (same offset, same time of receipt: a cursor is written behind what it stands for) is not
//!   kept twice.
//!
//! # On disk
//! `{journal}/dead/{sink}/{number}.letters`, 0600, the number of 16 digits growing. Every start and every failed write
//! begins a new file, as does one that has 8 MiB. All numbers are little-endian, all CRCs are CRC32C.
//!
//! ```text
//! file    "ALMADEAD" · version u32 (1) · seed u32 (random) · CRC of these 16 bytes
//! frame   mark u32 · length of the payload u32 · CRC of these 8 bytes · CRC of the payload · state u32 · payload
//! payload id u64 · offset u64 · received u64 · recorded u64 · died u64 (µs since 1970)
//!         · reason · source · topic · detail (each: length u16, UTF-8) · body to the end
//! ```
//! Mark, CRCs and state of a frame are made from the file's seed, so that no body can pose as a frame. The state says
//! whether the letter is gone: 0 is kept, `CRC("gone")` is gone; it is written in place and lies in no CRC. A file
//! whose letters are all gone is removed. A file that is written anew is called `{number}.letters.new` until it takes the
//! place of the old one.
//!
//! # What a crash can leave behind, and what is done about it
//! - A frame that is not whole at the end of a file: never acknowledged, cut off at the next start.
//! - A file that is no longer than its header, which is not whole: never held a letter, removed.
//! - Whole frames that are in the page cache only: written anew and synced before anyone relies on them.
//! - A state that was not yet written: the letter is published again, under the same id.
//! - A frame whose CRC does not fit: loss, and loud. It is skipped, counted and stays where it is; the frames behind it
//!   are found by their marks. When the file is written anew, or its other letters are gone, the
//!   damaged bytes go to `damaged/` beside it.
//! - A file that ends in `.new`: the old one is still there, removed.
//! - Files of a sink that is continued by another one (`adopt`): they are with the one or the other. The rest follows at
//!   the next start.
//! - A copy under another reason beside its letter: when the letter is reclassified again, it makes no second copy.
//! - Of letters that were appended at once, a torn one with a whole one behind it, where the power went before their
//!   sync: looks like loss, and is told as such. Their events come again from the journal.
//! - Another format version: nothing is touched, and opening fails.
//!
//! The commands read and drop letters in the folder of a bridge that does not run (they hold the journal's lock), or
//! ask the one that does: both through [`DeadLetters`].

mod adopt;
mod compact;
mod format;
mod letter_file;
mod letter_files;
mod metrics;
mod reading;
mod recover;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::journal::Offset;
use crate::message::{EventId, StoredEvent};
use crate::sinks::{Failure, Reason};
use crate::storage::Disk;
use crate::storage::blocking;
use letter_files::LetterFiles;
pub use metrics::DeadLetterMetrics;
pub use stores::DeadLetterStores;

/// The id of a letter for `dead-letters show|retry|drop`. Ids are unique within a sink, and grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId(pub u64);

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event that its sink could not take.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its name; [`DeadLetters::append`] gives it.
    pub id: LetterId,
    /// Its place in the journal.
    pub offset: Offset,
    /// When it became a dead letter.
    pub died: Timestamp,
    /// The topic. Empty if the event could not be made into a message.
    pub topic: Arc<str>,
    /// Why it was not.
    pub failure: Failure,
    /// The event, byte for byte.
    pub event: StoredEvent,
}

impl DeadLetter {
    /// What tells its event from all others.
    const fn place(&self) -> (Offset, Timestamp) {
        (self.offset, self.event.received)
    }
}

/// Letters of a topic, in order.
#[derive(Debug, Default)]
pub struct NextLetters {
    /// The letters that could be read.
    pub letters: Vec<DeadLetter>,
    /// How many could not be read this time. They are kept.
    pub unread: usize,
    /// The last letter that was looked at, or `None` if there was none.
    pub last: Option<LetterId>,
}

/// What the index knows of a letter. It has no personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterInfo {
    /// Its name.
    pub id: LetterId,
    /// Its place in the journal.
    pub offset: Offset,
    /// When its request came.
    pub received: Timestamp,
    /// Where it was to be published.
    pub topic: Arc<str>,
    /// Why it was not.
    pub reason: Reason,
    /// Its size on disk.
    pub bytes: u64,
}

/// A letter as `dead-letters list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLetter {
    /// What the index knows of it.
    pub info: LetterInfo,
    /// The CloudEvents id of its event, or `None` if the letter can't be read.
    pub event: Option<EventId>,
}

/// Counts of a sink's letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterSummary {
    /// Letters by reason. Reasons without letters are left out.
    pub by_reason: BTreeMap<Reason, u64>,
    /// The same by topic.
    pub by_topic: BTreeMap<Arc<str>, BTreeMap<Reason, u64>>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Letters that were found damaged since the start.
    pub damaged: u64,
    /// Letters whose last read failed.
    pub unreadable: u64,
}

impl LetterSummary {
    /// All letters.
    pub fn letters(&self) -> u64 {
        self.by_reason.values().sum()
    }

    /// Letters of a topic with a reason that fits.
    pub fn letters_of(&self, topic: &str, fits: impl Fn(Reason) -> bool) -> u64 {
        let of_topic = self.by_topic.get(topic).into_iter().flatten();
        of_topic.filter(|(reason, _)| fits(**reason)).map(|(_, count)| count).sum()
    }
}

/// Why dead letters can't be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// `dead_max_size` is reached.
    #[error("dead letters full: {bytes} bytes are kept and {more} more are due, dead_max_size is {max_size}")]
    Full {
        /// Bytes of the letters that are kept.
        bytes: u64,
        /// Bytes that the new letters need.
        more: u64,
        /// The bound.
        max_size: u64,
    },
    /// The disk failed.
    #[error("{path}: {error}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// A file is not of the format version that this program writes.
    #[error("{path}: {found}; nothing was touched")]
    Version {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        found: String,
    },
    /// A letter that was whole at the start can't be read.
    #[error("dead letter {0} is damaged")]
    Damaged(LetterId),
    /// The thread that worked on the disk panicked.
    #[error("the dead letters' store panicked")]
    Died,
}

/// The dead letters of one sink. Cheap to clone; the pump and the admin listener share it.
#[derive(Clone)]
pub struct DeadLetters(Arc<Shared>);

struct Shared {
    sink: SinkName,
    max_size: u64,
    metrics: DeadLetterMetrics,
    /// Held during reads, writes and fsyncs, so only blocking threads take it.
    store: Mutex<LetterFiles>,
    /// For `/status` and the gauges, which must not wait for a disk.
    summary: Mutex<LetterSummary>,
}

impl DeadLetters {
    /// Opens the folder `{dead_dir}/{sink}`, cuts off what a crash left half, and says loudly what is damaged.
    ///
    /// Blocks. `disk` is that of the journal, `dead_dir` is `dead` in its folder; neither folder needs to exist.
    pub fn open(
        disk: Arc<dyn Disk>,
        dead_dir: &Path,
        sink: &SinkName,
        max_size: u64,
        metrics: &DeadLetterMetrics,
    ) -> Result<Self, DeadLetterError> {
        let store = LetterFiles::open(disk, &dead_dir.join(sink.as_str()))?;
        if store.damaged > 0 {
            tracing::error!(%sink, damaged = store.damaged, "dead letters are damaged; their bytes are kept");
        }
        let letters = Self(Arc::new(Shared {
            sink: sink.clone(),
            max_size,
            metrics: metrics.clone(),
            summary: Mutex::new(LetterSummary::default()),
            store: Mutex::new(store),
        }));
        letters.0.publish_summary(&lock(&letters.0.store));
        Ok(letters)
    }

    /// Makes letters durable, in their order, but for those that are kept already. Ids in them are of no account.
    ///
    /// One fsync for all. All are kept or none is.
    pub async fn append(&self, letters: Vec<DeadLetter>) -> Result<(), DeadLetterError> {
        let max_size = self.0.max_size;
        self.with(move |store| store.append_new(letters, max_size)).await
    }

    /// Keeps a letter under another reason, also if there is no room: a copy is made durable, then the letter is
    /// removed.
    pub async fn reclassify(&self, id: LetterId, failure: Failure, died: Timestamp) -> Result<(), DeadLetterError> {
        self.with(move |store| store.reclassify(id, failure, died)).await
    }

    /// Takes over all letters of another sink, durably, and returns how many there were. Blocks.
    ///
    /// A letter is with one of the two at any moment, or with both after a crash in between; it is then taken over
    /// again without being kept twice.
    pub(super) fn adopt(&self, other: &Self) -> Result<u64, DeadLetterError> {
        let (mut store, mut left) = (lock(&self.0.store), lock(&other.0.store));
        let adopted = store.adopt(&mut left);
        self.0.publish_summary(&store);
        other.0.publish_summary(&left);
        adopted
    }

    /// Removes letters durably, and returns how many were still there.
    pub async fn remove(&self, ids: Vec<LetterId>) -> Result<u64, DeadLetterError> {
        self.with(move |store| store.remove(&ids)).await
    }

    /// Returns a whole letter, or `None` if there is none with this id.
    pub async fn get(&self, id: LetterId) -> Result<Option<DeadLetter>, DeadLetterError> {
        self.with(move |store| store.get(id)).await
    }

    /// All letters, oldest first, without their bodies.
    pub async fn list(&self) -> Result<Vec<LetterInfo>, DeadLetterError> {
        self.with(|store| Ok(store.list())).await
    }

    /// The oldest letters after `after` with the ids of their events, for which each is read: up to `max` of them or
    /// `max_bytes`, but at least one if there is one.
    pub async fn page(
        &self,
        after: Option<LetterId>,
        max: usize,
        max_bytes: u64,
    ) -> Result<Vec<ListedLetter>, DeadLetterError> {
        self.with(move |store| Ok(store.page(after, max, max_bytes))).await
    }

    /// The oldest letters of a topic after `after` whose reason fits: up to `max` of them or `max_bytes`, at least one
    /// if any can be read.
    pub async fn next_of(
        &self,
        topic: Arc<str>,
        fits: impl Fn(Reason) -> bool + Send + 'static,
        after: Option<LetterId>,
        max: usize,
        max_bytes: usize,
    ) -> Result<NextLetters, DeadLetterError> {
        self.with(move |store| Ok(store.next_of(&topic, &fits, after, max, max_bytes))).await
    }

    /// How many letters there are. Does not wait for the disk.
    pub fn summary(&self) -> LetterSummary {
        lock(&self.0.summary).clone()
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut LetterFiles) -> Result<T, DeadLetterError> + Send + 'static,
    ) -> Result<T, DeadLetterError> {
        let shared = Arc::clone(&self.0);
        let done = blocking(move || {
            let mut store = lock(&shared.store);
            let result = work(&mut store);
            shared.publish_summary(&store);
            result
        });
        done.await.unwrap_or(Err(DeadLetterError::Died))
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").field("sink", &self.0.sink).finish_non_exhaustive()
    }
}

impl Shared {
    fn publish_summary(&self, store: &LetterFiles) {
        let summary = store.summary();
        for reason in Reason::ALL {
            let kept = summary.by_reason.get(&reason).copied().unwrap_or_default();
            self.metrics.set_kept(&self.sink, reason, kept);
        }
        *lock(&self.summary) = summary;
    }
}

/// The store is used on after a panic of a thread that held it: what its index then lacks is on disk until the next
/// start.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
