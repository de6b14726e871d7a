//! Connections: accepted up to a limit, served by hyper, ended without a reset.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::head::{HeadWatch, MAX_HEAD};
use super::request;
use crate::journal::Intake;

/// Headers of a request; proxies add many, Alma few.
const MAX_HEADERS: usize = 128;

/// How long accepting pauses after an error such as no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is still read of a request that was answered before its end, so that the client sees the answer and no reset.
const LINGER_BYTES: usize = 256 * 1024;

/// And for how long.
const LINGER: Duration = Duration::from_secs(1);

/// Accepts until it is closed, then waits for the requests that have begun.
pub(super) async fn accept<I: Intake>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared<I>>,
    closed: CancellationToken,
) {
    let limit = Arc::new(Limit::new(shared.settings.max_connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            place = limit.place() => place,
            () = closed.cancelled() => break,
        };
        tasks.spawn(serve(stream, tls.clone(), Arc::clone(&shared), place, closed.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn serve<I: Intake>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared<I>>,
    place: Place,
    closed: CancellationToken,
) {
    // An answer is one small packet.
    let _ = stream.set_nodelay(true);
    let header_timeout = shared.settings.header_timeout;
    match tls {
        None => serve_http(stream, shared, place, closed).await,
        Some(tls) => {
            // How a handshake of a stranger fails is not worth a line.
            if let Ok(Ok(stream)) = timeout(header_timeout, tls.accept(stream)).await {
                serve_http(stream, shared, place, closed).await;
            }
        }
    }
}

async fn serve_http<I, S>(stream: S, shared: Arc<Shared<I>>, place: Place, closed: CancellationToken)
where
    I: Intake,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let state = Arc::clone(&place.state);
    let watched = HeadWatch::new(stream, shared.settings.header_timeout, Arc::clone(&state.turn));
    let service = {
        let (shared, state) = (Arc::clone(&shared), Arc::clone(&state));
        // Boxed so that the connection can be taken apart at its end, for the stream to linger.
        service_fn(move |request| Box::pin(request::answer(request, Arc::clone(&shared), Arc::clone(&state))))
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.idle_timeout.max(shared.settings.header_timeout))
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        // The watch below sees whole writes.
        .writev(false)
        .serve_connection(TokioIo::new(watched), service);
    let mut closing = false;
    loop {
        tokio::select! {
            // How a connection ends is the client's affair; each request has had its line.
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
            () = state.gives_way.cancelled() => return,
            () = closed.cancelled(), if !closing => {
                closing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let stream = connection.into_parts().io.into_inner().into_inner();
    linger(stream).await;
}

/// Says that nothing more comes, and reads on for a little.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let read_on = async {
        stream.shutdown().await?;
        let mut left = LINGER_BYTES;
        let mut buffer = [0; 4 * 1024];
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // It is a courtesy.
    let _ = timeout(LINGER, read_on).await;
}

/// What is known of one connection.
pub(super) struct State {
    /// Odd while a request is being answered; see [`HeadWatch`].
    turn: Arc<AtomicU32>,
    /// It once carried a proven event: it is Alma's, or its proxy's.
    proven: AtomicBool,
    gives_way: CancellationToken,
}

impl State {
    fn new() -> Self {
        Self { turn: Arc::default(), proven: AtomicBool::new(false), gives_way: CancellationToken::new() }
    }

    /// The head of a request is there.
    pub(super) fn request_begins(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// Its answer is made.
    pub(super) fn request_ends(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    /// It carried a proven event, and does not give way any more.
    pub(super) fn proven(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }
}

/// The limit of connections. With no place free, the oldest one that never carried a proven event gives way: it is
/// idle, or still sending.
struct Limit {
    places: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// Oldest first.
    connections: BTreeMap<u64, Arc<State>>,
}

/// One connection's place under the limit.
struct Place {
    number: u64,
    state: Arc<State>,
    taken: Arc<Mutex<Taken>>,
    _permit: OwnedSemaphorePermit,
}

impl Limit {
    fn new(max: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))), taken: Arc::default() }
    }

    async fn place(&self) -> Place {
        if self.places.available_permits() == 0 {
            self.make_room();
        }
        let permit = Arc::clone(&self.places).acquire_owned().await.expect("the limit is never closed");
        let state = Arc::new(State::new());
        let mut taken = lock(&self.taken);
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, Arc::clone(&state));
        Place { number, state, taken: Arc::clone(&self.taken), _permit: permit }
    }

    fn make_room(&self) {
        let mut taken = lock(&self.taken);
        let unproven = |state: &Arc<State>| !state.proven.load(Ordering::Relaxed);
        let oldest = taken.connections.iter().find(|(_, state)| unproven(state)).map(|(number, _)| *number);
        if let Some(state) = oldest.and_then(|number| taken.connections.remove(&number)) {
            state.gives_way.cancel();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.taken).connections.remove(&self.number);
    }
}

fn lock(taken: &Mutex<Taken>) -> std::sync::MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}
