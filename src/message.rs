//! An event as it is published: its topic, its CloudEvents attributes and its data.
//!
//! [`StoredEvent`] is what the journal gives back; [`Messages`] makes it into a [`Message`] for one sink, which writes
//! it as a document ([`Message::structured`]) or as headers and body. Making one never fails: what can't be read is
//! published as unparsed. The topic comes only from signed bytes.

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
    /// When its request came.
    pub received: Timestamp,
    /// When it was made durable: the attribute `recordedtime`.
    pub recorded: Timestamp,
    /// What Alma signed, byte for byte.
    pub body: Bytes,
}

/// Where a message is published: Kafka topic, RabbitMQ routing key, NATS subject, name of a topic file.
///
/// At most 249 of `[a-z0-9_.-]` behind the literal prefix; no segment is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// A name that keeps to the rules already: that of a dead letter, or of a broker.
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
    /// An id that keeps to the rules already: that of a dead letter.
    pub fn from_text(id: &str) -> Self {
        Self(id.into())
    }

    /// At most 81 of `[A-Za-z0-9_.-]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the body is, found from its first non-blank byte and whether it could be parsed.
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

/// An event made ready for one sink.
#[derive(Clone)]
pub struct Message {
    /// Where it goes.
    pub topic: Topic,
    /// Its id: attribute `id`, RabbitMQ's `message_id`, the end of the `Nats-Msg-Id`.
    pub id: EventId,
    /// The source's name, for the `Nats-Msg-Id`.
    pub source_name: SourceName,
    /// Kafka's record key: attribute `partitionkey`.
    pub partition_key: String,
    /// When its request came, for the delay from receipt to confirm.
    pub received: Timestamp,
    /// The broker's record time: attribute `recordedtime`.
    pub recorded: Timestamp,
    /// What `data` is.
    pub content_type: ContentType,
    /// All attributes in the order in which they are written, `specversion` first, `datacontenttype` among them.
    pub attributes: Vec<(&'static str, String)>,
    /// What Alma signed.
    pub data: Bytes,
    /// How the sink writes it.
    pub format: Format,
    /// None where it is delivered in its turn.
    pub replay: Option<Replay>,
}

/// How a replay publishes an event again. Its CloudEvents id is the same either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Under a broker's id of this run (`Nats-Msg-Id`), so that the broker does not drop it as a repeat.
    Again(Arc<str>),
    /// Under the broker's id of the first time, so that a broker that lost events takes only those.
    Repair,
}

/// Without body and attributes: they hold personal data.
impl fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredEvent({}, {}, {} bytes)", self.source, self.received, self.body.len())
    }
}

/// Without body and attributes: they hold personal data.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {} bytes)", self.topic, self.data.len())
    }
}

#[cfg(test)]
impl Message {
    /// A message with what the tests of delivery and sinks look at.
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
