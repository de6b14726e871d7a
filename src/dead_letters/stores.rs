//! The dead letters of all sinks. Each sink's store is opened once per process.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{DeadLetterError, DeadLetterMetrics, DeadLetters, LetterSummary, lock};
use crate::config::{Config, SinkName};
use crate::storage::{Disk, RealDisk};

/// Where every sink's dead letters are had, also those of sinks that were taken out. Cheap to clone.
///
/// A store has an index of its files in memory, so that two of one folder would not see each other's removals.
#[derive(Clone)]
pub struct DeadLetterStores(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    /// `dead` in the journal's folder.
    dir: PathBuf,
    /// Bytes of dead letters of one sink.
    max_size: u64,
    metrics: DeadLetterMetrics,
    /// Held while a store is opened, which may take long.
    opening: Mutex<()>,
    /// Never held during I/O.
    open: Mutex<BTreeMap<SinkName, DeadLetters>>,
}

impl DeadLetterStores {
    /// Touches nothing yet. `disk` is that of the journal, `dir` is `dead` in the journal's folder, `max_size` bounds the
    /// bytes of each sink's letters.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, max_size: u64, metrics: DeadLetterMetrics) -> Self {
        Self(Arc::new(Inner { disk, dir, max_size, metrics, opening: Mutex::default(), open: Mutex::default() }))
    }

    /// Those of a configuration's journal, on the machine's own disk.
    pub fn of(config: &Config, metrics: &DeadLetterMetrics) -> Self {
        let dir = config.journal_dir().join("dead");
        Self::new(RealDisk::shared(), dir, config.journal.dead_max_size, metrics.clone())
    }

    /// The letters of a sink; the folder is made where it is missing. Blocks for as long as it takes to look through
    /// the letters, the first time.
    pub fn open(&self, sink: &SinkName) -> Result<DeadLetters, DeadLetterError> {
        let _opening = lock(&self.0.opening);
        self.open_alone(sink)
    }

    /// As [`DeadLetterStores::open`], by whoever holds `opening`.
    fn open_alone(&self, sink: &SinkName) -> Result<DeadLetters, DeadLetterError> {
        if let Some(letters) = lock(&self.0.open).get(sink) {
            return Ok(letters.clone());
        }
        let letters = DeadLetters::open(Arc::clone(&self.0.disk), &self.0.dir, sink, self.0.max_size, &self.0.metrics)?;
        lock(&self.0.open).insert(sink.clone(), letters.clone());
        Ok(letters)
    }

    /// Opens the letters of all sinks, those without a pump included, so that [`DeadLetterStores::summaries`] and the gauges
    /// show them. What can't be opened is logged. Blocks.
    pub fn open_all(&self) {
        let names = self.names().unwrap_or_else(|error| {
            tracing::error!(%error, "the dead letters of sinks that are not configured can't be listed");
            Vec::new()
        });
        for sink in names {
            if let Err(error) = self.open(&sink) {
                tracing::error!(%sink, %error, "the dead letters of a sink can't be opened");
            }
        }
    }

    /// How many letters there are, for each sink whose letters are open. Does not wait for a disk.
    pub fn summaries(&self) -> BTreeMap<SinkName, LetterSummary> {
        let open = lock(&self.0.open);
        open.iter().map(|(sink, letters)| (sink.clone(), letters.summary())).collect()
    }

    /// `sink` continues `other`, which must have no pump and never get one again: its letters become those of `sink`,
    /// which must have no pump yet. Returns how many there were. Blocks.
    ///
    /// After an error or a crash some letters are with each of the two. The next call takes over the rest.
    pub fn adopt(&self, sink: &SinkName, other: &SinkName) -> Result<u64, DeadLetterError> {
        if !self.names()?.contains(other) {
            return Ok(0);
        }
        let _opening = lock(&self.0.opening);
        let adopted = self.open_alone(sink)?.adopt(&self.open_alone(other)?)?;
        if adopted > 0 {
            tracing::info!(%sink, continues = %other, letters = adopted, "dead letters taken over");
        }
        Ok(adopted)
    }

    /// Every sink that has a folder of letters, in order of their names; it may be empty. Blocks.
    pub fn names(&self) -> Result<Vec<SinkName>, DeadLetterError> {
        let failed = |error| DeadLetterError::Io { path: self.0.dir.clone(), error };
        let entries = match self.0.disk.list(&self.0.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names: Vec<SinkName> = entries.iter().filter_map(|name| name.parse().ok()).collect();
        names.sort();
        Ok(names)
    }
}
