//! A message as a Kafka record, by the CloudEvents Kafka protocol binding 1.0.2.

use std::fmt::Write as _;

use bytes::Bytes;
use rdkafka::message::{Header, OwnedHeaders};

use crate::config::Format;
use crate::message::Message;

/// The header that distinguishes the two modes (binding, 3).
pub(super) const CONTENT_TYPE: &str = "content-type";

/// The header's value in structured mode (binding, 3.3.1).
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// The prefix of an attribute's name in binary mode (binding, 3.2.3.1).
pub(super) const PREFIX: &str = "ce_";

/// The record's headers: the content type, and in binary mode every attribute. They include `partitionkey`, although it
/// is also the key (binding, 3.1).
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

/// Whether a content type, in any case, means structured mode (binding, 3).
pub(super) fn is_structured(content_type: &str) -> bool {
    const MEDIA_TYPE: &str = "application/cloudevents";
    content_type.get(..MEDIA_TYPE.len()).is_some_and(|begins| begins.eq_ignore_ascii_case(MEDIA_TYPE))
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;
    use crate::clock::Timestamp;

    fn message(format: Format) -> Message {
        let mut message = Message::sample("alma.loan", "7.ab", b"{\"id\": 7}", Timestamp::from_micros(5));
        message.attributes.push(("datacontenttype", "application/json".into()));
        message.attributes.push(("subject", "Z\u{fc}rich".into()));
        message.attributes.push(("partitionkey", "7.ab".into()));
        message.format = format;
        message
    }

    fn pairs(headers: &OwnedHeaders) -> Vec<(String, String)> {
        let text = |value: Option<&[u8]>| String::from_utf8(value.expect("a value").to_vec()).expect("UTF-8");
        headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
    }

    #[test]
    fn binary_mode_has_attributes_as_headers_and_the_unchanged_body() {
        let message = message(Format::CloudEventsBinary);
        let expected = [
            ("content-type", "application/json"),
            ("ce_specversion", "1.0"),
            ("ce_id", "7.ab"),
            ("ce_subject", "Z\u{fc}rich"),
            ("ce_partitionkey", "7.ab"),
        ];
        assert_eq!(pairs(&headers(&message)), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(value(&message), message.data);
    }

    #[test]
    fn structured_mode_has_only_the_document_and_its_type() {
        let message = message(Format::CloudEvents);
        let expected = [("content-type".to_owned(), "application/cloudevents+json; charset=UTF-8".to_owned())];
        assert_eq!(pairs(&headers(&message)), expected);
        assert_eq!(value(&message), message.structured());
    }

    #[test]
    fn structured_mode_is_recognised_by_its_media_type_in_any_case() {
        for yes in ["application/cloudevents+json; charset=UTF-8", "Application/CloudEvents+JSON"] {
            assert!(is_structured(yes), "{yes}");
        }
        for no in ["application/json", "application/cloud", "application/clo\u{fc}devents", ""] {
            assert!(!is_structured(no), "{no}");
        }
    }
}
