//! The stream under hyper: how long a head may take, and what hyper answers by itself.
//!
//! hyper's own time for a head begins with the answer before it, so that it has to be as long as a connection may be
//! idle. Here a head's time begins with its first byte.
//!
//! hyper answers a head that it can't take (malformed, too large) with an empty 4xx before any of our code is asked.
//! After a 4xx Alma never sends again, and a proxy's careless header must not lose an event: where such a head has a
//! well-formed signature the answer becomes a 503, and in any case gets a body like our other errors. What hyper has not
//! read of the head is read for that, within the same bounds; a head whose end does not come may have a signature.

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

/// Bytes of a head that are kept to look for a signature in; hyper's own bound on a head is the same.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// A stream that watches the heads of requests go by.
pub(super) struct HeadWatch<S> {
    stream: S,
    header_timeout: Duration,
    /// Grows when a head was handed on and when it is answered: odd while what is read is a body.
    turn: Arc<AtomicU32>,
    seen: u32,
    deadline: Option<Pin<Box<Sleep>>>,
    head: Vec<u8>,
    /// Written in the place of what hyper wanted to write, and how far.
    instead: Vec<u8>,
    written: usize,
    /// The status that a head got which hyper refused.
    refused: Option<u16>,
}

impl<S> HeadWatch<S> {
    /// The first head's time begins now.
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

    /// The status of the last answer if hyper refused the head, so that the request was never ours to tell of.
    pub(super) fn refused(&self) -> Option<u16> {
        self.refused
    }

    /// Whether the head that hyper refused may be that of a good event.
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
    /// Reads on to the end of a refused head: until it is whole, too large, too late, or the connection ends.
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

/// The status of a 4xx that hyper gives by itself. All of ours have a body.
fn own_refusal(buf: &[u8]) -> Option<StatusCode> {
    let head = std::str::from_utf8(buf).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "))?.get(..3)?;
    let empty = head.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n");
    (status.starts_with('4') && empty).then(|| status.parse().ok()).flatten()
}
