//! `tail`: events as they land on their topics, read back from where a sink publishes them.
//!
//! Each sink has its own way to be read back ([`crate::sinks::tail`]).

use std::collections::BTreeSet;
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use super::outside::Outside;
use super::{Failure, block_on, load, output};
use crate::config::{Config, Sink, SinkName};
use crate::message::{Topic, known_topics};
use crate::sinks;
use crate::sinks::tools::{Patterns, TailOptions, can_fit};

/// Events that wait to be printed.
const CHANNEL: usize = 64;

/// Maximum topics that an error names.
const MAX_NAMED: usize = 20;

const EXAMPLES: &str = "\
Examples:
  alma-bridge tail                            all topics, from now on
  alma-bridge tail alma.job_end alma.loan     these two
  alma-bridge tail 'alma.loan*' --from-start  also the events that are there already
  alma-bridge tail --count 1 alma.job_end | jq .data

Ends with Ctrl-C, or after --count events.";

/// Print events as they land on their topics
///
/// Prints one CloudEvents document per line on stdout. The events contain personal data.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Topics; a * at the end matches any ending; default: all topics
    #[arg(value_name = "TOPIC")]
    topics: Vec<String>,

    /// The sink to read back from; required if there are several
    #[arg(long, value_name = "NAME")]
    sink: Option<SinkName>,

    /// Start with the oldest event that is there
    #[arg(long)]
    from_start: bool,

    /// End after this many events
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
            ended = print(&config, sink, args) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
            unread = output::unread() => Err(unread),
        }
    })
}

async fn print(config: &Config, sink: &Sink, args: Args) -> Result<(), Failure> {
    let Args { topics, from_start, count, outside, .. } = args;
    let (into, mut landed) = mpsc::channel(CHANNEL);
    let (ready, reading) = oneshot::channel();
    let asked = Patterns(topics);
    let options = TailOptions { topics: asked.clone(), from_start, into, ready };
    let printing = async {
        if let Ok(there) = reading.await {
            refuse_foreign(config, sink, &asked, there.as_deref().unwrap_or_default())?;
            errln!("reading sink {} ({}), Ctrl-C ends", sink.name, sink.kind.as_str());
            for pattern in there.iter().flat_map(|there| asked.without_a_topic(there)) {
                errln!("no topic {pattern:?} yet: waiting for its first event");
            }
        }
        let mut left = count;
        while left != Some(0) {
            let Some(event) = landed.recv().await else { break };
            output::bytes(&[&outside.document(&event.document), b"\n".as_slice()].concat())?;
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

/// Refuses to wait for a topic that does not exist and that no event will ever have.
fn refuse_foreign(config: &Config, sink: &Sink, asked: &Patterns, there: &[String]) -> Result<(), Failure> {
    let foreign = asked.without_a_topic(there).find(|pattern| !can_fit(pattern, &sink.topic));
    let Some(pattern) = foreign else { return Ok(()) };
    let known = || known_topics(sink, &config.sources).iter().map(ToString::to_string).collect::<Vec<_>>();
    let (what, topics) = match (there, known()) {
        ([], none) if none.is_empty() => ("the topics of this sink have the form", sink.topic.shapes()),
        ([], known) => ("the topics of this sink are", known),
        (there, _) => ("there are", there.to_vec()),
    };
    let more = topics.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = topics.into_iter().take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    let meant = similar(sink, pattern, &known_topics(sink, &config.sources));
    let meant = meant.map(|topic| format!("; did you mean {topic}?")).unwrap_or_default();
    Err(Failure::Usage(format!("unknown topic {pattern:?}; {what}: {named}{more}{meant}")))
}

/// The topic that was probably meant. With `alma.{action}`, that is `alma.job_end` for `job_end` or `alma.JOB_END`.
fn similar(sink: &Sink, pattern: &str, known: &BTreeSet<Topic>) -> Option<String> {
    let lower = pattern.to_ascii_lowercase();
    let prefixed = format!("{}.{lower}", sink.topic.literal_prefix());
    let exists = |topic: &String| {
        let asked = Patterns(vec![topic.clone()]);
        can_fit(topic, &sink.topic) && (known.is_empty() || known.iter().any(|known| asked.ask_for(known.as_str())))
    };
    [lower, prefixed].into_iter().find(exists)
}

fn pick_sink<'a>(config: &'a Config, name: Option<&SinkName>) -> Result<&'a Sink, Failure> {
    let names = || config.sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, config.sinks.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Failure::Usage(format!("there are several sinks, choose one with --sink: {}", names()))),
        (Some(name), sinks) => sinks
            .iter()
            .find(|sink| sink.name == *name)
            .ok_or_else(|| Failure::Usage(format!("unknown sink {name}; there are: {}", names()))),
    }
}
