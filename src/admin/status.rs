//! What `/status`, the status page and the command `status` show. It contains no personal data and no secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the bridge is doing. Times are RFC 3339 in UTC, sizes are in bytes, ages in seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the binary.
    pub version: String,
    /// When this status was taken.
    #[serde(default)]
    pub now: String,
    /// When the process started.
    pub started: String,
    /// Whether an event can be taken durably.
    pub ready: bool,
    /// Why no event can be taken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unready_reason: Option<String>,
    /// The addresses of the two listeners.
    pub listeners: ListenersStatus,
    /// The configuration's file and how its last reload went.
    pub config: ConfigStatus,
    /// Alma's integration profiles.
    pub sources: Vec<SourceStatus>,
    /// Requests with a well-formed signature to paths that no source has, if one came in the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wrong_paths: Option<TurnedAwayStatus>,
    /// The journal, or `None` with `storage = "none"` and before it is open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub journal: Option<JournalStatus>,
    /// The sinks, including those that left the configuration but still have a place or dead letters.
    pub sinks: Vec<SinkStatus>,
    /// What needs a person, most urgent first; empty if all is well.
    pub attention: Vec<String>,
    /// The lines of `attention`, each with what it is about.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// Something that needs a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What has the problem.
    pub about: ProblemWith,
    /// The source or sink that has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// The problem, as `attention` has it.
    pub text: String,
}

/// What has a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemWith {
    /// The bridge can't take events.
    Bridge,
    /// Requests come to paths that no source has.
    Paths,
    /// One source.
    Source,
    /// The journal.
    Journal,
    /// One sink.
    Sink,
    /// A configuration that was refused, or is broken on disk.
    ConfigRefused,
    /// A configuration that is in effect only in part.
    ConfigInPart,
}

impl Problem {
    /// A problem of the whole bridge.
    pub fn new(about: ProblemWith, text: String) -> Self {
        Self { about, name: None, text }
    }

    /// A problem of one source or sink.
    pub fn of(about: ProblemWith, name: &str, text: String) -> Self {
        Self { about, name: Some(name.to_owned()), text }
    }
}

/// The addresses in effect, with their ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenersStatus {
    /// The listener for Alma.
    pub ingress: String,
    /// The listener for operators.
    pub admin: String,
}

/// The configuration in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file, or `None` if the bridge runs with the built-in defaults.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// When the configuration in effect was loaded.
    pub loaded: String,
    /// What was wrong with the last reload, if it was refused.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub refused: Vec<String>,
    /// What could not be put in effect yet. The bridge keeps trying.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub not_in_effect: Vec<String>,
}

/// The outcome of a reload: the answer to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The outcome in one word.
    pub outcome: ReloadOutcome,
    /// Everything that is wrong; empty if the outcome is `applied`.
    pub errors: Vec<String>,
    /// The changed keys that take effect with the next start.
    pub needs_restart: Vec<String>,
    /// What is allowed but should be changed.
    pub warnings: Vec<String>,
    /// When the configuration that is now in effect was loaded.
    #[serde(default)]
    pub loaded: String,
}

/// See [`Reloaded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is in effect, except for what needs a restart.
    Applied,
    /// The new configuration is in effect, except for the errors. The bridge keeps trying.
    AppliedInPart,
    /// The configuration did not change.
    Refused,
}

/// One source: an integration profile in Alma.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The name in the configuration.
    pub name: String,
    /// The path of its listener URL.
    pub path: String,
    /// The names of the source's secrets.
    pub secrets: Vec<String>,
    /// When each secret last matched an event, since the start. A secret that a reload renames keeps its time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub secrets_last_used: BTreeMap<String, String>,
    /// When the last valid event came, or `None` if that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_event: Option<String>,
    /// Requests that were refused for their signature since the last valid event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<RefusedStatus>,
    /// Requests with a well-formed signature that were larger than `max_body`, if one came in the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub too_large: Option<TurnedAwayStatus>,
    /// How long the source may be without a valid event before it needs a person.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silence: Option<String>,
    /// Whether `silence` has passed.
    #[serde(default)]
    pub silent: bool,
    /// Whether it is the subject of a line in `attention`.
    #[serde(default)]
    pub needs_person: bool,
}

/// Requests that were refused for their signature since a source's last valid event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// How many requests were refused.
    pub events: u64,
    /// When the first of them came.
    pub since: String,
    /// When the last of them came.
    pub last: String,
    /// How many were refused for each reason of the metric `signature_failures_total`.
    pub reasons: BTreeMap<String, u64>,
    /// The likeliest cause.
    pub cause: String,
    /// What to do about it.
    pub next_step: String,
}

/// Requests that may be events and got a 503. Alma sends each of them four times within ten hours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnedAwayStatus {
    /// How many requests got the 503.
    pub requests: u64,
    /// When the last of them came.
    pub last: String,
    /// The path of the last one, escaped and without its query.
    pub path: String,
    /// What to do about it.
    pub next_step: String,
}

/// The journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// The folder of the journal.
    pub dir: String,
    /// The size of the events that wait for a sink.
    pub waiting_bytes: u64,
    /// The bound of `waiting_bytes`.
    pub max_size: u64,
    /// The size of the delivered events that are kept for replays.
    pub delivered_bytes: u64,
    /// The free space on the journal's disk.
    pub free_bytes: u64,
    /// If `free_bytes` is below this, Alma gets 503.
    pub min_free: u64,
    /// How many records were found damaged since the start.
    pub damaged_records: u64,
    /// Files that could not be used since the start: which, why, and where they are kept.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub set_aside: Vec<String>,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// The name in the configuration.
    pub name: String,
    /// `file`, `kafka`, `rabbitmq` or `nats`, or `None` for a sink that left the configuration.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// `connecting`, `up`, `retrying` (see `why`), `stopped`, `removed` (not in the configuration, but it keeps its place)
    /// or `forgotten` (only its dead letters are left).
    pub state: String,
    /// Why the sink is not up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The reason alone, as in the metric `publish_errors_total`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What to do if it needs a person.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_step: Option<String>,
    /// When the sink entered this state.
    pub since: String,
    /// Whether it is the subject of a line in `attention`.
    #[serde(default)]
    pub needs_person: bool,
    /// Shortcomings of the broker that the last connect found, such as a low limit or a missing replica.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// How many events wait for the sink.
    pub waiting_events: u64,
    /// The age of the oldest event that waits.
    pub oldest_waiting_seconds: f64,
    /// When the broker last confirmed an event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_confirm: Option<String>,
    /// Topics whose events go to the dead letters until an operator has fixed what the broker complains about.
    pub parked_topics: Vec<ParkedTopicStatus>,
    /// How many dead letters there are for each reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// How many dead letters were found damaged since the start. `dead_letters` does not count them; their bytes are kept.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub damaged_dead_letters: u64,
    /// How many of the dead letters could not be read from the disk.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unreadable_dead_letters: u64,
}

/// A parked topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedTopicStatus {
    /// The full name, with the sink's prefix.
    pub topic: String,
    /// `rights`, `missing`, `unroutable`, `nacked` or `clock`.
    pub reason: String,
    /// The broker's answer.
    pub detail: String,
    /// When the topic was parked.
    pub since: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Status {
    /// Sets `problems`, and `attention` with them.
    pub fn set_problems(&mut self, problems: Vec<Problem>) {
        self.attention = problems.iter().map(|problem| problem.text.clone()).collect();
        self.problems = problems;
    }

    /// Whether `attention` already has a fault, so that it need not be shown twice.
    pub fn has_said(&self, fault: &str) -> bool {
        self.attention.iter().any(|line| line.contains(fault))
    }

    /// Returns the JSON document of `/status`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }
}
