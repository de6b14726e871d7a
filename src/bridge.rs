//! The whole bridge: built from a configuration, changed by reloads, stopped gracefully.
//!
//! It binds both listeners first, or takes those that it inherits from the service manager, so that the process is alive
//! and can say why it is not ready yet. It then waits until no other process holds the journal, opens it, and starts the
//! sinks.
//!
//! [`Drain`] is a bridge without its listeners.

mod attention;
mod drain;
mod engine;
mod error;
mod listeners;
pub(crate) mod metrics;
mod reload;
mod sockets;
mod view;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Operated as _, Reloaded, Status};
use crate::clock::{SystemClock, Timestamp};
use crate::config::{Config, Secret, Storage};
use crate::ingress::{self, Sources};
use crate::journal::NotTaken;
use crate::ownership::explain;

pub use drain::Drain;
pub use engine::Engine;
pub use error::EngineError;
pub use listeners::Listeners;
use metrics::Metrics;
use reload::Reloads;
pub use sockets::InheritedSockets;
pub use view::RELOAD_PATIENCE;
use view::View;

/// How long a stop waits for requests to finish, and then for sinks to settle. Nothing is lost when it runs out.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How long connections wait in an inherited socket for the journal to open. Alma waits 5 s for an answer.
const OPEN_PATIENCE: Duration = Duration::from_secs(3);

/// Why a bridge did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener can't be bound to its address.
    #[error("can't listen on {address} ({listener}.listen): {error}")]
    Listen {
        /// The table of the configuration: `ingress` or `admin`.
        listener: &'static str,
        /// The configured address.
        address: SocketAddr,
        /// The operating system's error.
        error: io::Error,
    },
    /// The service manager hands over a socket under a name that the bridge does not know.
    #[error(
        "the service manager hands over a socket named \"{0}\", expected \"ingress\" or \"admin\": set \
         FileDescriptorName= in the socket unit"
    )]
    UnknownSocket(String),
    /// The service manager hands over two sockets for one listener.
    #[error("the service manager hands over two sockets named \"{0}\", expected one: a listener has one address")]
    SocketTwice(String),
    /// What the service manager hands over is not a TCP socket.
    #[error("cannot use the socket \"{name}\" that the service manager hands over: {error}")]
    UnusableSocket {
        /// The name of the socket.
        name: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// A file or folder in `data_dir` can't be created or read.
    #[error("{path}: {error}")]
    File {
        /// The file or folder.
        path: String,
        /// The operating system's error.
        error: io::Error,
    },
}

/// A running bridge. End it with [`Bridge::stop`]: if it is dropped, its tasks run on until the runtime ends.
pub struct Bridge {
    view: Arc<View>,
    reloads: Arc<Reloads>,
    retries: JoinHandle<()>,
    ingress: JoinHandle<()>,
    ingress_stop: ingress::StopHandle,
    admin_stop: CancellationToken,
    listeners: Listeners,
    opened: watch::Receiver<Opened>,
}

/// Whether the journal is open.
#[derive(Clone, Debug, Default)]
enum Opened {
    #[default]
    Waiting,
    Open,
    Failed(Arc<EngineError>),
}

impl Bridge {
    /// Binds the listeners for which no socket was inherited, and begins to open the journal. Call
    /// [`Config::generate_missing`] first.
    pub async fn start(config: Config, sockets: InheritedSockets) -> Result<Self, StartError> {
        make_data_dir(&config)?;
        let metrics = Metrics::new();
        metrics.init_labels(&config);
        let token = token(&config)?;
        let sources = Sources::new(&config.sources);
        let engine = Arc::new(Engine::default());
        let is_inherited = sockets.ingress.is_some();
        let (socket, ingress_address) = sockets::listen("ingress", sockets.ingress, config.ingress.listen).await?;
        let server = ingress::Server::new(
            socket,
            &config.ingress,
            sources.clone(),
            Arc::clone(&engine),
            metrics.ingress.clone(),
            metrics.connections.clone(),
            SystemClock::shared(),
        )
        .map_err(|error| listen_error("ingress", config.ingress.listen, error))?;
        let (socket, admin_address) = sockets::listen("admin", sockets.admin, config.admin.listen).await?;
        let admin = admin::Server::new(socket);
        let listeners = Listeners { ingress: ingress_address, admin: admin_address };
        let tools = config.admin.tools;
        let connections = metrics.connections.clone();
        let view = Arc::new(View::new(config, listeners, sources.clone(), metrics, engine));
        let admin_stop = CancellationToken::new();
        tokio::spawn(admin.run(Arc::clone(&view) as _, token, tools, connections, admin_stop.clone()));
        let ingress_stop = server.stop_handle();
        let (tell, opened) = watch::channel(Opened::Waiting);
        let mut ready = opened.clone();
        let ingress = tokio::spawn(async move {
            // What arrived since the bridge before this one ended waits in the socket, and would only get 503 now.
            if is_inherited {
                let opens = ready.wait_for(|opened| !matches!(opened, Opened::Waiting));
                let _ = timeout(OPEN_PATIENCE, opens).await;
            }
            server.run().await;
        });
        let reloads = Arc::new(Reloads::new(Arc::clone(&view), sources));
        tokio::spawn(open(Arc::clone(&reloads), tell));
        let retrying = Arc::clone(&reloads);
        let retries = tokio::spawn(async move { retrying.keep_trying().await });
        Ok(Self { view, reloads, retries, ingress, ingress_stop, admin_stop, listeners, opened })
    }

    /// Resolves once the sinks run, or with the reason why events can't be taken.
    pub async fn opened(&self) -> Result<(), Arc<EngineError>> {
        let mut opened = self.opened.clone();
        match opened.wait_for(|opened| !matches!(opened, Opened::Waiting)).await.as_deref() {
            Ok(Opened::Failed(error)) => Err(Arc::clone(error)),
            // The task that opens the journal sends the outcome before it ends.
            _ => Ok(()),
        }
    }

    /// Resolves with the name of a thread of the journal if it panics. No event can be taken then until the process is
    /// restarted.
    pub async fn died(&self) -> &'static str {
        let open = self.opened().await.ok().and_then(|()| self.view.engine.get());
        match open.and_then(engine::Open::journal) {
            Some(journal) => journal.died().await,
            None => std::future::pending().await,
        }
    }

    /// The address of the listener for Alma.
    pub fn ingress_addr(&self) -> SocketAddr {
        self.listeners.ingress
    }

    /// The address of the listener for operators.
    pub fn admin_addr(&self) -> SocketAddr {
        self.listeners.admin
    }

    /// Whether the bridge takes events, or why not.
    pub fn ready(&self) -> Result<(), NotTaken> {
        self.view.ready()
    }

    /// The status, as `/status` shows it.
    pub fn status(&self) -> Status {
        self.view.status()
    }

    /// Resolves when an operator requests a reload on the admin listener. Send the outcome to the returned channel.
    pub async fn reload_asked(&self) -> oneshot::Sender<Reloaded> {
        self.view.reload_asked().await
    }

    /// The configuration in effect.
    pub fn config(&self) -> Arc<Config> {
        self.view.config()
    }

    /// Puts a newer configuration in effect, except for what needs a restart. Returns what could not be put in effect;
    /// the bridge retries that by itself.
    pub async fn apply(&self, new: Config) -> Vec<String> {
        self.reloads.apply(new).await
    }

    /// When the configuration in effect was loaded.
    pub fn loaded_at(&self) -> Timestamp {
        self.view.loaded_at()
    }

    /// Notes that a reload was refused, with everything that is wrong.
    pub fn refuse(&self, errors: Vec<String>) {
        self.view.refused(errors);
    }

    /// Stops the bridge gracefully. For `delay` it is not ready but still takes events, so that load balancers can turn
    /// away. It then closes the listener, lets requests finish and sinks settle, and closes the journal.
    pub async fn stop(self, delay: Duration) {
        self.view.begin_stop();
        self.ingress_stop.announce();
        if !delay.is_zero() {
            tracing::info!(delay_seconds = delay.as_secs_f64(), "stopping: not ready, events are still taken");
            tokio::time::sleep(delay).await;
        }
        self.ingress_stop.close();
        if timeout(STOP_PATIENCE, self.ingress).await.is_err() {
            tracing::warn!(
                seconds = STOP_PATIENCE.as_secs(),
                "requests did not finish in time; what was answered is durable"
            );
        }
        self.retries.abort();
        self.view.engine.close(Instant::now() + STOP_PATIENCE).await;
        self.admin_stop.cancel();
        tracing::info!("stopped");
    }
}

async fn open(reloads: Arc<Reloads>, tell: watch::Sender<Opened>) {
    let opened = match reloads.open().await {
        Ok(()) => Opened::Open,
        Err(error) => Opened::Failed(Arc::new(error)),
    };
    tell.send_replace(opened);
}

fn listen_error(listener: &'static str, address: SocketAddr, error: io::Error) -> StartError {
    let error = match error.kind() {
        kind @ io::ErrorKind::AddrInUse => io::Error::new(kind, format!("{error}; is another alma-bridge running?")),
        _ => error,
    };
    StartError::Listen { listener, address, error }
}

fn file_error(path: &Path, error: io::Error) -> StartError {
    StartError::File { path: path.display().to_string(), error: explain(path, error) }
}

/// Creates `data_dir` so that only its owner can enter it. Without a journal, the bridge can run without the folder.
fn make_data_dir(config: &Config) -> Result<(), StartError> {
    let dir = &config.data_dir;
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(_) if config.journal.storage == Storage::None => Ok(()),
        made => made.map_err(|error| file_error(dir, error)),
    }
}

/// Returns the admin token, or `None` if there is none. Requests that need it are refused then.
fn token(config: &Config) -> Result<Option<Secret>, StartError> {
    let path = &config.admin.token_file;
    if config.does_without_token() {
        tracing::warn!(path = %path.display(), "no admin token can be made: POST /reload and POST /tools are refused");
        return Ok(None);
    }
    config.admin_token().map(Some).map_err(|error| file_error(path, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    /// Without its writer, the bridge would answer 503 until somebody looks.
    #[tokio::test]
    async fn a_writer_that_panics_ends_the_bridge() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().display();
        let set = |name: &str, value: String| (format!("ALMA_BRIDGE__{name}"), value);
        let environment = [
            set("DATA_DIR", format!("{dir}/data")),
            set("INGRESS__LISTEN", "127.0.0.1:0".to_owned()),
            set("ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
        ];
        let mut config = config::load_defaults(&environment).expect("a configuration").config;
        config.generate_missing().expect("a secret");
        let bridge = Bridge::start(config, InheritedSockets::default()).await.expect("starts");
        bridge.opened().await.expect("opens");
        let open = bridge.view.engine.get().expect("open");
        open.journal().expect("a journal").break_writer();
        let thread = timeout(Duration::from_secs(20), bridge.died()).await.expect("it is told");
        assert_eq!(thread, "journal-writer");
        bridge.view.ready().expect_err("nothing can be taken");
        timeout(Duration::from_secs(20), bridge.stop(Duration::ZERO)).await.expect("nothing waits for it");
    }
}
