//! What Alma says: the signature of a request and the envelope of an event. No I/O.
//!
//! - [`signature`]: turns an [`Unverified`] body into a [`Verified`] one. Nothing else creates a `Verified`.
//! - [`event`]: reads action, event, institution, time and the object's id from JSON or XML.
//! - [`rewritten`]: how proxies and parsers may have rewritten a JSON body.
//! - [`samples`]: made-up bodies of every action.

pub mod event;
pub mod rewritten;
pub mod samples;
pub mod signature;

pub use event::Event;
pub use signature::{BodyDigest, SignatureFailure, SignatureHeader, Unverified, Verified};

/// The actions that Alma is known to send, as they appear in a topic. Alma may add others at any time.
pub const ACTIONS: [&str; 7] = ["job_end", "loan", "request", "bib", "item", "user", "notification"];
