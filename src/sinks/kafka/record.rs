//! A message as a Kafka record, by the CloudEvents Kafka protocol binding 1.0.2.

use std::fmt::Write as _;

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::config::Format;
use crate::message::Message;

/// The header that tells both modes apart (binding, 3).
pub(super) const CONTENT_TYPE: &str = "content-type";

/// Its value in structured mode (binding, 3.3.1).
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// What stands before an attribute's name in binary mode (binding, 3.2.3.1).
pub(super) const PREFIX: &str = "ce_";

/// The record's headers: the content type, and in binary mode every attribute. `partitionkey` is among them though it
/// is the key too (binding, 3.1).
pub(super) fn headers(message: &Message) -> OwnedHeaders {
    let content_type = match message.format {
        Format::CloudEvents => STRUCTURED,
        Format::CloudEventsBinary => message.content_type.as_str(),
    };
    let headers = OwnedHeaders::new_with_capacity(1 + message.attributes.len())
        .insert(Header { key: CONTENT_TYPE, value: Some(content_type) });
    if message.format == Format::CloudEvents {
        return headers;
    }
    let mut key = String::with_capacity(24);
    message.attributes.iter().filter(|(name, _)| *name != "datacontenttype").fold(headers, |headers, (name, value)| {
        key.clear();
        let _ = write!(key, "{PREFIX}{name}");
        headers.insert(Header { key: &key, value: Some(value.as_str()) })
    })
}

/// The record's value: the whole event, or what Alma sent.
pub(super) fn value(message: &Message) -> Bytes {
    match message.format {
        Format::CloudEvents => message.structured(),
        Format::CloudEventsBinary => message.data.clone(),
    }
}

/// Whether a content type stands for structured mode, in any case (binding, 3).
pub(super) fn is_structured(content_type: &str) -> bool {
    const MEDIA_TYPE: &str = "application/cloudevents";
    content_type.get(..MEDIA_TYPE.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(MEDIA_TYPE))
}
