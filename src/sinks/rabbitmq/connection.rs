//! One connection to RabbitMQ and the one channel that publishes on it.

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

/// For one question to the broker.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// For a good-bye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// `REPLY_SUCCESS` of AMQP 0-9-1.
const GOOD_BYE: u16 = 200;

/// A connection that is logged in. Dropped, it is cut.
pub(super) struct Connection {
    amqp: lapin::Connection,
    publishing: Option<Arc<Channel>>,
    /// The largest message in bytes that the broker takes, where it has said so.
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
        // Kept from here on: a time-out drops it, and so ends the client's thread.
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

    /// Whether the broker has said that it takes nothing just now (`connection.blocked`).
    pub(super) fn is_blocked(&self) -> bool {
        self.amqp.status().blocked()
    }

    /// A channel for one question: an answer that is a refusal closes it.
    pub(super) async fn channel(&self) -> Result<Channel, Failure> {
        ask(self.amqp.create_channel()).await
    }

    /// The channel that publishes, in confirm mode; opened anew where the broker closed it.
    pub(super) async fn publishing(&mut self) -> Result<Arc<Channel>, Failure> {
        if let Some(channel) = self.open_publishing() {
            return Ok(channel);
        }
        self.publishing = None;
        let channel = self.channel().await?;
        ask(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Arc::clone(self.publishing.insert(Arc::new(channel))))
    }

    /// The channel that publishes, where it is open.
    pub(super) fn open_publishing(&self) -> Option<Arc<Channel>> {
        self.publishing.clone().filter(|channel| channel.status().connected())
    }

    /// What the broker says next when it closes a channel. To be called before what it may close it for: a method that
    /// is called behind that fails with the channel's state alone.
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

    /// Says good-bye; what is not done in time is cut.
    pub(super) async fn close(mut self) {
        let good_bye = async {
            // A channel that was dropped is closed in the background, and where that is under way the good-bye fails.
            // A question behind it has its answer when it is done. This one, and the one that publishes, go last.
            let _last = self.channel().await?;
            ask(self.amqp.close(GOOD_BYE, "alma-bridge ends".into())).await
        };
        if let Ok(Ok(())) = timeout(CLOSE_TIMEOUT, good_bye).await {
            self.line.ended = true;
        }
    }
}

/// The answer to a question, within its time.
pub(super) async fn ask<T>(question: impl Future<Output = lapin::Result<T>>) -> Result<T, Failure> {
    match timeout(ASK_TIMEOUT, question).await {
        Ok(answer) => answer.map_err(|error| sort(&error)),
        Err(_) => Err(Failure::new(Reason::Timeout, format!("no answer within {ASK_TIMEOUT:?}"))),
    }
}

/// `alma-bridge/main`: how the connection is listed at the broker.
pub(super) fn connection_name(sink: &SinkName) -> String {
    format!("alma-bridge/{sink}")
}

/// The socket under it all. lapin can't be made to end at once: a connection that is blocked can't even say good-bye.
struct Line {
    socket: Socket,
    /// The other side has said good-bye too.
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
            // What the kernel still holds is not to be sent any more. Both fail only where it is over already.
            let _ = self.socket.set_linger(Some(Duration::ZERO));
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}
