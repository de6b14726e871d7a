//! The connections of the listener for operators.
//!
//! Reading, writing and idle time are bounded. When all connections are in use, those of strangers are closed first, so
//! that `/livez` and `/metrics` are always answered. Otherwise kubelet would restart the Pod.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::{Operated, Routes};
use crate::config::{Secret, ToolsFrom};
use crate::connections::{ConnectionMetrics, Limit, Place};

/// How many connections may be open: enough for kubelet, Prometheus and a few people.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head, and how long it may be idle between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may read nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the listener pauses after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Serves nothing until [`Server::run`].
    pub fn new(listener: TcpListener) -> Self {
        Self { listener }
    }

    /// Serves until `stop`, which also ends open connections. Without a token, every POST is refused.
    pub async fn run(
        self,
        bridge: Arc<dyn Operated>,
        token: Option<Secret>,
        tools: ToolsFrom,
        metrics: ConnectionMetrics,
        stop: CancellationToken,
    ) {
        let limit = Limit::new(MAX_CONNECTIONS, "admin", &metrics);
        let routes = Arc::new(Routes::new(bridge, token, tools));
        tokio::select! {
            () = accept(self.listener, limit, &routes, &stop) => {}
            () = routes.lines.sum_up_each_second() => {}
            () = stop.cancelled() => {}
        }
        routes.lines.sum_up();
    }
}

async fn accept(listener: TcpListener, limit: Limit, routes: &Arc<Routes>, stop: &CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let place = limit.place(peer.ip()).await;
                tokio::spawn(serve(stream, Arc::clone(routes), place, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection of the admin listener");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>, place: Place, stop: CancellationToken) {
    let connection = place.connection();
    let service = {
        let connection = Arc::clone(connection);
        service_fn(move |request| {
            let (routes, connection) = (Arc::clone(&routes), Arc::clone(&connection));
            async move { Ok::<_, Infallible>(routes.answer(request, &connection).await) }
        })
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .half_close(true)
        .serve_connection(TokioIo::new(BoundedWrites { stream, deadline: None }), service);
    tokio::select! {
        biased;
        () = connection.gives_way() => {}
        // An error here is the client's: it went away, or did not speak HTTP.
        _ = served => {}
        () = stop.cancelled() => {}
    }
}

/// A stream whose writes fail once the client has read nothing for [`WRITE_TIMEOUT`].
struct BoundedWrites<S> {
    stream: S,
    /// When the write that waits fails.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedWrites<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedWrites<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        if written.is_ready() {
            this.deadline = None;
            return written;
        }
        let deadline = this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        match deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not taken"))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_ends_its_connection() {
        let (mut client, server) = tokio::io::duplex(16);
        let mut stream = BoundedWrites { stream: server, deadline: None };
        let began = Instant::now();
        let writing = tokio::spawn(async move { stream.write_all(&[0; 64]).await.map_err(|error| error.kind()) });
        // Half a timeout later the client reads some bytes, which restarts the timeout.
        tokio::time::sleep(WRITE_TIMEOUT / 2).await;
        client.read_exact(&mut [0; 16]).await.expect("read");
        let ended = timeout(WRITE_TIMEOUT * 3, writing).await.expect("it ends").expect("no panic");
        assert_eq!(ended, Err(io::ErrorKind::TimedOut));
        assert!(began.elapsed() >= WRITE_TIMEOUT + WRITE_TIMEOUT / 2, "{:?}", began.elapsed());
    }
}
