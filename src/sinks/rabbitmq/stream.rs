//! The stream of a connection, plain or TLS, and the runtime that lets lapin use it.
//!
//! lapin's own TLS would add a second TLS stack to the binary, and without it, lapin does not encrypt an `amqps`
//! connection. lapin takes its streams from a reactor, so this module has its own.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream as Items;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::compat::Compat;

use super::address::Address;
use crate::config::ClientTls;
use crate::sinks::{Failure, Reason};

/// A connected stream.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects to `at`, one of the addresses of the host, with TLS if the URL asks for it. The caller sets a time
    /// limit.
    pub(super) async fn open(address: &Address, at: SocketAddr) -> Result<Self, Failure> {
        let (host, port) = (address.host(), address.port());
        let unreachable = |error: io::Error| Failure::new(Reason::Unreachable, format!("{host}:{port}: {error}"));
        let tcp = TcpStream::connect(at).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = address.tls() else { return Ok(Self::Plain(tcp)) };
        let refused = |error: String| Failure::new(Reason::Login, format!("TLS with {host}:{port}: {error}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|error| refused(error.to_string()))?;
        let files = tls.clone();
        let config = tokio::task::spawn_blocking(move || client_config(&files));
        let config = config.await.map_err(|error| refused(error.to_string()))??;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let stream = stream.map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<rustls::Error>() => refused(error.to_string()),
            _ => Failure::new(Reason::Unreachable, format!("TLS with {host}:{port}: {error}")),
        })?;
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// `TLS 1.3`. `None` if the connection is plain.
    pub(super) fn protocol(&self) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => {
                let version = tls.get_ref().1.protocol_version().and_then(|version| version.as_str());
                Some(version.unwrap_or("TLS").replace("TLSv1_", "TLS 1."))
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// lapin's runtime: tokio's tasks and timers, and streams that are passed in.
pub(super) type Kit = RuntimeParts<Tokio, Streams>;

/// A runtime for lapin, on the tokio runtime of the caller.
pub(super) fn runtime() -> Runtime<Kit> {
    Runtime::new(RuntimeParts::new(Tokio::current(), Streams(Tokio::current())))
}

/// tokio's timers, and [`Stream`] as the type of a stream.
#[derive(Clone, Debug)]
pub(super) struct Streams(Tokio);

impl Streams {
    fn never_asked<T>() -> io::Result<T> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "streams are connected before lapin gets them"))
    }
}

#[allow(refining_impl_trait, reason = "the type of a stream that is never made")]
impl Reactor for Streams {
    type TcpStream = Compat<Stream>;
    type Sleep = tokio::time::Sleep;

    fn register<H>(&self, _: H) -> io::Result<Compat<Stream>> {
        Self::never_asked()
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Items<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Self::never_asked())
    }
}

/// Reads the files, and blocks meanwhile.
fn client_config(tls: &ClientTls) -> Result<ClientConfig, Failure> {
    let refused = |error: rustls::Error| Failure::new(Reason::Login, format!("tls: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(roots(tls.ca_file.as_deref())?);
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_file("key_file", key, error))?;
            builder.with_client_auth_cert(certificates("cert_file", cert)?, private).map_err(refused)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// The authorities in a file, or the system's.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    let Some(path) = ca_file else {
        let (added, _) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err(Failure::new(
                Reason::Login,
                "tls: this system has no certificate authorities, expected tls.ca_file",
            ));
        }
        return Ok(store);
    };
    for certificate in certificates("ca_file", path)? {
        store.add(certificate).map_err(|error| bad_file("ca_file", path, error))?;
    }
    Ok(store)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| bad_file(key, path, error))?;
    if found.is_empty() {
        return Err(bad_file(key, path, "found no certificate, expected PEM"));
    }
    Ok(found)
}

fn bad_file(key: &str, path: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::Login, format!("tls.{key}: {}: {problem}", path.display()))
}
