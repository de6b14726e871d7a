//! `sinks`: lists the sinks that the journal knows, and forgets removed ones.

use std::path::Path;

use super::operator_client::{OperatorClient, confirmed};
use super::running::RunningBridge;
use super::table::Column::{Left, Right};
use super::table::Table;
use super::{Failure, block_on, counted};
use crate::config::{Config, SinkName};
use crate::operator::{Forgotten, ListedSink, OperatorRequest};
use crate::printable::Printable;

const EXAMPLES: &str = "\
Examples:
  alma-bridge sinks list               every sink, including removed ones, and what waits for it
  alma-bridge sinks list --json        for programs
  alma-bridge sinks forget old-kafka   forget a removed sink and the events that wait for it

The command asks the running bridge; if none runs, it works on the journal directly.";

/// Show the sinks that the journal keeps a place for, and forget those that were removed
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
    /// Forget a sink that was removed from the configuration
    ///
    /// It never gets the events that still wait for it. Its dead letters stay until `dead-letters drop`.
    #[command(after_help = EXAMPLES)]
    Forget {
        /// The removed sink
        #[arg(value_name = "NAME")]
        sink: SinkName,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let mut bridge = RunningBridge::find(file)?;
    if let What::Forget { .. } = &args.what
        && bridge.broken().is_some()
    {
        // The file says whether another sink continues it, so it must be valid.
        return Err(bridge.not_found(Failure::Silent));
    }
    block_on(async {
        let mut operator = OperatorClient::open(&mut bridge)?;
        let done = match args.what {
            What::List { json } => list(&mut operator, json).await,
            What::Forget { sink, yes } => forget(&mut operator, &bridge.config, sink, yes).await,
        };
        operator.close().await;
        done
    })
}

async fn list(operator: &mut OperatorClient, json: bool) -> Result<(), Failure> {
    let places: Vec<ListedSink> = operator.ask(&OperatorRequest::Sinks {}).await?;
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

async fn forget(operator: &mut OperatorClient, config: &Config, sink: SinkName, yes: bool) -> Result<(), Failure> {
    let places: Vec<ListedSink> = operator.ask(&OperatorRequest::Sinks {}).await?;
    let Some(place) = places.iter().find(|place| place.name == sink) else {
        let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
        return Err(Failure::failed(format!("unknown sink {sink}; there are: {}", names.join(", "))));
    };
    match place.state.as_str() {
        "removed" => {}
        "forgotten" => {
            return Err(Failure::failed(format!(
                "sink {sink} is already forgotten, and only its {} left: publish to another sink with \
                 `dead-letters retry --all --sink {sink} --to NAME`, or drop with `dead-letters drop --all --sink {sink}`",
                counted(place.dead_letters, "dead letter")
            )));
        }
        _ => {
            return Err(Failure::failed(format!(
                "sink {sink} is configured: remove it from the configuration and reload the bridge first"
            )));
        }
    }
    let is_new = |name: &SinkName| places.iter().all(|place| place.name != *name || place.state == "new");
    let heir = config.sinks.iter().find(|heir| heir.continues.as_ref() == Some(&sink) && is_new(&heir.name));
    if let Some(heir) = heir {
        return Err(Failure::failed(format!(
            "sink {} continues {sink} and takes over what waits: start or reload the bridge, and {sink} is gone",
            heir.name
        )));
    }
    if place.waiting_events > 0 {
        let oldest = place.oldest_waiting.as_ref().map(|oldest| format!(", the oldest received at {oldest}"));
        let lost = match place.waiting_events {
            1 => "1 event that waits for it is".to_owned(),
            many => format!("{many} events that wait for it are"),
        };
        confirmed(&format!("forgetting sink {sink}: {lost} lost to it{}", oldest.unwrap_or_default()), yes)?;
    }
    let done: Forgotten = operator.ask(&OperatorRequest::Forget { sink: sink.clone() }).await?;
    outln!("sink {sink} is forgotten, and so are {} that waited for it", counted(done.waiting_events, "event"))?;
    match place.dead_letters {
        0 => {}
        1 => outln!("its dead letter is kept: alma-bridge dead-letters list --sink {sink}")?,
        many => outln!("its {many} dead letters are kept: alma-bridge dead-letters list --sink {sink}")?,
    }
    Ok(())
}
