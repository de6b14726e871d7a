//! Reads what arrives from now on, through its own queue, which is deleted with the connection.

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::address::Address;
use super::connection::{Connection, ask, connection_name};
use super::errors::sort;
use super::exchange::Names;
use super::publication::{HEADER_PREFIXES, short};
use crate::config::{RabbitMqSink as Settings, SinkName};
use crate::sinks::tools::{Landed, TailOptions, structured_from};
use crate::sinks::{Failure, Reason};

/// Maximum messages that are sent to the reader and not acknowledged.
const PREFETCH: u16 = 64;

/// Reads what arrives under `prefix` from now on, until the reader wants no more. Earlier events can't be read.
pub async fn tail(name: &SinkName, settings: &Settings, prefix: &str, options: TailOptions) -> Result<(), Failure> {
    let TailOptions { topics, from_start, into, ready } = options;
    if from_start {
        let detail =
            "RabbitMQ keeps no events for new readers, so --from-start is not possible: read a bound queue instead";
        return Err(Failure::new(Reason::Malformed, detail));
    }
    let connection = Connection::open(&connection_name(name), &Address::of(settings)?).await?;
    let channel = connection.channel().await?;
    ask(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = ask(channel.queue_declare(ShortString::default(), own, FieldTable::default())).await?.name().clone();
    let exchange = Names::of(settings)?.exchange;
    for key in binding_keys(prefix, &topics.0) {
        let (key, bind) = (short(&key)?, QueueBindOptions::default());
        ask(channel.queue_bind(queue.clone(), exchange.clone(), key, bind, FieldTable::default())).await?;
    }
    let consume = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
    let mut deliveries =
        ask(channel.basic_consume(queue, ShortString::default(), consume, FieldTable::default())).await?;
    // A broker knows routing keys only by their bindings. The receiver may be gone.
    let _ = ready.send(None);
    loop {
        let delivery = tokio::select! {
            delivery = deliveries.next() => delivery,
            () = into.closed() => break,
        };
        let delivery = match delivery {
            Some(delivery) => delivery.map_err(|error| sort(&error))?,
            None => return Err(Failure::new(Reason::Unreachable, "the broker cancelled the consumer")),
        };
        let topic = delivery.routing_key.to_string();
        if topics.ask_for(&topic) && into.send(Landed { topic, document: document(&delivery) }).await.is_err() {
            break;
        }
        ask(delivery.ack(BasicAckOptions::default())).await?;
    }
    connection.close().await;
    Ok(())
}

/// The routing keys to bind: the topics themselves, or everything under the prefix if a pattern has an open ending. A
/// `#` matches only whole words, so the reader filters the rest.
fn binding_keys(prefix: &str, topics: &[String]) -> Vec<String> {
    if topics.is_empty() || topics.iter().any(|topic| topic.ends_with('*')) {
        return vec![format!("{prefix}.#")];
    }
    topics.to_vec()
}

/// The CloudEvents document. In binary mode, it is made from headers and body.
fn document(delivery: &Delivery) -> Vec<u8> {
    let properties = &delivery.properties;
    let mut attributes = Vec::new();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let Some(attribute) = HEADER_PREFIXES.iter().find_map(|prefix| name.as_str().strip_prefix(prefix)) else {
            continue;
        };
        if let Some(value) = text(value) {
            attributes.push((attribute.to_owned(), value));
        }
    }
    if attributes.is_empty() {
        return delivery.data.clone();
    }
    structured_from(&attributes, properties.content_type().as_ref().map(ShortString::as_str), &delivery.data)
}

fn text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::config::Format;
    use crate::message::Message;
    use crate::sinks::rabbitmq::publication::Publication;

    #[test]
    fn bindings_match_what_is_asked_for() {
        let of =
            |topics: &[&str]| binding_keys("alma", &topics.iter().map(|&topic| topic.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), ["alma.#"]);
        assert_eq!(of(&["alma.job_end", "alma.loan"]), ["alma.job_end", "alma.loan"]);
        assert_eq!(of(&["alma.job_end", "alma.lo*"]), ["alma.#"]);
    }

    #[test]
    fn both_modes_yield_the_same_document() {
        for format in [Format::CloudEvents, Format::CloudEventsBinary] {
            let mut message = Message::sample("alma.loan", "1.0", b"{\"a\":209.0}", Timestamp::from_micros(1));
            message.attributes.push(("datacontenttype", "application/json".to_owned()));
            message.attributes.push(("almaaction", "LÖAN".to_owned()));
            message.format = format;
            let sent = Publication::of(&message).expect("fits");
            let mut delivery = Delivery::mock(1, "alma".into(), "alma.loan".into(), false, sent.body.to_vec());
            delivery.properties = sent.properties;
            let document = String::from_utf8(document(&delivery)).expect("UTF-8");
            let read: serde_json::Value = serde_json::from_str(&document).expect("JSON");
            assert_eq!(read["almaaction"], "LÖAN");
            assert_eq!(read["datacontenttype"], "application/json");
            assert!(document.ends_with("\"data\":{\"a\":209.0}}"), "{document}");
        }
    }
}
