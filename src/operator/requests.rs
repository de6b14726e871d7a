//! The tools for the bad day: what the commands ask of a bridge, and what it answers.
//!
//! A running bridge is asked by `POST /tools` with the admin token: the body is an [`OperatorRequest`] as JSON, the answer the
//! JSON of the shape that stands beside each request; 409 with `errorMessage` where it can't be done as things stand. On
//! a stopped bridge's journal the commands have the same requests carried out directly. Answers to a letter hold personal
//! data, all others none. Times are RFC 3339 in UTC, sizes bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{ActionFilter, SinkName};

/// Most letters of one [`OperatorRequest::Letters`] and most ids of one [`OperatorRequest::Drop`].
pub const MAX_LETTERS: usize = 10_000;

/// Most ids of one [`OperatorRequest::Retry`]: they are published one by one while the answer is waited for.
pub const MAX_RETRIES: usize = 50;

/// Ids of a list that the log shows.
const SHOWN: usize = 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum OperatorRequest {
    /// Every sink that the journal, the configuration or the dead letters know: a list of [`ListedSink`].
    Sinks {},
    /// Forget a sink that was removed from the configuration, and of what waits for it alone: a [`Forgotten`].
    Forget {
        /// Its name.
        sink: SinkName,
    },
    /// The oldest dead letters of a sink: a list of [`LetterLine`], at most [`MAX_LETTERS`].
    Letters {
        /// Whose.
        sink: SinkName,
        /// Only those behind this id.
        after: Option<u64>,
    },
    /// One dead letter with its event: a [`Letter`].
    Letter {
        /// Whose.
        sink: SinkName,
        /// Which.
        id: u64,
    },
    /// Publish dead letters again, same event ids, and remove those that are confirmed: a list of [`RetriedLetter`].
    Retry {
        /// Whose.
        sink: SinkName,
        /// Which: at most [`MAX_RETRIES`].
        ids: Vec<u64>,
        /// The sink that publishes them, if it is not the one that keeps them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<SinkName>,
    },
    /// Remove dead letters for good: a [`Dropped`].
    Drop {
        /// Whose.
        sink: SinkName,
        /// Which: at most [`MAX_LETTERS`].
        ids: Vec<u64>,
    },
    /// Begin to publish retained events again: the [`Progress`] of the run. One run at a time.
    Replay(ReplayRequest),
    /// The [`Progress`] of the run, going or ended.
    Replayed {
        /// Which run.
        run: String,
    },
    /// End the run: its [`Progress`].
    CancelReplay {
        /// Which run.
        run: String,
    },
}

/// What is asked, as the log shows it. An request holds no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// The request's name: the `do` of its document.
    pub operation: String,
    /// The sink that it is about, if there is one.
    pub sink: Option<String>,
    /// All else in its document, as JSON. Of a long list the first ids and the length.
    pub parameters: String,
}

impl OperatorRequest {
    /// What the log shows of it.
    pub fn logged(&self) -> LoggedRequest {
        let document = serde_json::to_value(self).unwrap_or_default();
        let Value::Object(mut fields) = document else {
            return LoggedRequest { operation: String::new(), sink: None, parameters: String::new() };
        };
        let mut taken = |name| fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
        let (operation, sink) = (taken("do").unwrap_or_default(), taken("sink"));
        let mut counts = Vec::new();
        for (name, value) in &mut fields {
            if let Value::Array(list) = value
                && list.len() > SHOWN
            {
                counts.push((format!("{name}-count"), list.len().into()));
                list.truncate(SHOWN);
            }
        }
        fields.extend(counts);
        LoggedRequest { operation, sink, parameters: Value::Object(fields).to_string() }
    }
}

/// Which events are published again, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ReplayRequest {
    /// To which sink.
    pub sink: SinkName,
    /// From those made durable at this moment: microseconds since the Unix epoch.
    pub from: u64,
    /// To those made durable before this moment.
    pub to: Option<u64>,
    /// Only those that a sink with these `actions` would ask for; all that the sink asks for where it is empty.
    pub actions: ActionFilter,
    /// Count, publish nothing.
    pub dry_run: bool,
    /// Keep the broker's id of the first time.
    pub repair: bool,
}

/// A sink as [`OperatorRequest::Sinks`] shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSink {
    /// Its name.
    pub name: SinkName,
    /// `configured`; `new` (configured, and not yet known to the journal); `removed` (taken out of the configuration:
    /// it keeps its place); `forgotten` (only dead letters are left).
    pub state: String,
    /// Events that it has not passed.
    pub waiting_events: u64,
    /// When the oldest of them was received.
    pub oldest_waiting: Option<String>,
    /// Its dead letters.
    pub dead_letters: u64,
}

/// What went with a sink that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Events that waited for it.
    pub waiting_events: u64,
}

/// A dead letter without its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterLine {
    /// Its name: unique within its sink, growing.
    pub id: u64,
    /// The CloudEvents id of its event; empty if the letter can't be read.
    pub event: String,
    /// Where it was to be published; empty where it could not be made into a message.
    pub topic: String,
    /// Why it was not: a `reason` of the metrics.
    pub reason: String,
    /// When its request came.
    pub received: String,
    /// Its size on disk.
    pub bytes: u64,
}

/// A whole dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Its name.
    pub id: u64,
    /// The CloudEvents id of its event.
    pub event: String,
    /// Its sink.
    pub sink: SinkName,
    /// Where it was to be published.
    pub topic: String,
    /// Why it was not.
    pub reason: String,
    /// What the broker or client said.
    pub detail: String,
    /// The source that proved it.
    pub source: String,
    /// When its request came.
    pub received: String,
    /// When it was made durable.
    pub recorded: String,
    /// When it was set aside.
    pub died: String,
    /// Its place in the journal.
    pub offset: u64,
    /// What Alma signed, in Base64: personal data.
    pub body: String,
}

/// What became of a letter that was tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetriedLetter {
    /// Which.
    pub id: u64,
    /// What became of it.
    pub outcome: RetryOutcome,
}

/// See [`RetriedLetter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOutcome {
    /// Confirmed, and removed.
    Taken,
    /// There is no such letter (any more).
    Gone,
    /// It stays, for this reason.
    Kept(String),
}

/// What [`OperatorRequest::Drop`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Letters that were there and are gone.
    pub dropped: u64,
}

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its name; it ends the `Nats-Msg-Id`s of what it publishes, but for a repair.
    pub run: String,
    /// How it stands.
    pub state: RunState,
    /// Events of the time asked for that were read.
    pub read: u64,
    /// Of these, those to be published: the sink asks for them, and its cursor had passed them at the start.
    pub selected: u64,
    /// Of the selected, those that the sink confirmed.
    pub published: u64,
    /// Of the published, those that the broker said it had before.
    pub duplicates: u64,
    /// Of the selected, those that the sink did not take, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Of the read, those that match and still wait for the sink: they are delivered in their turn.
    pub waiting: u64,
    /// While nothing matches: the actions of events that the sink asks for and the request does not, the first few.
    #[serde(default)]
    pub other_actions: BTreeSet<String>,
    /// Of the time asked for, those that could not be read.
    pub damaged: u64,
    /// Of the time asked for, those whose segments were deleted; as many as there may be.
    #[serde(default)]
    pub gone: u64,
    /// When the oldest event that is retained was made durable.
    pub retained_since: Option<String>,
    /// Why the sink takes nothing just now.
    pub held: Option<String>,
    /// Of a dry run: the selected events that were found since the run was asked about last.
    pub events: Vec<Selected>,
}

/// An event that a dry run selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selected {
    /// Its CloudEvents id.
    pub id: String,
    /// Where it would be published.
    pub topic: String,
    /// When it was made durable.
    pub recorded: String,
}

/// How a replay stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It reads and publishes.
    #[default]
    Running,
    /// All was read.
    Done,
    /// It was ended by a request.
    Cancelled,
    /// It could not go on.
    Failed(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_flat_documents() {
        let sink: SinkName = "main".parse().expect("a name");
        let replay =
            ReplayRequest { sink, from: 1, to: None, actions: ActionFilter::default(), dry_run: true, repair: false };
        let requests = [
            (OperatorRequest::Sinks {}, r#"{"do":"sinks"}"#),
            (
                OperatorRequest::Replay(replay),
                r#"{"do":"replay","sink":"main","from":1,"to":null,"actions":[],"dry-run":true,"repair":false}"#,
            ),
        ];
        for (request, text) in requests {
            assert_eq!(serde_json::to_string(&request).expect("serializes"), text);
            assert_eq!(serde_json::from_str::<OperatorRequest>(text).expect("reads"), request);
        }
        for bad in [r#"{"do":"forget","sink":"../x"}"#, r#"{"do":"other"}"#, r#"{"do":"sinks","x":1}"#] {
            assert!(serde_json::from_str::<OperatorRequest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_log_shows_what_is_asked_and_long_lists_in_part() {
        let sink: SinkName = "main".parse().expect("a name");
        let asked = OperatorRequest::Drop { sink, ids: (0..10_000).collect() }.logged();
        assert_eq!((asked.operation.as_str(), asked.sink.as_deref()), ("drop", Some("main")));
        let parameters: Value = serde_json::from_str(&asked.parameters).expect("JSON");
        assert_eq!(parameters["ids-count"], 10_000);
        assert_eq!(parameters["ids"].as_array().map(Vec::len), Some(SHOWN));
        assert_eq!(OperatorRequest::Sinks {}.logged().parameters, "{}");
    }
}
