//! One file per command. Results go to stdout; the log and explanations go to stderr.

#[macro_use]
mod output;
mod http;
mod operator_client;
mod outside;
mod table;

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::bridge::Listeners;
use crate::config::{self, Config, ConfigError, ConfigErrors, Loaded, Source, SourceName, Storage};
use crate::ingress::tls::{self, CertificateError};
use crate::printable::Printable;
use crate::telemetry::logs::{self, FlushAtEnd};
use crate::units::counted;

mod check;
mod completions;
mod dead_letters;
mod demo;
mod drain;
mod explain;
mod man;
mod reload;
mod replay;
mod run;
mod running;
mod secret;
mod send;
mod sinks;
mod status;
mod tail;

/// Exit code of a configuration error: `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Receives the webhooks of Ex Libris Alma, makes them durable, and publishes them to Kafka, RabbitMQ, NATS JetStream or
/// files, on one topic per action.
#[derive(Debug, Parser)]
#[command(name = "alma-bridge", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    /// The configuration file. Default: the first that exists of config/alma-bridge.toml and
    /// /etc/alma-bridge/alma-bridge.toml, or else the built-in values
    #[arg(long, global = true, value_name = "FILE", env = "ALMA_BRIDGE_CONFIG")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
First steps:
  alma-bridge demo                 see signed events arrive, become durable and land on their topics
  alma-bridge run                  take events on port 2562; the first start generates a secret
  alma-bridge secret               show the secret to paste into Alma's integration profile
  alma-bridge send                 play Alma to the running bridge
  alma-bridge tail                 see events as they land

When something is wrong:
  alma-bridge status               see what needs a person
  alma-bridge reload               put an edited configuration into effect
  alma-bridge dead-letters list    list the events that a sink could not take
  alma-bridge replay --help        publish events from the journal again
  alma-bridge sinks list           see how many events wait for each sink
  alma-bridge drain                deliver the waiting events, take no new ones

Exit codes: 0 success, 1 failure, 2 usage, 78 configuration.";

// Each command's help comes from its `Args`. A comment here would replace it, including its second paragraph.
#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Demo(demo::Args),
    Check(check::Args),
    Secret(secret::Args),
    Reload(reload::Args),
    Send(send::Args),
    Tail(tail::Args),
    Explain(explain::Args),
    Status(status::Args),
    Replay(replay::Args),
    #[command(name = "dead-letters", visible_alias = "dlq")]
    DeadLetters(dead_letters::Args),
    Sinks(sinks::Args),
    Drain(drain::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Why a command failed.
#[derive(Debug)]
enum Failure {
    /// Everything that is wrong with the configuration: exit 78.
    Config(ConfigErrors),
    /// The command line asks for something that does not exist or is not allowed: exit 2.
    Usage(String),
    /// Anything else: exit 1.
    Failed(String),
    /// Like [`Failure::Failed`], but the reason is already printed.
    Silent,
    /// Nobody reads stdout any more, as after `| head`: prints nothing, exit 0.
    Unread,
}

impl Failure {
    fn failed(why: impl fmt::Display) -> Self {
        Self::Failed(why.to_string())
    }

    /// What went wrong, one line for each error.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(errors) => errors.errors.iter().map(ToString::to_string).collect(),
            Self::Usage(why) | Self::Failed(why) => vec![why.clone()],
            Self::Silent | Self::Unread => Vec::new(),
        }
    }
}

/// Runs the program with the process's arguments and environment.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        // Without a command, the help text is the result.
        let _ = <Cli as clap::CommandFactory>::command().print_help();
        return ExitCode::SUCCESS;
    };
    let _flush = FlushAtEnd;
    let file = cli.config.as_deref();
    let result = match command {
        Command::Run(args) => run::run(file, &args),
        Command::Demo(args) => demo::run(file, &args),
        Command::Check(args) => check::run(file, &args),
        Command::Secret(args) => secret::run(file, &args),
        Command::Reload(args) => reload::run(file, &args),
        Command::Send(args) => send::run(file, args),
        Command::Tail(args) => tail::run(file, args),
        Command::Explain(args) => explain::run(file, &args),
        Command::Status(args) => status::run(file, &args),
        Command::Replay(args) => replay::run(file, args),
        Command::DeadLetters(args) => dead_letters::run(file, args),
        Command::Sinks(args) => sinks::run(file, args),
        Command::Drain(args) => drain::run(file, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match result {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Silent) => ExitCode::FAILURE,
        Err(Failure::Failed(why)) => {
            logs::print(&format!("error: {}", Printable::lines(&why)));
            ExitCode::FAILURE
        }
        // No hint at --help, unlike clap's own errors: the message says what to do, and the help text does not.
        Err(Failure::Usage(why)) => {
            logs::print(&format!("error: {}", Printable::lines(&why)));
            ExitCode::from(2)
        }
        Err(Failure::Config(errors)) => {
            for warning in &errors.warnings {
                logs::print(&format!("warning: {}", Printable::line(warning)));
            }
            logs::print(Printable::lines(errors.to_string().trim_end()).to_string().as_str());
            ExitCode::from(EXIT_CONFIG)
        }
    }
}

/// Loads the configuration and prints its warnings.
fn load(file: Option<&Path>) -> Result<Config, Failure> {
    Ok(load_with_warnings(file)?.config)
}

/// Prints the warnings and returns them, too.
fn load_with_warnings(file: Option<&Path>) -> Result<Loaded, Failure> {
    let loaded = load_silently(file)?;
    for warning in &loaded.warnings {
        errln!("warning: {}", Printable::line(warning));
    }
    Ok(loaded)
}

/// Loads the configuration. Prints nothing.
fn load_silently(file: Option<&Path>) -> Result<Loaded, Failure> {
    config::load(file, &environment()).map_err(Failure::Config)
}

/// Like [`load_silently`], but reads the certificate and its key too. For the commands that serve TLS or check it.
fn load_with_certificate(file: Option<&Path>) -> Result<Loaded, Failure> {
    let loaded = load_silently(file)?;
    let Some(Err(CertificateError { key, problem })) = loaded.config.ingress.tls.as_ref().map(tls::check) else {
        return Ok(loaded);
    };
    let origin = loaded.values.iter().find(|value| value.key == key).map(|value| value.origin.clone());
    let error = ConfigError { key: Some(key.to_owned()), origin: origin.unwrap_or_default(), problem };
    Err(Failure::Config(ConfigErrors { errors: vec![error], warnings: loaded.warnings }))
}

/// The process's environment, without variables that are not UTF-8: the bridge has none of those.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The source of this name, or the only source.
fn pick_source<'a>(config: &'a Config, name: Option<&SourceName>) -> Result<&'a Source, Failure> {
    let names = || config.sources.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    match name {
        Some(name) => config
            .sources
            .iter()
            .find(|source| source.name == *name)
            .ok_or_else(|| Failure::Usage(format!("unknown source {name}; there are: {}", names()))),
        None => match config.sources.as_slice() {
            [only] => Ok(only),
            _ => Err(Failure::Usage(format!("there are several sources, choose one with --source: {}", names()))),
        },
    }
}

/// A runtime for the commands that speak to a bridge: one thread is enough.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    runtime.block_on(work)
}

/// One of the bridge's two listeners.
#[derive(Clone, Copy)]
enum Listener {
    Ingress,
    Admin,
}

impl Listener {
    /// The key of the listener's address.
    const fn key(self) -> &'static str {
        match self {
            Self::Ingress => "ingress.listen",
            Self::Admin => "admin.listen",
        }
    }
}

/// The address at which this machine reaches a listener of the bridge. If the configured port is 0, the running bridge has
/// written its port to `listeners.json`.
fn reachable(config: &Config, listener: Listener) -> Result<SocketAddr, Failure> {
    let configured = match listener {
        Listener::Ingress => config.ingress.listen,
        Listener::Admin => config.admin.listen,
    };
    let mut address = configured;
    if configured.port() == 0 {
        let running = Listeners::read(&config.data_dir).map_err(|error| {
            let dir = config.data_dir.display();
            let why = match error.kind() {
                ErrorKind::NotFound => format!("no {dir}/listeners.json"),
                _ => format!("{dir}/listeners.json cannot be read: {error}"),
            };
            // Only a bridge without a journal runs without that file.
            let hint = match config.journal.storage {
                Storage::None => format!("; if it cannot write to data_dir, give {} a fixed port", listener.key()),
                Storage::Disk => String::new(),
            };
            Failure::failed(format!("no bridge runs with data_dir = {dir} ({why}){hint}"))
        })?;
        address = match listener {
            Listener::Ingress => running.ingress,
            Listener::Admin => running.admin,
        };
    }
    Ok(on_this_machine(address))
}

/// Replaces an unspecified address with loopback.
fn on_this_machine(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}
