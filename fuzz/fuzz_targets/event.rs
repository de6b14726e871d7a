//! Any body makes a message: a plain topic, and a document that is JSON. `cargo +nightly fuzz run event`

#![no_main]

use alma_bridge::clock::Timestamp;
use alma_bridge::config;
use alma_bridge::message::{Messages, StoredEvent};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let config = config::load_defaults(&[]).expect("the defaults are valid").config;
    let messages = Messages::new(&config.sinks[0], &config.sources, &config.privacy);
    let at = Timestamp::from_micros(1);
    let source = config.sources[0].name.clone();
    let stored = StoredEvent { source, received: at, recorded: at, body: body.to_vec().into() };
    let message = messages.make(&stored, None).expect("the default sink asks for all");
    let topic = message.topic.as_str();
    assert!(topic.starts_with("alma.") && topic.len() <= 249);
    assert!(topic.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)));
    serde_json::from_slice::<&serde_json::value::RawValue>(&message.structured()).expect("a JSON document");
    assert!(!message.structured_line().contains(&b'\n'));
});
