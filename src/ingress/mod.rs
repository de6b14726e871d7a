//! The hyper server for Alma: bounded read, signature, journal, answer.
//!
//! A request is checked in this order: path, method, form of the signature header (before the body is read), size,
//! HMAC, journal. The body is not parsed. A stranger costs no more than one bounded read and one HMAC per secret.
//!
//! - `connection`: accepts connections, does TLS, closes them
//! - `head`: limits the time for a request's head, and replaces the answers that hyper gives by itself
//! - `request`: checks a request; `answer`: every answer, with headers and body
//! - `body`: the bounded read; `memory`: the memory of all bodies
//! - `sources`: paths and secrets; `health`: last valid event, refused requests, silence
//! - `turned_away`: requests that may be events and got 503, because of a wrong path or their size

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

/// Open files that are reserved for the rest of the process: journal, topic files, brokers, operators.
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

/// Stops a [`Server`] in two steps.
#[derive(Clone, Debug, Default)]
pub struct StopHandle {
    announced: CancellationToken,
    closed: CancellationToken,
}

impl StopHandle {
    /// From now on, every answer closes its connection. Events are still accepted.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// Closes the listener. Requests that have begun are still answered.
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

    /// Serves until the server is closed and every request that had begun is answered.
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

/// Raises the process's soft limit of open files to the hard limit. Returns `max_connections`, or less if the limit
/// leaves no room for so many.
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
