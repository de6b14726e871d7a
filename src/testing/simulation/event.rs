//! Events of the simulation: a number is all there is to one. The product makes their messages.

use bytes::Bytes;

use super::schedule::TOPICS;
use crate::alma::{BodyDigest, SignatureHeader, Unverified, Verified};
use crate::config::{ActionFilter, NamedSecret, Privacy, Secret, SecretFrom, Sink};
use crate::message::{Message, Messages};

const SECRET: &[u8] = b"made-up";

/// What its body begins with, which no other body does.
pub(super) fn head(number: u64) -> String {
    format!(r#"{{"id":"{number}","#)
}

/// The body of an event: most have a few bytes, some several sectors.
pub(super) fn body(number: u64) -> Bytes {
    let more = if number.is_multiple_of(9) { 1_300 } else { number * 53 % 290 };
    let more = usize::try_from(more).expect("fits");
    let (action, event) = (topic(number), if is_for_all(number) { "for_all" } else { "for_main" });
    format!(r#"{}"action":"A{action}","event":"{event}","more":"{:x<more$}"}}"#, head(number), "").into()
}

/// The number of a body; none where it is not whole.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.strip_prefix(r#"{"id":""#)?.split_once('"')?.0.parse().ok()?;
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

fn is_for_all(number: u64) -> bool {
    number % 7 != 3
}

/// Whether the sink asks for it.
pub(super) fn is_wanted(sink: usize, number: u64) -> bool {
    sink == 0 || is_for_all(number)
}

/// The sink as it is configured.
pub(super) fn configured(sink: usize, config: Sink) -> Sink {
    if sink == 0 {
        return config;
    }
    let actions: Vec<_> = (0..TOPICS).map(|topic| format!("a{topic}.for_all")).collect();
    Sink { actions: ActionFilter::new(&actions).expect("patterns"), ..config }
}

/// What makes the sink's messages.
pub(super) fn messages(config: &Sink) -> Messages {
    Messages::new(config, &[], &Privacy::default())
}

/// The number of a message whose topic and id are those of its body; `None` if anything is another event's.
pub(super) fn number_of(message: &Message) -> Option<u64> {
    let number = number(&message.data)?;
    let id = format!("{number}.{}", BodyDigest::of(&message.data).hex(16));
    let topic = format!("alma.a{}", topic(number));
    (message.id.as_str() == id && message.topic.as_str() == topic).then_some(number)
}
