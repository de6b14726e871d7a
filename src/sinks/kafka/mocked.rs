//! How a broker's answers become outcomes, with librdkafka's mock cluster, because a real broker rarely gives them.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::clock::Timestamp;

type Cluster = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "alma.loan";

async fn connected(properties: &[(&str, &str)]) -> (Cluster, KafkaSink) {
    let cluster = MockCluster::new(1).expect("a mock cluster");
    cluster.create_topic(TOPIC, 1, 1).expect("a topic");
    let settings = config::KafkaSink {
        brokers: vec![cluster.bootstrap_servers()],
        create_topics: false,
        properties: properties.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        ..tests::settings()
    };
    let mut sink = KafkaSink::new(&"main".parse().expect("a name"), &settings, 8 << 20);
    sink.surveyed = true;
    sink.connect().await.expect("the mock cluster answers");
    (cluster, sink)
}

fn window(count: usize) -> Vec<Message> {
    (0..count).map(|number| Message::sample(TOPIC, &number.to_string(), b"{}", Timestamp::from_micros(1))).collect()
}

async fn answered(error: RDKafkaRespErr) -> Outcome {
    answered_by(&[error]).await
}

async fn answered_by(errors: &[RDKafkaRespErr]) -> Outcome {
    let (cluster, mut sink) = connected(&[]).await;
    cluster.request_errors(RDKafkaApiKey::Produce, errors);
    let outcome = sink.publish(&window(1)).await.remove(0);
    let again = sink.publish(&window(1)).await;
    assert_eq!(again, [Outcome::CONFIRMED], "the sink goes on after {errors:?}");
    outcome
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Confirmed { .. } => None,
        Outcome::Failed(failure) => Some(failure.reason),
    }
}

/// librdkafka reports such a batch as delivered because of its sequence number. On a partition that was just created,
/// it was in no log: the broker had accepted the second batch before the first.
#[tokio::test]
async fn delivered_without_an_offset_is_not_a_confirm() {
    let repeat = RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER;
    let outcome = answered_by(&[repeat, repeat]).await;
    assert_eq!(reason(&outcome), Some(Reason::Timeout), "{outcome:?}");
    assert_eq!(answered(repeat).await, Outcome::CONFIRMED, "sent again, it arrives");
}

#[tokio::test]
async fn a_message_without_an_offset_is_sent_again_while_another_window_is_in_flight() {
    let (cluster, mut sink) = connected(&[]).await;
    assert_eq!(sink.publish(&window(1)).await, [Outcome::CONFIRMED]);
    cluster.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER]);
    let (first, second) = (window(200), window(150));
    assert!(sink.begin(&first) && sink.begin(&second));
    assert_eq!(sink.publish(&first).await, vec![Outcome::CONFIRMED; 200]);
    assert_eq!(sink.publish(&second).await, vec![Outcome::CONFIRMED; 150]);
}

#[tokio::test]
async fn a_temporary_refusal_is_retried() {
    let outcome = answered(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION).await;
    assert_eq!(outcome, Outcome::CONFIRMED);
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_the_sink_goes_on() {
    for (error, expected) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Reason::TooLarge),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD, Reason::Malformed),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, Reason::Rights),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP, Reason::Clock),
    ] {
        let outcome = answered(error).await;
        assert_eq!(reason(&outcome), Some(expected), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_window_that_exceeds_the_queue_is_queued_piece_by_piece() {
    let (_cluster, mut sink) = connected(&[("queue.buffering.max.messages", "3")]).await;
    assert_eq!(sink.publish(&window(50)).await, vec![Outcome::CONFIRMED; 50]);
}

#[tokio::test]
async fn windows_that_exceed_the_queue_are_queued_one_after_the_other() {
    let (cluster, mut sink) = connected(&[("queue.buffering.max.messages", "300")]).await;
    assert_eq!(sink.publish(&window(1)).await, [Outcome::CONFIRMED]);
    // So that nothing is confirmed before the third window should begin.
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).expect("it runs");
    let (first, second) = (window(200), window(150));
    assert!(sink.begin(&first) && sink.begin(&second));
    assert!(!sink.begin(&first), "a part of the second window still waits for room");
    assert_eq!(sink.publish(&first).await, vec![Outcome::CONFIRMED; 200]);
    assert_eq!(sink.publish(&second).await, vec![Outcome::CONFIRMED; 150]);
    assert!(sink.begin(&first) && sink.publish(&first).await == vec![Outcome::CONFIRMED; 200]);
}
