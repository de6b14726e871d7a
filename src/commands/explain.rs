//! `explain`: shows how the bridge reads a body, and why a signature does not match.

mod signature;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::outside::Outside;
use super::{Failure, counted, load, output, pick_source};
use crate::alma::{BodyDigest, Event};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, Source, SourceName};
use crate::message::{Messages, StoredEvent};

const EXAMPLES: &str = "\
Examples:
  alma-bridge explain event.json
  alma-bridge explain event.json --signature '8+UzOnrucsAuj09Sb5liIZBeYY5FwAsjfb2ZTcnXHR4='
  curl -s … | alma-bridge explain -

Exits with 1 if the signature does not match.";

/// Show how the bridge reads a body, and why a signature does not match
///
/// Shows the verdict, and the topic, key and attributes at every sink. With a signature, it first shows which secret
/// matches. If none does, it tries the usual mistakes: a secret with extra blanks, line ends or quotes; a body with a
/// line end added or removed, or re-formatted in transit; a signature over JSON.stringify(body), as in Ex Libris's
/// sample; or one in hex or URL-safe Base64, or with the prefix sha256=.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// A file with the raw body; - for stdin
    #[arg(value_name = "FILE")]
    body: PathBuf,

    /// The value of the request's X-Exl-Signature header
    #[arg(long, value_name = "S")]
    signature: Option<String>,

    /// The source that received it; required if there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    #[command(flatten)]
    outside: Outside,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let config = load(file)?;
    let source = pick_source(&config, args.source.as_ref())?;
    let body = read(&args.body)?;
    let mut verdict = Ok(());
    let mut shown = Ok(());
    if let Some(signature) = &args.signature {
        let judged = signature::judge(source, &body, signature);
        verdict = if judged.fits { Ok(()) } else { Err(Failure::Silent) };
        shown = outln!("signature  {}", judged.words);
    }
    let shown = shown.and_then(|()| explain_event(&config, source, &body, args.outside));
    output::ended(shown, verdict)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut body)
    } else {
        std::fs::read(path).map(|bytes| {
            body = bytes;
            body.len()
        })
    };
    read.map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(body)
}

fn explain_event(config: &Config, source: &Source, body: &[u8], outside: Outside) -> Result<(), Failure> {
    let event = Event::parse(body);
    if body.is_empty() {
        outln!("verdict    the body is empty")?;
    } else {
        outln!("verdict    {}", outside.line(&event.verdict().to_string()))?;
    }
    outln!("body       {}, SHA-256 {}", counted(body.len() as u64, "byte"), BodyDigest::of(body).hex(64))?;
    let now = SystemClock.now();
    let stored = StoredEvent { source: source.name.clone(), received: now, recorded: now, body: body.to_vec().into() };
    for sink in &config.sinks {
        outln!("\nsink {} ({})", sink.name, sink.kind.as_str())?;
        let messages = Messages::new(sink, &config.sources, &config.privacy);
        let Some(message) = messages.make(&stored, None) else {
            outln!("  does not ask for it ({})", messages.unwanted_by(&stored).unwrap_or("its filters"))?;
            continue;
        };
        outln!("  topic      {}", outside.line(message.topic.as_str()))?;
        outln!("  key        {}", outside.line(&message.partition_key))?;
        for (name, value) in &message.attributes {
            outln!("  {name:<16} {}", outside.line(value))?;
        }
    }
    Ok(())
}
