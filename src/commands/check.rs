//! `check`: checks the configuration. `--show` prints each value in effect; `--connect` tests everything that it names.

mod connect;
mod disk;

use std::path::Path;

use super::outside::Outside;
use super::{Failure, block_on, load_with_certificate};
use crate::config::{Effective, Loaded};

const EXAMPLES: &str = "\
Examples:
  alma-bridge check                              the file in effect
  alma-bridge check --config /etc/alma-bridge.toml
  alma-bridge check --show                       every value in effect, and where it comes from
  alma-bridge check --connect                    brokers, topics, rights, limits, disk; exit 1 on any failure";

/// Check the configuration and report everything that is wrong with it
///
/// Reports all errors at once, each with its key, its file, what was found and what was expected, and exits with 78.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Print every value in effect and where it comes from, but no secrets
    #[arg(long)]
    show: bool,

    /// Test everything that the configuration names, and say what to do about each failure; publishes nothing
    #[arg(long)]
    connect: bool,

    #[command(flatten)]
    outside: Outside,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let loaded = load_with_certificate(file)?;
    for warning in &loaded.warnings {
        errln!("warning: {}", args.outside.line(warning));
    }
    if args.show {
        show(&loaded, args.outside)?;
    }
    let config = &loaded.config;
    let file = config.file.as_ref().map_or("built-in defaults".to_owned(), |file| file.display().to_string());
    let names = |names: Vec<&str>| names.join(", ");
    errln!(
        "configuration ok ({file}): sources {}; sinks {}",
        names(config.sources.iter().map(|source| source.name.as_str()).collect()),
        names(config.sinks.iter().map(|sink| sink.name.as_str()).collect()),
    );
    if args.connect {
        crate::ingress::tls::install_provider();
        block_on(connect::run(config, args.outside))?;
    }
    Ok(())
}

fn show(loaded: &Loaded, outside: Outside) -> Result<(), Failure> {
    let width = |length: fn(&Effective) -> usize| loaded.values.iter().map(length).max().unwrap_or(0);
    let (keys, values) = (width(|v| v.key.len()), width(|v| v.shown.len().min(40)));
    for value in &loaded.values {
        let (key, shown, origin) = (outside.line(&value.key), outside.line(&value.shown), outside.line(&value.origin));
        outln!("{key:<keys$}  {shown:<values$}  # {origin}")?;
    }
    Ok(())
}
