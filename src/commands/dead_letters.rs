//! `dead-letters`: the events that a sink could not take.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::operator_client::{OperatorClient, confirmed, pick_sink};
use super::outside::Outside;
use super::running::RunningBridge;
use super::table::Column::{Left, Right};
use super::table::Table;
use super::{Failure, block_on, counted, output};
use crate::config::SinkName;
use crate::operator::{
    Dropped, Letter, LetterLine, ListedSink, MAX_LETTERS, MAX_RETRIES, OperatorRequest, RetriedLetter, RetryOutcome,
};

const EXAMPLES: &str = "\
Examples:
  alma-bridge dead-letters list                       numbers, topics, reasons, sizes, event ids
  alma-bridge dead-letters show 1042                  why the sink refused it, and its event
  alma-bridge dead-letters show 1042 --body > x.json  what Alma signed, byte for byte
  alma-bridge dead-letters retry 1042 1043            publish these two again, with the same ids
  alma-bridge dead-letters retry --all --reason too_large
  alma-bridge dead-letters retry --all --sink old-kafka --to main
  alma-bridge dead-letters drop --all --topic alma.bib

An ID is a letter's number or the id of its event. A letter stays until its sink accepts it or you
drop it. Only show prints personal data. The command asks the running bridge; if none runs, it
works on the journal directly.";

/// Show the events that a sink could not take, publish them again, or drop them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the letters, oldest first, without their events
    #[command(after_help = EXAMPLES)]
    List {
        #[command(flatten)]
        filter: Filter,

        /// Print one JSON document per letter
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        outside: Outside,
    },
    /// Show one letter: why the sink refused it, and its event (personal data)
    #[command(after_help = EXAMPLES)]
    Show {
        /// The letter, by its number or by the id of its event
        #[arg(value_name = "ID")]
        id: Name,

        /// The sink; required if there are several
        #[arg(long, value_name = "NAME")]
        sink: Option<SinkName>,

        /// Print a JSON document with the event in Base64
        #[arg(long, conflicts_with = "body")]
        json: bool,

        /// Print only what Alma signed, byte for byte; on a terminal, control characters are escaped unless --raw is given
        #[arg(long)]
        body: bool,

        #[command(flatten)]
        outside: Outside,
    },
    /// Publish letters again with the same event ids; those that the sink confirms are removed
    #[command(after_help = EXAMPLES)]
    Retry {
        #[command(flatten)]
        which: Which,

        /// Publish them to this sink instead of their own, which need not be configured any more
        #[arg(long, value_name = "NAME")]
        to: Option<SinkName>,

        #[command(flatten)]
        outside: Outside,
    },
    /// Remove letters for good; their sink never gets these events
    #[command(after_help = EXAMPLES)]
    Drop {
        #[command(flatten)]
        which: Which,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What identifies a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    /// The letter's number.
    Letter(u64),
    /// The CloudEvents id of its event. It can't be taken for a number, because it has a dot or 32 digits.
    Event(String),
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(number) = text.parse() {
            return Ok(Self::Letter(number));
        }
        let fits = text.len() >= 32 || text.contains('.');
        let is_id = fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if is_id { Ok(Self::Event(text.to_owned())) } else { Err("expected a letter's number or an event's id") }
    }
}

#[derive(Debug, Default, clap::Args)]
struct Filter {
    /// Only letters of this sink
    #[arg(long, value_name = "NAME")]
    sink: Option<SinkName>,

    /// Only letters of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Only letters with this reason, as list shows it: `too_large`, malformed, rights, …
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

impl Filter {
    fn fits(&self, letter: &LetterLine) -> bool {
        self.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
    }
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The letters, by their numbers or by the ids of their events
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "topic", "reason"])]
    ids: Vec<Name>,

    /// All letters of the sink, or those of --topic and --reason
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let mut bridge = RunningBridge::find(file)?;
    block_on(async {
        let mut operator = OperatorClient::open(&mut bridge)?;
        let done = match args.what {
            What::List { filter, json, outside } => list(&mut operator, &filter, json, outside).await,
            What::Show { id, sink, json, body, outside } => {
                let as_what = match (json, body) {
                    (true, _) => Shown::Json,
                    (false, true) => Shown::Body,
                    (false, false) => Shown::Whole,
                };
                show(&mut operator, &id, sink.as_ref(), as_what, outside).await
            }
            What::Retry { which, to, outside } => retry(&mut operator, which, to, outside).await,
            What::Drop { which, yes } => drop_letters(&mut operator, which, yes).await,
        };
        operator.close().await;
        done
    })
}

/// Passes the letters of a sink that match the filter to `each_page`, page by page.
async fn letters(
    operator: &mut OperatorClient,
    sink: &SinkName,
    filter: &Filter,
    mut each_page: impl FnMut(Vec<LetterLine>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page: Vec<LetterLine> = operator.ask(&OperatorRequest::Letters { sink: sink.clone(), after }).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        each_page(page.into_iter().filter(|letter| filter.fits(letter)).collect())?;
    }
}

async fn list(operator: &mut OperatorClient, filter: &Filter, json: bool, outside: Outside) -> Result<(), Failure> {
    let sinks = if let Some(sink) = &filter.sink {
        vec![sink.clone()]
    } else {
        let places: Vec<ListedSink> = operator.ask(&OperatorRequest::Sinks {}).await?;
        places.into_iter().filter(|place| place.dead_letters > 0).map(|place| place.name).collect()
    };
    let mut table = Table::new([
        Right("ID"),
        Left("SINK"),
        Left("TOPIC"),
        Left("REASON"),
        Left("RECEIVED"),
        Right("BYTES"),
        Left("EVENT"),
    ]);
    let mut none = true;
    for sink in &sinks {
        letters(operator, sink, filter, |page| {
            if page.is_empty() {
                return Ok(());
            }
            none = false;
            for letter in page {
                if json {
                    let mut document = serde_json::to_value(&letter).map_err(Failure::failed)?;
                    document["sink"] = sink.as_str().into();
                    outln!("{}", outside.json(&document.to_string()))?;
                    continue;
                }
                let LetterLine { id, event, topic, reason, received, bytes } = letter;
                let [topic, reason, event] = [topic, reason, event].map(|text| outside.line(&text).to_string());
                table.row([id.to_string(), sink.to_string(), topic, reason, received, bytes.to_string(), event]);
            }
            if json { Ok(()) } else { outln!("{}", table.take()) }
        })
        .await?;
    }
    if !json && none {
        errln!("no dead letters");
    }
    Ok(())
}

/// What to show of a letter.
enum Shown {
    /// Why the sink refused it, and its event.
    Whole,
    /// The same as JSON.
    Json,
    /// Only what Alma signed.
    Body,
}

async fn show(
    operator: &mut OperatorClient,
    name: &Name,
    sink: Option<&SinkName>,
    what: Shown,
    outside: Outside,
) -> Result<(), Failure> {
    let sink = pick_sink(operator, sink).await?;
    // A number needs no search through all letters.
    let ids = match name {
        Name::Letter(id) => vec![*id],
        Name::Event(_) => numbers(operator, &sink, std::slice::from_ref(name)).await?,
    };
    let [id] = ids[..] else {
        let all: Vec<String> = ids.iter().map(u64::to_string).collect();
        let why = format!("sink {sink} has several letters for this event, choose one of: {}", all.join(", "));
        return Err(Failure::failed(why));
    };
    let letter: Letter = operator.ask(&OperatorRequest::Letter { sink, id }).await?;
    let event = STANDARD.decode(&letter.body).map_err(Failure::failed)?;
    match what {
        Shown::Json => {
            let document = serde_json::to_string(&letter).map_err(Failure::failed)?;
            outln!("{}", outside.json(&document))
        }
        // A file or a program gets the event byte for byte.
        Shown::Body if !std::io::stdout().is_terminal() => output::bytes(&event),
        Shown::Body => output::bytes(&outside.body(&event)),
        Shown::Whole => {
            let Letter { id, event: name, sink, topic, reason, detail, source, .. } = &letter;
            let Letter { received, recorded, died, offset, .. } = &letter;
            let (topic, reason, detail) = (outside.line(topic), outside.line(reason), outside.line(detail));
            outln!(
                "letter    {id} of sink {sink}\nevent     {name}\ntopic     {topic}\nreason    {reason}: {detail}\nsource    {source}\n\
                 received  {received}\nrecorded  {recorded} at offset {offset}\ndied      {died}\n"
            )?;
            output::bytes(&outside.body(&event))?;
            outln!("")
        }
    }
}

/// The numbers of the letters with these names. An event may have several letters. A name without a letter is an error.
async fn numbers(operator: &mut OperatorClient, sink: &SinkName, names: &[Name]) -> Result<Vec<u64>, Failure> {
    let mut found: BTreeMap<&Name, bool> = names.iter().map(|name| (name, false)).collect();
    let mut ids = BTreeSet::new();
    letters(operator, sink, &Filter::default(), |page| {
        for letter in page {
            for name in [Name::Letter(letter.id), Name::Event(letter.event)] {
                if let Some(found) = found.get_mut(&name) {
                    *found = true;
                    ids.insert(letter.id);
                }
            }
        }
        Ok(())
    })
    .await?;
    match found.into_iter().find(|(_, found)| !found) {
        Some((Name::Letter(id), _)) => Err(Failure::failed(format!("sink {sink} has no dead letter {id}"))),
        Some((Name::Event(event), _)) => {
            Err(Failure::failed(format!("sink {sink} has no dead letter for event {event}")))
        }
        None => Ok(ids.into_iter().collect()),
    }
}

/// The numbers of the letters that were named, or of all that match the filter.
async fn ids_of(operator: &mut OperatorClient, sink: &SinkName, which: Which) -> Result<Vec<u64>, Failure> {
    if !which.all {
        return numbers(operator, sink, &which.ids).await;
    }
    let mut ids = Vec::new();
    letters(operator, sink, &which.filter, |page| {
        ids.extend(page.iter().map(|letter| letter.id));
        Ok(())
    })
    .await?;
    Ok(ids)
}

async fn retry(
    operator: &mut OperatorClient,
    which: Which,
    to: Option<SinkName>,
    outside: Outside,
) -> Result<(), Failure> {
    let sink = pick_sink(operator, which.filter.sink.as_ref()).await?;
    let ids = ids_of(operator, &sink, which).await?;
    if ids.is_empty() {
        return outln!("sink {sink}: no dead letters to retry");
    }
    let (mut taken, mut gone, mut kept) = (0, 0, 0);
    for batch in ids.chunks(MAX_RETRIES) {
        let request = OperatorRequest::Retry { sink: sink.clone(), ids: batch.to_vec(), to: to.clone() };
        let told: Vec<RetriedLetter> = operator.ask(&request).await.inspect_err(|_| {
            errln!(
                "{} published before this error; the list no longer has the letters that were published since",
                counted(taken, "letter")
            );
        })?;
        for RetriedLetter { id, outcome } in told {
            match outcome {
                RetryOutcome::Taken => taken += 1,
                RetryOutcome::Gone => gone += 1,
                RetryOutcome::Kept(why) => {
                    kept += 1;
                    errln!("{id} stays: {}", outside.line(&why));
                }
            }
        }
    }
    let gone_too = if gone > 0 { format!(", {gone} already gone") } else { String::new() };
    let to = to.map_or(String::new(), |to| format!(" to sink {to}"));
    let shown = outln!("sink {sink}: {} published{to}, {kept} left{gone_too}", counted(taken, "letter"));
    output::ended(shown, if kept > 0 { Err(Failure::Silent) } else { Ok(()) })
}

async fn drop_letters(operator: &mut OperatorClient, which: Which, yes: bool) -> Result<(), Failure> {
    let sink = pick_sink(operator, which.filter.sink.as_ref()).await?;
    let ids = ids_of(operator, &sink, which).await?;
    if ids.is_empty() {
        return outln!("sink {sink}: no dead letters to drop");
    }
    let named = ids.len() as u64;
    let events = if named == 1 { "its event" } else { "their events" };
    confirmed(&format!("dropping {} of sink {sink}: it never gets {events}", counted(named, "dead letter")), yes)?;
    let mut dropped = 0;
    for batch in ids.chunks(MAX_LETTERS) {
        let done: Dropped = operator.ask(&OperatorRequest::Drop { sink: sink.clone(), ids: batch.to_vec() }).await?;
        dropped += done.dropped;
    }
    let shown = outln!("sink {sink}: {} dropped", counted(dropped, "letter"));
    let all = match named - dropped {
        0 => Ok(()),
        1 => Err(Failure::failed("1 letter did not exist any more")),
        missing => Err(Failure::failed(format!("{missing} letters did not exist any more"))),
    };
    output::ended(shown, all)
}
