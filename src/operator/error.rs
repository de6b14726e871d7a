//! Why a request can't be carried out now.

use std::io;
use std::time::Duration;

use crate::config::SinkName;
use crate::dead_letters::DeadLetterError;
use crate::delivery::{DeliveryError, PumpEnded};
use crate::journal::ForgetError;

/// Why a request can't be carried out now.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The bridge runs without a journal.
    #[error("with storage = \"none\" there is no journal: nothing to replay, no dead letters, no places of sinks")]
    NoJournal,
    /// The bridge is starting.
    #[error("the journal is not open yet")]
    NotOpen,
    /// Neither the configuration nor the journal nor the dead letters have a sink of this name.
    #[error("unknown sink {0}; `alma-bridge sinks list` shows all")]
    UnknownSink(SinkName),
    /// Only a configured sink can publish.
    #[error("sink {sink} is not configured, so nothing can be published to it; there are: {}", configured.join(", "))]
    NotConfigured {
        /// The sink that was asked for.
        sink: SinkName,
        /// The sinks that could publish.
        configured: Vec<String>,
    },
    /// The sink that the letters belong to can't publish them.
    #[error("{0}; --to names the sink that is to get its letters")]
    NoPublisher(Box<OperatorError>),
    /// The bridge has never run with this sink.
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
        /// The id that no letter has.
        id: u64,
    },
    /// A request names too many letters.
    #[error("found {given} letters in one request, expected at most {most}")]
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
        /// The sink that was to publish the letters.
        sink: SinkName,
        /// What ended.
        error: PumpEnded,
    },
    /// The sink did not answer in time.
    #[error("sink {sink} did not take the letters within {within:?}: {why}")]
    TookTooLong {
        /// The sink that was to publish the letters.
        sink: SinkName,
        /// How long it had.
        within: Duration,
        /// What holds the sink back.
        why: String,
    },
    /// Another replay runs.
    #[error("replay {0} is running, and only one can run at a time")]
    ReplayRuns(String),
    /// The running replay, or the last one, has another name.
    #[error("no replay {0} is known: a restart ends a replay, and you can start it again")]
    UnknownReplay(String),
    /// Nobody fetched what a dry run found.
    #[error("nobody fetched what it found")]
    NobodyAsked,
    /// The sink ended during a replay.
    #[error("the sink was stopped or replaced meanwhile: start again, every event keeps its id")]
    SinkEnded,
    /// A replay can't read the journal.
    #[error("can't read the journal: {0}")]
    Read(io::Error),
    /// The sink can't be started on a stopped bridge's journal.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// A bug.
    #[error("the bridge panicked, see its log")]
    Panicked,
}

/// Runs work that blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OperatorError> {
    crate::storage::blocking(work).await.map_err(|_| OperatorError::Panicked)
}
