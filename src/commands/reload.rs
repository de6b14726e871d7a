//! `reload`: makes the running bridge load its configuration again.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};

use super::outside::Outside;
use super::running::RunningBridge;
use super::{Failure, block_on, operator_client};
use crate::admin::{ReloadOutcome, Reloaded};
use crate::bridge::RELOAD_PATIENCE;

const EXAMPLES: &str = "\
Examples:
  alma-bridge reload                        after an edit of the configuration
  alma-bridge check && alma-bridge reload   check the edit first

Exits with 1 if the bridge refuses the configuration or cannot put all of it into effect.";

/// Make the running bridge load its configuration again, and report the result
///
/// The bridge reads its own file. If anything is wrong with it, the bridge reports that and changes nothing. Unlike an
/// automatic reload, this also applies an edit that removes a source or a sink.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    outside: Outside,
}

/// Longer than the bridge's own limit, so that its answer arrives before this command gives up.
const PATIENCE: Duration = RELOAD_PATIENCE.saturating_add(Duration::from_secs(10));

/// After this time, the command explains why the answer takes so long.
const SOON: Duration = Duration::from_secs(3);

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let mut bridge = RunningBridge::find(file)?;
    let reloaded = block_on(ask(&bridge))
        .map_err(|failure| if bridge.is_listening() { failure } else { bridge.not_found(failure) })?;
    // This command has printed the warnings about the file as it reads it.
    for warning in reloaded.warnings.iter().filter(|warning| !bridge.warnings.contains(warning)) {
        errln!("warning: {}", args.outside.line(warning));
    }
    for key in &reloaded.needs_restart {
        errln!("warning: {} changed, but takes effect only after a restart", args.outside.line(key));
    }
    if reloaded.outcome == ReloadOutcome::Applied {
        return outln!("configuration reloaded");
    }
    errln!("error: {}", verdict(&reloaded));
    for error in &reloaded.errors {
        errln!("  {}", args.outside.line(error));
    }
    Err(Failure::Silent)
}

/// Describes a reload that is not completely in effect.
pub(super) fn verdict(reloaded: &Reloaded) -> String {
    match reloaded.outcome {
        ReloadOutcome::Refused => {
            format!("reload refused; the configuration loaded at {} stays in effect", reloaded.loaded)
        }
        _ => "only a part of the configuration is in effect; the bridge keeps trying".to_owned(),
    }
}

/// Has the bridge reload, and waits until that is done.
pub(super) async fn ask(bridge: &RunningBridge) -> Result<Reloaded, Failure> {
    let mut client = bridge.client()?;
    let request = Request::post("/reload")
        .header(AUTHORIZATION, operator_client::authorization(&bridge.config)?)
        .body(Full::<Bytes>::default())
        .expect("a constant path and a valid header");
    let mut answered = pin!(client.send_within(PATIENCE, request));
    let answer = tokio::select! {
        answer = &mut answered => answer,
        () = tokio::time::sleep(SOON) => {
            errln!("waiting for the bridge: each sink that is replaced may need 45 s to finish what it is sending");
            answered.await
        }
    };
    let answer = answer.map_err(Failure::failed)?;
    match answer.status() {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => serde_json::from_slice(answer.body()).map_err(|error| {
            Failure::failed(format!("the answer cannot be read: does the bridge have another version? {error}"))
        }),
        _ => Err(operator_client::refusal(&answer)),
    }
}
