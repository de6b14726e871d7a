//! What the server or the stream refuses, and whom it concerns.

use std::time::Duration;

use alma_bridge::config::{NatsAuth, NatsSink as Settings, Secret};
use alma_bridge::sinks::{Outcome, Reason, Sink};
use serde_json::json;

use crate::support::{Place, Rights, SERVER, assert_alone, reason, timed, var};

#[tokio::test]
async fn a_subject_without_rights_holds_up_no_other() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    place.connected().await.close().await;
    let rights = Rights::publish(&[&place.topic("loan")]);
    let mut sink = place.limited().connected().await;
    let mut window = place.events("loan", 10);
    window[3] = place.event("bib", 3, 10);
    window[6] = place.event("item", 6, 10);
    window[7] = place.event("bib", 7, 10);
    for _ in 0..2 {
        let (outcomes, took) = timed(sink.publish(&window)).await;
        assert_alone(&outcomes, &[3, 6, 7], Reason::Rights);
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(sink.is_up());
    }
    drop(rights);
    let _rights = Rights::publish(&[&place.topic(">")]);
    let mut sink = place.limited().connected().await;
    let outcomes = sink.publish(&window).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome).is_none()), "{outcomes:?}");
    assert_eq!(place.read().len(), 10);
}

/// The client keeps 128 events and drops more without a word.
#[tokio::test]
async fn many_denials_hide_none() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    place.connected().await.close().await;
    let _rights = Rights::publish(&[&place.topic("loan")]);
    let mut sink = place.limited().connected().await;
    let mut window = place.events("bib", 510);
    window.extend([place.event("item", 0, 10), place.event("loan", 1, 10)]);
    let denied: Vec<usize> = (0..511).collect();
    for _ in 0..10 {
        let (outcomes, took) = timed(sink.publish(&window)).await;
        assert_alone(&outcomes, &denied, Reason::Rights);
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}

#[tokio::test]
async fn a_message_over_max_payload_is_refused_alone() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    place.settings = Settings {
        servers: vec![var("NATS_TOKEN_URL")],
        auth: NatsAuth::Token(Secret::new(var("NATS_TOKEN").into_bytes())),
        ..place.settings
    };
    let mut sink = place.sink();
    let warnings = sink.connect().await.expect("the server runs");
    assert!(warnings.iter().any(|warning| warning.contains("max_payload is 1048576")), "{warnings:?}");
    let mut window = place.events("loan", 10);
    window[4] = place.event("loan", 4, 2 << 20);
    assert_alone(&sink.publish(&window).await, &[4], Reason::TooLarge);
    assert!(sink.is_up());
}

#[tokio::test]
async fn a_message_over_the_streams_limit_is_refused_alone() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    place.add(&json!({ "max_msg_size": 10_000 }));
    let mut sink = place.connected().await;
    let mut window = place.events("loan", 10);
    window[4] = place.event("loan", 4, 20_000);
    assert_alone(&sink.publish(&window).await, &[4], Reason::TooLarge);
    assert!(sink.is_up());
}

#[tokio::test]
async fn a_full_stream_is_busy() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    place.add(&json!({ "max_bytes": 20_000, "discard": "new" }));
    let mut sink = place.connected().await;
    let (outcomes, took) = timed(sink.publish(&place.events("loan", 100))).await;
    let confirmed = outcomes.iter().filter(|outcome| reason(outcome).is_none()).count();
    assert!((10..60).contains(&confirmed), "{confirmed}");
    for outcome in &outcomes[confirmed..] {
        assert_eq!(reason(outcome), Some(Reason::Busy), "{outcome:?}");
    }
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(place.read().len(), confirmed);
}

#[tokio::test]
async fn a_stream_that_falls_short_is_warned_of_and_never_altered() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    place.add(&json!({
        "subjects": [place.topic("loan")], "storage": "memory", "max_msg_size": 100_000, "max_bytes": 1 << 20,
        "duplicate_window": 60_000_000_000_u64,
    }));
    let before = place.info();
    let mut sink = place.sink();
    for _ in 0..2 {
        let warnings = sink.connect().await.expect("the server runs");
        for word in ["other subjects", "in memory", "remembers ids for 1m", "max_msg_size", "discards its oldest"] {
            assert!(warnings.iter().any(|warning| warning.contains(word)), "{word}: {warnings:?}");
        }
    }
    let mut window = place.events("loan", 5);
    window[2] = place.event("bib", 2, 10);
    let (outcomes, took) = timed(sink.publish(&window)).await;
    assert_alone(&outcomes, &[2], Reason::Missing);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(place.info(), before);
}

#[tokio::test]
async fn a_stream_that_vanished_is_made_again() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    assert_eq!(sink.publish(&place.events("loan", 1)).await, [Outcome::CONFIRMED]);
    place.delete();
    let (outcomes, took) = timed(sink.publish(&place.events("loan", 512))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::CONFIRMED), "{outcomes:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let landed = place.read();
    assert_eq!(landed.len(), 512);
}

#[tokio::test]
async fn a_missing_stream_that_may_not_be_made_is_the_operators() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    place.settings.create_stream = false;
    let mut sink = place.sink();
    let warnings = sink.connect().await.expect("the server runs");
    assert!(warnings.iter().any(|warning| warning.contains("create_stream is false")), "{warnings:?}");
    let window = place.events("loan", 20);
    let (outcomes, took) = timed(sink.publish(&window)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Missing)), "{outcomes:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Made by somebody, it is taken by the next try.
    place.add(&json!({}));
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 20]);
}

#[tokio::test]
async fn a_stream_of_somebody_else_takes_nothing() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    place.add(&json!({}));
    let foreign = place.clone();
    place.settings.stream.push_str("-OURS");
    let mut sink = place.sink();
    let warnings = sink.connect().await.expect("the server runs");
    assert!(warnings.iter().any(|warning| warning.contains("cannot create stream")), "{warnings:?}");
    let outcomes = sink.publish(&place.events("loan", 3)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Missing)), "{outcomes:?}");
    assert_eq!(foreign.read().len(), 0);
}
