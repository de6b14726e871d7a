//! `drain`: deliver what waits, without taking anything new.

use std::path::Path;
use std::time::Duration;

use super::{Failure, Listener, load_silently, reachable};
use crate::bridge::Drain;
use crate::config::{Config, Storage};
use crate::ingress::tls;
use crate::journal::JournalLock;
use crate::telemetry::logs;

const EXAMPLES: &str = "\
Examples:
  alma-bridge drain                      until nothing waits any more
  alma-bridge drain --timeout 10m        exit 1 where something still waits by then
  alma-bridge drain && rm -r data        only what is delivered, or was given up by hand, is deleted

Exit 1, too, where what is left needs a person: dead letters, or events for a sink that was
taken out. The bridge must be stopped.";

/// Deliver what waits in a stopped bridge's journal, without taking events, and exit 0
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Give up after so long; without it a broker that is down is waited for
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
        return Err(Failure::failed("storage = \"none\" keeps no journal: nothing waits"));
    }
    let dir = config.journal_dir();
    if !dir.exists() {
        println!("nothing waits: there is no journal in {}", dir.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    runtime.block_on(async {
        refuse_beside_a_bridge(&config).await?;
        drain(&config, args.timeout).await
    })
}

/// A bridge that runs delivers by itself; one that ends just now is waited for.
async fn refuse_beside_a_bridge(config: &Config) -> Result<(), Failure> {
    if JournalLock::acquire(&config.journal_dir()).map_err(Failure::failed)?.is_some() {
        return Ok(());
    }
    if let Ok(address) = reachable(config, Listener::Admin)
        && tokio::net::TcpStream::connect(address).await.is_ok()
    {
        return Err(Failure::failed(format!(
            "a bridge runs on this journal (it answers on {address}) and delivers by itself: stop it first"
        )));
    }
    Ok(())
}

async fn drain(config: &Config, timeout: Option<Duration>) -> Result<(), Failure> {
    let drain = Drain::start(config).await.map_err(Failure::failed)?;
    let cut = tokio::select! {
        () = drain.settled() => None,
        () = given_up(timeout) => Some("the time is up"),
        () = asked_to_end() => Some("ended by a signal"),
    };
    let left = drain.stop().await.map_err(Failure::failed)?;
    for place in &left {
        if place.waiting_events > 0 {
            let why = if place.state == "removed" { ", which was taken out of the configuration" } else { "" };
            println!("{} events still wait for sink {}{why}", place.waiting_events, place.name);
        }
        if place.dead_letters > 0 {
            println!("{} dead letters of sink {}", place.dead_letters, place.name);
        }
    }
    match cut {
        Some(why) => Err(Failure::failed(why)),
        None if left.is_empty() => {
            println!("nothing waits any more");
            Ok(())
        }
        None => Err(Failure::failed("what is left needs a person (see sinks, dead-letters)")),
    }
}

async fn given_up(after: Option<Duration>) {
    match after {
        Some(after) => tokio::time::sleep(after).await,
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
