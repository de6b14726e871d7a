//! `secret`: a source's secret, to paste into Alma's integration profile.

use std::path::{Path, PathBuf};

use super::{Failure, load, output, pick_source};
use crate::config::{self, SecretFrom, Source, SourceName};

const EXAMPLES: &str = "\
Examples:
  alma-bridge secret                     of the only source
  alma-bridge secret --source alma-prod  of one of several
  alma-bridge secret --new               a fresh one; the built-in source takes it over and still accepts the last one
  alma-bridge secret --revoke            the last one is no longer accepted";

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
    /// For the built-in source it is written into its file, and the one before stays accepted until the next --new or
    /// --revoke; for a source with secrets of its own it is only printed.
    #[arg(long)]
    new: bool,

    /// End the secret before the present one at once, as after a leak
    ///
    /// For the built-in source, whose secret before the last --new is accepted until then. Prints no secret.
    #[arg(long, conflicts_with = "new")]
    revoke: bool,
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
    if args.revoke {
        return revoke(source, generated);
    }
    let shown = match (args.new, generated, current) {
        (true, Some(path), _) => {
            let secret = config::renew_generated(path).map_err(Failure::failed)?;
            errln!("written to {}; a running bridge takes it over within a few seconds", path.display());
            errln!("paste it into Alma's profile now: the one before is accepted until the next --new or --revoke");
            secret
        }
        (true, None, _) => {
            errln!("not stored anywhere: put it where a second secret of source {} is read from,", source.name);
            errln!("reload the bridge, paste it into Alma's profile, then take the old one out");
            config::fresh_secret().map_err(Failure::failed)?
        }
        (false, _, Some(secret)) => secret.clone(),
        (false, _, None) => return Err(Failure::failed(format!("source {} has no secret yet", source.name))),
    };
    output::bytes(&[shown.expose(), b"\n"].concat())
}

fn revoke(source: &Source, generated: Option<&PathBuf>) -> Result<(), Failure> {
    let Some(path) = generated else {
        return Err(Failure::Usage(format!(
            "source {} has secrets of its own: take the old one out of the configuration, and a running bridge no \
             longer accepts it",
            source.name
        )));
    };
    if config::revoke_previous(path).map_err(|error| Failure::failed(format!("can't revoke it: {error}")))? {
        errln!("the secret before the present one is removed; a running bridge refuses it within a few seconds");
    } else {
        errln!("there is no secret before the present one");
    }
    Ok(())
}
