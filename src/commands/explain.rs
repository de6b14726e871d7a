//! `explain`: what the bridge makes of a body, and why a signature does not fit.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::outside::Outside;
use super::{Failure, load, pick_source};
use crate::alma::signature::{SignatureFailure, SignatureHeader};
use crate::alma::{BodyDigest, Event};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, NamedSecret, Secret, Source, SourceName};
use crate::message::{Messages, StoredEvent};

const EXAMPLES: &str = "\
Examples:
  alma-bridge explain event.json
  alma-bridge explain event.json --signature '8+UzOnrucsAuj09Sb5liIZBeYY5FwAsjfb2ZTcnXHR4='
  curl -s … | alma-bridge explain -

Exit code 1 where a signature is given that does not fit.";

/// Say what the bridge makes of a body, and why a signature does not fit
///
/// Shows verdict, topic, key and attributes at every sink. With a signature: which secret fits, and if none does,
/// whether one would without the blanks at its ends, or with the body's last line end added or taken away.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The raw body; - for stdin
    #[arg(value_name = "FILE")]
    body: PathBuf,

    /// The value of X-Exl-Signature that came with it
    #[arg(long, value_name = "S")]
    signature: Option<String>,

    /// The source it came to; needed where there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    #[command(flatten)]
    outside: Outside,
}

pub(super) fn run(file: Option<&Path>, args: Args) -> Result<(), Failure> {
    let config = load(file)?;
    let source = pick_source(&config, args.source.as_ref())?;
    let body = read(&args.body)?;
    explain_event(&config, source, &body, args.outside);
    match args.signature {
        None => Ok(()),
        Some(signature) if explain_signature(source, &body, &signature) => Ok(()),
        Some(_) => Err(Failure::Silent),
    }
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
    read.map_err(|error| Failure::failed(format!("can't read {}: {error}", path.display())))?;
    Ok(body)
}

fn explain_event(config: &Config, source: &Source, body: &[u8], outside: Outside) {
    let event = Event::parse(body);
    println!("body       {} bytes, SHA-256 {}", body.len(), BodyDigest::of(body).hex(64));
    println!("verdict    {}", outside.line(&event.verdict().to_string()));
    let now = SystemClock.now();
    let stored = StoredEvent { source: source.name.clone(), received: now, recorded: now, body: body.to_vec().into() };
    for sink in &config.sinks {
        println!("\nsink {} ({})", sink.name, sink.kind.as_str());
        let messages = Messages::new(sink, &config.sources, &config.privacy);
        let Some(message) = messages.make(&stored, None) else {
            println!("  does not ask for it (actions, sources)");
            continue;
        };
        println!("  topic      {}", outside.line(message.topic.as_str()));
        println!("  key        {}", outside.line(&message.partition_key));
        for (name, value) in &message.attributes {
            println!("  {name:<16} {}", outside.line(value));
        }
    }
}

/// Prints which secret fits, and whether one fits as it is.
fn explain_signature(source: &Source, body: &[u8], signature: &str) -> bool {
    println!("\nsignature");
    let header = match SignatureHeader::parse([signature.as_bytes()]) {
        Ok(header) => header,
        Err(failure) => {
            println!("  {}: {}", failure, wanted(failure));
            return false;
        }
    };
    let fitting = |change: &str, secret: &NamedSecret, key: &[u8], body: &[u8]| {
        let fits = SignatureHeader::sign(key, body) == header;
        if fits {
            println!("  fits secret {:?} of source {}{change}", secret.name, source.name);
        }
        fits
    };
    let with_secret = || source.secrets.iter().filter_map(|named| Some((named, named.secret.as_ref()?)));
    if with_secret().any(|(named, secret)| fitting("", named, secret.expose(), body)) {
        return true;
    }
    println!("  no secret of source {} fits the body as it is", source.name);
    let mut near = false;
    for (named, secret) in with_secret() {
        for (key_change, key) in [("", secret.clone()), (" without the blanks at its ends", trimmed(secret))] {
            for (body_change, body) in body_variants(body) {
                if !(key_change.is_empty() && body_change.is_empty()) {
                    near |= fitting(&format!("{key_change}{body_change}"), named, key.expose(), &body);
                }
            }
        }
    }
    if !near {
        println!("  nor with blanks trimmed, nor with the last line end of the body added or taken away:");
        println!("  another secret, or something on the way changed the body (a proxy, a gateway that re-writes JSON)");
    }
    false
}

const fn wanted(failure: SignatureFailure) -> &'static str {
    match failure {
        SignatureFailure::WrongLength => "expected Base64 of 32 bytes (44 characters)",
        _ => "expected standard Base64 with padding (44 characters)",
    }
}

fn trimmed(secret: &Secret) -> Secret {
    Secret::new(secret.expose().trim_ascii())
}

/// The body as it is, and with its last line end added or taken away.
fn body_variants(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut variants = vec![("", body.to_vec()), (", with a line end added to the body", [body, b"\n"].concat())];
    if let Some(without) = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")) {
        variants.push((", without the body's last line end", without.to_vec()));
    }
    variants
}
