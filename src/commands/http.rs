//! The HTTP client of the commands. It sends one request after another on a persistent connection, each with a
//! deadline.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::uri::Scheme;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Listener;

/// Time limit for connecting, and for each answer. Alma waits only 5 s, but a later answer is still worth seeing.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client for one server.
pub(super) struct Client {
    url: Uri,
    /// The listener, if the server is a bridge on this machine. Errors then say how to start it.
    listener: Option<Listener>,
    /// The name that the server's certificate must have, if it is not the URL's host.
    certificate_name: Option<ServerName<'static>>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client for the server of this URL. Connects with the first request.
    pub(super) fn new(url: Uri) -> Result<Self, String> {
        match url.scheme().map(Scheme::as_str) {
            Some("http" | "https") if url.host().is_some() => {
                Ok(Self { url, listener: None, certificate_name: None, connection: None })
            }
            _ => Err(format!("found the URL {url}, expected http:// or https:// with a host")),
        }
    }

    /// Tells the client that the server is this listener of the configured bridge.
    pub(super) fn of_bridge(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Expects a certificate with this name instead of the URL's host. Use it if the URL has an address.
    pub(super) fn expecting(mut self, certificate_name: Option<ServerName<'static>>) -> Self {
        self.certificate_name = certificate_name;
        self
    }

    /// Sends a request, whose URI has only path and query, and reads the whole answer.
    ///
    /// If the server has closed the connection meanwhile, the client connects again before it sends anything.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        self.send_within(PATIENCE, request).await
    }

    /// Like [`Client::send`], with another time limit for the answer.
    pub(super) async fn send_within(
        &mut self,
        patience: Duration,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, String> {
        let authority = self.url.authority().map(ToString::to_string).unwrap_or_default();
        let host = authority.parse().map_err(|_| format!("found {authority:?}, expected a host"))?;
        request.headers_mut().insert(HOST, host);
        let mut kept = self.connection.take();
        if let Some(connection) = &mut kept
            && connection.ready().await.is_err()
        {
            kept = None;
        }
        let connection = match kept {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let connection = self.connection.insert(connection);
        let answer = timeout(patience, async {
            let (head, body) = connection.send_request(request).await?.into_parts();
            Ok::<_, hyper::Error>(Response::from_parts(head, body.collect().await?.to_bytes()))
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.connection = None;
                // A TLS listener answers plain HTTP with a TLS alert, which does not parse as HTTP.
                if error.is_parse() && self.url.scheme() == Some(&Scheme::HTTP) {
                    return Err(format!(
                        "{authority} does not speak plain HTTP ({error}): if it expects TLS, use https://{authority}"
                    ));
                }
                Err(format!("no answer from {authority}: {error}"))
            }
            Err(_) => {
                self.connection = None;
                Err(format!("no answer from {authority} within {} s", patience.as_secs()))
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let secure = self.url.scheme() == Some(&Scheme::HTTPS);
        let port = self.url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let connect = async {
            let stream = TcpStream::connect((host, port)).await.map_err(|error| self.unreached(host, port, &error))?;
            stream.set_nodelay(true).map_err(|error| self.unreached(host, port, &error))?;
            if !secure {
                return start(stream).await;
            }
            let name = match &self.certificate_name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(|e| format!("the host {host:?}: {e}"))?,
            };
            match tls_connector()?.connect(name, stream).await {
                Ok(stream) => start(stream).await,
                Err(error) => Err(tls_problem(&error, host, port)),
            }
        };
        let late = |_| format!("cannot reach {host}:{port} within {} s", PATIENCE.as_secs());
        timeout(PATIENCE, connect).await.map_err(late)?
    }

    fn unreached(&self, host: &str, port: u16, error: &io::Error) -> String {
        match self.listener {
            Some(listener) if error.kind() == io::ErrorKind::ConnectionRefused => format!(
                "no bridge answers on {host}:{port} ({}): is it running? start it with \"alma-bridge run\"",
                listener.key()
            ),
            _ => format!("cannot reach {host}:{port}: {error}"),
        }
    }
}

async fn start<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the connection. Whoever awaits the answer gets the error.
    tokio::spawn(connection);
    Ok(sender)
}

/// Trusts the authorities that the system trusts. `SSL_CERT_FILE` names others.
fn tls_connector() -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(
            "this system has no trusted certificate authorities: set SSL_CERT_FILE to a file with some".to_owned()
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Why the TLS handshake failed.
fn tls_problem(error: &io::Error, host: &str, port: u16) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    // What a plain HTTP listener answers is not a TLS record. Some close the connection without an answer.
    let is_plain = matches!(cause, Some(rustls::Error::InvalidMessage(_))) || error.kind() == ErrorKind::UnexpectedEof;
    match cause {
        Some(rustls::Error::InvalidCertificate(refused)) => distrust(refused),
        _ if is_plain => {
            format!("{host}:{port} does not speak TLS ({error}): if it expects plain HTTP, use http://{host}:{port}")
        }
        _ => format!("no TLS with {host}:{port}: {error}"),
    }
}

/// Why the listener's certificate is refused.
fn distrust(refused: &CertificateError) -> String {
    let not_trusted = |why: &str| format!("the listener's certificate is not trusted: {why}");
    match refused {
        CertificateError::UnknownIssuer => not_trusted(
            "this system does not know its authority: set SSL_CERT_FILE to a file with the authority's certificate",
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => not_trusted("it has expired"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            not_trusted("it is not valid yet")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            not_trusted("it is for another host: use --url with the host name of the certificate")
        }
        CertificateError::Other(other) if is_authority(other) => {
            not_trusted("it is a CA certificate: let this authority sign one for the listener")
        }
        other => not_trusted(&other.to_string()),
    }
}

fn is_authority(refused: &rustls::OtherError) -> bool {
    refused.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
}
