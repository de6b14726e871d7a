//! What `/status`, the status page and the command `status` show. No personal data, no secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the bridge is doing. Times are RFC 3339 in UTC, sizes bytes, ages seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the binary.
    pub version: String,
    /// When this was asked.
    #[serde(default)]
    pub now: String,
    /// When the process started.
    pub started: String,
    /// Whether an event can be taken durably.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unready_reason: Option<String>,
    /// Addresses of the two listeners.
    pub listeners: ListenersStatus,
    /// The configuration's file and how its last reload went.
    pub config: ConfigStatus,
    /// Alma's integration profiles.
    pub sources: Vec<SourceStatus>,
    /// Requests with a well-formed signature to paths that no source has, if one came in the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wrong_paths: Option<TurnedAwayStatus>,
    /// The durable log; none with `storage = "none"` or before it is open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub journal: Option<JournalStatus>,
    /// The places where events are published.
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
    /// What kind of thing has the problem.
    pub about: ProblemWith,
    /// The source or sink that has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// The line for people.
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

/// Addresses in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenersStatus {
    /// For Alma.
    pub ingress: String,
    /// For operators.
    pub admin: String,
}

/// The configuration in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// None: the built-in defaults.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// When it was loaded.
    pub loaded: String,
    /// What was wrong with the last reload that was refused since.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub refused: Vec<String>,
    /// What of it could not be put in effect yet; the bridge keeps trying.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub not_in_effect: Vec<String>,
}

/// What became of a reload: the answer to `POST /reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// In one word.
    pub outcome: ReloadOutcome,
    /// Everything that is wrong; empty if the outcome is `applied`.
    pub errors: Vec<String>,
    /// Keys whose change takes effect with the next start.
    pub needs_restart: Vec<String>,
    /// What is allowed and better changed.
    pub warnings: Vec<String>,
    /// When the configuration that is now in effect was loaded.
    #[serde(default)]
    pub loaded: String,
}

/// See [`Reloaded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadOutcome {
    /// The new configuration is in effect, but for what needs a restart.
    Applied,
    /// The new configuration is in effect, but for the errors; the bridge keeps trying.
    AppliedInPart,
    /// The configuration is as it was before.
    Refused,
}

/// One integration profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// The path of its listener URL.
    pub path: String,
    /// Names of its secrets.
    pub secrets: Vec<String>,
    /// When each secret last fitted an event since the start. After a reload a secret keeps its time under another name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub secrets_last_used: BTreeMap<String, String>,
    /// When its last valid event came; none if that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_event: Option<String>,
    /// Requests that were refused for their signature since then.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused: Option<RefusedStatus>,
    /// Requests with a well-formed signature that were larger than `max_body`, if one came in the last 24 hours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub too_large: Option<TurnedAwayStatus>,
    /// After how long without a valid event it needs a person.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silence: Option<String>,
    /// Whether `silence` has passed.
    #[serde(default)]
    pub silent: bool,
    /// Whether `attention` names it.
    #[serde(default)]
    pub needs_person: bool,
}

/// Requests that were refused for their signature since a source's last valid event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedStatus {
    /// How many.
    pub events: u64,
    /// When the first was.
    pub since: String,
    /// When the last was.
    pub last: String,
    /// How many by reason, as in the metric `signature_failures_total`.
    pub reasons: BTreeMap<String, u64>,
    /// The likeliest cause.
    pub cause: String,
    /// What to do about it.
    pub next_step: String,
}

/// Requests that may be Alma's events and were answered 503: Alma sends each four times within ten hours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnedAwayStatus {
    /// How many.
    pub requests: u64,
    /// When the last was.
    pub last: String,
    /// The path of the last, escaped and without its query.
    pub path: String,
    /// What to do about it.
    pub next_step: String,
}

/// The durable log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Its folder.
    pub dir: String,
    /// Bytes of undelivered events.
    pub waiting_bytes: u64,
    /// Their bound.
    pub max_size: u64,
    /// Bytes of delivered events that stay for replay.
    pub delivered_bytes: u64,
    /// Free bytes of its disk.
    pub free_bytes: u64,
    /// Under which Alma gets 503.
    pub min_free: u64,
    /// Records lost to damage since the start.
    pub damaged_records: u64,
    /// Files that could not be used, since the start: which, why, and where they are kept.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub set_aside: Vec<String>,
}

/// One sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// `file`, `kafka`, `rabbitmq` or `nats`; none for one that was removed from the configuration.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none", default)]
    pub kind: Option<String>,
    /// `connecting`, `up`, `retrying` (`why` says for what reason), `stopped`, `removed` (not in the configuration: it keeps
    /// its place), `forgotten` (only its dead letters are left).
    pub state: String,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// The reason alone, as in the metric `publish_errors_total`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// What to do if it needs a person.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_step: Option<String>,
    /// When it entered this state.
    pub since: String,
    /// Whether `attention` names it.
    #[serde(default)]
    pub needs_person: bool,
    /// What the last connect found to fall short, such as a limit or replication.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// Events that it has not yet passed.
    pub waiting_events: u64,
    /// Age of the oldest of them.
    pub oldest_waiting_seconds: f64,
    /// When the broker last confirmed an event.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_confirm: Option<String>,
    /// Topics whose events wait as dead letters for an operator.
    pub parked_topics: Vec<ParkedTopicStatus>,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Dead letters found damaged since the start. They are not among the others; their bytes are kept.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub damaged_dead_letters: u64,
    /// Of the dead letters, those that the disk did not give when the bridge last read them.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unreadable_dead_letters: u64,
}

/// A topic that an operator must mend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedTopicStatus {
    /// Its name.
    pub topic: String,
    /// `rights`, `missing` or `unroutable`.
    pub reason: String,
    /// What the broker said.
    pub detail: String,
    /// Since when.
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

    /// Whether `attention` has a fault already, so that it need not be shown twice.
    pub fn has_said(&self, fault: &str) -> bool {
        self.attention.iter().any(|line| line.contains(fault))
    }

    /// One JSON document.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }
}
