//! `tail` for Kafka. It leaves no trace on the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, ConsumerContext, StreamConsumer};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::producer::Producer as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::time::MissedTickBehavior;

use super::client::{self, Context, Live, blocking};
use super::{errors, record, topics};
use crate::config::KafkaSink;
use crate::sinks::Failure;
use crate::sinks::tools::{Landed, TailOptions, structured_from};

/// How often to look for new topics.
const REFRESH: Duration = Duration::from_millis(500);

impl ConsumerContext for Context {}

/// Reads topics under `prefix` until the reader wants no more or has no right to read.
///
/// It assigns partitions instead of subscribing, and commits no offset. It reads a topic that appears later from its
/// first record, and waits for a broker that goes away.
pub async fn tail(settings: &KafkaSink, prefix: &str, options: TailOptions) -> Result<(), Failure> {
    let TailOptions { topics, from_start, into, ready } = options;
    let config = client::common(settings);
    let live = blocking(move || Live::start("tail", &config)).await??;
    live.reached().await?;
    let consumer = Arc::new(consumer(settings)?);
    let ours = |topic: &str| topic.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let asked_for = |topic: &str| ours(topic) && topics.ask_for(topic);
    let mut assigned = BTreeSet::new();
    let first = list(&consumer).await?;
    let there: BTreeSet<String> = first.iter().map(|(topic, _)| topic.clone()).filter(|topic| ours(topic)).collect();
    let first: Vec<_> = first.into_iter().filter(|(topic, _)| asked_for(topic)).collect();
    assign(&consumer, &live, first, &mut assigned, from_start).await?;
    // The receiver may be gone. `into` is closed then, too.
    let _ = ready.send(Some(there.into_iter().collect()));

    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = into.closed() => break,
            _ = refresh.tick() => {
                // If the cluster does not answer, the next tick asks again.
                let Ok(found) = list(&consumer).await else { continue };
                let new = found.into_iter().filter(|(topic, _)| asked_for(topic)).collect();
                assign(&consumer, &live, new, &mut assigned, true).await?;
            }
            received = consumer.recv() => match received {
                Ok(message) => {
                    if into.send(landed(&message)).await.is_err() {
                        break;
                    }
                }
                Err(error) if error.rdkafka_error_code() == Some(Code::TopicAuthorizationFailed) => {
                    return Err(errors::client_failure(&error));
                }
                // librdkafka reconnects by itself. The group is named but not used, and needs no right.
                Err(error) => tracing::debug!(%error, "reading goes on"),
            },
        }
    }
    // Closing waits for the broker threads.
    blocking(move || drop(consumer)).await
}

fn consumer(settings: &KafkaSink) -> Result<StreamConsumer<Context>, Failure> {
    let mut config: ClientConfig = client::common(settings);
    // The operator's properties are meant for the producer. librdkafka would warn about each of them.
    config.set_log_level(RDKafkaLogLevel::Error);
    // librdkafka requires a group even for assigned partitions. Nothing is stored for it.
    config.set("group.id", "alma-bridge-tail");
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "earliest");
    // A new topic is not fetched before the current fetch returns.
    config.set("fetch.wait.max.ms", "100");
    config.create_with_context(Context::default()).map_err(|error| errors::client_failure(&error))
}

/// All topics and their partitions. The consumer itself asks, because it would look up a topic that it does not know
/// only a second later.
async fn list(consumer: &Arc<StreamConsumer<Context>>) -> Result<Vec<(String, i32)>, Failure> {
    let consumer = Arc::clone(consumer);
    let metadata = blocking(move || consumer.fetch_metadata(None, topics::ASK_TIMEOUT)).await?;
    let metadata = metadata.map_err(|error| errors::client_failure(&error))?;
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id())));
    Ok(partitions.collect())
}

/// Starts to read the new partitions, from their beginning or from their current end.
async fn assign(
    consumer: &Arc<StreamConsumer<Context>>,
    live: &Live,
    found: Vec<(String, i32)>,
    assigned: &mut BTreeSet<(String, i32)>,
    from_start: bool,
) -> Result<(), Failure> {
    let new: Vec<_> = found.into_iter().filter(|partition| !assigned.contains(partition)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let (consumer, producer, partitions) = (Arc::clone(consumer), Arc::clone(&live.producer), new.clone());
    let result = blocking(move || {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in &partitions {
            // Asks for the end now. librdkafka would determine it with the first fetch, and skip what was published
            // until then.
            let offset = if from_start {
                Offset::Beginning
            } else {
                match producer.client().fetch_watermarks(topic, *partition, topics::ASK_TIMEOUT) {
                    Ok((_, end)) => Offset::Offset(end),
                    Err(_) => Offset::End,
                }
            };
            list.add_partition_offset(topic, *partition, offset)?;
        }
        consumer.incremental_assign(&list)
    })
    .await?;
    result.map_err(|error| errors::client_failure(&error))?;
    assigned.extend(new);
    Ok(())
}

/// A record as a CloudEvents document.
fn landed(message: &BorrowedMessage<'_>) -> Landed {
    let data = message.payload().unwrap_or_default();
    let mut content_type = None;
    let mut attributes = Vec::new();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        let Some(value) = header.value else { continue };
        let value = String::from_utf8_lossy(value).into_owned();
        if header.key.eq_ignore_ascii_case(record::CONTENT_TYPE) {
            content_type = Some(value);
        } else if let Some(name) = header.key.strip_prefix(record::PREFIX) {
            attributes.push((name.to_owned(), value));
        }
    }
    let structured = content_type.as_deref().is_some_and(record::is_structured);
    let document = if structured { data.to_vec() } else { structured_from(&attributes, content_type.as_deref(), data) };
    Landed { topic: message.topic().to_owned(), document }
}
