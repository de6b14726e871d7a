//! Windows, headers, repeats and sizes.

use std::collections::BTreeSet;
use std::time::Instant;

use alma_bridge::config::{Format, NatsSink as Settings};
use alma_bridge::sinks::{Outcome, Sink};
use serde_json::Value;

use crate::support::{DUPLICATE, MAX_BODY, Place, SERVER};

#[tokio::test]
async fn two_thousand_events_land_once_though_they_are_sent_twice() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    let messages = place.events("loan", 2_000);
    for expected in [Outcome::CONFIRMED, DUPLICATE] {
        for window in messages.chunks(512) {
            let outcomes = sink.publish(window).await;
            assert!(outcomes.iter().all(|outcome| *outcome == expected), "{expected:?}: {outcomes:?}");
        }
    }
    sink.close().await;
    let landed = place.read();
    assert_eq!(landed.len(), 2_000);
    for (landed, message) in landed.iter().zip(&messages) {
        assert_eq!(landed.id(), format!("main/alma/{}", message.id), "in the order of their sending");
        assert_eq!(landed.data, message.structured());
    }
}

#[tokio::test]
async fn messages_follow_the_binding() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    let body =
        r#"{"id":"7", "action":"LOAN","event":{"value":"LOAN_CREATED 100% \"ä\""},"item_loan":{"loan_id":"42"}}"#;
    let window = [Format::CloudEvents, Format::CloudEventsBinary].map(|format| place.message(body.to_owned(), format));
    for message in &window {
        // One id: the second would count as a repeat of the first.
        assert_eq!(sink.publish(std::slice::from_ref(message)).await, [Outcome::CONFIRMED]);
        let landed = place.read();
        let landed = landed.first().expect("it landed");
        assert_eq!(landed.subject, place.topic("loan"));
        assert_eq!(landed.headers["Nats-Msg-Id"], format!("main/alma/{}", message.id));
        assert_eq!(landed.headers["Nats-Expected-Stream"], place.settings.stream);
        let given: BTreeSet<&str> = landed.headers.keys().map(String::as_str).collect();
        if message.format == Format::CloudEvents {
            assert_eq!(given, ["Content-Type", "Nats-Expected-Stream", "Nats-Msg-Id"].into());
            assert_eq!(landed.headers["Content-Type"], "application/cloudevents+json; charset=UTF-8");
            let document: Value = serde_json::from_slice(&landed.data).expect("JSON");
            assert_eq!(document["id"], message.id.as_str());
            assert_eq!(document["almaevent"], "LOAN_CREATED 100% \"ä\"");
            assert_eq!(document["data"], serde_json::from_str::<Value>(body).expect("JSON"));
        } else {
            assert_eq!(landed.data, body.as_bytes(), "byte for byte");
            assert!(!given.contains("Content-Type"));
            for (name, value) in [
                ("ce-specversion", "1.0"),
                ("ce-id", message.id.as_str()),
                ("ce-source", "/alma"),
                ("ce-subject", "42"),
                ("ce-datacontenttype", "application/json"),
                ("ce-almaaction", "LOAN"),
                ("ce-almaevent", "LOAN_CREATED%20100%25%20%22%C3%A4%22"),
            ] {
                assert_eq!(landed.headers.get(name).map(String::as_str), Some(value), "{name}: {landed:?}");
            }
            assert_eq!(given.len(), message.attributes.len() + 2);
        }
        sink.abandon().await;
        place.delete();
        sink.connect().await.expect("connects again");
    }
}

#[tokio::test]
async fn the_largest_event_passes() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    let largest = place.event("bib", 0, MAX_BODY - 100);
    // What is neither JSON nor XML travels in Base64.
    let opaque = place.message("\u{1}".repeat(MAX_BODY), Format::CloudEvents);
    assert_eq!(sink.publish(&[largest.clone(), opaque]).await, vec![Outcome::CONFIRMED; 2]);
    let landed = place.read();
    assert_eq!(landed[0].data, largest.structured());
    assert!(landed[1].data.len() > MAX_BODY * 4 / 3, "{}", landed[1].data.len());
}

#[tokio::test]
async fn the_stream_is_created_as_configured() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.sink();
    assert_eq!(sink.connect().await, Ok(Vec::new()), "nothing to warn of");
    assert!(sink.is_up());
    let config = place.info();
    let Settings { max_age, duplicate_window, .. } = place.settings;
    assert_eq!(config["subjects"], serde_json::json!([format!("{}.>", place.prefix)]));
    assert_eq!(config["storage"], "file");
    assert_eq!(config["num_replicas"], 1);
    assert_eq!(config["max_age"].as_u64().map(u128::from), Some(max_age.as_nanos()));
    assert_eq!(config["duplicate_window"].as_u64().map(u128::from), Some(duplicate_window.as_nanos()));
}

/// Of the comparison: eight windows.
const EVENTS: usize = 4_096;

/// Not a test of anything but that both are quick; the figures are for whoever runs it with `--nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_about_as_fast_as_the_bare_client() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    let messages = place.events("loan", EVENTS);
    let begun = Instant::now();
    for window in messages.chunks(512) {
        let outcomes = sink.publish(window).await;
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::CONFIRMED), "{outcomes:?}");
    }
    let ours = begun.elapsed();
    let bare = Place::new();
    bare.connected().await.close().await;
    let client = async_nats::connect(&bare.settings.servers[0]).await.expect("connects");
    let jetstream = async_nats::jetstream::new(client);
    let begun = Instant::now();
    for window in messages.chunks(512) {
        let mut acks = Vec::with_capacity(512);
        for message in window {
            acks.push(jetstream.publish(bare.topic("loan"), message.structured()).await.expect("sent"));
        }
        for ack in acks {
            ack.await.expect("confirmed");
        }
    }
    let theirs = begun.elapsed();
    let rate = |took: std::time::Duration| EVENTS as u128 * 1_000_000 / took.as_micros();
    println!("events/s: sink {}, bare client {}", rate(ours), rate(theirs));
    assert!(ours < theirs * 4 + std::time::Duration::from_secs(2), "{ours:?} against {theirs:?}");
}
