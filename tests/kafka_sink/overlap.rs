//! Windows that overlap: one is queued while the one before it is on its way.

use std::collections::BTreeSet;

use alma_bridge::config;
use alma_bridge::message::Message;
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::support::{
    BROKER, brokers, connected, event, events, kcat, prefix, publish_overlapping, reason, settings, sink,
};

/// A topic of one partition, whose log shows the order.
fn in_one_partition() -> config::KafkaSink {
    config::KafkaSink { partitions: 1, ..settings() }
}

#[tokio::test]
async fn all_are_confirmed_once_and_in_order() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&in_one_partition()).await;
    assert!(sink.windows().overlap);
    let messages = events(&topic, 6_000);
    assert_eq!(sink.publish(&messages[..1]).await, [Outcome::CONFIRMED]);
    assert!(sink.begin(&messages[1..200]), "a window can be begun");
    assert_eq!(sink.publish(&messages[1..200]).await, vec![Outcome::CONFIRMED; 199]);
    // Each fifth is so small that it is not begun.
    let windows: Vec<&[Message]> =
        messages[200..].chunks(830).flat_map(|part| [&part[..5], &part[5..205], &part[205..]]).collect();
    assert_eq!(publish_overlapping(&mut sink, &windows).await, vec![Outcome::CONFIRMED; 5_800]);
    let expected: Vec<String> = messages.iter().map(|message| message.partition_key.clone()).collect();
    assert_eq!(kcat(&topic, "%k"), expected, "all, once, in order");
}

#[tokio::test]
async fn only_what_is_large_and_ready_is_begun() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = sink(&settings());
    let messages = events(&topic, 400);
    assert!(!sink.begin(&messages), "not connected");
    sink.connect().await.expect("the broker runs");
    assert!(!sink.begin(&messages), "the topic was not looked for yet");
    assert_eq!(sink.publish(&messages[..1]).await, [Outcome::CONFIRMED]);
    assert!(!sink.begin(&messages[..10]), "few");
    let large = [event(&topic, 0, 1 << 20, config::Format::CloudEvents)];
    assert!(!sink.begin(&large), "a broker's no to a request would be taken for one to this message alone");
    assert!(sink.begin(&messages));
    let mut other = messages.clone();
    other[200] = event(&format!("{topic}.other"), 200, 10, config::Format::CloudEvents);
    assert!(!sink.begin(&other), "one of its topics was not looked for yet");
    assert_eq!(sink.publish(&messages).await, vec![Outcome::CONFIRMED; 400]);
    assert_eq!(sink.publish(&other).await, vec![Outcome::CONFIRMED; 400]);
}

/// A request is refused for its size with all of its messages, of whichever window.
#[tokio::test]
async fn what_is_refused_with_others_is_taken_alone() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&in_one_partition()).await;
    let messages = events(&topic, 1_200);
    assert_eq!(sink.publish(&messages[..1]).await, [Outcome::CONFIRMED]);
    brokers(&["kafka-configs", "--alter", "--topic", &topic, "--add-config", "max.message.bytes=60000"]);
    let windows: Vec<&[Message]> = messages[1..].chunks(400).collect();
    let outcomes = publish_overlapping(&mut sink, &windows).await;
    let refused: Vec<&Message> = messages[1..]
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| reason(outcome).is_some())
        .map(|(it, _)| it)
        .collect();
    assert!(refused.len() > 400, "more than one window was: {outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(reason(outcome), None | Some(Reason::TooLarge))), "{outcomes:?}");
    for alone in refused.chunks(20) {
        let alone: Vec<Message> = alone.iter().copied().cloned().collect();
        assert_eq!(sink.publish(&alone).await, vec![Outcome::CONFIRMED; alone.len()]);
    }
    let keys = kcat(&topic, "%k");
    assert_eq!((keys.len(), keys.iter().collect::<BTreeSet<_>>().len()), (1_200, 1_200));
}
