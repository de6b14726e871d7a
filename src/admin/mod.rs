//! The listener for operators: health, metrics, status. Small, plain HTTP, on its own address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200: the process turns |
//! | `GET /readyz` | 200 where an event can be taken durably, else 503 and why |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status` | JSON, the shape of [`Status`] |
//! | `GET /` | the same for people |
//! | `POST …` | what changes something; wants `Authorization: Bearer` with the admin token |
//!
//! A GET shows no personal data.

mod page;
pub mod status;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::Secret;
pub use status::Status;

/// Connections at once: kubelet, Prometheus, a few people.
const MAX_CONNECTIONS: usize = 64;

/// For a request's head, and for the silence between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long accepting pauses after an error such as no file left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the listener shows of the bridge, and what it can make it do.
pub trait Operated: Send + Sync + 'static {
    /// Whether an event can be taken durably; else why not.
    fn ready(&self) -> Result<(), String>;
    /// What the bridge is doing.
    fn status(&self) -> Status;
    /// All metrics, as text.
    fn metrics(&self) -> String;
    /// Loads the configuration again, as SIGHUP does.
    fn reload(&self);
}

/// The bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// The address in effect.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`; open connections end with it.
    pub async fn run(self, bridge: Arc<dyn Operated>, token: Secret, stop: CancellationToken) {
        let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let routes = Arc::new(Routes { bridge, token });
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (routes, stop) = (Arc::clone(&routes), stop.clone());
                    tokio::spawn(async move {
                        serve(stream, routes, stop).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection of the admin listener");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, routes: Arc<Routes>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let answer = routes.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // How a connection of a stranger ends is not worth a line.
        _ = connection => {}
        () = stop.cancelled() => {}
    }
}

struct Routes {
    bridge: Arc<dyn Operated>,
    token: Secret,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Routes {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        match *request.method() {
            Method::GET | Method::HEAD => self.show(request.uri().path()),
            Method::POST => self.change(request),
            _ => {
                let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "expected GET, HEAD or POST");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                answer
            }
        }
    }

    fn show(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/livez" => text(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => match self.bridge.ready() {
                Ok(()) => text(StatusCode::OK, TEXT, "ok\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            },
            "/metrics" => text(StatusCode::OK, OPEN_METRICS, self.bridge.metrics()),
            "/status" => text(StatusCode::OK, JSON, self.bridge.status().to_json()),
            "/" => text(StatusCode::OK, HTML, page::render(&self.bridge.status())),
            _ => error(StatusCode::NOT_FOUND, "expected /livez, /readyz, /metrics, /status or /"),
        }
    }

    fn change<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        if !bool::from(given.ct_eq(self.token.expose())) {
            let mut answer = error(StatusCode::UNAUTHORIZED, "expected the admin token as a bearer token");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
        match request.uri().path() {
            "/reload" => {
                self.bridge.reload();
                text(StatusCode::ACCEPTED, JSON, "{}")
            }
            _ => error(StatusCode::NOT_FOUND, "expected /reload"),
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    text(status, JSON, json!({ "errorMessage": message }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Scripted {
        reloads: AtomicUsize,
        unready: Option<&'static str>,
    }

    impl Operated for Scripted {
        fn ready(&self) -> Result<(), String> {
            self.unready.map_or(Ok(()), |why| Err(why.to_owned()))
        }
        fn status(&self) -> Status {
            Status::default()
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
        fn reload(&self) {
            self.reloads.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ask(bridge: &Arc<Scripted>, method: &str, path: &str, token: Option<&str>) -> StatusCode {
        let routes = Routes { bridge: Arc::clone(bridge) as _, token: Secret::new(*b"token") };
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        routes.answer(&request.body(()).expect("a request")).status()
    }

    #[test]
    fn shows_without_a_token() {
        let bridge = Arc::new(Scripted::default());
        for path in ["/", "/livez", "/readyz", "/status", "/metrics"] {
            assert_eq!(ask(&bridge, "GET", path, None), 200, "{path}");
        }
        assert_eq!(ask(&bridge, "GET", "/other", None), 404);
        assert_eq!(ask(&bridge, "DELETE", "/", None), 405);
        let unready = Arc::new(Scripted { unready: Some("journal full"), ..Scripted::default() });
        assert_eq!(ask(&unready, "GET", "/readyz", None), 503);
        assert_eq!(ask(&unready, "GET", "/livez", None), 200);
    }

    #[test]
    fn changes_nothing_without_the_token() {
        let bridge = Arc::new(Scripted::default());
        for wrong in
            [None, Some("Bearer "), Some("Bearer tokem"), Some("Bearer token1"), Some("token"), Some("Basic token")]
        {
            assert_eq!(ask(&bridge, "POST", "/reload", wrong), 401, "{wrong:?}");
        }
        assert_eq!(bridge.reloads.load(Ordering::Relaxed), 0);
        assert_eq!(ask(&bridge, "POST", "/reload", Some("Bearer token")), 202);
        assert_eq!(bridge.reloads.load(Ordering::Relaxed), 1);
        assert_eq!(ask(&bridge, "POST", "/other", Some("Bearer token")), 404);
    }
}
