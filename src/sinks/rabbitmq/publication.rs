//! A message as it is sent.
//!
//! The mapping is that of the CloudEvents AMQP 1.0 binding, with the headers of 0-9-1 instead of application
//! properties.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::config::Format;
use crate::message::Message;
use crate::sinks::{Failure, Reason};

/// The prefix of an attribute's name. `cloudEvents:` is the binding's other form, which readers must accept too.
pub(super) const HEADER_PREFIXES: [&str; 2] = ["cloudEvents_", "cloudEvents:"];

/// Media type of structured mode.
pub(super) const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// Durable queues keep such a message on disk (AMQP 0-9-1, `delivery-mode`).
const PERSISTENT: u8 = 2;

/// Routing key, properties and body.
pub(super) struct Publication {
    pub(super) routing_key: ShortString,
    pub(super) id: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Publication {
    /// Encodes a message in its format.
    pub(super) fn of(message: &Message) -> Result<Self, Failure> {
        let id = short(message.id.as_str())?;
        let properties = BasicProperties::default()
            .with_message_id(id.clone())
            .with_timestamp(message.recorded.as_micros() / 1_000_000)
            .with_delivery_mode(PERSISTENT);
        let (properties, body) = match message.format {
            Format::CloudEvents => (properties.with_content_type(short(STRUCTURED)?), message.structured()),
            Format::CloudEventsBinary => {
                let content_type = short(message.content_type.as_str())?;
                (properties.with_content_type(content_type).with_headers(headers(message)?), message.data.clone())
            }
        };
        Ok(Self { routing_key: short(message.topic.as_str())?, id, properties, body })
    }
}

/// Every attribute except `datacontenttype`, which is the property `content_type`.
fn headers(message: &Message) -> Result<FieldTable, Failure> {
    let mut headers = FieldTable::default();
    for (name, value) in message.attributes.iter().filter(|(name, _)| *name != "datacontenttype") {
        let name = short(&format!("{}{name}", HEADER_PREFIXES[0]))?;
        headers.insert(name, AMQPValue::LongString(LongString::from(value.as_bytes())));
    }
    Ok(headers)
}

/// A short string. The client's own conversion panics if there are more than 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(text)
        .map_err(|_| Failure::new(Reason::Malformed, format!("a name has {} bytes, expected at most 255", text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::message::Topic;

    fn message(format: Format) -> Message {
        let mut message =
            Message::sample("alma.loan", "1.0123", b"{\"a\":209.0}", Timestamp::from_micros(1_700_000_000_999_999));
        message.attributes.push(("datacontenttype", "application/json".to_owned()));
        message.attributes.push(("almaaction", "LÖAN".to_owned()));
        message.format = format;
        message
    }

    #[test]
    fn a_structured_message_is_one_document() {
        let made = Publication::of(&message(Format::CloudEvents)).expect("fits");
        let properties = &made.properties;
        assert_eq!(made.routing_key.as_str(), "alma.loan");
        assert_eq!(properties.message_id().as_ref().map(ShortString::as_str), Some("1.0123"));
        assert_eq!(properties.content_type().as_ref().map(ShortString::as_str), Some(STRUCTURED));
        assert_eq!((*properties.timestamp(), *properties.delivery_mode()), (Some(1_700_000_000), Some(2)));
        assert!(properties.headers().is_none());
        assert!(made.body.ends_with(b"\"data\":{\"a\":209.0}}"));
    }

    #[test]
    fn a_binary_message_has_its_attributes_in_headers() {
        let made = Publication::of(&message(Format::CloudEventsBinary)).expect("fits");
        let headers = made.properties.headers().clone().expect("headers");
        let names: Vec<&str> = headers.inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["cloudEvents_almaaction", "cloudEvents_id", "cloudEvents_specversion"]);
        assert_eq!(headers.inner()["cloudEvents_almaaction"], AMQPValue::LongString("LÖAN".into()));
        assert_eq!(made.properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
        assert_eq!(&*made.body, b"{\"a\":209.0}");
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_and_does_not_panic() {
        let mut long = message(Format::CloudEvents);
        long.topic = Topic::from_name(&"a".repeat(256));
        assert_eq!(Publication::of(&long).err().expect("refused").reason, Reason::Malformed);
    }
}
