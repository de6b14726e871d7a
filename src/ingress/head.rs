//! The stream below hyper. It limits how long a head may take, and replaces the answers that hyper gives by itself.
//!
//! hyper's own limit for a head starts with the previous answer, so it has to be as long as a connection may be idle.
//! Here the time starts with the head's first byte.
//!
//! hyper answers a malformed or too large head with an empty 4xx before it calls any of our code. Alma never resends
//! after a 4xx, and a header that a proxy added must not lose an event. If such a head has a well-formed signature, the
//! answer therefore becomes a 503. In any case it gets a body like our other errors. To find the signature, the rest of
//! the head is read within the same limits. A head that never ends may have one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::answer;
use crate::alma::SignatureHeader;
use crate::alma::signature::SIGNATURE_HEADER;

/// Maximum bytes of a head, for hyper and for the copy in which a signature is looked for.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// A stream that observes the heads of requests.
pub(super) struct HeadWatch<S> {
    stream: S,
    header_timeout: Duration,
    /// Grows when hyper has passed on a head, and when the request is answered. It is odd while the body is read.
    turn: Arc<AtomicU32>,
    seen: u32,
    deadline: Option<Pin<Box<Sleep>>>,
    head: Vec<u8>,
    /// What is written instead of hyper's own answer, and how much of it is written.
    instead: Vec<u8>,
    written: usize,
    /// The status of the answer to a head that hyper refused.
    refused: Option<u16>,
}

impl<S> HeadWatch<S> {
    /// Wraps a stream. The time for the first head starts now.
    pub(super) fn new(stream: S, header_timeout: Duration, turn: Arc<AtomicU32>) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(header_timeout)));
        Self {
            stream,
            header_timeout,
            turn,
            seen: 0,
            deadline,
            head: Vec::new(),
            instead: Vec::new(),
            written: 0,
            refused: None,
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// The status of the last answer if hyper refused the head. Nothing else logs such a request.
    pub(super) fn refused(&self) -> Option<u16> {
        self.refused
    }

    /// Whether the head that hyper refused may belong to a good event.
    fn may_be_signed(&self) -> bool {
        !self.head_is_whole() || self.has_signature()
    }

    fn head_is_whole(&self) -> bool {
        memchr::memmem::find(&self.head, b"\r\n\r\n").is_some()
    }

    fn has_signature(&self) -> bool {
        let mut lines = self.head.split(|byte| *byte == b'\n');
        let values = lines.by_ref().filter_map(|line| {
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
            name.eq_ignore_ascii_case(SIGNATURE_HEADER.as_bytes()).then(|| value[1..].trim_ascii())
        });
        SignatureHeader::parse(values).is_ok()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadWatch<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let turn = this.turn.load(Ordering::Relaxed);
        if turn != this.seen {
            this.seen = turn;
            this.deadline = None;
            this.head.clear();
        }
        if turn % 2 == 1 {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head took too long")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        if !came.is_empty() && this.deadline.is_none() {
            this.deadline = Some(Box::pin(tokio::time::sleep_until(Instant::now() + this.header_timeout)));
        }
        let room = MAX_HEAD.saturating_sub(this.head.len());
        this.head.extend_from_slice(&came[..came.len().min(room)]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> HeadWatch<S> {
    /// Reads the rest of a refused head, until it is complete, too large or too late, or the connection ends.
    fn poll_rest_of_head(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut chunk = [0; 4 * 1024];
        while !self.head_is_whole() && self.head.len() < MAX_HEAD {
            if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
                break;
            }
            let mut buf = ReadBuf::new(&mut chunk);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.head.extend_from_slice(buf.filled()),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HeadWatch<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_empty() {
            let Some(status) = own_refusal(buf) else { return Pin::new(&mut this.stream).poll_write(cx, buf) };
            ready!(this.poll_rest_of_head(cx));
            let (status, instead) = answer::refused_head(this.may_be_signed(), status);
            this.refused = Some(status.as_u16());
            this.instead = instead;
        }
        while this.written < this.instead.len() {
            let wrote = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.instead[this.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Ok(0));
            }
            this.written += wrote;
        }
        (this.instead, this.written) = (Vec::new(), 0);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The status of a 4xx that hyper wrote by itself. It has no body, and all of ours have one.
fn own_refusal(buf: &[u8]) -> Option<StatusCode> {
    let head = std::str::from_utf8(buf).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?.get(..3)?;
    let empty = head.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n");
    (status.starts_with('4') && empty).then(|| status.parse().ok()).flatten()
}
