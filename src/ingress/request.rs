//! Checks and answers one request.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::activity::Activity;
use super::answer::{self, Answer};
use super::body::{self, Unread};
use super::metrics::RequestOutcome;
use super::sources::{LiveSource, Sources};
use crate::alma::signature::SIGNATURE_HEADER;
use crate::alma::{SignatureFailure, SignatureHeader, Unverified};
use crate::clock::Timestamp;
use crate::journal::{Intake, Taken};
use crate::printable::Printable;
use crate::telemetry::LineKind;

/// Maximum bytes of a decoded challenge.
const MAX_CHALLENGE: usize = 1_024;

/// Hex digits of a body's digest in the log. They end the event's id.
const DIGITS: usize = 16;

/// Maximum bytes of a wrong path that are shown.
const MAX_PATH: usize = 256;

/// The answer, and what the log and the metrics say about the request.
struct Judged {
    answer: Answer,
    outcome: RequestOutcome,
    /// The path, if no source has it.
    path: Option<String>,
    /// Why the request was refused: one word or sentence without personal data.
    reason: Option<Cow<'static, str>>,
    /// The length of the body, if it was read.
    bytes: Option<usize>,
    digits: Option<String>,
    /// When the first copy of a repeat was made durable.
    first_seen: Option<String>,
    /// A secret matches, so Alma sent the request.
    proven: bool,
}

impl Judged {
    fn new(answer: Answer, outcome: RequestOutcome) -> Self {
        Self { answer, outcome, path: None, reason: None, bytes: None, digits: None, first_seen: None, proven: false }
    }

    fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    fn unavailable(reason: impl Into<Cow<'static, str>>, outcome: RequestOutcome) -> Self {
        let reason = reason.into();
        Self::new(answer::unavailable(&reason), outcome).because(reason)
    }

    fn of_body(mut self, bytes: usize, digits: String) -> Self {
        self.bytes = Some(bytes);
        self.digits = Some(digits);
        self
    }
}

/// Answers a request. Never fails: every error is an answer.
pub(super) async fn answer<I: Intake>(
    request: Request<Incoming>,
    shared: Arc<Shared<I>>,
    connection: Arc<Activity>,
) -> Result<Answer, Infallible> {
    connection.request_begins();
    let head = Instant::now();
    let received = shared.clock.now();
    let source = shared.sources.find(request.uri().path());
    let judged = match &source {
        Some(source) => of_source(request, source, &shared, &connection, head, received).await,
        None => unknown_path(&request, &shared.sources, received),
    };
    let took = head.elapsed();
    log_request(&shared, source.as_deref(), &judged, took);
    let mut answer = judged.answer;
    if shared.stop.announced.is_cancelled() {
        answer = answer::closing(answer);
    }
    connection.request_ends();
    Ok(answer)
}

/// Answers a request whose path no source has. If it may be a good event, it gets 503, so that a mistyped path loses
/// nothing.
fn unknown_path(request: &Request<Incoming>, sources: &Sources, received: Timestamp) -> Judged {
    const REASON: &str = "no source has this path";
    let may_be_good = request.method() == Method::POST && signature(request.headers()).is_ok();
    let path = shown_path(request.uri().path());
    let judged = if may_be_good {
        sources.wrong_path(path.clone(), received);
        Judged::unavailable(REASON, RequestOutcome::NotFound)
    } else {
        Judged::new(answer::error(StatusCode::NOT_FOUND, REASON), RequestOutcome::NotFound).because(REASON)
    };
    Judged { path: Some(path), ..judged }
}

/// A path for log and status: escaped, cut to a maximum, and without the query, which may be private.
fn shown_path(path: &str) -> String {
    let shown = &path[..path.floor_char_boundary(MAX_PATH)];
    let cut = if shown.len() < path.len() { "…" } else { "" };
    format!("{}{cut}", Printable::line(shown))
}

async fn of_source<I: Intake>(
    request: Request<Incoming>,
    source: &LiveSource,
    shared: &Shared<I>,
    connection: &Activity,
    head: Instant,
    received: Timestamp,
) -> Judged {
    match *request.method() {
        Method::GET => challenge(request.uri().query()),
        Method::POST => event(request, source, shared, connection, head, received).await,
        _ => Judged::new(answer::method_not_allowed(), RequestOutcome::BadRequest).because("other method"),
    }
}

fn challenge(query: Option<&str>) -> Judged {
    let refuse = |message: &'static str| {
        Judged::new(answer::error(StatusCode::BAD_REQUEST, message), RequestOutcome::BadRequest).because(message)
    };
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let Some((_, encoded)) = pairs.into_iter().find(|(name, _)| *name == "challenge") else {
        return refuse("this is alma-bridge's listener for Alma, which adds ?challenge= when its profile is activated");
    };
    let spaced = encoded.replace('+', " ");
    match percent_encoding::percent_decode_str(&spaced).decode_utf8() {
        Err(_) => refuse("the challenge is not valid UTF-8"),
        Ok(text) if text.len() > MAX_CHALLENGE => refuse("the challenge is longer than 1,024 bytes"),
        Ok(text) => Judged::new(answer::challenge(&text), RequestOutcome::Challenge),
    }
}

async fn event<I: Intake>(
    request: Request<Incoming>,
    source: &LiveSource,
    shared: &Shared<I>,
    connection: &Activity,
    head: Instant,
    received: Timestamp,
) -> Judged {
    let name = &source.settings.name;
    let signature = match signature(request.headers()) {
        Ok(signature) => signature,
        Err(failure) => {
            source.health.refused(failure, received);
            shared.metrics.signature_failure(name, failure);
            return Judged::new(answer::invalid_signature(), RequestOutcome::BadSignature).because(failure.as_str());
        }
    };
    let settings = &shared.settings;
    let answer_by = head + settings.answer_within;
    let read_by = (head + settings.body_timeout).min(answer_by);
    let read = match body::read(request.into_body(), settings.max_body, &shared.memory, read_by).await {
        Ok(read) => read,
        Err(unread) => {
            if matches!(unread, Unread::TooLarge) {
                source.too_large.count(source.settings.path.clone(), received);
            }
            return not_read(unread);
        }
    };
    let verified =
        match Unverified::new(signature, read.bytes).holding(read.memory).verify(name, &source.settings.secrets) {
            Ok(verified) => verified,
            Err(stranger) => {
                source.health.refused(SignatureFailure::Mismatch, received);
                shared.metrics.signature_failure(name, SignatureFailure::Mismatch);
                return Judged::new(answer::invalid_signature(), RequestOutcome::BadSignature)
                    .because(SignatureFailure::Mismatch.as_str())
                    .of_body(stranger.bytes, stranger.digest.hex(DIGITS));
            }
        };
    connection.proven();
    source.health.proven(&source.settings, received);
    if let Some(secret) = source.settings.secrets.get(verified.secret()) {
        shared.metrics.proven(name, &secret.name, received);
    }
    let (bytes, digits) = (verified.body().len(), verified.digest().hex(DIGITS));
    let judged = match timeout_at(answer_by, shared.intake.take(verified, received)).await {
        Ok(Ok(Taken::Stored)) => Judged::new(answer::stored(), RequestOutcome::Stored),
        Ok(Ok(Taken::Repeat(first_seen))) => {
            let first_seen = first_seen.to_the_second().to_string();
            let judged = Judged::new(answer::repeat(&first_seen), RequestOutcome::Repeat);
            Judged { first_seen: Some(first_seen), ..judged }
        }
        Ok(Err(why)) => Judged::unavailable(why.to_string(), RequestOutcome::Unavailable),
        Err(_) => Judged::unavailable("not durable in time", RequestOutcome::Unavailable),
    };
    Judged { proven: true, ..judged.of_body(bytes, digits) }
}

/// The signature of a request, if it is well-formed.
fn signature(headers: &HeaderMap) -> Result<SignatureHeader, SignatureFailure> {
    SignatureHeader::parse(headers.get_all(SIGNATURE_HEADER).iter().map(hyper::header::HeaderValue::as_bytes))
}

/// Answers a request whose body could not be read. Its signature header is well-formed, so it may be a good event: 503.
fn not_read(unread: Unread) -> Judged {
    let (reason, outcome) = match unread {
        Unread::TooLarge => ("the body is larger than ingress.max_body", RequestOutcome::TooLarge),
        Unread::NoMemory => ("the bodies of all requests use all of ingress.body_memory", RequestOutcome::Unavailable),
        Unread::TooSlow => ("the body took longer than ingress.body_timeout", RequestOutcome::Timeout),
        Unread::CutOff => ("the body was cut off", RequestOutcome::BadRequest),
    };
    let judged = Judged::unavailable(reason, outcome);
    Judged { answer: answer::closing(judged.answer), ..judged }
}

/// One line, and the metrics. Lines that strangers can cause are limited.
fn log_request<I>(shared: &Shared<I>, source: Option<&LiveSource>, judged: &Judged, took: Duration) {
    let name = source.map(|source| &source.settings.name);
    shared.metrics.request(name, judged.outcome, took);
    let (outcome, status) = (judged.outcome.as_str(), judged.answer.status().as_u16());
    let what = if judged.reason.is_none() { "request" } else { "request refused" };
    if !judged.proven {
        let kind = LineKind { what, outcome: Some(outcome), status: Some(status), reason: judged.reason.clone() };
        if !shared.lines.allow(kind) {
            return;
        }
    }
    let source = name.map_or("none", |name| name.as_str());
    let (path, bytes, sha256) = (judged.path.as_deref(), judged.bytes, judged.digits.as_deref());
    let first_seen = judged.first_seen.as_deref();
    // Rounded to microseconds, because further digits are noise.
    let milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
    match judged.reason.as_deref() {
        None => tracing::info!(source, outcome, status, bytes, sha256, first_seen, milliseconds, "{what}"),
        Some(reason) => tracing::warn!(source, outcome, status, reason, path, bytes, sha256, milliseconds, "{what}"),
    }
}

/// Logs and counts a head that hyper refused. Such a line may show that a proxy's header costs events.
pub(super) fn log_refused_head<I>(shared: &Shared<I>, status: u16) {
    const REASON: &str = "the head is malformed or too large";
    let outcome = RequestOutcome::BadRequest;
    shared.metrics.head_refused(outcome);
    let (what, outcome) = ("request refused", outcome.as_str());
    let kind = LineKind { what, outcome: Some(outcome), status: Some(status), reason: Some(REASON.into()) };
    if shared.lines.allow(kind) {
        tracing::warn!(source = "none", outcome, status, reason = REASON, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_escaped_and_cut() {
        assert_eq!(shown_path("/webhook"), "/webhook");
        assert_eq!(shown_path("/a\u{9b}2J\u{202e}b"), "/a\\u009b2J\\u202eb");
        let long = format!("/{}ü", "x".repeat(MAX_PATH - 2));
        assert_eq!(shown_path(&long), format!("/{}…", "x".repeat(MAX_PATH - 2)), "no character is cut in two");
    }
}
