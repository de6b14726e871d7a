//! `run`: take events from Alma and publish them, until a signal.

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, load_silently};
use crate::bridge::Bridge;
use crate::config::{Config, SecretFrom};
use crate::telemetry::logs::{self, LevelHandle};
use crate::{ingress, tls};

/// Take events from Alma and publish them, until SIGTERM or SIGINT
///
/// SIGHUP loads the configuration again; a changed file does so by itself. A second SIGTERM or SIGINT ends at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At a stop: not ready, but still taking events for so long, as for endpoints that are withdrawn late
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    stop_delay: Duration,
}

pub(super) fn run(file: Option<PathBuf>, args: Args) -> Result<(), Failure> {
    let loaded = load_silently(file.clone())?;
    let mut config = loaded.config;
    let level = logs::init(&config.log).map_err(Failure::failed)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tls::install_provider();
    config.ingress.max_connections = ingress::raise_file_limit(config.ingress.max_connections);
    let made = config.generate_missing().map_err(|error| Failure::failed(format!("can't make a secret: {error}")))?;
    for path in made {
        tracing::info!(path = %path.display(), "made");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    runtime.block_on(serve(file, config, &level, args.stop_delay))
}
