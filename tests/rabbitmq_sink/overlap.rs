//! Windows that overlap: one is begun while the one before it is on its way, on the same channel.

use std::collections::BTreeSet;

use alma_bridge::config::Format;
use alma_bridge::message::Message;
use alma_bridge::sinks::{Outcome, Reason, Sink};
use serde_json::{Value, json};

use crate::publish::{assert_each_return_found_its_message, mostly_unroutable};
use crate::support::{
    BROKER, Rights, api, bare_exchange, bind, bind_with, connected, event, events, fresh, limited, publish_overlapping,
    read_ids, reasons, settings,
};

#[tokio::test]
async fn all_are_confirmed_once_and_in_order() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    assert!(sink.windows().overlap);
    bind_with(&exchange, &exchange, "alma.loan", &json!({"x-queue-type": "quorum"}));
    let messages = events("alma.loan", 4_000);
    assert!(sink.begin(&messages[..256]), "a window can be begun");
    assert_eq!(sink.publish(&messages[..256]).await, vec![Outcome::CONFIRMED; 256]);
    let windows: Vec<&[Message]> = messages[256..].chunks(256).collect();
    let (outcomes, begun) = publish_overlapping(&mut sink, &windows).await;
    assert_eq!((outcomes, begun), (vec![Outcome::CONFIRMED; 4_000 - 256], windows.len()));
    let expected: Vec<String> = messages.iter().map(|message| message.id.to_string()).collect();
    assert_eq!(read_ids(&exchange), expected, "all, once, in order");
}

/// The client hands returns of one window to confirms of the other.
#[tokio::test]
async fn each_of_3000_returns_finds_its_message_in_its_window() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    bare_exchange(&exchange);
    bind(&exchange, &exchange, "alma.loan");
    let mut sink = connected(&settings(&exchange)).await;
    let messages = mostly_unroutable();
    for size in [256, 7] {
        let windows: Vec<&[Message]> = messages.chunks(size).collect();
        let (outcomes, begun) = publish_overlapping(&mut sink, &windows).await;
        assert_eq!(begun, windows.len());
        assert_each_return_found_its_message(&outcomes);
        assert_eq!(read_ids(&exchange).len(), 1_000);
    }
}

#[tokio::test]
async fn a_message_that_closes_the_channel_costs_no_other_window() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "alma.bib");
    let mut messages = events("alma.bib", 30);
    messages[15] = event("alma.bib", 15, 17 << 20, Format::CloudEvents);
    // What is refused alone becomes a dead letter: the first window must not take the blame.
    let (outcomes, _) = publish_overlapping(&mut sink, &[&messages[..1], &messages[1..20], &messages[20..]]).await;
    let expected: Vec<_> = (0..30).map(|place| (place == 15).then_some(Reason::TooLarge)).collect();
    assert_eq!(reasons(&outcomes), expected, "{outcomes:?}");
    assert!(sink.is_up(), "the connection stands");
    let ids: BTreeSet<String> = read_ids(&exchange).into_iter().collect();
    assert_eq!(ids.len(), 29);
}

#[tokio::test]
async fn a_topic_without_the_right_to_write_holds_up_no_other_window() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "#");
    let _rights = Rights::on_topics(&exchange, "^alma\\.loan$");
    let mut sink = connected(&limited(&exchange)).await;
    let mut messages = events("alma.loan", 30);
    for place in [2, 15, 16, 29] {
        messages[place] = event("alma.item", place, 10, Format::CloudEvents);
    }
    let windows: Vec<&[Message]> = messages.chunks(10).collect();
    let (outcomes, _) = publish_overlapping(&mut sink, &windows).await;
    let expected: Vec<_> = (0..30).map(|place| [2, 15, 16, 29].contains(&place).then_some(Reason::Rights)).collect();
    assert_eq!(reasons(&outcomes), expected, "{outcomes:?}");
    let ids: BTreeSet<String> = read_ids(&exchange).into_iter().collect();
    assert_eq!(ids.len(), 26);
}

#[tokio::test]
async fn an_exchange_that_vanished_under_two_windows_is_declared_again() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    api("DELETE", &format!("exchanges/%2f/{exchange}"), &Value::Null);
    let messages = events("alma.loan", 60);
    let windows: Vec<&[Message]> = messages.chunks(20).collect();
    assert_eq!(publish_overlapping(&mut sink, &windows).await.0, vec![Outcome::CONFIRMED; 60]);
    let ids: BTreeSet<String> = read_ids(&format!("{exchange}.unrouted")).into_iter().collect();
    assert_eq!(ids.len(), 60);
}

#[tokio::test]
async fn what_was_begun_is_ended_with_its_connection() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    bind(&exchange, &exchange, "alma.loan");
    let messages = events("alma.loan", 40);
    assert!(sink.begin(&messages[..20]) && sink.begin(&messages[20..]));
    sink.abandon().await;
    assert!(!sink.begin(&messages[..20]), "nothing is sent without a connection");
    sink.connect().await.expect("connects");
    // Not the one that was begun on the other connection.
    assert_eq!(sink.publish(&messages[20..21]).await, [Outcome::CONFIRMED]);
}
