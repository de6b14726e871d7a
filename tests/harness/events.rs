//! Messages for a sink under test, and what a pump would do with them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alma_bridge::clock::Timestamp;
use alma_bridge::config::Format;
use alma_bridge::message::{ContentType, EventId, Message, Topic};
use alma_bridge::sinks::{Failure, Outcome, Reason, Sink};

use crate::brokers::brokers;

/// A name that no other test, and no earlier run, has used: of a topic's first segment, an exchange, a stream.
pub(crate) fn fresh() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("t{}-{}", since.as_millis(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An event on `topic` whose id and key hold `number`, with `size` bytes of JSON.
pub(crate) fn event(topic: &str, number: usize, size: usize, format: Format) -> Message {
    let body = format!("{{\"id\":\"{number}\",\"pad\":\"{}\"}}", "x".repeat(size));
    let attribute = |name: &'static str, value: &str| (name, value.to_owned());
    let id = format!("{number}.0123456789abcdef");
    Message {
        topic: Topic::from_name(topic),
        id: EventId::from_text(&id),
        source_name: "alma".parse().expect("a name"),
        partition_key: format!("key-{number}"),
        received: Timestamp::from_micros(1_704_164_645_000_000),
        recorded: Timestamp::from_micros(1_704_164_645_678_901),
        content_type: ContentType::Json,
        attributes: vec![
            attribute("specversion", "1.0"),
            attribute("id", &id),
            attribute("source", "/alma/01TEST_INST"),
            attribute("type", "com.exlibrisgroup.alma.loan"),
            attribute("datacontenttype", "application/json"),
            attribute("partitionkey", &format!("key-{number}")),
        ],
        data: body.into(),
        replay: None,
        format,
    }
}

/// `count` small events on `topic`.
pub(crate) fn events(topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| event(topic, number, 200, Format::CloudEvents)).collect()
}

/// The reason of an outcome; none of a confirm.
pub(crate) fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Confirmed { .. } => None,
        Outcome::Failed(Failure { reason, .. }) => Some(*reason),
    }
}

/// Publishes windows as a pump does where they overlap: each is begun, if the sink takes it, before the one ahead of it is
/// awaited. Gives the outcomes, and how many windows were begun.
pub(crate) async fn publish_overlapping(sink: &mut impl Sink, windows: &[&[Message]]) -> (Vec<Outcome>, usize) {
    let (mut outcomes, mut next, mut begun) = (Vec::new(), 0, 0);
    for (index, window) in windows.iter().enumerate() {
        while next < windows.len().min(index + 2) && sink.begin(windows[next]) {
            (next, begun) = (next + 1, begun + 1);
        }
        outcomes.extend(sink.publish(window).await);
        next = next.max(index + 1);
    }
    (outcomes, begun)
}

/// Publishes what is left as a pump does, connecting again after each failure, until all is confirmed; counts along.
pub(crate) async fn deliver(sink: &mut impl Sink, messages: &[Message], confirmed: &AtomicUsize) {
    let (mut left, mut last) = (messages.to_vec(), None);
    let deliver = async {
        while !left.is_empty() {
            let window: Vec<Message> = left.iter().take(512).cloned().collect();
            let deadline = sink.deadline();
            let outcomes = tokio::time::timeout(deadline, sink.publish(&window)).await.expect("within its deadline");
            let failed = outcomes.iter().filter(|outcome| reason(outcome).is_some()).count();
            confirmed.fetch_add(outcomes.len() - failed, Ordering::Relaxed);
            let mut of_each = outcomes.iter();
            left.retain(|_| of_each.next().is_none_or(|outcome| reason(outcome).is_some()));
            if failed > 0 {
                last = outcomes.into_iter().find_map(|outcome| match outcome {
                    Outcome::Confirmed { .. } => None,
                    Outcome::Failed(failure) => Some(failure),
                });
                sink.abandon().await;
                while let Err(failure) = sink.connect().await {
                    last = Some(failure);
                    // Not for luck: a pump's shortest back-off between tries, all of them under the deadline below.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_mins(2), deliver).await;
    assert!(done.is_ok(), "{} are not delivered in time; the last failure: {last:?}", left.len());
}

/// Delivers all while the broker is killed and started again: after a twentieth of it, and before the last of it.
pub(crate) async fn deliver_though_killed(mut sink: impl Sink + 'static, messages: Vec<Message>, broker: &'static str) {
    let (confirmed, all) = (Arc::new(AtomicUsize::new(0)), messages.len());
    let load = tokio::spawn({
        let confirmed = Arc::clone(&confirmed);
        async move { deliver(&mut sink, &messages, &confirmed).await }
    });
    tokio::task::spawn_blocking(move || {
        while confirmed.load(Ordering::Relaxed) < all / 20 {
            std::thread::yield_now();
        }
        brokers(&["kill", broker]);
        assert!(confirmed.load(Ordering::Relaxed) < all, "it was killed under load");
        brokers(&["start", broker]);
    })
    .await
    .expect("restarted");
    load.await.expect("delivered");
}
