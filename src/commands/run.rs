//! `run`: take events from Alma and publish them, until a signal.

mod service_manager;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, environment, load_with_certificate};
use crate::admin::{ReloadOutcome, Reloaded};
use crate::bridge::{Bridge, InheritedSockets};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, ConfigErrors, SecretFrom};
use crate::ingress::{self, tls};
use crate::telemetry::logs::{self, LevelHandle};

/// Take events from Alma and publish them, until SIGTERM or SIGINT
///
/// The bridge loads its configuration again on SIGHUP, and when a file changes. A second SIGTERM or SIGINT ends it at
/// once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// When stopping, report not ready but still take events for this long, for load balancers that react late
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    stop_delay: Duration,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let sockets = InheritedSockets::take().map_err(Failure::failed)?;
    let loaded = load_with_certificate(file)?;
    let mut config = loaded.config;
    let level = logs::init(&config.log).map_err(Failure::failed)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    tls::install_provider();
    config.ingress.max_connections = ingress::raise_file_limit(config.ingress.max_connections);
    let made = config.generate_missing().map_err(|error| Failure::failed(format!("cannot make a secret: {error}")))?;
    for path in &made {
        tracing::info!(path = %path.display(), "made");
    }
    tell_secret(&config, &made);
    let watch = Watch::new(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    let served = runtime.block_on(serve(file, config, sockets, watch, &level, args.stop_delay));
    if served.is_err() {
        // Not a graceful shutdown: what still runs ends with the process.
        runtime.shutdown_background();
    }
    served
}

/// Serves until a signal, and then shuts down gracefully. Ends at once if a thread of the journal dies.
async fn serve(
    file: Option<&Path>,
    config: Config,
    sockets: InheritedSockets,
    mut watch: Watch,
    level: &LevelHandle,
    stop_delay: Duration,
) -> Result<(), Failure> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hang_up = listen(SignalKind::hangup())?;
    service_manager::feed_watchdog();
    let bridge = Bridge::start(config, sockets).await.map_err(Failure::failed)?;
    tell_urls(&bridge);
    tracing::info!(address = %bridge.admin_addr(), "listening for operators");
    tokio::select! {
        asked = until_asked_to_stop(&bridge, file, level, &mut watch, (&mut terminate, &mut interrupt, &mut hang_up)) => asked?,
        () = service_manager::show_status(&bridge) => {}
        thread = bridge.died() => {
            let why = format!("the thread {thread} panicked, see the log above; exiting so that the supervisor restarts the bridge");
            return Err(Failure::failed(why));
        }
    }
    service_manager::stopping();
    tokio::select! {
        () = bridge.stop(stop_delay) => Ok(()),
        _ = terminate.recv() => Err(Failure::failed("ended at once by a second signal")),
        _ = interrupt.recv() => Err(Failure::failed("ended at once by a second signal")),
    }
}

/// Loads the configuration again on request, until a signal to stop.
async fn until_asked_to_stop(
    bridge: &Bridge,
    file: Option<&Path>,
    level: &LevelHandle,
    watch: &mut Watch,
    (terminate, interrupt, hang_up): (&mut Signal, &mut Signal, &mut Signal),
) -> Result<(), Failure> {
    let (mut readiness, mut told) = (pin!(tell_readiness(bridge)), false);
    loop {
        let (cause, reply) = tokio::select! {
            result = &mut readiness, if !told => {
                result?;
                told = true;
                service_manager::ready(bridge);
                continue;
            }
            _ = hang_up.recv() => (Cause::LoggedRequest, None),
            reply = bridge.reload_asked() => (Cause::LoggedRequest, Some(reply)),
            () = watch.changed() => (Cause::FileChanged, None),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        // Before the start is complete, the end of a reload would be taken for the end of the start.
        if told {
            service_manager::reloading();
        }
        let reloaded = reload(bridge, file, level, cause, watch).await;
        if told {
            service_manager::ready(bridge);
        }
        if let Some(reply) = reply {
            // Whoever asked may have gone.
            drop(reply.send(reloaded));
        }
    }
}

/// Logs once that the bridge is ready. If it is open but takes no events, first logs why.
async fn tell_readiness(bridge: &Bridge) -> Result<(), Failure> {
    bridge.opened().await.map_err(Failure::failed)?;
    let mut looks = 0_u64;
    while let Err(why) = bridge.ready() {
        looks += 1;
        service_manager::not_ready_yet();
        // Without a journal, the bridge is ready only when its sinks have connected, usually before the second look.
        if looks == 2 {
            tracing::warn!(reason = %why, "not ready");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::info!("ready");
    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::failed)
}

/// Logs the listener URLs. With the public host name, these are what to enter in Alma's profiles.
fn tell_urls(bridge: &Bridge) {
    let config = bridge.config();
    let scheme = if config.ingress.tls.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{}", bridge.ingress_addr());
    match config.sources.as_slice() {
        [source] => tracing::info!(url = format_args!("{base}{}", source.path), "listening for Alma"),
        sources if sources.len() <= SHOWN_URLS => {
            for source in sources {
                tracing::info!(source = %source.name, url = format_args!("{base}{}", source.path), "listening for Alma");
            }
        }
        sources => tracing::info!(url = %base, sources = sources.len(), "listening for Alma"),
    }
}

/// If a secret is a generated one, logs at every start how to see it and where to paste it. `made` are the files that
/// this start generated.
fn tell_secret(config: &Config, made: &[PathBuf]) {
    for source in &config.sources {
        let generated = source.secrets.iter().find_map(|named| match &named.from {
            SecretFrom::Generated(path) => Some(path),
            _ => None,
        });
        match generated {
            Some(path) if made.contains(path) => tracing::info!(
                source = %source.name,
                "the secret was generated: see it with `alma-bridge secret` and paste it into Alma's integration profile"
            ),
            Some(_) => tracing::info!(
                source = %source.name,
                "see the secret with `alma-bridge secret` and paste it into Alma's integration profile"
            ),
            None => {}
        }
    }
}

/// Up to this many sources have a log line each. A consortium has a thousand.
const SHOWN_URLS: usize = 16;

/// Why the configuration is loaded again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// SIGHUP, or a request to the admin listener.
    LoggedRequest,
    /// The content of one of its files changed.
    FileChanged,
}

/// Loads the configuration again and puts into effect what it can. An invalid configuration changes nothing.
async fn reload(
    bridge: &Bridge,
    file: Option<&Path>,
    level: &LevelHandle,
    cause: Cause,
    watch: &mut Watch,
) -> Reloaded {
    let old = bridge.config();
    let before = watch.look();
    let loaded = match config::reload(&old, file, &environment()) {
        Ok(loaded) => loaded,
        Err(ConfigErrors { errors, warnings }) => {
            return refuse(bridge, errors.iter().map(ToString::to_string).collect(), warnings);
        }
    };
    let mut new = loaded.config;
    // The start may have lowered it, which is not a change.
    new.ingress.max_connections = old.ingress.max_connections.min(new.ingress.max_connections);
    let changes = old.changes(&new);
    if cause == Cause::FileChanged && !changes.taken_away.is_empty() {
        let gone = changes.taken_away.join(", ");
        return refuse(
            bridge,
            vec![format!(
                "{gone} would be removed, but the file may be half-written: to confirm, run \"alma-bridge reload\" or send \
                 SIGHUP"
            )],
            loaded.warnings,
        );
    }
    if let Err(error) = level.set(&new.log.level) {
        return refuse(bridge, vec![format!("log.level: {error}")], loaded.warnings);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for key in &changes.need_restart {
        tracing::warn!(key, "changed, but takes a restart to be in effect");
    }
    watch.follow(&new, before);
    let errors = bridge.apply(new.keeping_fixed(&old)).await;
    for error in &errors {
        tracing::error!("reload not complete: {error}");
    }
    let outcome = if errors.is_empty() { ReloadOutcome::Applied } else { ReloadOutcome::AppliedInPart };
    if outcome == ReloadOutcome::Applied {
        tracing::info!("configuration reloaded");
    } else {
        tracing::warn!("reload applied in part; the bridge keeps trying what is not in effect");
    }
    let needs_restart = changes.need_restart.into_iter().map(str::to_owned).collect();
    let loaded_at = bridge.loaded_at().to_string();
    Reloaded { outcome, errors, needs_restart, warnings: loaded.warnings, loaded: loaded_at }
}

fn refuse(bridge: &Bridge, errors: Vec<String>, warnings: Vec<String>) -> Reloaded {
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let loaded_at = bridge.loaded_at();
    let since = loaded_at.brief(SystemClock.now());
    for error in &errors {
        tracing::error!("reload refused: {error}; the configuration loaded at {since} stays in effect");
    }
    bridge.refuse(errors.clone());
    let outcome = ReloadOutcome::Refused;
    Reloaded { outcome, errors, needs_restart: Vec::new(), warnings, loaded: loaded_at.to_string() }
}

/// Watches the files that the configuration is read from.
///
/// Compares contents instead of times, because mounted `ConfigMap`s and `Secret`s swap a link. A change counts once two
/// checks in a row find the same. Keeps only digests, because the files may hold secrets.
struct Watch {
    files: Vec<PathBuf>,
    in_effect: Vec<Option<FileDigest>>,
    seen: Vec<Option<FileDigest>>,
}

/// SHA-256 of a file's content.
type FileDigest = [u8; 32];

/// The time between two checks, for every [`FILES`] files. A consortium may have a thousand secrets, and an idle bridge
/// should not be busy reading them.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FILES: usize = 50;

impl Watch {
    fn new(config: &Config) -> Self {
        let files = config.files();
        let digests = digest_all(&files);
        Self { files, in_effect: digests.clone(), seen: digests }
    }

    /// Digests of the files. Call it before reading a configuration from them.
    fn look(&self) -> Vec<Option<FileDigest>> {
        digest_all(&self.files)
    }

    /// Watches the files of a newer configuration from now on. `before` are the digests from before it was read, so
    /// that a later change is noticed.
    fn follow(&mut self, config: &Config, before: Vec<Option<FileDigest>>) {
        let known: HashMap<PathBuf, Option<FileDigest>> =
            std::mem::take(&mut self.files).into_iter().zip(before).collect();
        *self = Self::new(config);
        for (file, digest) in self.files.iter().zip(&mut self.in_effect) {
            if let Some(before) = known.get(file) {
                *digest = *before;
            }
        }
    }

    /// Resolves when something has changed and two checks in a row have found the same.
    async fn changed(&mut self) {
        loop {
            tokio::time::sleep(pause(self.files.len())).await;
            let now = digest_all(&self.files);
            let still = now == self.seen;
            self.seen = now;
            if still && self.seen != self.in_effect {
                self.in_effect.clone_from(&self.seen);
                return;
            }
        }
    }
}

fn pause(files: usize) -> Duration {
    LOOK_EVERY * u32::try_from(files.div_ceil(FILES).max(1)).unwrap_or(u32::MAX)
}

/// `None` if a file can't be read.
fn digest_all(files: &[PathBuf]) -> Vec<Option<FileDigest>> {
    files.iter().map(|file| std::fs::read(file).ok().map(|content| Sha256::digest(content).into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_checked_less_often() {
        let seconds = [0, 1, 50, 51, 1_000].map(|files| pause(files).as_secs());
        assert_eq!(seconds, [1, 1, 1, 2, 20]);
    }
}
