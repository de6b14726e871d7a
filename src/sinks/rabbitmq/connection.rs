//! One connection to RabbitMQ, with the channel that publishes on it.

use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::ConfirmSelectOptions;
use lapin::{AsyncTcpStream, Channel, ConnectionProperties, Event};
use socket2::{SockRef, Socket};
use tokio::time::timeout;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::address::Address;
use super::errors::sort;
use super::hosts::open_any;
use super::stream::{Stream, runtime};
use crate::config::SinkName;
use crate::sinks::{Failure, Reason};

/// Time limit for one request to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for closing the connection gracefully.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// `REPLY_SUCCESS` of AMQP 0-9-1.
const GOOD_BYE: u16 = 200;

/// A connection that is logged in. Dropping it cuts it.
pub(super) struct Connection {
    amqp: lapin::Connection,
    publishing: Option<Arc<Channel>>,
    /// The largest message in bytes that the broker accepts, if it has told.
    pub(super) max_message_size: Option<usize>,
    line: Line,
}

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(name: &str, address: &Address) -> Result<Self, Failure> {
        open_any(address, |at| Self::open_at(name, address, at).boxed()).await
    }

    async fn open_at(name: &str, address: &Address, at: SocketAddr) -> Result<Self, Failure> {
        let stream = Stream::open(address, at).await?;
        // From here on, a time-out drops the line, which ends the client's thread.
        let line = Line::of(&stream)?;
        let stream = Mutex::new(Some(AsyncTcpStream::Plain(stream.compat())));
        let give = async move |_, _| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            stream.ok_or_else(|| lapin::Error::from(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)))
        };
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), env!("CARGO_PKG_NAME").into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let amqp = lapin::Connection::connector(address.uri.clone(), runtime(), give, properties).await;
        let amqp = amqp.map_err(|error| sort(&error))?;
        Ok(Self { amqp, publishing: None, max_message_size: None, line })
    }

    pub(super) fn is_up(&self) -> bool {
        self.amqp.status().connected()
    }

    /// Whether the broker has said that it accepts nothing now (`connection.blocked`).
    pub(super) fn is_blocked(&self) -> bool {
        self.amqp.status().blocked()
    }

    /// A channel for one request. If the broker refuses the request, it closes the channel.
    pub(super) async fn channel(&self) -> Result<Channel, Failure> {
        ask(self.amqp.create_channel()).await
    }

    /// The channel that publishes, in confirm mode. Opens a new one if the broker closed it.
    pub(super) async fn publishing(&mut self) -> Result<Arc<Channel>, Failure> {
        if let Some(channel) = self.open_publishing() {
            return Ok(channel);
        }
        self.publishing = None;
        let channel = self.channel().await?;
        ask(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Arc::clone(self.publishing.insert(Arc::new(channel))))
    }

    /// The channel that publishes, if it is open.
    pub(super) fn open_publishing(&self) -> Option<Arc<Channel>> {
        self.publishing.clone().filter(|channel| channel.status().connected())
    }

    /// The error with which the broker next closes a channel. Call this before the method that may cause it: that
    /// method itself fails only with the channel's state.
    pub(super) fn refusal(&self) -> impl Future<Output = Option<lapin::Error>> + Send + 'static {
        let mut events = Box::pin(self.amqp.events_listener());
        async move {
            let said = async {
                while let Some(event) = events.next().await {
                    if let Event::Error(error) = event {
                        return Some(error);
                    }
                }
                None
            };
            timeout(ASK_TIMEOUT, said).await.ok().flatten()
        }
    }

    /// Closes the connection gracefully, or cuts it if that takes too long.
    pub(super) async fn close(mut self) {
        let good_bye = async {
            // Dropped channels are closed in the background, and closing the connection fails while that goes on. A new
            // channel is open only after that. It, and the channel that publishes, are closed last.
            let _last = self.channel().await?;
            ask(self.amqp.close(GOOD_BYE, "alma-bridge ends".into())).await
        };
        if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, good_bye).await {
            self.line.ended = true;
        }
    }
}

/// Awaits the answer to a request, with a time limit.
pub(super) async fn ask<T>(question: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
    match timeout(ASK_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|error| sort(&error)),
        Err(_) => Err(Failure::new(Reason::Timeout, format!("no answer within {ASK_TIMEOUT:?}"))),
    }
}

/// The name of the connection at the broker: `alma-bridge/main`.
pub(super) fn connection_name(sink: &SinkName) -> String {
    format!("alma-bridge/{sink}")
}

/// The socket of the connection. lapin can't end a connection at once, and can't close a blocked one at all.
struct Line {
    socket: Socket,
    /// The connection was closed gracefully.
    ended: bool,
}

impl Line {
    fn of(stream: &Stream) -> Result<Self, Failure> {
        let socket = SockRef::from(stream.tcp()).try_clone();
        let socket = socket.map_err(|error| Failure::new(Reason::Unreachable, error.to_string()))?;
        Ok(Self { socket, ended: false })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.ended {
            // The kernel must not send what it still holds. Both calls fail only if the connection has already ended.
            let _ = self.socket.set_linger(Some(Duration::ZERO));
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}
