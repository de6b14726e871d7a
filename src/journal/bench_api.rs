//! Private steps of the journal that `benches/micro.rs` measures alone.

use super::dedupe::key_of;
use super::format::RecordHeader;
use crate::alma::BodyDigest;
use crate::clock::Timestamp;
use crate::config::SourceName;

/// The key by which dedupe knows an event.
pub fn key(source: &SourceName, body: &BodyDigest) -> [u8; 16] {
    key_of(source, body)
}

/// Appends an event's record, as the writer does.
pub fn append_record(buffer: &mut Vec<u8>, key: &[u8; 16], source: &SourceName, body: &[u8]) {
    let place = (1, Timestamp::from_micros(1), key);
    RecordHeader::append(buffer, 7, place, source.as_str(), body)
        .expect("no body here is longer than a record can say");
}
