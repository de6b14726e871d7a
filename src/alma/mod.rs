//! What Alma says: the signature of a request and the envelope of an event. No I/O.
//!
//! - [`signature`]: from an [`Unverified`] body to a [`Verified`] one; nothing else makes a `Verified`.

pub mod signature;

pub use signature::{SignatureFailure, SignatureHeader, Unverified, Verified};
