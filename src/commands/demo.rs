//! `demo`: starts a bridge in a temporary folder, plays Alma to it, and shows each event as it lands.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Uri;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::http::Client;
use super::outside::Outside;
use super::send::{Said, challenge, milliseconds, post};
use super::{Failure, environment};
use crate::alma::{BodyDigest, samples};
use crate::bridge::{Bridge, InheritedSockets};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{self, Config, Secret, SinkKind};
use crate::message::{Messages, StoredEvent};
use crate::sinks;
use crate::sinks::tools::{Landed, Patterns, TailOptions};
use crate::telemetry::logs;

/// How long sinks may take to connect, and an event to land.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to check whether the sinks are connected.
const LOOK_EVERY: Duration = Duration::from_millis(20);

const EXAMPLES: &str = "\
Examples:
  alma-bridge demo                              with files in a temporary folder
  alma-bridge demo --config config/kafka.toml   with the configured sinks: subscribers get made-up events";

/// Watch a bridge in a temporary folder take and publish one sample of every action
///
/// Starts its own bridge on a free port of 127.0.0.1 with a fresh secret, sends Alma's challenge and a signed sample of
/// every action, and shows each event as it lands on its topic, with its times. Afterwards it removes everything. With
/// --config or `ALMA_BRIDGE_CONFIG` it publishes to the configured brokers: the made-up events stay there, and
/// subscribers will act on them. A configured file sink writes to the temporary folder instead of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Keep the temporary folder
    #[arg(long)]
    keep: bool,

    #[command(flatten)]
    outside: Outside,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("alma-bridge-demo-").tempdir().map_err(Failure::failed)?;
    let config = demo_config(file, folder.path())?;
    logs::init(&config::Log { level: "warn".to_owned(), ..config.log.clone() }).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::failed)?;
    let result = runtime.block_on(play(config, args.outside));
    if args.keep {
        errln!("kept: {}", folder.keep().display());
    }
    result
}

/// The configured sinks, or the built-in one if there is no file. Everything else is in the folder and on free ports.
/// File sinks write to the folder too, because their own folders belong to the bridge that runs with the configuration.
fn demo_config(file: Option<&Path>, folder: &Path) -> Result<Config, Failure> {
    let mut env = environment();
    env.retain(|(name, _)| file.is_some() || !name.starts_with(config::ENV_PREFIX));
    if file.is_none() {
        env.push((format!("{}DATA_DIR", config::ENV_PREFIX), folder.display().to_string()));
    }
    let loaded = match file {
        Some(file) => config::load(Some(file), &env),
        None => config::load_defaults(&env),
    };
    let mut config = loaded.map_err(Failure::Config)?.config;
    folder.clone_into(&mut config.data_dir);
    config.sources = config::built_in_sources(folder);
    config.admin.token_file = folder.join("admin.token");
    let topics = folder.join("topics");
    for sink in &mut config.sinks {
        if let SinkKind::File(file) = &mut sink.kind {
            file.dir = if config.built_in.sinks { topics.clone() } else { topics.join(sink.name.as_str()) };
        }
    }
    config.ingress.tls = None;
    for listen in [&mut config.ingress.listen, &mut config.admin.listen] {
        *listen = ([127, 0, 0, 1], 0).into();
    }
    config.generate_missing().map_err(Failure::failed)?;
    Ok(config)
}

async fn play(config: Config, outside: Outside) -> Result<(), Failure> {
    let secret = config.sources.first().and_then(|source| source.secrets.first()?.secret.clone());
    let secret = secret.ok_or_else(|| Failure::failed("the demo's secret was not made"))?;
    let bridge = Bridge::start(config.clone(), InheritedSockets::default()).await.map_err(Failure::failed)?;
    let shown = show(&config, &bridge, &secret, outside).await;
    bridge.stop(Duration::ZERO).await;
    shown
}

async fn show(config: &Config, bridge: &Bridge, secret: &Secret, outside: Outside) -> Result<(), Failure> {
    connected(bridge).await?;
    let url: Uri = format!("http://{}/webhooks", bridge.ingress_addr()).parse().map_err(Failure::failed)?;
    outln!("The demo's bridge listens on {url}. Its data is in {}.", config.data_dir.display())?;
    let mut client = Client::new(url.clone()).map_err(Failure::failed)?;
    challenge(&mut client, &url).await.map_err(Failure::failed)?;
    outln!("The bridge answered Alma's challenge.\n")?;
    let mut readers = JoinSet::new();
    let mut landed = read_back(config, &mut readers).await?;
    let (wide_sink, wide_topic) = widths(config);
    outln!(
        "{:<13} {:<10} {:>11}   {:<wide_sink$}  {:<wide_topic$}  {:>12}",
        "sample",
        "answer",
        "answered in",
        "sink",
        "topic",
        "published in"
    )?;
    let mut example = None;
    for (index, sample) in samples::ALL.iter().enumerate() {
        let now = SystemClock.now();
        let id = 1_000_000_000_000_000_000 + now.as_micros() + index as u64;
        let body = Bytes::from(sample.render(&id.to_string(), &now.to_string()));
        let digits = BodyDigest::of(&body).hex(16);
        let sent = Instant::now();
        let answer = client.send(post(&url, secret, body.clone())).await.map_err(Failure::failed)?;
        let answered = sent.elapsed();
        let said = Said::by(&answer);
        if !said.taken {
            return Err(Failure::failed(format!("{} was answered {}", sample.name, said.whole())));
        }
        for _ in 0..topics(config, &body).len() {
            let (sink, event) =
                tokio::time::timeout(PATIENCE, next_of(&mut landed, &digits)).await.ok().flatten().ok_or_else(
                    || {
                        Failure::failed(format!(
                            "{} did not land within {} s{}",
                            sample.name,
                            PATIENCE.as_secs(),
                            whys(bridge)
                        ))
                    },
                )?;
            outln!(
                "{:<13} {:<10} {:>11}   {sink:<wide_sink$}  {:<wide_topic$}  {:>12}",
                sample.name,
                said.outcome,
                milliseconds(answered),
                outside.line(&event.topic),
                milliseconds(sent.elapsed()),
            )?;
            example.get_or_insert(event);
        }
    }
    if let Some(event) = example {
        let document = String::from_utf8_lossy(&event.document);
        outln!("\nThe first of them, as it landed on {}:\n{}", outside.line(&event.topic), outside.json(&document))?;
    }
    outln!("{NEXT}")
}

const NEXT: &str = "
Every event was signed, verified, synced to disk and published. Next steps:
  alma-bridge run       take events on port 2562, with files as the broker
  alma-bridge secret    show the secret to paste into Alma's integration profile
  alma-bridge send      play Alma to the running bridge
  alma-bridge tail      see events as they land
  config/               one example per broker; the README says how to connect Alma";

/// The widths of the columns for sinks and topics.
fn widths(config: &Config) -> (usize, usize) {
    let now = SystemClock.now().to_string();
    let topics = samples::ALL.iter().flat_map(|sample| topics(config, &sample.render("1", &now).into()));
    let sinks = config.sinks.iter().map(|sink| sink.name.as_str().len());
    (sinks.max().unwrap_or(0).max("sink".len()), topics.map(|topic| topic.len()).max().unwrap_or(0))
}

/// The topic of an event at each sink that asks for it.
fn topics(config: &Config, body: &Bytes) -> Vec<String> {
    let Some(source) = config.sources.first() else { return Vec::new() };
    let now = SystemClock.now();
    let event = StoredEvent { source: source.name.clone(), received: now, recorded: now, body: body.clone() };
    let makers = config.sinks.iter().map(|sink| Messages::new(sink, &config.sources, &config.privacy));
    makers.filter_map(|messages| Some(messages.make(&event, None)?.topic.to_string())).collect()
}

/// Waits until the journal is open and every sink is connected.
async fn connected(bridge: &Bridge) -> Result<(), Failure> {
    bridge.opened().await.map_err(Failure::failed)?;
    let deadline = Instant::now() + PATIENCE;
    while !bridge.status().sinks.iter().all(|sink| sink.state == "up") {
        if Instant::now() > deadline {
            return Err(Failure::failed(format!(
                "the sinks did not connect within {} s{}",
                PATIENCE.as_secs(),
                whys(bridge)
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// For an error: why each sink is not connected.
fn whys(bridge: &Bridge) -> String {
    let sinks = bridge.status().sinks;
    sinks.into_iter().filter_map(|sink| Some(format!("\n  sink {}: {}", sink.name, sink.why?))).collect()
}

/// Reads back from all sinks. Each event comes with the name of its sink. Resolves once every sink is being read.
async fn read_back(config: &Config, readers: &mut JoinSet<()>) -> Result<mpsc::Receiver<(String, Landed)>, Failure> {
    let (all, landed) = mpsc::channel(samples::ALL.len());
    for sink in config.sinks.iter().cloned().map(Arc::new) {
        let (into, mut from) = mpsc::channel(samples::ALL.len());
        let (ready, reading) = oneshot::channel();
        let name = sink.name.to_string();
        let options = TailOptions { topics: Patterns::default(), from_start: false, into, ready };
        let (failed, failure) = oneshot::channel();
        readers.spawn(async move {
            if let Err(error) = sinks::tail(&sink, options).await {
                let _ = failed.send(error);
            }
        });
        tokio::select! {
            Ok(_) = reading => {}
            Ok(error) = failure => return Err(Failure::failed(format!("cannot read sink {name} back: {error}"))),
            else => return Err(Failure::failed(format!("cannot read sink {name} back"))),
        }
        let all = all.clone();
        readers.spawn(async move {
            while let Some(event) = from.recv().await {
                if all.send((name.clone(), event)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(landed)
}

/// The next event whose id contains these digits of the body's digest. Skips events that are not the demo's.
async fn next_of(landed: &mut mpsc::Receiver<(String, Landed)>, digits: &str) -> Option<(String, Landed)> {
    #[derive(Deserialize)]
    struct Id {
        id: String,
    }
    loop {
        let (sink, event) = landed.recv().await?;
        if serde_json::from_slice::<Id>(&event.document).is_ok_and(|event| event.id.contains(digits)) {
            return Some((sink, event));
        }
    }
}
