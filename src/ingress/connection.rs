//! Accepts connections up to a limit, serves them with hyper, and closes them without a reset.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::activity::Activity;
use super::head::{HeadWatch, MAX_HEAD};
use super::request;
use crate::connections::{Limit, Place};
use crate::journal::Intake;
use crate::telemetry::LineKind;

/// Maximum headers of a request. Alma sends few, but proxies add many.
const MAX_HEADERS: usize = 128;

/// How long the listener pauses after an error, such as no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many bytes are still read of a request that was answered before its end. Without this, the client would see a
/// reset instead of the answer.
const LINGER_BYTES: usize = 256 * 1024;

/// For how long they are read.
const LINGER: Duration = Duration::from_secs(1);

/// When the listener closes: how long the first request of a new connection may still be on its way.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Accepts until it is closed, then waits for the requests that have begun.
pub(super) async fn accept<I: Intake>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared<I>>,
    closed: CancellationToken,
) {
    let limit = Limit::new(shared.settings.max_connections, "ingress", &shared.connections);
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = tokio::select! {
            // A client whose connection was accepted expects an answer, even if the listener is closed just now.
            biased;
            place = limit.place(peer.ip()) => place,
            () = closed.cancelled() => break,
        };
        tasks.spawn(serve(stream, tls.clone(), Arc::clone(&shared), place, closed.clone()));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// Serves one connection until it ends or has to give way.
async fn serve<I: Intake>(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared<I>>,
    place: Place,
    closed: CancellationToken,
) {
    // An answer is one small packet, which must not wait for more.
    let _ = stream.set_nodelay(true);
    let connection = place.connection();
    let served = async {
        let activity = Arc::new(Activity::new(Arc::clone(connection)));
        match tls {
            None => serve_http(stream, &shared, activity, closed).await,
            Some(tls) => {
                if let Some(stream) = handshake(stream, &tls, &shared).await {
                    serve_http(stream, &shared, activity, closed).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = connection.gives_way() => {}
        () = served => {}
    }
}

async fn handshake<I>(stream: TcpStream, tls: &TlsAcceptor, shared: &Shared<I>) -> Option<TlsStream<TcpStream>> {
    const FAILED: &str = "TLS handshake failed";
    match timeout(shared.settings.header_timeout, tls.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        // Only invalid data is worth a line. Load balancers open and close connections without a word all day.
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            if shared.lines.allow(LineKind { reason: Some("TLS".into()), ..LineKind::message(FAILED) }) {
                tracing::warn!(reason = %error, "{FAILED}");
            }
        }
        Ok(Err(_)) | Err(_) => {}
    }
    None
}

async fn serve_http<I, S>(stream: S, shared: &Arc<Shared<I>>, activity: Arc<Activity>, closed: CancellationToken)
where
    I: Intake,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let turn = activity.turn();
    let watched = HeadWatch::new(stream, shared.settings.header_timeout, Arc::clone(&turn));
    let service = {
        let shared = Arc::clone(shared);
        // Boxed, so that the connection can be taken apart at its end and the stream can linger.
        service_fn(move |request| Box::pin(request::answer(request, Arc::clone(&shared), Arc::clone(&activity))))
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.settings.idle_timeout.max(shared.settings.header_timeout))
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        // A client may close its sending side after the request and still wait for the answer.
        .half_close(true)
        // HeadWatch must see each answer in one write.
        .writev(false)
        .serve_connection(TokioIo::new(watched), service);
    let mut close = pin!(async {
        closed.cancelled().await;
        // hyper ends a connection at once if it has read nothing of it, but its client may have sent a request by now.
        if turn.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(FIRST_REQUEST).await;
        }
    });
    let mut closing = false;
    loop {
        tokio::select! {
            // It does not matter how a connection ends: each of its requests was logged.
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
            () = &mut close, if !closing => {
                closing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
    let watched = connection.into_parts().io.into_inner();
    if let Some(status) = watched.refused() {
        request::log_refused_head(shared, status);
    }
    linger(watched.into_inner()).await;
}

/// Closes the sending side, and reads on for a moment.
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
    // If this fails, nothing is lost.
    let _ = timeout(LINGER, read_on).await;
}
