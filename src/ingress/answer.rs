//! What is answered: the table of the contract. Bodies of errors are JSON.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

use crate::journal::Taken;

/// How an event was taken.
const OUTCOME: HeaderName = HeaderName::from_static("alma-bridge-outcome");

/// Alma comes back after an hour whatever is said here; others may come sooner.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("30");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

pub(super) type Answer = Response<Full<Bytes>>;

/// 204, durable.
pub(super) fn taken(taken: Taken) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let outcome = match taken {
        Taken::Stored => "stored",
        Taken::Repeat => "repeat",
    };
    answer.headers_mut().insert(OUTCOME, HeaderValue::from_static(outcome));
    answer
}

/// 200 with the challenge itself.
pub(super) fn challenge(text: &str) -> Answer {
    json_body(StatusCode::OK, json!({ "challenge": text }).to_string())
}

/// 401; the connection of a stranger is not kept.
pub(super) fn invalid_signature() -> Answer {
    closing(error(StatusCode::UNAUTHORIZED, "Invalid Signature"))
}

/// 503: Alma comes again.
pub(super) fn unavailable(message: &str) -> Answer {
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, message);
    answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    answer
}

/// 405.
pub(super) fn method_not_allowed() -> Answer {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "expected GET with ?challenge= or POST");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    answer
}

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json_body(status, json!({ "errorMessage": message }).to_string())
}

/// The same, and the connection closed behind it.
pub(super) fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, CLOSE);
    answer
}

fn json_body(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
