//! Why a request can't be carried out as things stand.

use std::io;
use std::time::Duration;

use crate::config::SinkName;
use crate::dead_letters::DeadLetterError;
use crate::delivery::{DeliveryError, PumpEnded};
use crate::journal::ForgetError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The bridge runs without a journal.
    #[error("with storage = \"none\" there is no journal: nothing to replay, no dead letters, no places of sinks")]
    NoJournal,
    /// The bridge is starting.
    #[error("the journal is not open yet")]
    NotOpen,
    /// Neither the configuration nor the journal nor the dead letters have a sink of this name.
    #[error("no sink {0} is known; `alma-bridge sinks list` shows all")]
    UnknownSink(SinkName),
    /// Only a configured sink can publish.
    #[error("sink {sink} is not in the configuration, so nothing can be published to it; there are: {}", configured.join(", "))]
    NotConfigured {
        /// The sink that was asked for.
        sink: SinkName,
        /// The sinks that could publish.
        configured: Vec<String>,
    },
    /// The letters' own sink can't publish them.
    #[error("{0}; --to names the sink that is to get its letters")]
    NoPublisher(Box<OperatorError>),
    /// The bridge has not run with this sink yet.
    #[error("the journal does not know sink {0} yet: it has no place before the bridge ran with it")]
    NoPlace(SinkName),
    /// The journal keeps the sink.
    #[error("sink {sink}: {error}")]
    Forget {
        /// The sink that was to be forgotten.
        sink: SinkName,
        /// Why it stays.
        error: ForgetError,
    },
    /// The sink has no letter of this number.
    #[error("sink {sink} has no dead letter {id}")]
    NoLetter {
        /// The sink whose letters were searched.
        sink: SinkName,
        /// The number.
        id: u64,
    },
    /// A request names too many letters.
    #[error("{given} letters at once, at most {most} are taken")]
    TooManyLetters {
        /// How many the request names.
        given: usize,
        /// How many it may name.
        most: usize,
    },
    /// The dead letters can't be read or written.
    #[error(transparent)]
    Letters(#[from] DeadLetterError),
    /// The sink ended before it had tried all letters.
    #[error("sink {sink}: {error}")]
    PumpEnded {
        /// The sink.
        sink: SinkName,
        /// What ended.
        error: PumpEnded,
    },
    /// The sink did not answer in time.
    #[error("sink {sink} did not take the letters within {within:?}: {why}")]
    TookTooLong {
        /// The sink.
        sink: SinkName,
        /// How long it had.
        within: Duration,
        /// What holds it.
        why: String,
    },
    /// One replay runs at a time.
    #[error("replay {0} is going on; only one goes at a time")]
    ReplayRuns(String),
    /// No replay of this name runs, or was the last one.
    #[error("no replay {0} is known; a restart ends it, and it may be begun again")]
    UnknownReplay(String),
    /// Nobody asked for what a dry run found.
    #[error("nobody asked for what it found")]
    NobodyAsked,
    /// The sink ended during a replay.
    #[error("the sink was stopped or replaced meanwhile; begin again, every event keeps its id")]
    SinkEnded,
    /// A replay can't read on.
    #[error("can't read the journal: {0}")]
    Read(io::Error),
    /// The sink can't be started on a stopped bridge's journal.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// A bug.
    #[error("a panic, see the log")]
    Panicked,
}

/// Runs work that waits for the disk.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OperatorError> {
    crate::storage::blocking(work).await.map_err(|_| OperatorError::Panicked)
}
