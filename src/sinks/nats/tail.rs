//! Reads the stream with an ordered consumer, which leaves no trace on the server.

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;

use super::Subjects;
use super::client::Connection;
use crate::config::{NatsSink as Settings, SinkName};
use crate::sinks::tools::{Landed, TailOptions, structured_from};
use crate::sinks::{Failure, Reason};

/// Reads what arrives on the requested subjects, until the reader wants no more.
pub async fn tail(
    name: &SinkName,
    settings: &Settings,
    subjects: &Subjects,
    options: TailOptions,
) -> Result<(), Failure> {
    let unreachable = |error: String| Failure::new(Reason::Unreachable, error);
    let TailOptions { topics, from_start, into, ready } = options;
    let connection = Connection::open(name, settings).await?;
    let stream = connection
        .jetstream
        .get_stream(&settings.stream)
        .await
        .map_err(|error| Failure::new(Reason::Missing, format!("stream {}: {error}", settings.stream)))?;
    let filter_subject = subjects.filter(&stream.cached_info().config.subjects);
    let consumer = stream
        .create_consumer(OrderedConfig {
            deliver_policy: if from_start { DeliverPolicy::All } else { DeliverPolicy::New },
            replay_policy: ReplayPolicy::Instant,
            filter_subject,
            ..OrderedConfig::default()
        })
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let mut messages = consumer.messages().await.map_err(|error| unreachable(error.to_string()))?;
    // The receiver may be gone.
    let there = if topics.0.is_empty() { None } else { subjects_in(&stream, subjects).await };
    let _ = ready.send(there);
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = into.closed() => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let message = message.map_err(|error| unreachable(error.to_string()))?;
        let topic = message.subject.to_string();
        if !subjects.have(&topic) || !topics.ask_for(&topic) {
            continue;
        }
        let document = document(message.headers.as_ref(), &message.payload);
        if into.send(Landed { topic, document }).await.is_err() {
            return Ok(());
        }
    }
}

/// The sink's subjects that have messages in the stream. `None` if the server does not tell.
async fn subjects_in(stream: &Stream, subjects: &Subjects) -> Option<Vec<String>> {
    let found = stream.info_with_subjects(">").await.ok()?;
    let found: Vec<_> = found.collect().await;
    let found = found.into_iter().collect::<Result<Vec<_>, _>>().ok()?;
    let mut ours: Vec<_> = found.into_iter().map(|(subject, _)| subject).filter(|it| subjects.have(it)).collect();
    ours.sort();
    Some(ours)
}

/// The CloudEvents document. In binary mode, it is made from the `ce-` headers and the payload.
fn document(headers: Option<&HeaderMap>, payload: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::new();
    let mut content_type = None;
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let (name, Some(value)) = (name.to_string(), values.last()) else { continue };
        let Some(attribute) = name.strip_prefix("ce-") else { continue };
        let value = percent_encoding::percent_decode_str(value.as_str()).decode_utf8_lossy().into_owned();
        if attribute == "datacontenttype" {
            content_type = Some(value);
        } else {
            attributes.push((attribute.to_owned(), value));
        }
    }
    if attributes.is_empty() {
        return payload.to_vec();
    }
    attributes.sort();
    structured_from(&attributes, content_type.as_deref(), payload)
}
