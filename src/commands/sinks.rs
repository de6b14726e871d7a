//! `sinks`: the sinks that the journal knows, and letting go of one.

use std::path::Path;

use super::desk::{Desk, confirmed};
use super::table::Column::{Left, Right};
use super::table::Table;
use super::{Failure, block_on, load};
use crate::admin::tools::{Forgotten, Order, Place};
use crate::config::{Config, SinkName};
use crate::printable::Printable;

const EXAMPLES: &str = "\
Examples:
  alma-bridge sinks list               every sink, also those taken out, and what waits
  alma-bridge sinks list --json        for programs
  alma-bridge sinks forget old-kafka   let go of one that was taken out, and of what waits

At the running bridge, or where none runs on its journal directly.";

/// Show the sinks that the journal keeps a place for; let go of one that was taken out
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show every sink, its state, what waits for it and its dead letters
    #[command(after_help = EXAMPLES)]
    List {
        /// Print a JSON document
        #[arg(long)]
        json: bool,
    },
    /// Let go of a sink that was taken out of the configuration
    ///
    /// The events that wait for it alone are lost to it for good. Its dead letters stay until `dead-letters drop`.
    #[command(after_help = EXAMPLES)]
    Forget {
        /// Its name
        #[arg(value_name = "NAME")]
        sink: SinkName,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let config = load(file)?;
    block_on(async {
        let mut desk = Desk::open(&config)?;
        let done = match args.what {
            What::List { json } => list(&mut desk, json).await,
            What::Forget { sink, yes } => forget(&mut desk, &config, sink, yes).await,
        };
        desk.close().await;
        done
    })
}

async fn list(desk: &mut Desk, json: bool) -> Result<(), Failure> {
    let places: Vec<Place> = desk.ask(&Order::Sinks {}).await?;
    if json {
        return outln!("{}", serde_json::to_string(&places).map_err(Failure::failed)?);
    }
    let mut table = Table::new([Left("SINK"), Left("STATE"), Right("WAITING"), Left("OLDEST"), Right("DEAD LETTERS")]);
    for place in places {
        table.row([
            place.name.to_string(),
            Printable::line(&place.state).to_string(),
            place.waiting_events.to_string(),
            Printable::line(place.oldest_waiting.as_deref().unwrap_or("-")).to_string(),
            place.dead_letters.to_string(),
        ]);
    }
    outln!("{}", table.take())
}

async fn forget(desk: &mut Desk, config: &Config, sink: SinkName, yes: bool) -> Result<(), Failure> {
    let places: Vec<Place> = desk.ask(&Order::Sinks {}).await?;
    let Some(place) = places.iter().find(|place| place.name == sink) else {
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        return Err(Failure::failed(format!("no sink {sink} is known; there are: {}", names.join(", "))));
    };
    match place.state.as_str() {
        "removed" => {}
        "forgotten" => {
            return Err(Failure::failed(format!(
                "sink {sink} is forgotten already; to get rid of its {} dead letters, publish them to another sink with \
                 `dead-letters retry --all --sink {sink} --to NAME`, or drop them with `dead-letters drop --all --sink {sink}`",
                place.dead_letters
            )));
        }
        _ => {
            return Err(Failure::failed(format!(
                "sink {sink} is configured: take it out of the configuration and reload the bridge first"
            )));
        }
    }
    let is_new = |name: &SinkName| places.iter().all(|place| place.name != *name || place.state == "new");
    let heir = config.sinks.iter().find(|heir| heir.continues.as_ref() == Some(&sink) && is_new(&heir.name));
    if let Some(heir) = heir {
        return Err(Failure::failed(format!(
            "sink {} is to continue it, with what waits: start or reload the bridge, and {sink} is gone by itself",
            heir.name
        )));
    }
    let oldest = place.oldest_waiting.as_ref().map(|oldest| format!(", the oldest received at {oldest}"));
    confirmed(
        &format!(
            "forgetting sink {sink}: {} events that wait for it are lost to it{}",
            place.waiting_events,
            oldest.unwrap_or_default()
        ),
        yes,
    )?;
    let done: Forgotten = desk.ask(&Order::Forget { sink: sink.clone() }).await?;
    outln!("sink {sink} is forgotten, with {} events that waited for it", done.waiting_events)?;
    if place.dead_letters > 0 {
        outln!("its {} dead letters are kept: alma-bridge dead-letters list --sink {sink}", place.dead_letters)?;
    }
    Ok(())
}
