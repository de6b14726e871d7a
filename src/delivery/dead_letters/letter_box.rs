//! The dead letters of all sinks, each sink's opened once in this process.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::{DeadLetterError, DeadLetters, lock};
use crate::config::SinkName;
use crate::journal::Disk;
use crate::telemetry::Metrics;

/// Where every sink's dead letters are had, also those of sinks that were taken out. Cheap to clone.
///
/// A store has an index of its files in memory, so that two of one folder would not see each other's removals.
#[derive(Clone)]
pub struct LetterBox(Arc<Inner>);

struct Inner {
    disk: Arc<dyn Disk>,
    /// `dead` in the journal's folder.
    dir: PathBuf,
    /// Bytes of dead letters of one sink.
    max_size: u64,
    metrics: Metrics,
    open: Mutex<BTreeMap<SinkName, DeadLetters>>,
}

impl LetterBox {
    /// Touches nothing yet. `disk` is that of the journal, `dir` is `dead` in the journal's folder, `max_size` bounds the bytes of each sink's letters.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, max_size: u64, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { disk, dir, max_size, metrics, open: Mutex::default() }))
    }

    /// The letters of a sink; the folder is made where it is missing. Blocks for as long as it takes to look through
    /// the letters, the first time.
    pub fn open(&self, sink: &SinkName) -> Result<DeadLetters, DeadLetterError> {
        let mut open = lock(&self.0.open);
        if let Some(letters) = open.get(sink) {
            return Ok(letters.clone());
        }
        let letters = DeadLetters::open(Arc::clone(&self.0.disk), &self.0.dir, sink, self.0.max_size, &self.0.metrics)?;
        open.insert(sink.clone(), letters.clone());
        Ok(letters)
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
