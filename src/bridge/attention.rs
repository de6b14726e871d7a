//! What needs a person: what is wrong, since when, the likeliest cause, and what to do.
//!
//! `docs/operate.md` states the same rules. Change both together.

use std::time::Duration;

use crate::admin::Status;
use crate::admin::status::{
    JournalStatus, Problem, ProblemWith, RefusedStatus, SinkStatus, SourceStatus, TurnedAwayStatus,
};
use crate::alma::SignatureFailure;
use crate::clock::Timestamp;
use crate::config::{self, SourceName};
use crate::delivery::SinkSnapshot;
use crate::ingress::{Refused, TurnedAway};
use crate::sinks::{Class, Reason};
use crate::units::{self, counted, counted_as};

/// A sink that has not reached its broker for this long needs a person, and so does one whose oldest event has waited
/// for this long. The bridge survives shorter outages by itself.
const SINK_PATIENCE: Duration = Duration::from_mins(5);

/// How many paths of sources are listed if a request came to another path.
const SHOWN_PATHS: usize = 8;

/// Whether a sink has been retrying for so long that somebody must look. A broker that is down may come back, but a
/// refused login or a missing folder does not repair itself. A right or a topic may be missing only because a
/// deployment is not finished, so it has `grace`.
pub(super) fn is_stuck(sink: &SinkSnapshot, grace: Duration, now: Timestamp) -> bool {
    let Some(why) = sink.state.failure() else { return false };
    let patience = match (why.reason, why.reason.class()) {
        (Reason::Login, _) | (_, Class::Refused) => Duration::ZERO,
        (_, Class::NeedsOperator) => grace,
        (_, Class::Retry) if !sink.has_broker => Duration::ZERO,
        (_, Class::Retry) => SINK_PATIENCE,
    };
    now.since(sink.since) >= patience
}

/// Returns what to do about a sink that is retrying or behind, or `None` if it is neither.
pub(super) fn next_step(sink: &SinkSnapshot, oldest_waiting: Duration) -> Option<&'static str> {
    let failure = sink.state.failure();
    if failure.is_none() && oldest_waiting <= SINK_PATIENCE {
        return None;
    }
    Some(match failure.map(|why| why.reason) {
        _ if !sink.has_broker => "Check that its folder exists, has room, and that the bridge may write there",
        Some(Reason::Login) => "Correct the user, the password or the certificate, and see alma-bridge check --connect",
        Some(Reason::Busy) => "Make room at the broker",
        Some(reason) if reason.class() == Class::NeedsOperator => {
            "Correct this at the broker, and see alma-bridge check --connect"
        }
        _ => "Check that the broker runs and that this machine reaches it: alma-bridge check --connect",
    })
}

/// Requests that were refused, with the likeliest cause. Anybody can send a request without a signature. A request
/// with one is meant for this bridge, so a single signature says more than many requests without one.
pub(super) fn refused_status(source: &SourceName, refused: &Refused) -> RefusedStatus {
    use SignatureFailure::{Missing, NotBase64, Repeated, WrongLength};
    let any = |reasons: &[SignatureFailure]| reasons.iter().any(|reason| refused.count(*reason) > 0);
    let (cause, next_step) = if any(&[SignatureFailure::Mismatch]) {
        (
            "the signature fits no secret of this source, so Alma's profile has another secret, or a proxy changes the body",
            format!(
                "Paste what \"alma-bridge secret --source {source}\" prints into Alma's profile; \"alma-bridge explain\" \
                 tells more about one event"
            ),
        )
    } else if any(&[NotBase64, WrongLength]) {
        (
            "the signature does not have Alma's form, so something other than Alma sent it, or a proxy changes the header",
            "Compare the header X-Exl-Signature as the proxy gets it and as it passes it on".to_owned(),
        )
    } else if any(&[Repeated]) {
        (
            "the header X-Exl-Signature came more than once, so a proxy adds a second one",
            "Let the proxy pass the header on as it came".to_owned(),
        )
    } else {
        debug_assert!(any(&[Missing]), "something was refused");
        (
            "the header X-Exl-Signature is missing, so Alma did not send this, or a proxy strips the header",
            "If Alma has sent events, let the proxy pass the header on; if not, nothing is lost".to_owned(),
        )
    };
    RefusedStatus {
        events: refused.events(),
        since: refused.since.to_string(),
        last: refused.last.to_string(),
        reasons: refused.by_reason(),
        cause: cause.to_owned(),
        next_step,
    }
}

/// Signed requests to paths that no source has. The URL in Alma is mistyped, or a proxy changes the path.
pub(super) fn wrong_paths_status(seen: TurnedAway, sources: &[config::Source]) -> TurnedAwayStatus {
    let more = if sources.len() > SHOWN_PATHS { ", …" } else { "" };
    let paths: Vec<&str> = sources.iter().take(SHOWN_PATHS).map(|source| source.path.as_str()).collect();
    let next_step = format!(
        "Correct the URL in Alma's profile (the paths of the sources: {}{more}), or add a source with this path",
        paths.join(", ")
    );
    turned_away_status(seen, next_step)
}

/// Signed requests that were larger than `max_body`.
pub(super) fn too_large_status(seen: TurnedAway, max_body: usize) -> TurnedAwayStatus {
    let max_body = units::size(max_body as u64);
    turned_away_status(seen, format!("Raise ingress.max_body ({max_body}) and restart the bridge"))
}

fn turned_away_status(seen: TurnedAway, next_step: String) -> TurnedAwayStatus {
    TurnedAwayStatus { requests: seen.requests, last: seen.last.to_string(), path: seen.path, next_step }
}

/// Returns what needs a person, most urgent first, and sets `needs_person` of the sources and sinks.
pub(super) fn problems(status: &mut Status) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(why) = &status.unready_reason {
        problems.push(Problem::new(ProblemWith::Bridge, format!("no event can be taken: {why}")));
    }
    let now = &status.now;
    if let Some(wrong) = &status.wrong_paths {
        let text = format!(
            "{} came to paths that no source has, the last at {} to \"{}\". Alma gives each event up after four tries \
             within 10 h. {}",
            counted(wrong.requests, "signed request"),
            units::with_age(&wrong.last, now),
            wrong.path,
            wrong.next_step
        );
        problems.push(Problem::new(ProblemWith::Paths, text));
    }
    for source in &mut status.sources {
        let lines = about_source(source, now);
        source.needs_person = !lines.is_empty();
        problems.extend(lines.into_iter().map(|line| Problem::of(ProblemWith::Source, &source.name, line)));
    }
    let journal = status.journal.iter().flat_map(about_journal);
    problems.extend(journal.map(|line| Problem::new(ProblemWith::Journal, line)));
    for sink in &mut status.sinks {
        let lines = about_sink(sink, now);
        sink.needs_person = !lines.is_empty();
        problems.extend(lines.into_iter().map(|line| Problem::of(ProblemWith::Sink, &sink.name, line)));
    }
    if !status.config.refused.is_empty() {
        let (refused, loaded) = (status.config.refused.join("; "), &status.config.loaded);
        let text =
            format!("the last reload was refused: {refused}; the configuration loaded at {loaded} stays in effect");
        problems.push(Problem::new(ProblemWith::ConfigRefused, text));
    }
    if !status.config.not_in_effect.is_empty() {
        let not_in_effect = status.config.not_in_effect.join("; ");
        let text = format!("the configuration is in effect only in part, the bridge keeps trying: {not_in_effect}");
        problems.push(Problem::new(ProblemWith::ConfigInPart, text));
    }
    problems
}

fn about_journal(journal: &JournalStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if journal.damaged_records > 0 {
        let (count, dir) = (journal.damaged_records, &journal.dir);
        let records = counted_as(count, "record was", "records were");
        lines.push(format!("journal: {records} damaged on disk; the bytes are in {dir}/damaged"));
    }
    lines.extend(journal.set_aside.iter().map(|file| format!("journal: {file}")));
    lines
}

/// Expects in `needs_person` whether the source's refused requests need a person.
fn about_source(source: &SourceStatus, now: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &source.name;
    if let Some(refused) = source.refused.as_ref().filter(|_| source.needs_person) {
        let requests = counted_as(refused.events, "request was", "requests were");
        let before = match &source.last_event {
            Some(last) => format!("the last valid event came at {}", units::with_age(last, now)),
            None => "no valid event has come yet".to_owned(),
        };
        lines.push(format!(
            "source {name}: {requests} refused (401) since {}, and {before}: {}. {}",
            units::with_age(&refused.since, now),
            refused.cause,
            refused.next_step
        ));
    } else if let Some(silence) = source.silence.as_ref().filter(|_| source.silent) {
        // Refused requests already explain why no valid event comes.
        lines.push(format!("source {name}: no valid event for {silence} (silence): is Alma's profile active?"));
    }
    if let Some(large) = &source.too_large {
        lines.push(format!(
            "source {name}: {} larger than ingress.max_body, the last at {}. Alma gives each event up after four \
             tries within 10 h. {}",
            counted_as(large.requests, "signed request was", "signed requests were"),
            units::with_age(&large.last, now),
            large.next_step
        ));
    }
    lines
}

/// Expects in `needs_person` whether the sink is stuck.
fn about_sink(sink: &SinkStatus, now: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &sink.name;
    let next_step = sink.next_step.as_deref().unwrap_or_default();
    match (sink.state.as_str(), &sink.why) {
        ("forgotten", _) => {}
        ("removed", _) => match sink.waiting_events {
            0 => {}
            waiting => lines.push(format!(
                "sink {name} was removed from the configuration, and {} for it. Configure it again, or let go of \
                 what waits: alma-bridge sinks forget {name}",
                counted_as(waiting, "event waits", "events wait")
            )),
        },
        (_, Some(why)) if sink.needs_person => {
            let since = units::with_age(&sink.since, now);
            lines.push(format!("sink {name} has been retrying since {since}: {why}. {next_step}"));
        }
        _ if sink.oldest_waiting_seconds > SINK_PATIENCE.as_secs_f64() => {
            lines.push(format!(
                "sink {name} is behind: its oldest event has waited for {}. {next_step}",
                units::age(Duration::from_secs_f64(sink.oldest_waiting_seconds)),
            ));
        }
        _ => {}
    }
    lines.extend(sink.parked_topics.iter().map(|parked| {
        let (topic, reason, since) = (&parked.topic, &parked.reason, units::with_age(&parked.since, now));
        format!("sink {name}: topic {topic} is parked since {since} ({reason}): {}", parked.detail)
    }));
    lines.extend(about_letters(sink));
    lines
}

fn about_letters(sink: &SinkStatus) -> Vec<String> {
    let mut lines = Vec::new();
    let name = &sink.name;
    let letters: u64 = sink.dead_letters.values().sum();
    if letters > 0 {
        let reasons: Vec<String> =
            sink.dead_letters.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let next_step = if matches!(sink.state.as_str(), "removed" | "forgotten") {
            format!(". Publish them to another sink: alma-bridge dead-letters retry --all --sink {name} --to NAME")
        } else if sink.dead_letters.contains_key(Reason::TooManyTopics.as_str()) {
            format!(
                ". For too_many_topics raise max_topics, reload, then \"alma-bridge dead-letters retry --all --sink {name} \
                 --reason too_many_topics\""
            )
        } else {
            String::new()
        };
        lines.push(format!(
            "sink {name}: {} ({}), see alma-bridge dead-letters list --sink {name}{next_step}",
            counted(letters, "dead letter"),
            reasons.join(", ")
        ));
    }
    if sink.unreadable_dead_letters > 0 {
        let count = sink.unreadable_dead_letters;
        lines.push(format!("sink {name}: the disk does not give {count} of its dead letters; the log names them"));
    }
    if sink.damaged_dead_letters > 0 {
        let count = sink.damaged_dead_letters;
        lines.push(format!(
            "sink {name}: {} damaged on disk; the bytes are in journal/dead/{name}",
            counted_as(count, "dead letter was", "dead letters were")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::LetterSummary;
    use crate::delivery::SinkState;
    use crate::journal::Backlog;
    use crate::sinks::Failure;

    const GRACE: Duration = Duration::from_mins(1);

    fn at(second: u64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn failing(kind: &'static str, reason: Reason) -> SinkSnapshot {
        let why = Failure::new(reason, "as the broker says");
        SinkSnapshot {
            name: "main".parse().expect("a name"),
            kind,
            has_broker: kind != "file",
            state: SinkState::BackingOff { why, next_try: at(1_000) },
            since: at(1_000),
            warnings: Vec::new(),
            backlog: Backlog::default(),
            parked: Vec::new(),
            dead_letters: LetterSummary::default(),
            last_confirm: None,
            confirmed: 0,
            duplicates: 0,
        }
    }

    /// Returns after how many seconds of retrying a sink that fails for this reason needs a person.
    fn needs_person_after(kind: &'static str, reason: Reason) -> Option<u64> {
        let sink = failing(kind, reason);
        (0..1_000).find(|seconds| is_stuck(&sink, GRACE, at(1_000 + seconds)))
    }

    #[test]
    fn the_next_step_follows_from_the_reason_and_from_whether_there_is_a_broker() {
        let step = |kind, reason| next_step(&failing(kind, reason), Duration::ZERO).expect("it fails");
        assert!(step("kafka", Reason::Unreachable).contains("the broker runs"));
        assert!(step("kafka", Reason::Login).contains("the password"));
        assert!(step("kafka", Reason::Busy).contains("Make room"));
        assert!(step("kafka", Reason::Rights).contains("Correct this at the broker"));
        assert!(step("file", Reason::Unreachable).contains("its folder"));
        let up = SinkSnapshot { state: SinkState::Up, ..failing("kafka", Reason::Busy) };
        assert_eq!(next_step(&up, SINK_PATIENCE), None);
        assert!(
            next_step(&up, SINK_PATIENCE + Duration::from_secs(1)).is_some_and(|step| step.contains("the broker runs"))
        );
    }

    #[test]
    fn a_broker_has_five_minutes_a_deployment_its_grace_and_a_refused_log_in_nothing() {
        for reason in [Reason::Unreachable, Reason::Timeout, Reason::Busy] {
            assert_eq!(needs_person_after("kafka", reason), Some(300), "{reason}");
        }
        for reason in [Reason::Rights, Reason::Missing] {
            assert_eq!(needs_person_after("kafka", reason), Some(60), "{reason}");
        }
        for reason in [Reason::Login, Reason::Panic] {
            assert_eq!(needs_person_after("kafka", reason), Some(0), "{reason}");
        }
        assert_eq!(needs_person_after("file", Reason::Unreachable), Some(0), "there is no broker that could come back");
    }

    fn sink(needs_person: bool, oldest_waiting_seconds: f64) -> SinkStatus {
        SinkStatus {
            name: "main".into(),
            state: "retrying".into(),
            why: Some("unreachable: refused".into()),
            next_step: Some("Check that the broker runs".into()),
            since: "2024-01-02T03:04:05.678Z".into(),
            oldest_waiting_seconds,
            needs_person,
            ..SinkStatus::default()
        }
    }

    #[test]
    fn a_sink_calls_for_a_person_once_it_is_stuck_or_behind() {
        let said = |sink| {
            let mut status = Status { now: "2024-01-02T03:10:05.678Z".into(), sinks: vec![sink], ..Status::default() };
            let problems = problems(&mut status);
            assert_eq!(status.sinks[0].needs_person, !problems.is_empty());
            assert!(problems.iter().all(|problem| problem.about == ProblemWith::Sink), "{problems:?}");
            problems.into_iter().map(|problem| problem.text).collect::<Vec<_>>()
        };
        assert!(said(sink(false, 299.0)).is_empty());
        assert_eq!(
            said(sink(false, 301.0)),
            ["sink main is behind: its oldest event has waited for 5 min. Check that the broker runs"]
        );
        assert_eq!(
            said(sink(true, 299.0)),
            [
                "sink main has been retrying since 2024-01-02T03:04:05.678Z (6 min ago): unreachable: refused. Check that \
              the broker runs"
            ]
        );
    }

    #[test]
    fn one_is_singular_and_a_removed_sink_with_nothing_left_needs_nobody() {
        let said = |waiting_events, letters: &[(&str, u64)]| {
            let dead_letters = letters.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
            let state = if waiting_events < 9 { "removed" } else { "up" }.to_owned();
            let sink = SinkStatus { name: "main".into(), state, waiting_events, dead_letters, ..SinkStatus::default() };
            about_sink(&sink, "").join("\n")
        };
        assert_eq!(said(0, &[]), "");
        assert!(said(1, &[]).starts_with("sink main was removed from the configuration, and 1 event waits for it. "));
        assert!(said(2, &[]).contains(" and 2 events wait for it. "));
        assert!(said(0, &[("rights", 1)]).starts_with("sink main: 1 dead letter (1 rights), see "));
        let letters = said(9, &[("too_large", 1), ("too_many_topics", 2)]);
        assert!(letters.starts_with("sink main: 3 dead letters (1 too_large, 2 too_many_topics), see "), "{letters}");
        assert!(letters.contains("raise max_topics, reload, then"), "{letters}");
    }

    #[test]
    fn a_silent_source_that_refuses_events_is_not_said_to_have_no_profile() {
        let refused = RefusedStatus { events: 1, ..RefusedStatus::default() };
        let mut source = SourceStatus {
            silence: Some("24h".into()),
            silent: true,
            needs_person: true,
            refused: Some(refused),
            ..SourceStatus::default()
        };
        assert!(matches!(about_source(&source, "").as_slice(), [line] if line.contains("1 request was refused")));
        source.refused = None;
        assert!(matches!(about_source(&source, "").as_slice(), [line] if line.contains("is Alma's profile active?")));
    }
}
