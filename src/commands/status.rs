//! `status`: shows what the running bridge is doing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::json;

use super::http::Client;
use super::outside::Outside;
use super::running::RunningBridge;
use super::table::Column::Left;
use super::table::Table;
use super::{Failure, block_on, counted, output};
use crate::admin::Status;
use crate::admin::status::{Problem, ProblemWith, SinkStatus, SourceStatus};
use crate::printable::Printable;
use crate::units;

const EXAMPLES: &str = "\
Examples:
  alma-bridge status            for people; exit 1 if something needs a person
  alma-bridge status --watch    again every two seconds
  alma-bridge status --json     for programs";

/// Show what the running bridge is doing; exit 1 if something needs a person
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print the JSON document of GET /status
    #[arg(long, conflicts_with = "watch")]
    json: bool,

    /// Show it again every two seconds until Ctrl-C, even while the bridge restarts
    #[arg(long)]
    watch: bool,

    /// Print nothing, and exit 1 only if the bridge cannot take events (for health checks)
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    ready: bool,

    #[command(flatten)]
    outside: Outside,
}

/// How often --watch asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let mut bridge = RunningBridge::find(file)?;
    block_on(async {
        if args.watch {
            return tokio::select! {
                ended = watch(&bridge, args.outside) => ended,
                unread = output::unread() => Err(unread),
            };
        }
        let (document, status) = look(&bridge).await.map_err(|failure| bridge.not_found(failure))?;
        if args.ready {
            return if status.ready { Ok(()) } else { Err(Failure::Silent) };
        }
        let shown = if args.json {
            outln!("{}", args.outside.json(&document))
        } else {
            outln!("{}", render(&status, args.outside))
        };
        let well = status.ready && status.attention.is_empty();
        output::ended(shown, if well { Ok(()) } else { Err(Failure::Silent) })
    })
}

/// The status as it is shown. Looks for the bridge anew each time: one that was restarted may have another port.
async fn look(bridge: &RunningBridge) -> Result<(String, Status), Failure> {
    let (mut document, mut status) = fetch(&mut bridge.client()?).await?;
    if let Some(broken) = bridge.broken() {
        let problems = with_broken_file(&status, &broken);
        status.set_problems(problems);
        document = with_problems(&document, &status)?;
    }
    Ok((document, status))
}

/// Shows it again and again: on a terminal in place of what was there, elsewhere one block after another. A bridge that
/// does not answer may be restarting, and is asked again.
async fn watch(bridge: &RunningBridge, outside: Outside) -> Result<(), Failure> {
    let on_terminal = io::stdout().is_terminal();
    loop {
        let shown = match look(bridge).await {
            Ok((_, status)) => render(&status, outside),
            Err(failure) => {
                let why = failure.lines().join("; ");
                format!("{}\nasking again every {} s, Ctrl-C ends", Printable::line(&why), WATCH_EVERY.as_secs())
            }
        };
        if on_terminal {
            // Clears the terminal and moves to its top.
            outln!("\x1b[2J\x1b[H{shown}")?;
        } else {
            outln!("{shown}\n")?;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The status as JSON text, and parsed.
pub(super) async fn fetch(client: &mut Client) -> Result<(String, Status), Failure> {
    let request = Request::get("/status").body(Full::<Bytes>::default()).expect("a constant path");
    let answer = client.send(request).await.map_err(Failure::failed)?;
    let document = String::from_utf8_lossy(answer.body()).into_owned();
    let status = serde_json::from_str(&document).map_err(|error| {
        Failure::failed(format!("the admin listener answered {} without a status: {error}", answer.status()))
    })?;
    Ok((document, status))
}

/// What needs a person, with what is wrong with the configuration on disk. That is newer than what the bridge says of the
/// last reload that it refused, most often of the same file.
fn with_broken_file(status: &Status, broken: &str) -> Vec<Problem> {
    let text = format!("{broken}; the one loaded at {} stays in effect", status.config.loaded);
    let others = status.problems.iter().filter(|problem| problem.about != ProblemWith::ConfigRefused);
    [Problem::new(ProblemWith::ConfigRefused, text)].into_iter().chain(others.cloned()).collect()
}

/// The document as it came, but with these problems.
fn with_problems(document: &str, status: &Status) -> Result<String, Failure> {
    let mut document: serde_json::Value = serde_json::from_str(document).map_err(Failure::failed)?;
    document["attention"] = json!(status.attention);
    document["problems"] = json!(status.problems);
    Ok(document.to_string())
}

fn render(status: &Status, outside: Outside) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = write_status(&mut text, status, outside);
    text.trim_end().to_owned()
}

fn write_status(text: &mut String, status: &Status, outside: Outside) -> std::fmt::Result {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    let started = units::with_age(&status.started, &status.now);
    writeln!(text, "alma-bridge {}: {ready}, since {started}", status.version)?;
    if let Some(why) = status.unready_reason.as_deref().filter(|why| !status.has_said(why)) {
        writeln!(text, "  {}", outside.line(why))?;
    }
    for line in &status.attention {
        writeln!(text, "  ! {}", outside.line(line))?;
    }
    writeln!(text, "\nSources")?;
    let mut sources = Table::new([Left(""), Left(""), Left("")]);
    for source in &status.sources {
        add_source(&mut sources, source, &status.now);
    }
    writeln!(text, "{}", sources.take())?;
    if !status.sinks.is_empty() {
        let mut sinks = Table::new([Left(""), Left(""), Left(""), Left("")]);
        for sink in &status.sinks {
            add_sink(&mut sinks, sink, status, outside);
        }
        writeln!(text, "\nSinks\n{}", sinks.take())?;
    }
    if let Some(journal) = &status.journal {
        writeln!(text, "\nJournal {}", journal.dir)?;
        writeln!(
            text,
            "  {} of {} waiting, {} kept for replay, {} free on the disk",
            units::size(journal.waiting_bytes),
            units::size(journal.max_size),
            units::size(journal.delivered_bytes),
            units::size(journal.free_bytes),
        )?;
    }
    Ok(())
}

fn add_source(table: &mut Table<3>, source: &SourceStatus, now: &str) {
    let last = match &source.last_event {
        Some(last) => format!("last event: {}", units::with_age(last, now)),
        None => "last event: none yet".to_owned(),
    };
    let since = if source.last_event.is_some() { " since" } else { "" };
    let refused = source.refused.as_ref().map(|refused| format!(", {} refused{since}", refused.events));
    let last = last + &refused.unwrap_or_default();
    table.row([format!("  {}", source.name), source.path.clone(), last]);
}

fn add_sink(table: &mut Table<4>, sink: &SinkStatus, status: &Status, outside: Outside) {
    let waiting = match sink.waiting_events {
        0 => "0 waiting".to_owned(),
        count => format!("{count} waiting, the oldest for {:.0} s", sink.oldest_waiting_seconds),
    };
    table.row([format!("  {}", sink.name), sink.kind.clone().unwrap_or("-".to_owned()), sink.state.clone(), waiting]);
    if let Some(why) = sink.why.as_deref().filter(|why| !status.has_said(why)) {
        table.note(format!("    {}", outside.line(why)));
    }
    for parked in &sink.parked_topics {
        let (topic, detail) = (outside.line(&parked.topic), outside.line(&parked.detail));
        table.note(format!("    {topic} is parked since {}: {} ({detail})", parked.since, parked.reason));
    }
    for (reason, count) in &sink.dead_letters {
        table.note(format!("    {}: {reason}", counted(*count, "dead letter")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_that_the_bridge_has_refused_is_told_of_once() {
        let mut status = Status::default();
        let letters = Problem::of(ProblemWith::Sink, "main", "sink main: 3 dead letters".to_owned());
        let refused =
            Problem::new(ProblemWith::ConfigRefused, "the last reload was refused: c.toml: line 3".to_owned());
        status.set_problems(vec![letters.clone(), refused]);
        let problems = with_broken_file(&status, "the configuration on disk is broken: c.toml: line 4");
        assert!(problems.len() == 2 && problems[0].text.contains("line 4") && problems[1] == letters, "{problems:?}");
    }

    #[test]
    fn a_bridge_without_sinks_shows_no_heading_for_them() {
        let text = render(&Status::default(), Outside::escaped());
        assert!(text.contains("\nSources") && !text.contains("Sinks"), "{text}");
    }

    #[test]
    fn what_needs_a_person_comes_first() {
        let status = Status { attention: vec!["sink main: 3 dead letters".into()], ..Status::default() };
        let text = render(&status, Outside::escaped());
        assert!(text.starts_with("alma-bridge : NOT READY"), "{text}");
        assert!(text.contains("  ! sink main: 3 dead letters\n"), "{text}");
    }
}
