//! Windows, records, sizes and topics.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use alma_bridge::config::{self, Format};
use alma_bridge::sinks::kafka::KafkaSink;
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::support::{BROKER, MAX_BODY, connected, deliver, event, events, kcat, kcat_all, prefix, reason, settings};

#[tokio::test]
async fn two_thousand_events_are_confirmed_and_read_back() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&settings()).await;
    let messages = events(&topic, 2_000);
    // A batch to a partition that is not yet led may be refused, and is sent again.
    deliver(&mut sink, &messages, &AtomicUsize::new(0)).await;
    sink.close().await;
    assert_eq!(kcat(&topic, "%k").into_iter().collect::<BTreeSet<_>>().len(), 2_000);
    let partitions: BTreeSet<String> = kcat(&topic, "%p").into_iter().collect();
    assert_eq!(partitions.len(), 3, "keys are spread over the partitions that were asked for");
}

#[tokio::test]
async fn records_follow_the_binding() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&settings()).await;
    let window = [event(&topic, 7, 3, Format::CloudEvents), event(&topic, 8, 3, Format::CloudEventsBinary)];
    assert_eq!(sink.publish(&window).await, [Outcome::CONFIRMED, Outcome::CONFIRMED]);
    let records: BTreeSet<String> = kcat(&topic, "%k|%T|%h|%s").into_iter().collect();
    let structured = String::from_utf8(window[0].structured().to_vec()).expect("UTF-8");
    let expected = [
        format!("key-7|1704164645678|content-type=application/cloudevents+json; charset=UTF-8|{structured}"),
        "key-8|1704164645678|content-type=application/json,ce_specversion=1.0,ce_id=8.0123456789abcdef,\
         ce_source=/alma/01TEST_INST,ce_type=com.exlibrisgroup.alma.loan,ce_partitionkey=key-8|\
         {\"id\":\"8\",\"pad\":\"xxx\"}"
            .to_owned(),
    ];
    assert_eq!(records, expected.into_iter().collect());
}

/// Java's own partitioner puts `key-0` to `key-5` there, of three partitions (murmur2, as published in its tests).
#[tokio::test]
async fn a_key_goes_where_java_would_put_it() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&settings()).await;
    sink.publish(&events(&topic, 6)).await;
    for line in kcat(&topic, "%k %p") {
        let (key, partition) = line.split_once(' ').expect("two fields");
        let expected = (murmur2(key.as_bytes()) & 0x7fff_ffff) % 3;
        assert_eq!(partition, expected.to_string(), "{key}");
    }
}

/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len()).expect("short");
    let mut hash = 0x9747_b28c ^ length;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (place, byte) in rest.iter().enumerate().rev() {
        hash ^= u32::from(*byte) << (8 * place);
        if place == 0 {
            hash = hash.wrapping_mul(M);
        }
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[tokio::test]
async fn the_largest_event_fits_into_a_topic_that_we_made() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.bib", prefix());
    let mut sink = connected(&settings()).await;
    let outcomes = sink.publish(&[event(&topic, 0, MAX_BODY - 100, Format::CloudEvents)]).await;
    assert_eq!(outcomes, [Outcome::CONFIRMED]);
    assert!(kcat(&topic, "%S")[0].parse::<usize>().expect("a size") > MAX_BODY - 100);
}

#[tokio::test]
async fn a_message_too_large_for_its_topic_costs_no_other() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.bib", prefix());
    // Made by a sink of small bodies, the topic takes no more than Kafka's default.
    let mut small = KafkaSink::new(&"small".parse().expect("a name"), &settings(), 1024);
    small.connect().await.expect("the broker runs");
    small.publish(&[event(&topic, 0, 10, Format::CloudEvents)]).await;
    let mut sink = connected(&settings()).await;
    let mut window = events(&topic, 5);
    window[2] = event(&topic, 2, 3 << 20, Format::CloudEvents);
    let outcomes = sink.publish(&window).await;
    assert_eq!(reason(&outcomes[2]), Some(Reason::TooLarge), "{outcomes:?}");
    for (message, outcome) in window.iter().zip(&outcomes) {
        // Condemned with its batch, a good one is taken when it comes alone, as the pump sends it then.
        assert!(matches!(reason(outcome), None | Some(Reason::TooLarge)), "{outcome:?}");
        if reason(outcome).is_some() {
            let alone = sink.publish(std::slice::from_ref(message)).await;
            assert_eq!(reason(&alone[0]).is_some(), message.id == window[2].id, "{alone:?}");
        }
    }
    let after = sink.publish(&events(&topic, 100)).await;
    assert!(after.iter().all(|outcome| *outcome == Outcome::CONFIRMED), "the producer lives on: {after:?}");
}

#[tokio::test]
async fn a_message_over_the_clients_limit_is_refused_without_being_sent() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.bib", prefix());
    let mut sink = connected(&settings()).await;
    let window = [event(&topic, 0, 10, Format::CloudEvents), event(&topic, 1, MAX_BODY * 3 / 2, Format::CloudEvents)];
    let outcomes = sink.publish(&window).await;
    assert_eq!((reason(&outcomes[0]), reason(&outcomes[1])), (None, Some(Reason::TooLarge)));
}

#[tokio::test]
async fn a_missing_topic_is_told_at_once_and_holds_up_no_other() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let (there, missing) = (format!("{prefix}.loan"), format!("{prefix}.bib"));
    connected(&settings()).await.publish(&events(&there, 1)).await;
    let mut sink = connected(&config::KafkaSink { create_topics: false, ..settings() }).await;
    let mut window = events(&there, 10);
    window[4] = event(&missing, 4, 10, Format::CloudEvents);
    let begun = Instant::now();
    let outcomes = sink.publish(&window).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    for (place, outcome) in outcomes.iter().enumerate() {
        assert_eq!(reason(outcome), (place == 4).then_some(Reason::Missing), "{outcome:?}");
    }
    // Made by somebody, it is taken by the next try.
    connected(&settings()).await.publish(&events(&missing, 1)).await;
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 10]);
}

#[tokio::test]
async fn a_topic_that_vanished_is_made_again() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let mut sink = connected(&settings()).await;
    assert_eq!(sink.publish(&events(&topic, 1)).await, [Outcome::CONFIRMED]);
    crate::support::brokers(&["kafka-topics", "--delete", "--topic", &topic]);
    crate::support::deliver(&mut sink, &events(&topic, 20), &AtomicUsize::new(0)).await;
    assert_eq!(kcat_all(&topic, "%k", 20).len(), 20);
}

#[tokio::test]
async fn a_name_that_collides_is_the_operators_matter() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let mut sink = connected(&settings()).await;
    sink.publish(&events(&format!("{prefix}.job_end"), 1)).await;
    let outcomes = sink.publish(&events(&format!("{prefix}.job.end"), 1)).await;
    assert_eq!(reason(&outcomes[0]), Some(Reason::Missing), "{outcomes:?}");
}

/// As if the broker's clock, or the bridge's, were wrong: the events are of 2024.
#[tokio::test]
async fn a_timestamp_that_the_broker_refuses_is_the_operators_matter() {
    let _shared = BROKER.read().await;
    let topic = format!("{}.loan", prefix());
    let limit = "message.timestamp.before.max.ms=60000";
    crate::support::brokers(&["kafka-topics", "--create", "--topic", &topic, "--config", limit]);
    let mut sink = connected(&settings()).await;
    // Of several at once librdkafka says only that they are invalid; the pump sends such a window in pieces.
    let outcomes = sink.publish(&events(&topic, 3)).await;
    for outcome in &outcomes {
        assert!(matches!(reason(outcome), Some(Reason::Clock | Reason::Malformed)), "{outcome:?}");
    }
    let outcomes = sink.publish(&events(&topic, 1)).await;
    let Outcome::Failed(failure) = &outcomes[0] else { panic!("refused") };
    assert_eq!(failure.reason, Reason::Clock, "{failure}");
    assert!(failure.detail.contains("clock") && failure.detail.contains("message.timestamp.after.max.ms"), "{failure}");
    let of_topic = ["--entity-type", "topics", "--entity-name", &topic];
    let lifted = ["kafka-configs", "--alter", "--delete-config", "message.timestamp.before.max.ms"];
    crate::support::brokers(&[&lifted[..], &of_topic].concat());
    deliver(&mut sink, &events(&topic, 3), &AtomicUsize::new(0)).await;
}
