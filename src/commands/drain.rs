//! `drain`: delivers the waiting events without taking new ones.

use std::path::Path;
use std::time::Duration;

use super::{Failure, Listener, counted, load_silently, output, reachable};
use crate::bridge::Drain;
use crate::config::{Config, Storage};
use crate::ingress::tls;
use crate::journal::JournalLock;
use crate::operator::ListedSink;
use crate::telemetry::logs;

const EXAMPLES: &str = "\
Examples:
  alma-bridge drain                      until nothing waits any more
  alma-bridge drain --timeout 10m        exit 1 if something still waits after 10 minutes
  alma-bridge drain && rm -r data        delete the data only if nothing is left in it

Exits with 1, too, if something is left that needs a person: dead letters, or events for a
removed sink. Stop the bridge first.";

/// Deliver the events that wait in a stopped bridge's journal, and take no new ones
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Give up after this time; default: wait for brokers that are down
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let loaded = load_silently(file)?;
    let config = loaded.config;
    logs::init(&config.log).map_err(Failure::failed)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tls::install_provider();
    if config.journal.storage == Storage::None {
        return Err(Failure::failed("with storage = \"none\" there is no journal: nothing waits"));
    }
    let dir = config.journal_dir();
    if !dir.exists() {
        return outln!("nothing waits: there is no journal in {}", dir.display());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    runtime.block_on(async {
        refuse_beside_a_bridge(&config).await?;
        drain(&config, args.timeout).await
    })
}

/// Refuses to run beside a bridge, which delivers by itself. If the bridge is just ending, the journal waits for it later.
async fn refuse_beside_a_bridge(config: &Config) -> Result<(), Failure> {
    if JournalLock::acquire(&config.journal_dir()).map_err(Failure::failed)?.is_some() {
        return Ok(());
    }
    if let Ok(address) = reachable(config, Listener::Admin)
        && tokio::net::TcpStream::connect(address).await.is_ok()
    {
        return Err(Failure::failed(format!(
            "a bridge runs with this journal (it answers on {address}) and delivers by itself: stop it first"
        )));
    }
    Ok(())
}

async fn drain(config: &Config, timeout: Option<Duration>) -> Result<(), Failure> {
    let drain = Drain::start(config).await.map_err(Failure::failed)?;
    let cut = tokio::select! {
        () = drain.settled() => None,
        timeout = passed(timeout) => Some(format!("--timeout {} passed", humantime::format_duration(timeout))),
        () = asked_to_end() => Some("ended by a signal".to_owned()),
    };
    let left = drain.stop().await.map_err(Failure::failed)?;
    let verdict = match cut {
        // The last events may have been delivered during the stop.
        _ if left.is_empty() => Ok(()),
        Some(why) => Err(Failure::failed(format!("{why}; {}", still_waiting(&left)))),
        None => Err(Failure::failed("what is left needs a person (see `sinks list` and `dead-letters list`)")),
    };
    output::ended(tell(&left), verdict)
}

fn tell(left: &[ListedSink]) -> Result<(), Failure> {
    for place in left {
        if place.waiting_events > 0 {
            let why = if place.state == "removed" { ", which was removed from the configuration" } else { "" };
            outln!("{} for sink {}{why}", waits(place.waiting_events), place.name)?;
        }
        if place.dead_letters > 0 {
            outln!("{} of sink {}", counted(place.dead_letters, "dead letter"), place.name)?;
        }
    }
    if left.is_empty() { outln!("nothing waits any more") } else { Ok(()) }
}

/// What still waits, for an error. An event may wait for several sinks, so their counts are not added up.
fn still_waiting(left: &[ListedSink]) -> String {
    let counts: Vec<u64> = left.iter().map(|place| place.waiting_events).filter(|count| *count > 0).collect();
    match counts.as_slice() {
        [] => "no event waits any more, but there are dead letters".to_owned(),
        [count] => waits(*count),
        several => format!("events still wait for {} sinks", several.len()),
    }
}

/// `1 event still waits`, `2 events still wait`.
fn waits(events: u64) -> String {
    format!("{} still {}", counted(events, "event"), if events == 1 { "waits" } else { "wait" })
}

/// Resolves with the timeout when it has passed.
async fn passed(timeout: Option<Duration>) -> Duration {
    match timeout {
        Some(timeout) => {
            tokio::time::sleep(timeout).await;
            timeout
        }
        None => std::future::pending().await,
    }
}

async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
