//! Events of the simulation: a number is all there is to one.

use bytes::Bytes;

use super::schedule::TOPICS;
use crate::alma::{SignatureHeader, Unverified, Verified};
use crate::config::{NamedSecret, Secret, SecretFrom};
use crate::message::{Message, StoredEvent};

const SECRET: &[u8] = b"made-up";

/// What its body begins with, which no other body does.
pub(super) fn head(number: u64) -> String {
    format!(r#"{{"number":"{number}","#)
}

/// The body of an event: most have a few bytes, some several sectors.
pub(super) fn body(number: u64) -> Bytes {
    let more = if number.is_multiple_of(9) { 1_300 } else { number * 53 % 290 };
    let more = usize::try_from(more).expect("fits");
    format!(r#"{}"more":"{:x<more$}"}}"#, head(number), "").into()
}

/// The number of a body; none where it is not whole.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.strip_prefix(r#"{"number":""#)?.split_once('"')?.0.parse().ok()?;
    (body(number) == bytes).then_some(number)
}

/// As ingress hands it on.
pub(super) fn verified(number: u64) -> Verified {
    let secrets =
        [NamedSecret { name: "default".into(), from: SecretFrom::Env("S".into()), secret: Some(Secret::new(SECRET)) }];
    let body = body(number);
    let signature = SignatureHeader::sign(SECRET, &body);
    Unverified::new(signature, body).verify(&"alma".parse().expect("a name"), &secrets).expect("signed")
}

pub(super) fn topic(number: u64) -> usize {
    usize::try_from(number).expect("fits") % TOPICS
}

/// Whether every broker refuses it for what it is.
pub(super) fn is_refused(number: u64) -> bool {
    number % 8 == 5
}

/// Whether the sink asks for it.
pub(super) fn is_wanted(sink: usize, number: u64) -> bool {
    sink == 0 || number % 7 != 3
}

/// The sink's message of an event.
pub(super) fn make(sink: usize, event: &StoredEvent) -> Option<Message> {
    // A body that is not whole is seen by the broker.
    let number = number(&event.body).unwrap_or(u64::MAX);
    let topic = format!("alma.{}", topic(number));
    is_wanted(sink, number).then(|| Message::sample(&topic, &number.to_string(), &event.body, event.received))
}
