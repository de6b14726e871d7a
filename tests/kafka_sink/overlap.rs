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
    // Each third, of five events, is so small that it is not begun.
    let windows: Vec<&[Message]> =
        messages[200..].chunks(830).flat_map(|part| [&part[..5], &part[5..205], &part[205..]]).collect();
    let (outcomes, begun) = publish_overlapping(&mut sink, &windows).await;
    assert_eq!((outcomes, begun), (vec![Outcome::CONFIRMED; 5_800], windows.len() * 2 / 3));
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
    let large = [0, 1].map(|number| event(&topic, number, 1 << 20, config::Format::CloudEvents));
    assert!(!sink.begin(&large[..1]), "a broker's no to a request would be taken for one to this message alone");
    assert!(sink.begin(&large), "few, and large all the same");
    assert!(sink.begin(&messages));
    let mut other = messages.clone();
    other[200] = event(&format!("{topic}.other"), 200, 10, config::Format::CloudEvents);
    assert!(!sink.begin(&other), "one of its topics was not looked for yet");
    assert_eq!(sink.publish(&large).await, vec![Outcome::CONFIRMED; 2]);
    assert_eq!(sink.publish(&messages).await, vec![Outcome::CONFIRMED; 400]);
    assert_eq!(sink.publish(&other).await, vec![Outcome::CONFIRMED; 400]);
}

/// A request is refused for its size with all of its messages, of whichever window.
#[tokio::test]
async fn what_is_refused_with_another_window_is_taken_without_it() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&in_one_partition()).await;
    // librdkafka puts two windows into one request if the second is queued in time. It is given ten chances.
    let messages = events(&topic, 10_001);
    assert_eq!(sink.publish(&messages[..1]).await, [Outcome::CONFIRMED]);
    // What two windows of 200 have together is more, what one has is not.
    brokers(&["kafka-configs", "--alter", "--topic", &topic, "--add-config", "max.message.bytes=150000"]);
    let (mut refused, mut sent) = (Vec::new(), 1);
    for thousand in messages[1..].chunks(1_000) {
        let windows: Vec<&[Message]> = thousand.chunks(200).collect();
        let (outcomes, begun) = publish_overlapping(&mut sink, &windows).await;
        assert_eq!(begun, windows.len());
        sent += thousand.len();
        refused =
            thousand.iter().zip(&outcomes).filter(|(_, it)| reason(it).is_some()).map(|(it, _)| it.clone()).collect();
        let all_as_expected = outcomes.iter().all(|outcome| matches!(reason(outcome), None | Some(Reason::TooLarge)));
        assert!(all_as_expected, "{outcomes:?}");
        if !refused.is_empty() {
            break;
        }
    }
    assert!(!refused.is_empty(), "two went in one request");
    for window in refused.chunks(200) {
        assert_eq!(sink.publish(window).await, vec![Outcome::CONFIRMED; window.len()]);
    }
    let keys = kcat(&topic, "%k");
    assert_eq!((keys.len(), keys.iter().collect::<BTreeSet<_>>().len()), (sent, sent));
}
