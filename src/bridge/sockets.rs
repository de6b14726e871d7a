//! Listening sockets that the service manager bound and hands over (`LISTEN_FDS`).
//!
//! Such a socket outlives the process. While one bridge stops and the next one starts, the kernel queues the connections
//! that arrive, so an upgrade refuses none.

use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

use super::{StartError, listen_error};

/// The sockets that were handed over. A bridge binds the addresses of its configuration for those that were not.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    pub(super) ingress: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
}

impl InheritedSockets {
    /// Takes what the environment announces, and removes the announcement. Call it before other threads run.
    pub fn take() -> Result<Self, StartError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut inherited = ListenFd::from_env();
        let mut names = names.split(':');
        let mut sockets = Self::default();
        for index in 0..inherited.len() {
            let name = names.next().unwrap_or_default();
            let place = match name {
                "ingress" => &mut sockets.ingress,
                "admin" => &mut sockets.admin,
                _ => return Err(StartError::UnknownSocket(name.to_owned())),
            };
            if place.is_some() {
                return Err(StartError::SocketTwice(name.to_owned()));
            }
            let socket = inherited.take_tcp_listener(index).and_then(|socket| {
                socket.as_ref().map(|socket| socket.set_nonblocking(true)).transpose()?;
                Ok(socket)
            });
            *place = socket.map_err(|error| StartError::UnusableSocket { name: name.to_owned(), error })?;
        }
        Ok(sockets)
    }
}

/// The socket that was handed over, or else one that is bound to the configured address (port 0 takes a free one).
/// `listener`: the table of the address in the configuration.
pub(super) async fn listen(
    listener: &'static str,
    inherited: Option<TcpListener>,
    address: SocketAddr,
) -> Result<(tokio::net::TcpListener, SocketAddr), StartError> {
    let is_inherited = inherited.is_some();
    let listen = async {
        let socket = match inherited {
            Some(socket) => tokio::net::TcpListener::from_std(socket)?,
            None => tokio::net::TcpListener::bind(address).await?,
        };
        let actual = socket.local_addr()?;
        io::Result::Ok((socket, actual))
    };
    let (socket, actual) = listen.await.map_err(|error| listen_error(listener, address, error))?;
    // Commands look for the bridge at the configured port, unless that is 0.
    if is_inherited && address.port() != 0 && address.port() != actual.port() {
        tracing::warn!(
            key = format_args!("{listener}.listen"),
            configured = %address,
            socket = %actual,
            "the service manager's socket has another port: set the key to it, or commands won't find the bridge"
        );
    }
    Ok((socket, actual))
}
