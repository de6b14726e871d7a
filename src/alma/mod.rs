//! What Alma says: the signature of a request and the envelope of an event. No I/O.
//!
//! - [`signature`]: from an [`Unverified`] body to a [`Verified`] one; nothing else makes a `Verified`.
//! - [`event`]: action, event, institution, time and the object's id, from JSON or XML.
//! - [`rewritten`]: what others make of a JSON body on its way.
//! - [`samples`]: made-up bodies of every action.

pub mod event;
pub mod rewritten;
pub mod samples;
pub mod signature;

pub use event::Event;
pub use signature::{BodyDigest, SignatureFailure, SignatureHeader, Unverified, Verified};

/// The actions that Alma is known to send, as they stand in a topic. Its own list is open.
pub const ACTIONS: [&str; 7] = ["job_end", "loan", "request", "bib", "item", "user", "notification"];
