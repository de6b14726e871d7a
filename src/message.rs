//! An event in the form in which it is published: its topic, its CloudEvents attributes and its data.
//!
//! The journal returns a [`StoredEvent`]. [`Messages`] turns it into a [`Message`] for one sink, which writes it as a
//! document ([`Message::structured`]) or as headers and body. This never fails: a body that can't be parsed is
//! published as unparsed. Topics are made only from signed bytes.

mod encoding;
mod known;
mod make;
mod topic;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::config::{Format, SourceName};

pub use encoding::percent_encode;
pub(crate) use encoding::structured;
pub use known::known_topics;
pub use make::Messages;

/// An event as it was made durable.
#[derive(Clone)]
pub struct StoredEvent {
    /// The source that proved it.
    pub source: SourceName,
    /// When its request arrived.
    pub received: Timestamp,
    /// When it became durable: the attribute `recordedtime`.
    pub recorded: Timestamp,
    /// What Alma signed, byte for byte.
    pub body: Bytes,
}

/// Where a message is published: Kafka topic, RabbitMQ routing key, NATS subject, name of a topic file.
///
/// At most 249 characters of `[a-z0-9_.-]`. It begins with the literal prefix, and no segment is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// A topic by its name, which must be valid: from a dead letter or a broker.
    pub fn from_name(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The CloudEvents `id`: the same for every publication of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventId(Arc<str>);

impl EventId {
    /// An id that must be valid: from a dead letter.
    pub fn from_text(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as text: at most 81 characters of `[A-Za-z0-9_.-]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The type of the body. It follows from the first byte that is not blank, and from whether the body could be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`
    Json,
    /// `application/xml`
    Xml,
    /// `application/octet-stream`: an unparsed event.
    Opaque,
}

impl ContentType {
    /// The media type: the attribute `datacontenttype`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "application/xml",
            Self::Opaque => "application/octet-stream",
        }
    }
}

/// An event prepared for one sink.
#[derive(Clone)]
pub struct Message {
    /// Where the message is published.
    pub topic: Topic,
    /// The attribute `id`, RabbitMQ's `message_id`, and the end of the `Nats-Msg-Id`.
    pub id: EventId,
    /// The source's name, for the `Nats-Msg-Id`.
    pub source_name: SourceName,
    /// The attribute `partitionkey`, and the key of a Kafka record.
    pub partition_key: String,
    /// When the event's request arrived. The delay from receipt to confirm is measured from here.
    pub received: Timestamp,
    /// The attribute `recordedtime`, and the time of the broker's record.
    pub recorded: Timestamp,
    /// The type of `data`.
    pub content_type: ContentType,
    /// All attributes, including `datacontenttype`, in the order in which they are written.
    pub attributes: Vec<(&'static str, String)>,
    /// What Alma signed.
    pub data: Bytes,
    /// How the sink writes the message.
    pub format: Format,
    /// `None` unless a replay publishes the message.
    pub replay: Option<Replay>,
}

/// How a replay publishes an event again. Its CloudEvents id is the same either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// With a message id of this run (`Nats-Msg-Id`), so that the broker does not drop it as a duplicate.
    Again(Arc<str>),
    /// With the original message id, so that a broker that lost events accepts only those.
    Repair,
}

/// Omits the body and the attributes, which hold personal data.
impl fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredEvent({}, {}, {} bytes)", self.source, self.received, self.body.len())
    }
}

/// Omits the body and the attributes, which hold personal data.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {} bytes)", self.topic, self.data.len())
    }
}

#[cfg(test)]
impl Message {
    /// A message with the fields that the tests of delivery and sinks check.
    pub(crate) fn sample(topic: &str, id: &str, data: &[u8], received: Timestamp) -> Self {
        Self {
            topic: Topic(topic.into()),
            id: EventId(id.into()),
            source_name: "alma".parse().expect("a name"),
            partition_key: id.to_owned(),
            received,
            recorded: received,
            content_type: ContentType::Json,
            attributes: vec![("specversion", "1.0".to_owned()), ("id", id.to_owned())],
            data: Bytes::copy_from_slice(data),
            format: Format::CloudEvents,
            replay: None,
        }
    }
}
