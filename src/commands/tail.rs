//! `tail`: events as they land on their topics, read back from where a sink publishes them.
//!
//! How a sink is read back stands beside the sink ([`crate::sinks::tail`]).

use std::io::{self, Write as _};
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use super::outside::Outside;
use super::{Failure, block_on, load};
use crate::config::{Config, Sink, SinkName};
use crate::sinks;
use crate::sinks::tools::{Patterns, TailOptions};

/// Events that wait to be printed.
const CHANNEL: usize = 64;

const EXAMPLES: &str = "\
Examples:
  alma-bridge tail                            all topics, from now on
  alma-bridge tail alma.job_end alma.loan     these two
  alma-bridge tail 'alma.loan*' --from-start  with what is there already
  alma-bridge tail --count 1 alma.job_end | jq .data

Ends with Ctrl-C, or after --count events.";

/// Print events as they land on their topics
///
/// One CloudEvents document a line on stdout. The events hold personal data.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Topics; a * at the end stands for any ending; none: all
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,

    /// The sink to read back from; needed where there are several
    #[arg(long, value_name = "NAME")]
    sink: Option<SinkName>,

    /// Begin with the oldest event that is there
    #[arg(long)]
    from_start: bool,

    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    #[command(flatten)]
    outside: Outside,
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let config = load(file)?;
    let sink = pick_sink(&config, args.sink.as_ref())?;
    block_on(async {
        tokio::select! {
            ended = print(sink, args) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

async fn print(sink: &Sink, args: Args) -> Result<(), Failure> {
    let Args { topics, from_start, count, outside, .. } = args;
    let (into, mut landed) = mpsc::channel(CHANNEL);
    let (ready, reading) = oneshot::channel();
    let options = TailOptions { topics: Patterns(topics), from_start, into, ready };
    let printing = async {
        if reading.await.is_ok() {
            eprintln!("reading sink {} ({}), Ctrl-C ends", sink.name, sink.kind.as_str());
        }
        let mut left = count;
        while left != Some(0) {
            let Some(event) = landed.recv().await else { break };
            if !print_line(&outside.document(&event.document))? {
                break;
            }
            left = left.map(|left| left - 1);
        }
        landed.close();
        Ok(())
    };
    tokio::select! {
        read = sinks::tail(sink, options) => read.map_err(Failure::failed),
        printed = printing => printed,
    }
}

/// Prints one event; false where nobody reads on.
fn print_line(document: &[u8]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(document).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        // The reader of a pipe has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).map_err(Failure::failed),
    }
}

fn pick_sink<'a>(config: &'a Config, name: Option<&SinkName>) -> Result<&'a Sink, Failure> {
    let names = || config.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.sinks.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::Usage(format!("there are several sinks, name one by --sink: {}", names()))),
        (Some(name), sinks) => sinks
            .iter()
            .find(|sink| sink.name == *name)
            .ok_or_else(|| Failure::Usage(format!("no sink is named {name}; there are: {}", names()))),
    }
}
