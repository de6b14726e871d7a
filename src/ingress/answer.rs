//! Every answer of the listener for Alma: status, headers and body. Error bodies are JSON.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

/// Whether the event was `stored` or is a `repeat`.
const OUTCOME: HeaderName = HeaderName::from_static("alma-bridge-outcome");

/// When the first copy of a repeat was made durable.
const FIRST_SEEN: HeaderName = HeaderName::from_static("alma-bridge-first-seen");

/// Alma retries after an hour whatever this says. Other clients may retry sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("30");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

pub(super) type Answer = Response<Full<Bytes>>;

/// 204: the event is durable.
pub(super) fn stored() -> Answer {
    no_content("stored")
}

/// 204: the same event has been durable since `first_seen`, RFC 3339.
pub(super) fn repeat(first_seen: &str) -> Answer {
    let mut answer = no_content("repeat");
    answer.headers_mut().extend(HeaderValue::from_str(first_seen).map(|moment| (FIRST_SEEN, moment)));
    answer
}

fn no_content(outcome: &'static str) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().insert(OUTCOME, HeaderValue::from_static(outcome));
    answer
}

/// 200 with the challenge itself.
pub(super) fn challenge(text: &str) -> Answer {
    json_body(StatusCode::OK, json!({ "challenge": text }).to_string()).map(Full::from)
}

/// 401. Closes the connection, which is probably a stranger's.
pub(super) fn invalid_signature() -> Answer {
    closing(error(StatusCode::UNAUTHORIZED, "Invalid Signature"))
}

/// 503: Alma retries.
pub(super) fn unavailable(message: &str) -> Answer {
    retry_later(message).map(Full::from)
}

fn retry_later(message: &str) -> Response<String> {
    let mut answer = error_document(StatusCode::SERVICE_UNAVAILABLE, message);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// The answer that replaces hyper's own to a head that hyper refused, and its status. If the head may be signed, the
/// event may be good, so the status is 503 instead of `status`.
pub(super) fn refused_head(may_be_signed: bool, status: StatusCode) -> (StatusCode, Vec<u8>) {
    let answer = closing(if may_be_signed {
        retry_later("the request's head is malformed or too large")
    } else {
        error_document(status, "malformed request")
    });
    let (parts, body) = answer.into_parts();
    let mut bytes = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        bytes.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    (parts.status, bytes)
}

/// 405.
pub(super) fn method_not_allowed() -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "expected GET with ?challenge= or POST");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    answer
}

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    error_document(status, message).map(Full::from)
}

fn error_document(status: StatusCode, message: &str) -> Response<String> {
    json_body(status, json!({ "errorMessage": message }).to_string())
}

/// The same answer, after which the connection closes.
pub(super) fn closing<B>(mut answer: Response<B>) -> Response<B> {
    answer.headers_mut().insert(CONNECTION, CLOSE);
    answer
}

fn json_body(status: StatusCode, body: String) -> Response<String> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
