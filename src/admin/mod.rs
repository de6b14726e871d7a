//! The listener for operators: health, metrics, status. Small, plain HTTP, on its own address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200: the process turns |
//! | `GET /readyz` | 200 where an event can be taken durably, else 503 and why |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status` | JSON, the shape of [`Status`] |
//! | `GET /` | the same for people |
//! | `POST /reload` | loads the configuration again: 200 once it is in effect, 422 with all that is wrong; [`Reloaded`] as JSON |
//! | `POST /tools` | 200 and JSON: the [`tools`] for the bad day; 409 where it can't be done as things stand |
//!
//! A POST wants `Authorization: Bearer` with the admin token, and is not read before that fits. It is 403 if there is no
//! token: `storage = "none"` runs with a `data_dir` that can't be written.
//!
//! A GET shows no personal data.

mod page;
pub mod status;
pub mod tools;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Secret;
pub use status::{ReloadOutcome, Reloaded, Status};
pub use tools::Order;

/// Connections at once: kubelet, Prometheus, a few people.
const MAX_CONNECTIONS: usize = 64;

/// For a request's head, and for the silence between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an order.
const MAX_ORDER: usize = 1 << 20;

/// For an order to be sent.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Loads the configuration again, as SIGHUP does, and tells what became of it; else why that can't be told.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>>;
    /// Carries out an order: the answer's JSON, or why it can't be done as things stand.
    fn operate(&self, order: Order) -> BoxFuture<'_, Result<Value, String>>;
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

    /// Serves until `stop`; open connections end with it. Without a token nothing can be changed.
    pub async fn run(self, bridge: Arc<dyn Operated>, token: Option<Secret>, stop: CancellationToken) {
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
        let routes = Arc::clone(&routes);
        async move { Ok::<_, Infallible>(routes.answer(request).await) }
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
    /// `None` if there is none and none could be made.
    token: Option<Secret>,
}

const NO_TOKEN: &str = "there is no admin token: [admin] token_file does not exist, and data_dir can't be written. Make \
                        data_dir writable, or set token_file to a file that holds a token";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Routes {
    async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        match *request.method() {
            Method::GET | Method::HEAD => self.show(request.uri().path()),
            Method::POST => self.change(request).await,
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

    async fn change<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(token) = &self.token else { return error(StatusCode::FORBIDDEN, NO_TOKEN) };
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        if !bool::from(given.ct_eq(token.expose())) {
            let mut answer = error(StatusCode::UNAUTHORIZED, "expected the admin token as a bearer token");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
        match request.uri().path() {
            "/reload" => match self.bridge.reload().await {
                Ok(reloaded) => reload_answer(&reloaded),
                Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, &why),
            },
            "/tools" => match read_order(request.into_body()).await {
                Ok(order) => match self.bridge.operate(order).await {
                    Ok(answer) => text(StatusCode::OK, JSON, answer.to_string()),
                    Err(why) => error(StatusCode::CONFLICT, &why),
                },
                Err(why) => error(StatusCode::BAD_REQUEST, &why),
            },
            _ => error(StatusCode::NOT_FOUND, "expected /reload or /tools"),
        }
    }
}

fn reload_answer(reloaded: &Reloaded) -> Response<Full<Bytes>> {
    let mut answer = json!(reloaded);
    if reloaded.outcome == ReloadOutcome::Applied {
        return text(StatusCode::OK, JSON, answer.to_string());
    }
    // Every error body of the bridge has it.
    answer["errorMessage"] = reloaded.errors.join("; ").into();
    text(StatusCode::UNPROCESSABLE_ENTITY, JSON, answer.to_string())
}

async fn read_order<B>(body: B) -> Result<Order, String>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let read = timeout(ORDER_TIMEOUT, Limited::new(body, MAX_ORDER).collect()).await;
    let read = read.map_err(|_| format!("no whole order came within {ORDER_TIMEOUT:?}"))?;
    let bytes = read.map_err(|error| format!("expected an order of at most {MAX_ORDER} bytes: {error}"))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| format!("expected an order: {error}"))
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
        wrong: Vec<String>,
        orders: AtomicUsize,
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
        fn reload(&self) -> BoxFuture<'_, Result<Reloaded, String>> {
            self.reloads.fetch_add(1, Ordering::Relaxed);
            let errors = self.wrong.clone();
            let outcome = if errors.is_empty() { ReloadOutcome::Applied } else { ReloadOutcome::Refused };
            let reloaded = Reloaded { outcome, errors, needs_restart: Vec::new(), warnings: Vec::new() };
            Box::pin(std::future::ready(Ok(reloaded)))
        }
        fn operate(&self, order: Order) -> BoxFuture<'_, Result<Value, String>> {
            self.orders.fetch_add(1, Ordering::Relaxed);
            let answer = match order {
                Order::Sinks {} => Ok(json!([])),
                _ => Err("as things stand".to_owned()),
            };
            Box::pin(std::future::ready(answer))
        }
    }

    async fn ask(bridge: &Arc<Scripted>, method: &str, path: &str, token: Option<&str>) -> StatusCode {
        send(bridge, method, path, token, "").await.0
    }

    async fn send(
        bridge: &Arc<Scripted>,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> (StatusCode, String) {
        let routes = Routes { bridge: Arc::clone(bridge) as _, token: Some(Secret::new(*b"token")) };
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::<Bytes>::from(body.to_owned())).expect("a request");
        let answer = routes.answer(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn shows_without_a_token() {
        let bridge = Arc::new(Scripted::default());
        for path in ["/", "/livez", "/readyz", "/status", "/metrics"] {
            assert_eq!(ask(&bridge, "GET", path, None).await, 200, "{path}");
        }
        assert_eq!(ask(&bridge, "GET", "/other", None).await, 404);
        assert_eq!(ask(&bridge, "DELETE", "/", None).await, 405);
        let unready = Arc::new(Scripted { unready: Some("journal full"), ..Scripted::default() });
        assert_eq!(ask(&unready, "GET", "/readyz", None).await, 503);
        assert_eq!(ask(&unready, "GET", "/livez", None).await, 200);
    }

    #[tokio::test]
    async fn changes_nothing_without_the_token() {
        let bridge = Arc::new(Scripted::default());
        for wrong in
            [None, Some("Bearer "), Some("Bearer tokem"), Some("Bearer token1"), Some("token"), Some("Basic token")]
        {
            assert_eq!(ask(&bridge, "POST", "/reload", wrong).await, 401, "{wrong:?}");
        }
        assert_eq!(bridge.reloads.load(Ordering::Relaxed), 0);
        assert_eq!(ask(&bridge, "POST", "/reload", Some("Bearer token")).await, 200);
        assert_eq!(bridge.reloads.load(Ordering::Relaxed), 1);
        assert_eq!(ask(&bridge, "POST", "/other", Some("Bearer token")).await, 404);
    }

    #[tokio::test]
    async fn a_reload_answers_with_all_that_is_wrong() {
        let wrong = vec!["a: first".to_owned(), "b: second".to_owned()];
        let bridge = Arc::new(Scripted { wrong: wrong.clone(), ..Scripted::default() });
        let (status, body) = send(&bridge, "POST", "/reload", Some("Bearer token"), "").await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            (status, &body["errors"], &body["outcome"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!(wrong), &json!("refused"))
        );
        assert_eq!(body["errorMessage"], "a: first; b: second");
    }

    #[tokio::test]
    async fn an_order_is_read_whole_and_within_its_bound() {
        let bridge = Arc::new(Scripted::default());
        let order = async |token, body: &str| send(&bridge, "POST", "/tools", token, body).await;
        let token = Some("Bearer token");
        assert_eq!(order(None, r#"{"do":"sinks"}"#).await.0, 401);
        assert_eq!(order(token, r#"{"do":"sinks"}"#).await, (StatusCode::OK, "[]".to_owned()));
        let (status, why) = order(token, r#"{"do":"forget","sink":"main"}"#).await;
        assert_eq!((status, why.contains("as things stand")), (StatusCode::CONFLICT, true), "{why}");
        assert_eq!(bridge.orders.load(Ordering::Relaxed), 2);
        for bad in ["", "{}", r#"{"do":"forget"}"#, &" ".repeat(MAX_ORDER + 1)] {
            assert_eq!(order(token, bad).await.0, 400);
        }
        assert_eq!(bridge.orders.load(Ordering::Relaxed), 2);
    }
}
