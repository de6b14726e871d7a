//! `replay`: publishes retained events again.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::operator_client::OperatorClient;
use super::outside::Outside;
use super::running::RunningBridge;
use super::table::Column::Left;
use super::table::Table;
use super::{Failure, block_on, counted, output};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{self, ActionFilter, SinkName};
use crate::operator::{OperatorRequest, Progress, ReplayRequest, RunState, Selected};

const EXAMPLES: &str = "\
Examples:
  alma-bridge replay --sink main --from 2h --dry-run            list and count them first
  alma-bridge replay --sink main --from 2h                      the events of the last 2 h
  alma-bridge replay --sink main --from 2h --action loan --action bib
  alma-bridge replay --sink main --from 2026-01-02T03:00:00Z --to 2026-01-02T04:00:00Z
  alma-bridge replay --sink nats --from 1h --repair             after JetStream lost data

Consumers that deduplicate by id ignore the repeats; all others get the events once more.
Every event keeps its id and has the attribute replayed. Events that still wait for the sink
are left out, because they are delivered in their turn. Exits with 0 even if all matching
events still wait, and with 1 if no event matches, if the sink did not take all of them, or if
some are gone or damaged. The command asks the running bridge; if none runs, it works on the
journal directly.";

/// Publish retained events to a sink again
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The sink to publish to
    #[arg(long, value_name = "NAME")]
    sink: SinkName,

    /// Start with events that became durable at this moment (RFC 3339), or this long ago (2h)
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Timestamp,

    /// Only events that became durable before this moment; default: up to the newest event
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,

    /// Only events of this action (`job_end`), or of this action and event (`loan.loan_returned`), in any case;
    /// repeatable
    #[arg(long, value_name = "ACTION", value_parser = config::parse_action)]
    action: Vec<String>,

    /// List and count the events, but publish nothing
    #[arg(long)]
    dry_run: bool,

    /// For a broker that lost data: publish with the original message ids
    ///
    /// Within the stream's duplicate window, JetStream then stores only what it lost. Without --repair, a replay has
    /// its own message ids (`…/replay-{run}`), because JetStream drops an id that it knows even if the message was
    /// purged. For other sinks it makes no difference.
    #[arg(long)]
    repair: bool,

    #[command(flatten)]
    outside: Outside,
}

/// How often to ask about the running replay.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many of these requests pass between two lines of progress.
const LOOKS_A_LINE: u32 = 25;

/// Parses `2024-01-02T03:04:05Z`, or a time span before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        let micros = u64::try_from(moment.as_microsecond());
        return micros.map(Timestamp::from_micros).map_err(|_| "expected a moment after 1970".to_owned());
    }
    let span = humantime::parse_duration(text);
    span.map(|span| SystemClock.now().before(span)).map_err(|_| {
        "expected RFC 3339 with a zone, such as 2026-01-02T03:04:05Z, or a time span such as 2h".to_owned()
    })
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let mut bridge = RunningBridge::find(file)?;
    if args.to.is_some_and(|to| to <= args.from) {
        return Err(Failure::Usage("--to is not later than --from".to_owned()));
    }
    block_on(async {
        let mut operator = OperatorClient::open(&mut bridge)?;
        let done = replay(&mut operator, args).await;
        operator.close().await;
        done
    })
}

async fn replay(operator: &mut OperatorClient, args: Args) -> Result<(), Failure> {
    let Args { sink, from, to, action: actions, dry_run, repair, outside } = args;
    let until = to.map_or("now".to_owned(), |to| to.to_string());
    let (micros, to) = (from.as_micros(), to.map(Timestamp::as_micros));
    let actions = ActionFilter::new(&actions).map_err(Failure::failed)?;
    let order = ReplayRequest { sink: sink.clone(), from: micros, to, actions, dry_run, repair };
    // Before the replay starts, so that Ctrl-C always ends it.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let begun: Progress = operator.ask(&OperatorRequest::Replay(order)).await?;
    let what = if dry_run { "counting for" } else { "publishing again to" };
    errln!("{what} sink {sink}: events made durable from {from} to {until}");
    let followed = tokio::select! {
        ended = follow(operator, &begun.run, outside) => Some(ended),
        _ = interrupt.recv() => None,
    };
    let cancel = OperatorRequest::CancelReplay { run: begun.run };
    let ended = match followed {
        Some(Ok(ended)) => ended,
        Some(Err(failure)) => {
            // Probably nobody reads the output any more, so the replay need not go on.
            let _ = operator.ask::<Progress>(&cancel).await;
            return Err(failure);
        }
        None => operator.ask(&cancel).await?,
    };
    output::ended(tell(&sink, from, dry_run, &ended, outside), verdict(&ended))
}

/// Waits until the replay ends. Prints what a dry run finds.
async fn follow(operator: &mut OperatorClient, run: &str, outside: Outside) -> Result<Progress, Failure> {
    let (mut looks, mut table) = (0, Table::new([Left(""), Left(""), Left("")]));
    loop {
        let progress: Progress = operator.ask(&OperatorRequest::Replayed { run: run.to_owned() }).await?;
        print(&mut table, &progress.events, outside)?;
        if progress.state != RunState::Running {
            return Ok(progress);
        }
        if !progress.events.is_empty() {
            continue;
        }
        looks += 1;
        if looks % LOOKS_A_LINE == 0 {
            let held = progress.held.map(|why| format!("; the sink takes nothing now: {}", outside.line(&why)));
            errln!("{} published{} (Ctrl-C ends it)", progress.published, held.unwrap_or_default());
        }
        sleep(LOOK_EVERY).await;
    }
}

fn print(table: &mut Table<3>, events: &[Selected], outside: Outside) -> Result<(), Failure> {
    for Selected { id, topic, recorded } in events {
        table.row([recorded, topic, id].map(|text| outside.line(text).to_string()));
    }
    if events.is_empty() { Ok(()) } else { outln!("{}", table.take()) }
}

fn tell(sink: &SinkName, from: Timestamp, dry_run: bool, ended: &Progress, outside: Outside) -> Result<(), Failure> {
    match ended.retained_since.as_ref().map(|since| since.parse::<jiff::Timestamp>()) {
        Some(Ok(since)) if u64::try_from(since.as_microsecond()).is_ok_and(|since| since > from.as_micros()) => {
            errln!("note: the oldest event that the journal retains became durable at {since}");
        }
        None => errln!("note: the journal retains no event"),
        Some(_) => {}
    }
    let events = counted(ended.selected, "event");
    let only_waiting = ended.state == RunState::Done && ended.selected == 0 && ended.waiting > 0;
    if matches_nothing(ended) {
        outln!("sink {sink}: no event matches; nothing published")?;
        if !ended.other_actions.is_empty() {
            let actions: Vec<String> = ended.other_actions.iter().map(|it| outside.line(it).to_string()).collect();
            outln!("actions in this period: {}", actions.join(", "))?;
        }
    } else if only_waiting {
        let nothing = if dry_run { "nothing would be published" } else { "nothing published" };
        outln!("sink {sink}: {nothing}: {}", still_waiting(ended.waiting))?;
    } else if dry_run {
        outln!("sink {sink}: {events} would be published, of {} in this period", ended.read)?;
    } else {
        let known = match ended.duplicates {
            0 => String::new(),
            known => format!(" ({known} of them were already there)"),
        };
        outln!("sink {sink}: {} of {events} confirmed{known}, run {}", ended.published, ended.run)?;
    }
    if ended.waiting > 0 && !only_waiting {
        outln!("{}", still_waiting(ended.waiting))?;
    }
    match ended.damaged {
        0 => {}
        1 => outln!("1 event could not be read: it is damaged on disk")?,
        many => outln!("{many} events could not be read: they are damaged on disk")?,
    }
    match ended.gone {
        0 => {}
        1 => outln!("1 event is gone: its segment was deleted, by retention or by hand")?,
        many => outln!("{many} events are gone: their segments were deleted, by retention or by hand")?,
    }
    for (reason, count) in &ended.failed {
        outln!("{count} {} not taken: {}", if *count == 1 { "was" } else { "were" }, outside.line(reason))?;
    }
    Ok(())
}

/// `1 event still waits for the sink and is delivered in its turn`.
fn still_waiting(count: u64) -> String {
    match count {
        1 => "1 event still waits for the sink and is delivered in its turn".to_owned(),
        many => format!("{many} events still wait for the sink and are delivered in their turn"),
    }
}

/// Whether no event matches, not even one that still waits.
fn matches_nothing(ended: &Progress) -> bool {
    ended.state == RunState::Done && ended.selected == 0 && ended.waiting == 0
}

/// Succeeds if the sink has, or will get, every matching event.
fn verdict(ended: &Progress) -> Result<(), Failure> {
    match &ended.state {
        RunState::Failed(why) => Err(Failure::failed(why)),
        RunState::Cancelled => Err(Failure::failed("the replay was cancelled; you can start it again")),
        _ if matches_nothing(ended) || !ended.failed.is_empty() || ended.damaged > 0 || ended.gone > 0 => {
            Err(Failure::Silent)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_moments_and_time_spans() {
        assert_eq!(moment("2024-01-02T03:04:05.678Z").expect("a moment").to_string(), "2024-01-02T03:04:05.678Z");
        assert_eq!(moment("2024-01-02T04:04:05+01:00").expect("a moment").to_string(), "2024-01-02T03:04:05.000Z");
        let begun = moment("2h").expect("a span");
        let ago = SystemClock.now().since(begun);
        assert!((Duration::from_hours(2)..Duration::from_mins(121)).contains(&ago), "{ago:?}");
        for bad in ["", "yesterday", "2024-01-02", "2024-01-02T03:04:05", "1969-01-01T00:00:00Z", "-2h"] {
            assert!(moment(bad).is_err(), "{bad:?}");
        }
    }
}
