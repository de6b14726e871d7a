//! The health of a source: its last valid event, the requests refused since then, and its silence.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::alma::SignatureFailure;
use crate::clock::Timestamp;
use crate::config;
use crate::units;

/// If a source sets no `silence`: how long after the last valid event requests without a signature count as strangers'.
const UNSIGNED_PATIENCE: Duration = Duration::from_hours(24);

/// A snapshot of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceHealth {
    /// When the last valid event arrived, if known.
    pub last_event: Option<Timestamp>,
    /// Requests refused because of their signature since then.
    pub refused: Option<Refused>,
    /// No valid event has arrived for `silence`.
    pub silent: bool,
    /// The refused requests may be events from Alma.
    pub needs_person: bool,
}

/// Requests refused because of their signature since the last valid event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the first was refused.
    pub since: Timestamp,
    /// When the last was refused.
    pub last: Timestamp,
    /// In the order of [`SignatureFailure::ALL`].
    counts: [u64; SignatureFailure::ALL.len()],
}

impl Refused {
    /// An empty record that starts at this time.
    const fn from(at: Timestamp) -> Self {
        Self { since: at, last: at, counts: [0; SignatureFailure::ALL.len()] }
    }

    /// How many in all.
    pub fn events(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How many for this reason.
    pub const fn count(&self, reason: SignatureFailure) -> u64 {
        self.counts[reason as usize]
    }

    /// How many for each reason that occurred.
    pub fn by_reason(&self) -> BTreeMap<String, u64> {
        let all = SignatureFailure::ALL.map(|reason| (reason.as_str().to_owned(), self.count(reason)));
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn has_signatures(&self) -> bool {
        self.events() > self.count(SignatureFailure::Missing)
    }
}

/// What is known about one source. A reload keeps it.
#[derive(Debug)]
pub(super) struct Health(Mutex<Record>);

#[derive(Debug)]
struct Record {
    /// When the last valid event arrived, or else when the source was first configured.
    heard: Instant,
    last_event: Option<Timestamp>,
    refused: Option<Refused>,
    warned: bool,
}

impl Health {
    /// The health of a new source.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Record { heard: Instant::now(), last_event: None, refused: None, warned: false }))
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a proven event. What was refused before it no longer counts.
    pub(super) fn proven(&self, settings: &config::Source, at: Timestamp) {
        let mut record = self.record();
        record.heard = Instant::now();
        record.last_event = Some(at);
        record.refused = None;
        if std::mem::take(&mut record.warned) {
            tracing::info!(source = %settings.name, "events come again");
        }
    }

    /// Notes a request that was refused because of its signature.
    pub(super) fn refused(&self, why: SignatureFailure, at: Timestamp) {
        let mut record = self.record();
        let refused = record.refused.get_or_insert(Refused::from(at));
        refused.last = refused.last.max(at);
        refused.counts[why as usize] += 1;
    }

    /// Notes an event from before the start, recorded at `at` and now this old. Returns whether it is the newest.
    pub(super) fn remember(&self, at: Timestamp, age: Duration) -> bool {
        let mut record = self.record();
        let is_newest = record.last_event.is_none();
        if is_newest {
            record.last_event = Some(at);
            // The machine may have run for less time than that.
            record.heard = Instant::now().checked_sub(age).unwrap_or(record.heard);
        }
        is_newest
    }

    /// The health now.
    ///
    /// Alma signs every event, so requests without a signature mean little: anybody can send them. If the source has
    /// had valid events, they need a person only after a long time without one, because a proxy may strip the header.
    pub(super) fn seen(&self, settings: &config::Source) -> SourceHealth {
        let record = self.record();
        let heard_before = record.heard.elapsed();
        let needs_person = record.refused.is_some_and(|refused| {
            let patience = settings.silence.unwrap_or(UNSIGNED_PATIENCE);
            refused.has_signatures() || record.last_event.is_none() || heard_before >= patience
        });
        SourceHealth {
            last_event: record.last_event,
            refused: record.refused,
            silent: settings.silence.is_some_and(|silence| heard_before >= silence),
            needs_person,
        }
    }

    /// Warns once when the silence passes its limit. Returns when to check again, or `None` if the source has no
    /// silence limit.
    pub(super) fn warn_if_silent(&self, settings: &config::Source) -> Option<Instant> {
        let (silence, now) = (settings.silence?, Instant::now());
        let mut record = self.record();
        if record.heard + silence > now {
            return Some(record.heard + silence);
        }
        if !std::mem::replace(&mut record.warned, true) {
            let silence = units::duration(silence);
            tracing::warn!(source = %settings.name, "no valid event for {silence} (silence): is Alma's profile active?");
        }
        Some(now + silence)
    }

    /// Whether the last silence was warned about.
    #[cfg(test)]
    pub(super) fn has_warned(&self) -> bool {
        self.record().warned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const SECOND: Duration = Duration::from_secs(1);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn source(silence: Option<Duration>) -> config::Source {
        let name = "alma".parse().expect("a name");
        config::Source { name, path: "/x".into(), secrets: Vec::new(), institution: None, silence }
    }

    #[tokio::test(start_paused = true)]
    async fn any_refused_request_before_the_first_valid_event_needs_a_person() {
        for why in SignatureFailure::ALL {
            let (health, settings) = (Health::new(), source(None));
            assert!(!health.seen(&settings).needs_person);
            health.refused(why, at(5));
            health.refused(why, at(7));
            let seen = health.seen(&settings);
            let refused = seen.refused.expect("it was");
            assert!(seen.needs_person, "{why}");
            assert_eq!((refused.events(), refused.since, refused.last), (2, at(5), at(7)));
            assert_eq!(refused.by_reason(), [(why.as_str().to_owned(), 2)].into());
            health.proven(&settings, at(9));
            let expected = SourceHealth { last_event: Some(at(9)), ..SourceHealth::default() };
            assert_eq!(health.seen(&settings), expected, "the next valid event clears it");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_signature_need_a_person_only_once_valid_events_stop() {
        for (settings, patience) in [(source(None), DAY), (source(Some(3 * DAY)), 3 * DAY)] {
            let health = Health::new();
            health.proven(&settings, at(1));
            health.refused(SignatureFailure::Missing, at(2));
            assert_eq!(health.seen(&settings).refused.map(|refused| refused.events()), Some(1));
            tokio::time::advance(patience.saturating_sub(SECOND)).await;
            assert!(!health.seen(&settings).needs_person);
            tokio::time::advance(SECOND).await;
            assert!(health.seen(&settings).needs_person);
            health.proven(&settings, at(3));
            health.refused(SignatureFailure::Missing, at(4));
            health.refused(SignatureFailure::Mismatch, at(5));
            assert!(health.seen(&settings).needs_person, "a signature that does not match counts at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_from_before_the_start_counts_unless_there_is_a_newer_one() {
        tokio::time::advance(2 * DAY).await;
        let (health, settings) = (Health::new(), source(Some(DAY)));
        assert!(health.remember(at(5), DAY / 2));
        assert_eq!(health.seen(&settings).last_event, Some(at(5)));
        tokio::time::advance(DAY / 2).await;
        assert!(health.seen(&settings).silent);
        health.proven(&settings, at(9));
        assert!(!health.remember(at(5), DAY));
        let seen = health.seen(&settings);
        assert_eq!((seen.last_event, seen.silent), (Some(at(9)), false));
    }
}
