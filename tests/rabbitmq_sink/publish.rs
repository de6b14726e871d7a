//! Windows, messages, returns and sizes.

use std::collections::BTreeSet;
use std::time::Instant;

use alma_bridge::config::{self, Format, Unroutable};
use alma_bridge::message::Message;
use alma_bridge::sinks::{Outcome, Reason, Sink};
use serde_json::json;

use crate::support::{
    BROKER, MAX_BODY, Rights, bare_exchange, bind, bind_with, connected, event, events, fresh, limited, read, read_ids,
    reason, reasons, settings,
};

#[tokio::test]
async fn two_thousand_events_are_confirmed_and_read_back() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind_with(&exchange, &exchange, "alma.loan", &json!({"x-queue-type": "quorum"}));
    let messages = events("alma.loan", 2_000);
    let begun = Instant::now();
    for window in messages.chunks(512) {
        assert_eq!(sink.publish(window).await, vec![Outcome::CONFIRMED; window.len()]);
    }
    println!("2,000 confirmed by a quorum queue in {:?}", begun.elapsed());
    sink.close().await;
    assert!(!sink.is_up());
    let expected: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(read_ids(&exchange), expected, "all, once, in order");
}

#[tokio::test]
async fn messages_follow_the_binding() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "alma.#");
    let window = [event("alma.loan", 7, 3, Format::CloudEvents), event("alma.bib", 8, 3, Format::CloudEventsBinary)];
    assert_eq!(sink.publish(&window).await, [Outcome::CONFIRMED, Outcome::CONFIRMED]);
    let structured = String::from_utf8(window[0].structured().to_vec()).expect("UTF-8");
    let binary = "{\"id\":\"8\",\"pad\":\"xxx\"}";
    let expected = [
        json!({
            "key": "alma.loan", "exchange": exchange, "message_id": "7.0123456789abcdef", "delivery_mode": 2,
            "timestamp": 1_704_164_645, "content_type": "application/cloudevents+json; charset=UTF-8",
            "headers": {}, "body": structured, "size": structured.len(),
        }),
        json!({
            "key": "alma.bib", "exchange": exchange, "message_id": "8.0123456789abcdef", "delivery_mode": 2,
            "timestamp": 1_704_164_645, "content_type": "application/json", "body": binary, "size": binary.len(),
            "headers": {
                "cloudEvents_specversion": "1.0", "cloudEvents_id": "8.0123456789abcdef",
                "cloudEvents_source": "/alma/01TEST_INST", "cloudEvents_type": "com.exlibrisgroup.alma.loan",
                "cloudEvents_partitionkey": "key-8",
            },
        }),
    ];
    let mut found = read(&exchange);
    // An empty table and none are the same on the wire of some versions.
    found[0]["headers"] = found[0].get("headers").cloned().unwrap_or_else(|| json!({}));
    assert_eq!(found, expected);
}

fn goes_nowhere(number: usize) -> bool {
    !number.is_multiple_of(4)
}

/// 4,000 of which 1,000 are of `alma.loan`, the topic to be bound.
pub(crate) fn mostly_unroutable() -> Vec<Message> {
    let topic = |number| if goes_nowhere(number) { "alma.bib" } else { "alma.loan" };
    (0..4_000).map(|number| event(topic(number), number, 20, Format::CloudEventsBinary)).collect()
}

/// Of the outcomes of [`mostly_unroutable`].
pub(crate) fn assert_each_return_found_its_message(outcomes: &[Outcome]) {
    assert_eq!(outcomes.len(), 4_000);
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(reason(outcome), goes_nowhere(number).then_some(Reason::Unroutable), "{number}: {outcome:?}");
    }
}

/// With 512 in flight lapin pairs some 5 % of the returns with others' confirms.
#[tokio::test]
async fn each_of_3000_returns_finds_its_message() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    bare_exchange(&exchange);
    bind(&exchange, &exchange, "alma.loan");
    let mut sink = connected(&settings(&exchange)).await;
    let messages = mostly_unroutable();
    let mut outcomes = Vec::new();
    for window in messages.chunks(512) {
        outcomes.extend(sink.publish(window).await);
    }
    assert_each_return_found_its_message(&outcomes);
    assert_eq!(read_ids(&exchange).len(), 1_000);
    // `drop` takes them for delivered.
    let mut sink = connected(&config::RabbitMqSink { unroutable: Unroutable::Drop, ..settings(&exchange) }).await;
    assert_eq!(sink.publish(&messages[..512]).await, vec![Outcome::CONFIRMED; 512]);
    assert_eq!(read_ids(&exchange).len(), 128);
}

#[tokio::test]
async fn the_same_id_twice_in_a_window_is_settled_right() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    bare_exchange(&exchange);
    bind(&exchange, &exchange, "alma.loan");
    let mut sink = connected(&settings(&exchange)).await;
    let of = |topic: &str, number| event(topic, number, 20, Format::CloudEvents);
    let window = [of("alma.bib", 1), of("alma.loan", 1), of("alma.bib", 1), of("alma.loan", 2), of("alma.loan", 2)];
    let back = Some(Reason::Unroutable);
    assert_eq!(reasons(&sink.publish(&window).await), [back, None, back, None, None]);
    assert_eq!(read_ids(&exchange).len(), 3);
}

#[tokio::test]
async fn a_message_that_is_too_large_costs_no_other() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "alma.bib");
    let mut window = events("alma.bib", 10);
    window[4] = event("alma.bib", 4, 17 << 20, Format::CloudEvents);
    let expected: Vec<_> = (0..10).map(|place| (place == 4).then_some(Reason::TooLarge)).collect();
    let outcomes = sink.publish(&window).await;
    assert_eq!(reasons(&outcomes), expected, "{outcomes:?}");
    assert!(sink.is_up(), "the connection stands");
    let Outcome::Failed(failure) = &sink.publish(&window[4..5]).await[0] else { panic!("refused alone too") };
    assert!(failure.detail.contains("max_message_size is 16777216"), "{failure}");
    let ids: BTreeSet<String> = read_ids(&exchange).into_iter().collect();
    assert_eq!(ids.len(), 9);
    // The largest body of all fits.
    let largest = [event("alma.bib", 0, MAX_BODY - 100, Format::CloudEvents)];
    assert_eq!(sink.publish(&largest).await, [Outcome::CONFIRMED]);
    assert!(read(&exchange)[0]["size"].as_u64().expect("a size") > (MAX_BODY - 100) as u64);
}

#[tokio::test]
async fn a_full_queue_that_refuses_costs_its_own_topic_only() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind_with(&exchange, &exchange, "alma.loan", &json!({"x-max-length": 1, "x-overflow": "reject-publish"}));
    assert_eq!(sink.publish(&events("alma.loan", 1)).await, [Outcome::CONFIRMED]);
    bind(&exchange, &format!("{exchange}-bib"), "alma.bib");
    let window = [event("alma.bib", 1, 3, Format::CloudEvents), event("alma.loan", 2, 3, Format::CloudEvents)];
    let outcomes = sink.publish(&window).await;
    assert_eq!(reasons(&outcomes), [None, Some(Reason::Nacked)], "{outcomes:?}");
    let Outcome::Failed(failure) = &outcomes[1] else { panic!("refused") };
    assert!(failure.detail.contains("reject-publish"), "{failure}");
    assert!(sink.is_up(), "nothing is wrong with the connection");
}

#[tokio::test]
async fn a_topic_without_the_right_to_write_holds_up_no_other() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "#");
    let few = Rights::on_topics(&exchange, "^alma\\.(loan|bib)$");
    let mut sink = connected(&limited(&exchange)).await;
    let mut window = events("alma.loan", 10);
    window[3] = event("alma.item", 3, 10, Format::CloudEvents);
    window[5] = event("alma.bib", 5, 10, Format::CloudEvents);
    window[6] = event("alma.item", 6, 10, Format::CloudEvents);
    window[8] = event("alma.fee", 8, 10, Format::CloudEvents);
    let expected: Vec<_> = (0..10).map(|place| [3, 6, 8].contains(&place).then_some(Reason::Rights)).collect();
    let outcomes = sink.publish(&window).await;
    assert_eq!(reasons(&outcomes), expected, "{outcomes:?}");
    let ids: BTreeSet<String> = read_ids(&exchange).into_iter().collect();
    assert_eq!(ids.len(), 7);
    // The same connection goes on once the right is given.
    let rights = Rights::on_topics(&exchange, "^alma\\.");
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 10]);
    assert_eq!(read_ids(&exchange).len(), 10);
    // Without the right on the exchange nothing is taken, and the connection stands.
    drop((few, rights));
    let mut sink = connected(&limited(&exchange)).await;
    assert_eq!(reasons(&sink.publish(&window).await), [Some(Reason::Rights); 10]);
    assert!(sink.is_up());
}
