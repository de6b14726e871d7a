//! How a message is written: as one JSON document, or as headers and body.
//!
//! Sources: CloudEvents 1.0, JSON event format and HTTP protocol binding. The NATS binding uses the percent-encoding of
//! header values from the HTTP binding.

use std::borrow::Cow;
use std::io::Write as _;

use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{ContentType, Message};

/// The characters that are encoded in a header's value: space, double quote, percent, and everything outside printable
/// ASCII.
const HEADER_VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// An attribute as a header's value (HTTP binding, section 3.1.3.2).
pub fn percent_encode(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, HEADER_VALUE).into()
}

impl Message {
    /// The whole event as one JSON document: `application/cloudevents+json`.
    pub fn structured(&self) -> Bytes {
        let attributes = self.attributes.iter().map(|(name, value)| (*name, value.as_str()));
        structured(attributes, self.content_type, &self.data).into()
    }

    /// Like [`Message::structured`], but on one line: each CR or LF between tokens becomes a blank.
    pub fn structured_line(&self) -> Bytes {
        let mut document = Vec::from(self.structured());
        // JSON strings contain neither unescaped, so each of them is between tokens.
        document.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
        document.into()
    }
}

/// A document with these attributes and this data: JSON as it is, XML as a string, anything else in Base64.
pub(crate) fn structured<'a>(
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
    content_type: ContentType,
    data: &[u8],
) -> Vec<u8> {
    let mut document = Vec::with_capacity(data.len() + data.len() / 2 + 1_024);
    let mut separator = b'{';
    for (name, value) in attributes {
        document.push(separator);
        string(&mut document, name);
        document.push(b':');
        string(&mut document, value);
        separator = b',';
    }
    document.push(separator);
    match content_type {
        ContentType::Json => {
            document.extend_from_slice(b"\"data\":");
            document.extend_from_slice(data);
        }
        ContentType::Xml => {
            document.extend_from_slice(b"\"data\":");
            string(&mut document, &String::from_utf8_lossy(data));
        }
        ContentType::Opaque => {
            document.extend_from_slice(b"\"data_base64\":\"");
            // Writing to a Vec can't fail.
            let _ = write!(document, "{}", base64::display::Base64Display::new(data, &STANDARD));
            document.push(b'"');
        }
    }
    document.push(b'}');
    document
}

fn string(document: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(document, text).expect("a string is always written to a Vec");
}
