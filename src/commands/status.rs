//! `status`: what the running bridge is doing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};

use super::http::Client;
use super::outside::Outside;
use super::table::Column::Left;
use super::table::Table;
use super::{Failure, Listener, block_on, counted, load, output, reachable};
use crate::admin::Status;
use crate::admin::status::SinkStatus;
use crate::config::Config;
use crate::printable::Printable;

const EXAMPLES: &str = "\
Examples:
  alma-bridge status            for people; exit 1 where something needs one
  alma-bridge status --watch    again every two seconds
  alma-bridge status --json     for programs";

/// Show what the running bridge is doing; exit 1 where something needs a person
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print the JSON document of GET /status
    #[arg(long, conflicts_with = "watch")]
    json: bool,

    /// Show it again every two seconds, until Ctrl-C; a bridge that restarts meanwhile is waited for
    #[arg(long)]
    watch: bool,

    /// Print nothing; exit 1 only where no event can be taken (for health checks)
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    ready: bool,

    #[command(flatten)]
    outside: Outside,
}

/// Between two looks of --watch.
const WATCH_EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let config = load(file)?;
    block_on(async {
        if args.watch {
            return watch(&config, args.outside).await;
        }
        let (document, status) = fetch(&config).await?;
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

/// Shows it again and again: on a terminal in place of what was there, elsewhere one block after another. A bridge that
/// does not answer may be restarting, and is asked again.
async fn watch(config: &Config, outside: Outside) -> Result<(), Failure> {
    let on_terminal = io::stdout().is_terminal();
    loop {
        let shown = match fetch(config).await {
            Ok((_, status)) => render(&status, outside),
            Err(failure) => {
                let why = failure.lines().join("; ");
                format!("{}\nasking again every {} s, Ctrl-C ends", Printable::line(&why), WATCH_EVERY.as_secs())
            }
        };
        if on_terminal {
            // Clears the terminal and starts at its top.
            outln!("\x1b[2J\x1b[H{shown}")?;
        } else {
            outln!("{shown}\n")?;
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The document as it came, and read. Looks for the bridge anew each time: one that was restarted may have another port.
async fn fetch(config: &Config) -> Result<(String, Status), Failure> {
    let address = reachable(config, Listener::Admin)?;
    let url: Uri = format!("http://{address}/status").parse().map_err(Failure::failed)?;
    let mut client = Client::new(url).map_err(Failure::failed)?;
    let request = Request::get("/status").body(Full::<Bytes>::default()).expect("a constant path");
    let answer = client.send(request).await.map_err(Failure::failed)?;
    let document = String::from_utf8_lossy(answer.body()).into_owned();
    let status = serde_json::from_str(&document).map_err(|error| {
        Failure::failed(format!("the admin listener answered {}, no status: {error}", answer.status()))
    })?;
    Ok((document, status))
}

fn render(status: &Status, outside: Outside) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = write_status(&mut text, status, outside);
    text.trim_end().to_owned()
}

fn write_status(text: &mut String, status: &Status, outside: Outside) -> std::fmt::Result {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    writeln!(text, "alma-bridge {}: {ready}, since {}", status.version, status.started)?;
    if let Some(why) = &status.unready_reason {
        writeln!(text, "  {}", outside.line(why))?;
    }
    for line in &status.attention {
        writeln!(text, "  ! {}", outside.line(line))?;
    }
    writeln!(text, "\nSources")?;
    let mut sources = Table::new([Left(""), Left(""), Left("")]);
    for source in &status.sources {
        let last = source.last_event.as_deref().unwrap_or("none since the start");
        sources.row([format!("  {}", source.name), source.path.clone(), format!("last event: {last}")]);
    }
    writeln!(text, "{}\n\nSinks", sources.take())?;
    let mut sinks = Table::new([Left(""), Left(""), Left(""), Left("")]);
    for sink in &status.sinks {
        add_sink(&mut sinks, sink, outside);
    }
    writeln!(text, "{}", sinks.take())?;
    if let Some(journal) = &status.journal {
        let size = |bytes| bytesize::ByteSize(bytes).display().iec();
        writeln!(text, "\nJournal {}", journal.dir)?;
        writeln!(
            text,
            "  {} of {} waiting, {} kept for replay, {} free on the disk",
            size(journal.waiting_bytes),
            size(journal.max_size),
            size(journal.delivered_bytes),
            size(journal.free_bytes),
        )?;
    }
    Ok(())
}

fn add_sink(table: &mut Table<4>, sink: &SinkStatus, outside: Outside) {
    let waiting = match sink.waiting_events {
        0 => "0 waiting".to_owned(),
        count => format!("{count} waiting, the oldest for {:.0} s", sink.oldest_waiting_seconds),
    };
    table.row([format!("  {}", sink.name), sink.kind.clone().unwrap_or("-".to_owned()), sink.state.clone(), waiting]);
    if let Some(why) = &sink.why {
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
    fn tells_what_is_wrong_before_all_else() {
        let status = Status { attention: vec!["sink main: 3 dead letters".into()], ..Status::default() };
        let text = render(&status, Outside::escaped());
        assert!(text.starts_with("alma-bridge : NOT READY"), "{text}");
        assert!(text.contains("  ! sink main: 3 dead letters\n"), "{text}");
    }
}
