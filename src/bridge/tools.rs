//! The tools for the bad day, on an open journal: that of the running bridge, or that of a stopped one.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::replay::Replays;
use crate::admin::tools::{
    Dropped, Forgotten, Letter, LetterLine, MAX_LETTERS, MAX_RETRIES, Order, Place, RetriedLetter, RetryOutcome,
};
use crate::config::{Config, SinkName};
use crate::dead_letters::{DeadLetter, DeadLetterStores, DeadLetters, LetterId, ListedLetter};
use crate::delivery::{DeliveryMetrics, Handles, PumpHandle, Retried, SinkState};
use crate::journal::Journal;

/// For one order's letters to be taken, before it is told what holds the sink. Shorter than the commands' patience.
const RETRY_WITHIN: Duration = Duration::from_secs(20);

/// Bytes of letters that are read for one page of the list: meanwhile no letter can be kept.
const READ_AT_ONCE: u64 = 32 << 20;
/// For the sink to answer after that: what it is sending then has a deadline of its own.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What `storage = "none"` answers.
pub(super) const NO_JOURNAL: &str =
    "with storage = \"none\" there is no journal: nothing to replay, no dead letters, no places of sinks";

/// Carries out [`Order`]s.
pub(super) struct Tools {
    pub(super) journal: Journal,
    pub(super) handles: Handles,
    pub(super) letters: DeadLetterStores,
    metrics: DeliveryMetrics,
    replays: Replays,
}

impl Tools {
    pub(super) fn new(journal: Journal, handles: Handles, letters: DeadLetterStores, metrics: DeliveryMetrics) -> Self {
        Self { journal, handles, letters, metrics, replays: Replays::default() }
    }

    /// The answer's JSON, or why it can't be done as things stand. `config`: the one in effect.
    pub(super) async fn operate(&self, order: Order, config: &Config) -> Result<Value, String> {
        match order {
            Order::Sinks {} => json(&self.sinks(config).await?),
            Order::Forget { sink } => json(&self.forget(sink).await?),
            Order::Letters { sink, after } => json(&self.list(&sink, after, config).await?),
            Order::Letter { sink, id } => json(&self.letter(sink, id, config).await?),
            Order::Retry { sink, ids, to } => json(&self.retry(&sink, &ids, to.as_ref(), config).await?),
            Order::Drop { sink, ids } => json(&self.drop(&sink, &ids, config).await?),
            Order::Replay(order) => {
                let handle = if order.dry_run { None } else { Some(self.pump(&order.sink, config)?) };
                json(&self.replays.begin(order, &self.journal, handle, config)?)
            }
            Order::Replayed { run } => json(&self.replays.progress(&run)?),
            Order::CancelReplay { run } => json(&self.replays.cancel(&run)?),
        }
    }

    pub(super) async fn sinks(&self, config: &Config) -> Result<Vec<Place>, String> {
        let (journal, letters) = (self.journal.clone(), self.letters.clone());
        let (known, with_letters) = blocking(move || (journal.sinks(), letters.names())).await?;
        let mut places = Vec::new();
        for sink in &known {
            places.push(Place {
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
        let with_letters = with_letters.map_err(text)?.into_iter().collect::<BTreeSet<_>>();
        let without_place = |name: &SinkName, state: &str| Place {
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

    async fn forget(&self, sink: SinkName) -> Result<Forgotten, String> {
        let (journal, name) = (self.journal.clone(), sink.clone());
        let waiting = blocking(move || {
            let known = journal.sinks().into_iter().find(|place| place.name == name);
            journal.forget(&name).map(|()| known.map_or(0, |place| place.backlog.events))
        });
        let waiting_events = waiting.await?.map_err(|error| format!("sink {sink}: {error}"))?;
        self.metrics.sink_forgotten(&sink);
        tracing::info!(%sink, waiting_events, "sink is forgotten, with what waited for it");
        Ok(Forgotten { waiting_events })
    }

    async fn list(&self, sink: &SinkName, after: Option<u64>, config: &Config) -> Result<Vec<LetterLine>, String> {
        let letters = self.letters_of(sink, config).await?;
        let page = letters.page(after.map(LetterId), MAX_LETTERS, READ_AT_ONCE).await.map_err(text)?;
        Ok(page.into_iter().map(line).collect())
    }

    async fn letter(&self, sink: SinkName, id: u64, config: &Config) -> Result<Letter, String> {
        let letters = self.letters_of(&sink, config).await?;
        let found = letters.get(LetterId(id)).await.map_err(text)?;
        let found = found.ok_or_else(|| format!("sink {sink} has no dead letter {id}"))?;
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
    ) -> Result<Vec<RetriedLetter>, String> {
        bounded(ids, MAX_RETRIES)?;
        let letters = self.letters_of(sink, config).await?;
        let to = to.unwrap_or(sink);
        let handle =
            self.pump(to, config).map_err(|why| format!("{why}; --to names the sink that is to get its letters"))?;
        let ids = ids.iter().copied().map(LetterId).collect();
        let until = Instant::now() + RETRY_WITHIN;
        let told = if let Ok(told) = timeout_at(until + ANSWER_WITHIN, handle.retry(&letters, ids, until)).await {
            told.map_err(|stopped| format!("sink {to}: {stopped}"))?
        } else {
            let why = held(&handle).unwrap_or_else(|| "it is slow".to_owned());
            return Err(format!("sink {to} did not take the letters within {RETRY_WITHIN:?}: {why}"));
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

    async fn drop(&self, sink: &SinkName, ids: &[u64], config: &Config) -> Result<Dropped, String> {
        bounded(ids, MAX_LETTERS)?;
        let letters = self.letters_of(sink, config).await?;
        let dropped = letters.remove(ids.iter().copied().map(LetterId).collect()).await.map_err(text)?;
        tracing::info!(%sink, dropped, "dead letters dropped");
        Ok(Dropped { dropped })
    }

    /// The letters of a sink that somebody knows: a folder is not made for any name that is asked for.
    async fn letters_of(&self, sink: &SinkName, config: &Config) -> Result<DeadLetters, String> {
        let (journal, letters, name) = (self.journal.clone(), self.letters.clone(), sink.clone());
        let known = blocking(move || {
            let in_journal = journal.sinks().iter().any(|place| place.name == name);
            letters.names().map(|names| in_journal || names.contains(&name))
        });
        let configured = config.sinks.iter().any(|known| known.name == *sink);
        if !configured && !known.await?.map_err(text)? {
            return Err(format!("no sink {sink} is known; `alma-bridge sinks list` shows all"));
        }
        self.open_letters(sink).await
    }

    async fn open_letters(&self, sink: &SinkName) -> Result<DeadLetters, String> {
        let (letters, name) = (self.letters.clone(), sink.clone());
        blocking(move || letters.open(&name)).await?.map_err(text)
    }

    fn pump(&self, sink: &SinkName, config: &Config) -> Result<PumpHandle, String> {
        self.handles.get(sink).ok_or_else(|| {
            let names: Vec<&str> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
            format!(
                "sink {sink} is not in the configuration, so nothing can be published to it; there are: {}",
                names.join(", ")
            )
        })
    }
}

/// Why a sink takes nothing just now; none where it does.
pub(super) fn held(handle: &PumpHandle) -> Option<String> {
    match handle.status().state {
        SinkState::Up => None,
        SinkState::BackingOff { why, .. } => Some(format!("it waits: {why}")),
        other => Some(format!("it is {}", other.as_str())),
    }
}

fn bounded(ids: &[u64], most: usize) -> Result<(), String> {
    if ids.len() > most { Err(format!("{} letters at once, at most {most} are taken", ids.len())) } else { Ok(()) }
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "a panic, see the log".to_owned())
}

fn json(answer: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(text)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
