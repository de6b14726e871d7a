//! The hyper server for Alma: a bounded read, the signature, then the journal, then the answer.
//!
//! A request is judged in this order: path, method, form of the signature header (before the body is read), size, HMAC,
//! journal. The body is not parsed. For a stranger nothing is done beyond one bounded read and one HMAC per secret.
//!
//! - `connection`: accepting, TLS, how a connection ends
//! - `head`: the time a request's head may take, and the answers that hyper gives by itself
//! - `request`: the order of judgement; `answer`: what is answered
//! - `body`: the bounded read; `memory`: the memory of all bodies
//! - `sources`: paths and secrets; `health`: what a source's requests have shown; `metrics`: what is counted
//! - `turned_away`: what may be events and got 503, for a wrong path or its size

mod activity;
mod answer;
mod body;
mod connection;
mod head;
mod health;
mod memory;
mod metrics;
mod request;
mod sources;
#[cfg(test)]
mod tests;
pub mod tls;
mod turned_away;

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::connections::ConnectionMetrics;
use crate::journal::Intake;
use crate::telemetry::StrangersLines;

pub use health::{Refused, SourceHealth};
pub use metrics::IngressMetrics;
pub use sources::Sources;
pub use turned_away::TurnedAway;

/// Files that the rest of the process may need open at once: journal, topic files, brokers, operators.
const FILES_FOR_THE_REST: u64 = 256;

/// The bound listener for Alma.
pub struct Server<I> {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared<I>>,
    stop: StopHandle,
}

/// What all connections share.
struct Shared<I> {
    settings: config::Ingress,
    sources: Sources,
    intake: Arc<I>,
    metrics: IngressMetrics,
    connections: ConnectionMetrics,
    clock: Arc<dyn Clock>,
    memory: memory::BodyMemory,
    lines: StrangersLines,
    stop: StopHandle,
}

/// Ends a [`Server`] in two steps.
#[derive(Clone, Debug, Default)]
pub struct StopHandle {
    announced: CancellationToken,
    closed: CancellationToken,
}

impl StopHandle {
    /// From now on every answer closes its connection; events are still taken.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// The listener closes, requests that have begun finish.
    pub fn close(&self) {
        self.announced.cancel();
        self.closed.cancel();
    }
}

impl<I: Intake> Server<I> {
    /// Reads the certificate, if there is one.
    pub fn new(
        listener: TcpListener,
        settings: &config::Ingress,
        sources: Sources,
        intake: Arc<I>,
        metrics: IngressMetrics,
        connections: ConnectionMetrics,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose().map_err(io::Error::other)?;
        let stop = StopHandle::default();
        let shared = Arc::new(Shared {
            memory: memory::BodyMemory::new(settings.body_memory, settings.max_body),
            settings: settings.clone(),
            sources,
            intake,
            metrics,
            connections,
            clock,
            lines: StrangersLines::default(),
            stop: stop.clone(),
        });
        Ok(Self { listener, tls, shared, stop })
    }

    /// Ends it, in two steps.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Serves until it is closed and every request that had begun is answered.
    pub async fn run(self) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = connection::accept(self.listener, self.tls, self.shared, self.stop.closed) => {}
            () = shared.sources.watch_silence() => {}
            () = shared.lines.sum_up_each_second() => {}
        }
        shared.lines.sum_up();
    }
}

/// Raises the process's soft limit of open files to the hard one, and cuts the number of connections to what that
/// leaves room for.
pub fn raise_file_limit(max_connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
    let Some(files) = getrlimit(Resource::Nofile).current else { return max_connections };
    let room = usize::try_from(files.saturating_sub(FILES_FOR_THE_REST)).unwrap_or(usize::MAX).max(1);
    if room < max_connections {
        tracing::warn!(
            files,
            max_connections,
            cut_to = room,
            "the limit of open files is too low for ingress.max_connections: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    room.min(max_connections)
}
