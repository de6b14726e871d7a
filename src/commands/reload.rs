//! `reload`: has the running bridge load its configuration again.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};

use super::outside::Outside;
use super::running::Running;
use super::{Failure, block_on, load_silently, operator_client};
use crate::admin::{ReloadOutcome, Reloaded};
use crate::bridge::RELOAD_PATIENCE;

const EXAMPLES: &str = "\
Examples:
  alma-bridge reload                        after an edit of the configuration
  alma-bridge check && alma-bridge reload   look at the edit first

Exit code 1 if the bridge refuses the configuration or cannot put all of it in effect.";

/// Have the running bridge load its configuration again, and report the result
///
/// The bridge reads its own file. If anything is wrong with it, the bridge says so and changes nothing. An edit that
/// takes away a source or a sink takes effect, too: the bridge does not do that by itself.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    outside: Outside,
}

/// Longer than the bridge's own, so that its answer comes before this command gives up.
const PATIENCE: Duration = RELOAD_PATIENCE.saturating_add(Duration::from_secs(10));

/// After this, whoever waits is told why it takes so long.
const SOON: Duration = Duration::from_secs(3);

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let mut bridge = Running::find(file)?;
    let reloaded = block_on(ask(&bridge))
        .map_err(|failure| if bridge.is_listening() { failure } else { bridge.not_found(failure) })?;
    // Those of this command's own look at the file are printed already.
    let printed = load_silently(file).map(|loaded| loaded.warnings).unwrap_or_default();
    for warning in reloaded.warnings.iter().filter(|warning| !printed.contains(warning)) {
        errln!("warning: {}", args.outside.line(warning));
    }
    for key in &reloaded.needs_restart {
        errln!("warning: {} changed, but takes a restart to be in effect", args.outside.line(key));
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

/// What became of a reload that is not wholly in effect.
pub(super) fn verdict(reloaded: &Reloaded) -> String {
    match reloaded.outcome {
        ReloadOutcome::Refused => {
            format!("reload refused; the configuration loaded at {} stays in effect", reloaded.loaded)
        }
        _ => "the configuration is in effect only in part; the bridge keeps trying".to_owned(),
    }
}

/// Has the bridge reload, and waits until that is done.
pub(super) async fn ask(bridge: &Running) -> Result<Reloaded, Failure> {
    let mut client = bridge.client()?;
    let request = Request::post("/reload")
        .header(AUTHORIZATION, operator_client::authorization(&bridge.config)?)
        .body(Full::<Bytes>::default())
        .expect("a constant path and a valid header");
    let mut answered = pin!(client.send_within(PATIENCE, request));
    let answer = tokio::select! {
        answer = &mut answered => answer,
        () = tokio::time::sleep(SOON) => {
            errln!("waiting for the bridge: each sink that is replaced may take 45 s to settle what it is sending");
            answered.await
        }
    };
    let answer = answer.map_err(Failure::failed)?;
    match answer.status() {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => serde_json::from_slice(answer.body()).map_err(|error| {
            Failure::failed(format!("the answer was not understood, is the bridge of another version? {error}"))
        }),
        _ => Err(operator_client::refusal(&answer)),
    }
}
