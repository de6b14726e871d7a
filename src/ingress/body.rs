//! Reads a body within bounds: its size, the memory of all bodies, and a deadline.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout_at};

use super::memory::{BodyMemory, SMALL, Share};

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Larger than the limit, either by its Content-Length or in fact.
    TooLarge,
    /// The bodies of all requests already use `body_memory`.
    NoMemory,
    /// Not complete at the deadline.
    TooSlow,
    /// The connection ended before the body did, or the framing is broken.
    CutOff,
}

/// A complete body, with the share of memory that it holds.
pub(super) struct Read {
    pub(super) bytes: Bytes,
    pub(super) memory: Share,
}

/// Reads a whole body of up to `bound` bytes before `deadline`.
///
/// Takes memory as bytes arrive, because a stranger can claim any length. The claimed length only tells small bodies
/// from large ones.
pub(super) async fn read(body: Incoming, bound: usize, memory: &BodyMemory, deadline: Instant) -> Result<Read, Unread> {
    let claimed = body.size_hint().lower();
    if claimed > bound as u64 {
        return Err(Unread::TooLarge);
    }
    let small = claimed <= SMALL as u64;
    timeout_at(deadline, collect(body, bound, memory, small)).await.unwrap_or(Err(Unread::TooSlow))
}

async fn collect(mut body: Incoming, bound: usize, memory: &BodyMemory, small: bool) -> Result<Read, Unread> {
    let mut whole = Whole::Nothing;
    let mut share = Share::default();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
        let Ok(data) = frame.map_err(|_| Unread::CutOff)?.into_data() else { continue };
        length += data.len();
        if length > bound {
            return Err(Unread::TooLarge);
        }
        share.grow(memory, data.len(), small && length <= SMALL).map_err(|_| Unread::NoMemory)?;
        whole = whole.and(data);
    }
    Ok(Read { bytes: whole.into_bytes(), memory: share })
}

/// What has arrived so far. A body that arrives in one piece, as most do, is not copied.
enum Whole {
    Nothing,
    Piece(Bytes),
    Pieces(BytesMut),
}

impl Whole {
    fn and(self, data: Bytes) -> Self {
        match self {
            Self::Nothing => Self::Piece(data),
            Self::Piece(first) => {
                let mut pieces = BytesMut::with_capacity(2 * (first.len() + data.len()));
                pieces.extend_from_slice(&first);
                pieces.extend_from_slice(&data);
                Self::Pieces(pieces)
            }
            Self::Pieces(mut pieces) => {
                pieces.extend_from_slice(&data);
                Self::Pieces(pieces)
            }
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Piece(piece) => piece,
            Self::Pieces(pieces) => pieces.freeze(),
        }
    }
}
