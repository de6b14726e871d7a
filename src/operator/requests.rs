//! The requests of the commands for repairs, and the shape of each answer.
//!
//! A running bridge takes them with `POST /tools` and the admin token. The body is an [`OperatorRequest`] as JSON; the answer
//! is JSON of the shape that is named at each request, or 409 with `errorMessage` if the request can't be carried out
//! now. If the bridge is stopped, the commands carry out the same requests on its journal. Only the answer to `letter`
//! holds personal data. Times are RFC 3339 in UTC, sizes are in bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{ActionFilter, SinkName};

/// The most letters that one [`OperatorRequest::Letters`] returns, and the most ids that one [`OperatorRequest::Drop`] takes.
pub const MAX_LETTERS: usize = 10_000;

/// The most ids of one [`OperatorRequest::Retry`]. The sink publishes them one by one while the client waits.
pub const MAX_RETRIES: usize = 50;

/// How many ids of a list the log shows.
const SHOWN: usize = 20;

/// A request. In JSON, its name is in `do`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum OperatorRequest {
    /// List every sink that the journal, the configuration or the dead letters know. Answer: a list of [`ListedSink`].
    Sinks {},
    /// Forget a sink that was removed from the configuration, and the events that wait only for it. Answer: a [`Forgotten`].
    Forget {
        /// The name of the sink.
        sink: SinkName,
    },
    /// List the oldest dead letters of a sink. Answer: a list of at most [`MAX_LETTERS`] [`LetterLine`]s.
    Letters {
        /// The sink that the letters belong to.
        sink: SinkName,
        /// List only letters with a larger id.
        after: Option<u64>,
    },
    /// Show one dead letter with its event. Answer: a [`Letter`].
    Letter {
        /// The sink that the letters belong to.
        sink: SinkName,
        /// The letter.
        id: u64,
    },
    /// Publish dead letters again under the same event ids, and remove those that are confirmed. Answer: a list of
    /// [`RetriedLetter`].
    Retry {
        /// The sink that the letters belong to.
        sink: SinkName,
        /// The letters, at most [`MAX_RETRIES`].
        ids: Vec<u64>,
        /// The sink that publishes the letters, if it is not the one that they belong to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<SinkName>,
    },
    /// Remove dead letters for good. Answer: a [`Dropped`].
    Drop {
        /// The sink that the letters belong to.
        sink: SinkName,
        /// The letters, at most [`MAX_LETTERS`].
        ids: Vec<u64>,
    },
    /// Start to publish retained events again, unless another run does that already. Answer: the [`Progress`] of the run.
    Replay(ReplayRequest),
    /// Ask about a run, which may have ended. Answer: its [`Progress`].
    Replayed {
        /// The name of the run.
        run: String,
    },
    /// End a run. Answer: its [`Progress`].
    CancelReplay {
        /// The name of the run.
        run: String,
    },
}

/// A request as the log shows it. No request holds a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedRequest {
    /// The request's name, which is in `do` of its document.
    pub operation: String,
    /// The sink that it is about, if there is one.
    pub sink: Option<String>,
    /// Everything else in its document, as JSON. A long list is cut to its first ids and its length.
    pub parameters: String,
}

impl OperatorRequest {
    /// Returns what the log shows of the request.
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
    /// The sink that publishes the events.
    pub sink: SinkName,
    /// Events made durable at or after this time, in microseconds since the Unix epoch.
    pub from: u64,
    /// Events made durable before this time.
    pub to: Option<u64>,
    /// Only events that a sink with these `actions` would ask for, or all that the sink asks for if this is empty.
    pub actions: ActionFilter,
    /// Count and list the events, but publish nothing.
    pub dry_run: bool,
    /// Keep the `Nats-Msg-Id` of the first publication, so that JetStream takes only what it lost.
    pub repair: bool,
}

/// A sink as [`OperatorRequest::Sinks`] shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSink {
    /// The name of the sink.
    pub name: SinkName,
    /// `configured`, `new` (configured, but the journal does not know it yet), `removed` (not in the configuration, but it
    /// keeps its place) or `forgotten` (only its dead letters are left).
    pub state: String,
    /// How many events wait for the sink.
    pub waiting_events: u64,
    /// When the oldest event that waits was received.
    pub oldest_waiting: Option<String>,
    /// How many dead letters the sink has.
    pub dead_letters: u64,
}

/// What was lost with a forgotten sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many events waited for the sink.
    pub waiting_events: u64,
}

/// A dead letter without its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterLine {
    /// The letter's id: unique within its sink, and larger than those of older letters.
    pub id: u64,
    /// The CloudEvents id of the event, or empty if the letter can't be read.
    pub event: String,
    /// The topic of the message, or empty if the event could not be made into a message.
    pub topic: String,
    /// Why it was not published, as in the metric `dead_letters`.
    pub reason: String,
    /// When the event was received.
    pub received: String,
    /// The letter's size on disk.
    pub bytes: u64,
}

/// A whole dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// The name of the sink.
    pub id: u64,
    /// The CloudEvents id of the event.
    pub event: String,
    /// The sink that the letter belongs to.
    pub sink: SinkName,
    /// The topic that it was to be published on.
    pub topic: String,
    /// Why it was not published.
    pub reason: String,
    /// What the broker or client said.
    pub detail: String,
    /// The source whose secret proved the event.
    pub source: String,
    /// When the event was received.
    pub received: String,
    /// When the event was made durable.
    pub recorded: String,
    /// When it became a dead letter.
    pub died: String,
    /// The event's offset in the journal.
    pub offset: u64,
    /// The body that Alma signed, in Base64. It holds personal data.
    pub body: String,
}

/// The outcome of one letter that was to be published again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetriedLetter {
    /// The letter.
    pub id: u64,
    /// What became of it.
    pub outcome: RetryOutcome,
}

/// See [`RetriedLetter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOutcome {
    /// The sink confirmed it, and it is removed.
    Taken,
    /// No letter has this id, or none has it any more.
    Gone,
    /// The letter stays, for this reason.
    Kept(String),
}

/// What [`OperatorRequest::Drop`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// How many letters were removed.
    pub dropped: u64,
}

/// The progress of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The run's name. It is the end of each `Nats-Msg-Id` that the run publishes, unless the run is a repair.
    pub run: String,
    /// Whether it runs, and how it ended.
    pub state: RunState,
    /// How many events of the requested time were read.
    pub read: u64,
    /// How many of these are to be published: the sink asks for them, and its cursor had passed them at the start.
    pub selected: u64,
    /// How many of the selected events the sink confirmed.
    pub published: u64,
    /// How many of the published events the broker had before.
    pub duplicates: u64,
    /// How many of the selected events the sink did not take, for each reason.
    pub failed: BTreeMap<String, u64>,
    /// How many matching events still wait for the sink. Its pump delivers them anyway.
    pub waiting: u64,
    /// If nothing matches, the first few actions that the sink asks for and the request does not.
    #[serde(default)]
    pub other_actions: BTreeSet<String>,
    /// How many events of the requested time could not be read.
    pub damaged: u64,
    /// How many events of the requested time may have been in segments that were deleted.
    #[serde(default)]
    pub gone: u64,
    /// When the oldest retained event was made durable.
    pub retained_since: Option<String>,
    /// Why the sink takes nothing now.
    pub held: Option<String>,
    /// The events that a dry run has selected since somebody last asked about it.
    pub events: Vec<Selected>,
}

/// An event that a dry run selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selected {
    /// The CloudEvents id of the event.
    pub id: String,
    /// The topic that it would be published on.
    pub topic: String,
    /// When the event was made durable.
    pub recorded: String,
}

/// Whether a replay runs, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It reads and publishes.
    #[default]
    Running,
    /// It has read everything.
    Done,
    /// A request ended it.
    Cancelled,
    /// It could not continue.
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
