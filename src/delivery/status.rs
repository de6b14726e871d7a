//! What a sink shows in `/status`, the gauges and the commands. It contains no personal data.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::config::SinkName;
use crate::dead_letters::LetterSummary;
use crate::journal::Backlog;
use crate::sinks::Failure;

/// One sink at one moment.
#[derive(Clone, Debug)]
pub struct SinkSnapshot {
    /// The sink's name in the configuration.
    pub name: SinkName,
    /// The type as in the configuration, for example `kafka`.
    pub kind: &'static str,
    /// Whether it publishes to a broker, which may come back by itself.
    pub has_broker: bool,
    /// What the sink is doing.
    pub state: SinkState,
    /// When it entered this state.
    pub since: Timestamp,
    /// Shortcomings of the broker's set-up that the last connect found.
    pub warnings: Vec<String>,
    /// The events that the cursor has not passed. May be a second old while nothing is delivered.
    pub backlog: Backlog,
    /// The parked topics, sorted by name.
    pub parked: Vec<ParkedTopic>,
    /// How many dead letters the sink has, and why.
    pub dead_letters: LetterSummary,
    /// When the broker last confirmed an event.
    pub last_confirm: Option<Timestamp>,
    /// Events confirmed since the start.
    pub confirmed: u64,
    /// Of the confirmed events, those that the broker had before.
    pub duplicates: u64,
}

/// What a sink is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkState {
    /// It is connecting, and no earlier try has failed.
    Connecting,
    /// It is connected and takes events.
    Up,
    /// It waits before the next try: the broker can't be reached, a topic needs an operator, or dead letters can't be
    /// kept.
    BackingOff {
        /// The last failure.
        why: Failure,
        /// When the pump tries again.
        next_try: Timestamp,
    },
    /// Its pump has ended.
    Stopped,
}

impl SinkState {
    /// The last failure, if the sink waits before the next try.
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::BackingOff { why, .. } => Some(why),
            Self::Connecting | Self::Up | Self::Stopped => None,
        }
    }

    /// The state as `/status` shows it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Up => "up",
            Self::BackingOff { .. } => "retrying",
            Self::Stopped => "stopped",
        }
    }
}

/// A topic whose events go to the dead letters until an operator has fixed what the broker complains about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedTopic {
    /// The full name, with the sink's prefix.
    pub topic: Arc<str>,
    /// The broker's last answer.
    pub why: Failure,
    /// When the topic was parked, or when the pump started if that was later.
    pub since: Timestamp,
    /// How many dead letters the topic has.
    pub letters: u64,
}
