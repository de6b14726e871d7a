//! `dead-letters`: the events that a sink could not take.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::desk::{Desk, confirmed, pick_sink};
use super::{Failure, block_on, load};
use crate::admin::tools::{
    Dropped, Letter, LetterLine, MAX_LETTERS, MAX_RETRIES, Order, Place, RetriedLetter, RetryOutcome,
};
use crate::config::SinkName;

const EXAMPLES: &str = "\
Examples:
  alma-bridge dead-letters list                       ids, topics, reasons, sizes
  alma-bridge dead-letters show 1042                  why it died, and its event
  alma-bridge dead-letters show 1042 --body > x.json  what Alma signed, byte for byte
  alma-bridge dead-letters retry 1042 1043            publish these two again, same ids
  alma-bridge dead-letters retry --all --reason too_large
  alma-bridge dead-letters drop --all --topic alma.bib

A letter leaves only when its sink took it, or by drop. Only show prints personal data. At
the running bridge, or where none runs on its journal directly.";

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

        /// Print one JSON document a letter
        #[arg(long)]
        json: bool,
    },
    /// Show one letter whole: why it died, and the event (personal data)
    #[command(after_help = EXAMPLES)]
    Show {
        /// The letter
        #[arg(value_name = "ID")]
        id: u64,

        /// The sink; needed where there are several
        #[arg(long, value_name = "NAME")]
        sink: Option<SinkName>,

        /// Print a JSON document; the event is Base64 in it
        #[arg(long, conflicts_with = "body")]
        json: bool,

        /// Print only what Alma signed, byte for byte
        #[arg(long)]
        body: bool,
    },
    /// Publish letters again, same event ids; those that the sink confirms are removed
    #[command(after_help = EXAMPLES)]
    Retry(Which),
    /// Remove letters for good; their events are then lost to the sink
    #[command(after_help = EXAMPLES)]
    Drop {
        #[command(flatten)]
        which: Which,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Filter {
    /// Only of this sink
    #[arg(long, value_name = "NAME")]
    sink: Option<SinkName>,

    /// Only of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Only of this reason, as list shows it: `too_large`, malformed, rights, …
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
    /// The letters
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "topic", "reason"])]
    ids: Vec<u64>,

    /// All letters of the sink, or those of --topic and --reason
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let config = load(file)?;
    block_on(async {
        let mut desk = Desk::open(&config)?;
        let done = match args.what {
            What::List { filter, json } => list(&mut desk, &filter, json).await,
            What::Show { id, sink, json, body } => show(&mut desk, id, sink.as_ref(), json, body).await,
            What::Retry(which) => retry(&mut desk, which).await,
            What::Drop { which, yes } => drop_letters(&mut desk, which, yes).await,
        };
        desk.close().await;
        done
    })
}

/// The letters of a sink that fit, page by page.
async fn letters(
    desk: &mut Desk,
    sink: &SinkName,
    filter: &Filter,
    mut each: impl FnMut(LetterLine) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let page: Vec<LetterLine> = desk.ask(&Order::Letters { sink: sink.clone(), after }).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        page.into_iter().filter(|letter| filter.fits(letter)).try_for_each(&mut each)?;
    }
}

async fn list(desk: &mut Desk, filter: &Filter, json: bool) -> Result<(), Failure> {
    let sinks = if let Some(sink) = &filter.sink {
        vec![sink.clone()]
    } else {
        let places: Vec<Place> = desk.ask(&Order::Sinks {}).await?;
        places.into_iter().filter(|place| place.dead_letters > 0).map(|place| place.name).collect()
    };
    let mut count: u64 = 0;
    for sink in &sinks {
        letters(desk, sink, filter, |letter| {
            if json {
                let mut document = serde_json::to_value(&letter).map_err(Failure::failed)?;
                document["sink"] = sink.as_str().into();
                println!("{document}");
                return Ok(());
            }
            if count == 0 {
                println!(
                    "{:>12} {:<12} {:<28} {:<16} {:<24} {:>9}",
                    "ID", "SINK", "TOPIC", "REASON", "RECEIVED", "BYTES"
                );
            }
            count += 1;
            let LetterLine { id, topic, reason, received, bytes } = letter;
            println!("{id:>12} {:<12} {topic:<28} {reason:<16} {received:<24} {bytes:>9}", sink.as_str());
            Ok(())
        })
        .await?;
    }
    if !json && count == 0 {
        eprintln!("no dead letters");
    }
    Ok(())
}

async fn show(desk: &mut Desk, id: u64, sink: Option<&SinkName>, json: bool, body: bool) -> Result<(), Failure> {
    let sink = pick_sink(desk, sink).await?;
    let letter: Letter = desk.ask(&Order::Letter { sink, id }).await?;
    let event = STANDARD.decode(&letter.body).map_err(Failure::failed)?;
    let mut out = std::io::stdout().lock();
    let written = if json {
        writeln!(out, "{}", serde_json::to_string(&letter).map_err(Failure::failed)?)
    } else if body {
        out.write_all(&event)
    } else {
        let Letter { id, sink, topic, reason, detail, source, received, recorded, died, offset, .. } = &letter;
        writeln!(
            out,
            "letter    {id} of sink {sink}\ntopic     {topic}\nreason    {reason}: {detail}\nsource    {source}\n\
             received  {received}\nrecorded  {recorded} at offset {offset}\ndied      {died}\n"
        )
        .and_then(|()| out.write_all(&event))
        .and_then(|()| out.write_all(b"\n"))
    };
    written.and_then(|()| out.flush()).map_err(Failure::failed)
}

/// The ids that were named, or those of all that fit.
async fn ids_of(desk: &mut Desk, sink: &SinkName, which: Which) -> Result<Vec<u64>, Failure> {
    if !which.all {
        let mut ids = which.ids;
        ids.sort_unstable();
        ids.dedup();
        return Ok(ids);
    }
    let mut ids = Vec::new();
    letters(desk, sink, &which.filter, |letter| {
        ids.push(letter.id);
        Ok(())
    })
    .await?;
    Ok(ids)
}

async fn retry(desk: &mut Desk, which: Which) -> Result<(), Failure> {
    let sink = pick_sink(desk, which.filter.sink.as_ref()).await?;
    let ids = ids_of(desk, &sink, which).await?;
    let (mut taken, mut gone, mut kept) = (0_usize, 0_usize, 0_usize);
    for batch in ids.chunks(MAX_RETRIES) {
        let order = Order::Retry { sink: sink.clone(), ids: batch.to_vec() };
        let told: Vec<RetriedLetter> = desk.ask(&order).await.inspect_err(|_| {
            eprintln!(
                "{taken} letters were taken before; of the rest, those that were taken are not in the list any more"
            );
        })?;
        for RetriedLetter { id, outcome } in told {
            match outcome {
                RetryOutcome::Taken => taken += 1,
                RetryOutcome::Gone => gone += 1,
                RetryOutcome::Kept(why) => {
                    kept += 1;
                    eprintln!("{id} stays: {why}");
                }
            }
        }
    }
    let gone_too = if gone > 0 { format!(", {gone} not there any more") } else { String::new() };
    println!("sink {sink}: {taken} letters taken, {kept} stay{gone_too}");
    if kept > 0 { Err(Failure::Silent) } else { Ok(()) }
}

async fn drop_letters(desk: &mut Desk, which: Which, yes: bool) -> Result<(), Failure> {
    let sink = pick_sink(desk, which.filter.sink.as_ref()).await?;
    let ids = ids_of(desk, &sink, which).await?;
    if ids.is_empty() {
        println!("sink {sink}: no dead letters to drop");
        return Ok(());
    }
    confirmed(&format!("dropping {} dead letters of sink {sink}: their events are lost to it", ids.len()), yes)?;
    let mut dropped = 0;
    for batch in ids.chunks(MAX_LETTERS) {
        let done: Dropped = desk.ask(&Order::Drop { sink: sink.clone(), ids: batch.to_vec() }).await?;
        dropped += done.dropped;
    }
    println!("sink {sink}: {dropped} letters dropped");
    let named = ids.len() as u64;
    if dropped < named { Err(Failure::failed(format!("{} were not there", named - dropped))) } else { Ok(()) }
}
