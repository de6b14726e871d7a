//! The listener for operators: health, metrics, status and requests, over plain HTTP on an address of its own.
//!
//! | request | answer |
//! |---|---|
//! | `GET /livez` | 200: the process runs |
//! | `GET /readyz` | 200 if an event can be taken durably, else 503 and why |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status` | JSON, the shape of [`Status`] |
//! | `GET /` | the status page |
//! | `POST /reload` | reloads the configuration: 200 once it is in effect, 422 with everything that is wrong; [`Reloaded`] as JSON |
//! | `POST /tools` | carries out an [`OperatorRequest`]: 200 and JSON, or 409 if that is not possible now |
//!
//! A POST needs `Authorization: Bearer` with the admin token, and its body is not read before the token is checked. It
//! gets 403 if there is no token, because `storage = "none"` can run without a writable `data_dir`. `POST /tools` can show
//! bodies, so it is accepted only from this machine unless `[admin] tools = "network"`, and each request is logged. At most
//! [`MAX_CHANGES`] POSTs are carried out at once, so that they never use up the connections.
//!
//! A GET shows no personal data.

mod exposition;
mod page;
mod server;
pub mod status;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::config::{Secret, ToolsFrom};
use crate::connections::Connection;
use crate::journal::NotTaken;
use crate::operator::{LoggedRequest, OperatorError, OperatorRequest};
use crate::telemetry::{LineKind, StrangersLines};
pub use server::Server;
pub use status::{ReloadOutcome, Reloaded, Status};

/// How many POSTs are carried out at once. More get 503, so that half of the connections can always be evicted.
pub const MAX_CHANGES: usize = server::MAX_CONNECTIONS / 2;

/// The largest body of a request, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// How long a client may take to send a request's body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the outcome of a reload is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The bridge was told to stop.
    #[error("the bridge is stopping")]
    Stopping,
    /// Too many other reloads wait.
    #[error("too many reloads wait already")]
    TooMany,
    /// The reload is still running after this many seconds.
    #[error("the reload is not done within {0} s; /status tells how it went")]
    TakesLong(u64),
}

/// The bridge, as the listener sees it.
pub trait Operated: Send + Sync + 'static {
    /// Returns an error with the reason if no event can be taken durably.
    fn ready(&self) -> Result<(), NotTaken>;
    /// What the bridge is doing.
    fn status(&self) -> Status;
    /// Returns all metrics as OpenMetrics text.
    fn metrics(&self) -> String;
    /// Reloads the configuration, as SIGHUP does, and returns the outcome.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ReloadError>>;
    /// Carries out a request and returns the answer's JSON.
    fn operate(&self, request: OperatorRequest) -> BoxFuture<'_, Result<Value, OperatorError>>;
}

/// What all connections share.
struct Routes {
    bridge: Arc<dyn Operated>,
    /// `None` if there is no token and none could be created.
    token: Option<Secret>,
    tools: ToolsFrom,
    changes: Semaphore,
    lines: StrangersLines,
}

const NO_TOKEN: &str = "there is no admin token: [admin] token_file does not exist, and data_dir cannot be written. Make \
                        data_dir writable, or set token_file to a file that holds a token";

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

impl Routes {
    fn new(bridge: Arc<dyn Operated>, token: Option<Secret>, tools: ToolsFrom) -> Self {
        Self { bridge, token, tools, changes: Semaphore::new(MAX_CHANGES), lines: StrangersLines::default() }
    }

    async fn answer<B>(&self, request: Request<B>, connection: &Connection) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        match *request.method() {
            Method::GET | Method::HEAD => self.show(request.uri().path(), request.headers()),
            Method::POST => self.change(request, connection).await,
            _ => {
                let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "expected GET, HEAD or POST");
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
                answer
            }
        }
    }

    fn show(&self, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        match path {
            "/livez" => text(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => match self.bridge.ready() {
                Ok(()) => text(StatusCode::OK, TEXT, "ok\n"),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            },
            "/metrics" => {
                let (content_type, metrics) = exposition::negotiate(headers, self.bridge.metrics());
                text(StatusCode::OK, content_type, metrics)
            }
            "/status" => text(StatusCode::OK, JSON, self.bridge.status().to_json()),
            "/" => text(StatusCode::OK, HTML, page::render(&self.bridge.status())),
            _ => error(StatusCode::NOT_FOUND, "expected /livez, /readyz, /metrics, /status or /"),
        }
    }

    async fn change<B>(&self, request: Request<B>, connection: &Connection) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let path = request.uri().path().to_owned();
        if path == "/tools" && self.tools == ToolsFrom::Loopback && !connection.peer().to_canonical().is_loopback() {
            return self.refuse(StatusCode::FORBIDDEN, TOOLS_FROM_AFAR);
        }
        let Some(token) = &self.token else { return self.refuse(StatusCode::FORBIDDEN, NO_TOKEN) };
        let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        if !bool::from(given.ct_eq(token.expose())) {
            let mut answer = self.refuse(StatusCode::UNAUTHORIZED, "expected the admin token as a bearer token");
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return answer;
        }
        let Ok(_one_of_few) = self.changes.try_acquire() else {
            return error(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once, try again");
        };
        let _meanwhile = connection.trust_meanwhile();
        match path.as_str() {
            "/reload" => match self.bridge.reload().await {
                Ok(reloaded) => reload_answer(&reloaded),
                Err(why) => error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
            },
            "/tools" => match read_request(request.into_body()).await {
                Ok(request) => self.operate(request).await,
                Err(why) => error(StatusCode::BAD_REQUEST, &why.to_string()),
            },
            _ => error(StatusCode::NOT_FOUND, "expected /reload or /tools"),
        }
    }

    /// Carries out a request and logs it. Answers may hold bodies, but requests never do.
    async fn operate(&self, request: OperatorRequest) -> Response<Full<Bytes>> {
        let LoggedRequest { operation, sink, parameters } = request.logged();
        let carried_out = self.bridge.operate(request.clone()).await;
        let (sink, failed) = (sink.as_deref(), carried_out.as_ref().err().map(ToString::to_string));
        // A command that waits for a replay asks for its progress again and again.
        if matches!(request, OperatorRequest::Replayed { .. }) {
            tracing::debug!(operation, sink, parameters, failed, "tools used");
        } else {
            tracing::info!(operation, sink, parameters, failed, "tools used");
        }
        match carried_out {
            Ok(answer) => text(StatusCode::OK, JSON, answer.to_string()),
            Err(why) => error(StatusCode::CONFLICT, &why.to_string()),
        }
    }

    /// Refuses a POST without the token, and logs that at a limited rate.
    fn refuse(&self, status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
        const WHAT: &str = "operator's request refused";
        let code = status.as_u16();
        if self.lines.allow(LineKind { what: WHAT, outcome: None, status: Some(code), reason: Some(why.into()) }) {
            tracing::warn!(status = code, reason = why, "{WHAT}");
        }
        error(status, why)
    }
}

/// Why `POST /tools` is refused, and what to do.
const TOOLS_FROM_AFAR: &str =
    "POST /tools is accepted only from this machine; set [admin] tools = \"network\" to accept it from everywhere";

fn reload_answer(reloaded: &Reloaded) -> Response<Full<Bytes>> {
    let mut answer = json!(reloaded);
    if reloaded.outcome == ReloadOutcome::Applied {
        return text(StatusCode::OK, JSON, answer.to_string());
    }
    // Every error body of the bridge has this field.
    answer["errorMessage"] = reloaded.errors.join("; ").into();
    text(StatusCode::UNPROCESSABLE_ENTITY, JSON, answer.to_string())
}

/// Why the body of a request can't be used.
#[derive(Debug, thiserror::Error)]
enum BadRequest {
    #[error("no whole request came within {within:?}", within = REQUEST_TIMEOUT)]
    Slow,
    #[error("expected a request of at most {most} bytes: {0}", most = MAX_REQUEST)]
    Body(Box<dyn Error + Send + Sync>),
    #[error("expected a request: {0}")]
    Json(#[from] serde_json::Error),
}

async fn read_request<B>(body: B) -> Result<OperatorRequest, BadRequest>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let read = timeout(REQUEST_TIMEOUT, Limited::new(body, MAX_REQUEST).collect()).await;
    let bytes = read.map_err(|_| BadRequest::Slow)?.map_err(BadRequest::Body)?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
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
    use crate::connections::{ConnectionMetrics, Limit};
    use crate::telemetry::Registry;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Scripted {
        reloads: AtomicUsize,
        wrong: Vec<String>,
        requests: AtomicUsize,
        unready: Option<NotTaken>,
    }

    impl Operated for Scripted {
        fn ready(&self) -> Result<(), NotTaken> {
            self.unready.clone().map_or(Ok(()), Err)
        }
        fn status(&self) -> Status {
            Status::default()
        }
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
        fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ReloadError>> {
            self.reloads.fetch_add(1, Ordering::Relaxed);
            let errors = self.wrong.clone();
            let outcome = if errors.is_empty() { ReloadOutcome::Applied } else { ReloadOutcome::Refused };
            let reloaded =
                Reloaded { outcome, errors, needs_restart: Vec::new(), warnings: Vec::new(), loaded: String::new() };
            Box::pin(std::future::ready(Ok(reloaded)))
        }
        fn operate(&self, request: OperatorRequest) -> BoxFuture<'_, Result<Value, OperatorError>> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let answer = match request {
                OperatorRequest::Sinks {} => Ok(json!([])),
                _ => Err(OperatorError::NoJournal),
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
        send_from("127.0.0.1", ToolsFrom::Loopback, bridge, method, path, token, body).await
    }

    async fn send_from(
        peer: &str,
        tools: ToolsFrom,
        bridge: &Arc<Scripted>,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> (StatusCode, String) {
        let routes = Routes::new(Arc::clone(bridge) as _, Some(Secret::new(*b"token")), tools);
        let metrics = ConnectionMetrics::register(&mut Registry::default());
        let place = Limit::new(1, "admin", &metrics).place(peer.parse().expect("an address")).await;
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::<Bytes>::from(body.to_owned())).expect("a request");
        let answer = routes.answer(request, place.connection()).await;
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
        let unready = Arc::new(Scripted { unready: Some(NotTaken::NotRunning), ..Scripted::default() });
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
    async fn a_request_is_read_whole_and_within_its_bound() {
        let bridge = Arc::new(Scripted::default());
        let request = async |token, body: &str| send(&bridge, "POST", "/tools", token, body).await;
        let token = Some("Bearer token");
        assert_eq!(request(None, r#"{"do":"sinks"}"#).await.0, 401);
        assert_eq!(request(token, r#"{"do":"sinks"}"#).await, (StatusCode::OK, "[]".to_owned()));
        let (status, why) = request(token, r#"{"do":"forget","sink":"main"}"#).await;
        assert_eq!((status, why.contains("there is no journal")), (StatusCode::CONFLICT, true), "{why}");
        assert_eq!(bridge.requests.load(Ordering::Relaxed), 2);
        for bad in ["", "{}", r#"{"do":"forget"}"#, &" ".repeat(MAX_REQUEST + 1)] {
            assert_eq!(request(token, bad).await.0, 400);
        }
        assert_eq!(bridge.requests.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn tools_are_for_this_machine_unless_the_key_says_otherwise() {
        let bridge = Arc::new(Scripted::default());
        let request = r#"{"do":"sinks"}"#;
        let from = async |peer, tools, path| {
            send_from(peer, tools, &bridge, "POST", path, Some("Bearer token"), request).await
        };
        for near in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(from(near, ToolsFrom::Loopback, "/tools").await.0, 200, "{near}");
        }
        for far in ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            let (status, why) = from(far, ToolsFrom::Loopback, "/tools").await;
            assert_eq!((status.as_u16(), why.contains(r#"[admin] tools = \"network\""#)), (403, true), "{far}: {why}");
            assert_eq!(from(far, ToolsFrom::Network, "/tools").await.0, 200, "{far}");
            assert_eq!(from(far, ToolsFrom::Loopback, "/reload").await.0, 200, "{far}");
        }
    }
}
