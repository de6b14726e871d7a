//! `secret`: a source's secret, to paste into Alma's integration profile.

use std::io::Write as _;
use std::path::Path;

use super::{Failure, load, pick_source};
use crate::config::{self, SecretFrom, SourceName};

const EXAMPLES: &str = "\
Examples:
  alma-bridge secret                     of the only source
  alma-bridge secret --source alma-prod  of one of several
  alma-bridge secret --new               a fresh one; the built-in source takes it over and still accepts the last one";

/// Print a source's secret, to paste into Alma's integration profile
///
/// In Alma: Configuration > General > External Systems > Integration Profiles > the webhook's profile > Secret. The
/// secret alone goes to stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The source; needed where there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    /// Make a fresh strong secret instead
    ///
    /// For the built-in source it is written into its file, and the one before stays accepted until the next --new;
    /// for a source with secrets of its own it is only printed.
    #[arg(long)]
    new: bool,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let mut config = load(file)?;
    config.generate_missing().map_err(|error| Failure::failed(format!("can't make the secret: {error}")))?;
    let source = pick_source(&config, args.source.as_ref())?;
    let current = source.secrets.iter().find_map(|named| named.secret.as_ref());
    let generated = source.secrets.iter().find_map(|named| match &named.from {
        SecretFrom::Generated(path) => Some(path),
        _ => None,
    });
    let shown = match (args.new, generated, current) {
        (true, Some(path), _) => {
            let secret = config::renew_generated(path).map_err(Failure::failed)?;
            eprintln!("written to {}; a running bridge takes it over on SIGHUP or restart", path.display());
            eprintln!("paste it into Alma's profile now: the one before is accepted until the next --new");
            secret
        }
        (true, None, _) => {
            eprintln!("not stored anywhere: put it where a second secret of source {} is read from,", source.name);
            eprintln!("reload the bridge, paste it into Alma's profile, then take the old one out");
            config::fresh_secret().map_err(Failure::failed)?
        }
        (false, _, Some(secret)) => secret.clone(),
        (false, _, None) => return Err(Failure::failed(format!("source {} has no secret yet", source.name))),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(shown.expose()).and_then(|()| out.write_all(b"\n")).map_err(Failure::failed)
}
