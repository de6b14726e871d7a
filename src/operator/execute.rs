//! Carries out requests on an open journal, whether its bridge runs or not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::error::{OperatorError, blocking};
use super::replay::{Replays, held};
use super::requests::{
    Dropped, Forgotten, Letter, LetterLine, ListedSink, MAX_LETTERS, MAX_RETRIES, OperatorRequest, RetriedLetter,
    RetryOutcome,
};
use crate::config::{Config, SinkName};
use crate::dead_letters::{DeadLetter, DeadLetterStores, DeadLetters, LetterId, LetterSummary, ListedLetter};
use crate::delivery::{DeliveryMetrics, Handles, PumpHandle, Retried};
use crate::journal::Journal;

/// How long a sink may take for the letters of one request. After that, the answer says what holds the sink back. Shorter
/// than the commands wait.
const RETRY_WITHIN: Duration = Duration::from_secs(20);

/// How many bytes of letters are read for one page of the list. No letter can be written meanwhile.
const READ_AT_ONCE: u64 = 32 << 20;
/// How long the sink may then take to answer. What it is sending has a deadline of its own.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Carries out [`OperatorRequest`]s.
pub struct Operator {
    pub(super) journal: Journal,
    pub(super) handles: Handles,
    letters: DeadLetterStores,
    metrics: DeliveryMetrics,
    replays: Replays,
}

impl Operator {
    /// Works on this journal and these letters. The sinks of `handles` publish.
    pub fn new(journal: Journal, handles: Handles, letters: DeadLetterStores, metrics: DeliveryMetrics) -> Self {
        Self { journal, handles, letters, metrics, replays: Replays::default() }
    }

    /// Returns the answer's JSON. `config` is the configuration in effect.
    pub async fn operate(&self, request: OperatorRequest, config: &Config) -> Result<Value, OperatorError> {
        match request {
            OperatorRequest::Sinks {} => Ok(json!(self.sinks(config).await?)),
            OperatorRequest::Forget { sink } => Ok(json!(self.forget(sink).await?)),
            OperatorRequest::Letters { sink, after } => Ok(json!(self.list(&sink, after, config).await?)),
            OperatorRequest::Letter { sink, id } => Ok(json!(self.letter(sink, id, config).await?)),
            OperatorRequest::Retry { sink, ids, to } => Ok(json!(self.retry(&sink, &ids, to.as_ref(), config).await?)),
            OperatorRequest::Drop { sink, ids } => Ok(json!(self.drop(&sink, &ids, config).await?)),
            OperatorRequest::Replay(request) => {
                let handle = if request.dry_run { None } else { Some(self.pump(&request.sink, config)?) };
                Ok(json!(self.replays.begin(request, &self.journal, handle, config)?))
            }
            OperatorRequest::Replayed { run } => Ok(json!(self.replays.progress(&run)?)),
            OperatorRequest::CancelReplay { run } => Ok(json!(self.replays.cancel(&run)?)),
        }
    }

    /// Returns how many dead letters each sink has, for sinks whose letters are open.
    pub fn letters(&self) -> BTreeMap<SinkName, LetterSummary> {
        self.letters.summaries()
    }

    /// Returns every sink that the journal, the configuration or the dead letters know.
    pub async fn sinks(&self, config: &Config) -> Result<Vec<ListedSink>, OperatorError> {
        let (journal, letters) = (self.journal.clone(), self.letters.clone());
        let (known, with_letters) = blocking(move || (journal.sinks(), letters.names())).await?;
        let mut places = Vec::new();
        for sink in &known {
            places.push(ListedSink {
                name: sink.name.clone(),
                state: if sink.configured { "configured" } else { "removed" }.to_owned(),
                waiting_events: sink.backlog.events,
                oldest_waiting: sink.backlog.oldest.map(|oldest| oldest.to_string()),
                dead_letters: 0,
            });
        }
        let known: BTreeSet<SinkName> = known.into_iter().map(|sink| sink.name).collect();
        let new: BTreeSet<SinkName> =
            config.sinks.iter().map(|sink| sink.name.clone()).filter(|name| !known.contains(name)).collect();
        let with_letters = with_letters?.into_iter().collect::<BTreeSet<_>>();
        let without_place = |name: &SinkName, state: &str| ListedSink {
            name: name.clone(),
            state: state.to_owned(),
            waiting_events: 0,
            oldest_waiting: None,
            dead_letters: 0,
        };
        places.extend(new.iter().map(|name| without_place(name, "new")));
        let forgotten = with_letters.iter().filter(|name| !known.contains(*name) && !new.contains(*name));
        places.extend(forgotten.map(|name| without_place(name, "forgotten")));
        for place in places.iter_mut().filter(|place| with_letters.contains(&place.name)) {
            place.dead_letters = self.open_letters(&place.name).await?.summary().letters();
        }
        places.retain(|place| place.state != "forgotten" || place.dead_letters > 0);
        places.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(places)
    }

    async fn forget(&self, sink: SinkName) -> Result<Forgotten, OperatorError> {
        let (journal, name) = (self.journal.clone(), sink.clone());
        let waiting = blocking(move || {
            let known = journal.sinks().into_iter().find(|place| place.name == name);
            journal.forget(&name).map(|()| known.map_or(0, |place| place.backlog.events))
        });
        let waiting_events = waiting.await?.map_err(|error| OperatorError::Forget { sink: sink.clone(), error })?;
        self.metrics.sink_forgotten(&sink);
        tracing::info!(%sink, waiting_events, "sink is forgotten, with what waited for it");
        Ok(Forgotten { waiting_events })
    }

    async fn list(
        &self,
        sink: &SinkName,
        after: Option<u64>,
        config: &Config,
    ) -> Result<Vec<LetterLine>, OperatorError> {
        let letters = self.letters_of(sink, config).await?;
        let page = letters.page(after.map(LetterId), MAX_LETTERS, READ_AT_ONCE).await?;
        Ok(page.into_iter().map(line).collect())
    }

    async fn letter(&self, sink: SinkName, id: u64, config: &Config) -> Result<Letter, OperatorError> {
        let letters = self.letters_of(&sink, config).await?;
        let found = letters.get(LetterId(id)).await?;
        let found = found.ok_or_else(|| OperatorError::NoLetter { sink: sink.clone(), id })?;
        let DeadLetter { id, offset, died, topic, failure, event } = found;
        Ok(Letter {
            id: id.0,
            event: event.id().to_string(),
            sink,
            topic: topic.to_string(),
            reason: failure.reason.to_string(),
            detail: failure.detail,
            source: event.source.to_string(),
            received: event.received.to_string(),
            recorded: event.recorded.to_string(),
            died: died.to_string(),
            offset: offset.0,
            body: STANDARD.encode(&event.body),
        })
    }

    async fn retry(
        &self,
        sink: &SinkName,
        ids: &[u64],
        to: Option<&SinkName>,
        config: &Config,
    ) -> Result<Vec<RetriedLetter>, OperatorError> {
        bounded(ids, MAX_RETRIES)?;
        let letters = self.letters_of(sink, config).await?;
        let to = to.unwrap_or(sink);
        let handle = self.pump(to, config).map_err(|error| OperatorError::NoPublisher(Box::new(error)))?;
        let ids = ids.iter().copied().map(LetterId).collect();
        let until = Instant::now() + RETRY_WITHIN;
        let told = if let Ok(told) = timeout_at(until + ANSWER_WITHIN, handle.retry(&letters, ids, until)).await {
            told.map_err(|error| OperatorError::PumpEnded { sink: to.clone(), error })?
        } else {
            let why = held(&handle).unwrap_or_else(|| "it is slow".to_owned());
            return Err(OperatorError::TookTooLong { sink: to.clone(), within: RETRY_WITHIN, why });
        };
        if to != sink {
            let taken = told.iter().filter(|(_, retried)| *retried == Retried::Taken).count();
            tracing::info!(%sink, %to, taken, "dead letters published to another sink");
        }
        let outcome = |retried| match retried {
            Retried::Taken => RetryOutcome::Taken,
            Retried::Gone => RetryOutcome::Gone,
            Retried::Kept(why) => RetryOutcome::Kept(why),
        };
        Ok(told.into_iter().map(|(id, retried)| RetriedLetter { id: id.0, outcome: outcome(retried) }).collect())
    }

    async fn drop(&self, sink: &SinkName, ids: &[u64], config: &Config) -> Result<Dropped, OperatorError> {
        bounded(ids, MAX_LETTERS)?;
        let letters = self.letters_of(sink, config).await?;
        let dropped = letters.remove(ids.iter().copied().map(LetterId).collect()).await?;
        tracing::info!(%sink, dropped, "dead letters dropped");
        Ok(Dropped { dropped })
    }

    /// Returns the letters of a known sink. An unknown name must not create a folder.
    async fn letters_of(&self, sink: &SinkName, config: &Config) -> Result<DeadLetters, OperatorError> {
        let (journal, letters, name) = (self.journal.clone(), self.letters.clone(), sink.clone());
        let known = blocking(move || {
            let in_journal = journal.sinks().iter().any(|place| place.name == name);
            letters.names().map(|names| in_journal || names.contains(&name))
        });
        let configured = config.sinks.iter().any(|known| known.name == *sink);
        if !configured && !known.await?? {
            return Err(OperatorError::UnknownSink(sink.clone()));
        }
        self.open_letters(sink).await
    }

    async fn open_letters(&self, sink: &SinkName) -> Result<DeadLetters, OperatorError> {
        let (letters, name) = (self.letters.clone(), sink.clone());
        Ok(blocking(move || letters.open(&name)).await??)
    }

    fn pump(&self, sink: &SinkName, config: &Config) -> Result<PumpHandle, OperatorError> {
        self.handles.get(sink).ok_or_else(|| OperatorError::NotConfigured {
            sink: sink.clone(),
            configured: config.sinks.iter().map(|sink| sink.name.to_string()).collect(),
        })
    }
}

fn bounded(ids: &[u64], most: usize) -> Result<(), OperatorError> {
    if ids.len() > most { Err(OperatorError::TooManyLetters { given: ids.len(), most }) } else { Ok(()) }
}

fn line(listed: ListedLetter) -> LetterLine {
    let ListedLetter { info, event } = listed;
    LetterLine {
        id: info.id.0,
        event: event.map(|event| event.to_string()).unwrap_or_default(),
        topic: info.topic.to_string(),
        reason: info.reason.to_string(),
        received: info.received.to_string(),
        bytes: info.bytes,
    }
}
