//! The exchange: looks it up, compares it, and declares it if it is missing and may be declared.
//!
//! An existing exchange is never altered. A passive declaration looks it up, which needs no right and changes nothing.
//! Each request has its own channel, because a refusal closes the channel.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::connection::{Connection, ask};
use super::publication::short;
use crate::config::RabbitMqSink as Settings;
use crate::sinks::{Class, Failure, Reason};

/// How long `{exchange}.unrouted` keeps an event, in milliseconds: 7 days.
const UNROUTED_TTL: i64 = 7 * 24 * 60 * 60 * 1_000;

/// Maximum bytes of `{exchange}.unrouted`. Beyond it, the oldest events are dropped.
const UNROUTED_BYTES: i64 = 1 << 30;

/// The names that belong to an exchange.
pub(super) struct Names {
    pub(super) exchange: ShortString,
    /// The alternate exchange, and the queue that is bound to it.
    pub(super) unrouted: ShortString,
}

impl Names {
    pub(super) fn of(settings: &Settings) -> Result<Self, Failure> {
        let exchange = short(&settings.exchange)?;
        Ok(Self { unrouted: short(&format!("{exchange}.unrouted"))?, exchange })
    }
}

/// What was found or declared.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FoundExchange {
    /// It exists; what it promises less than one that we declare.
    Exists(Vec<String>),
    /// The exchange was missing and is declared now.
    Declared,
    /// The exchange is missing. Says why it was not declared.
    Missing(String),
}

/// Looks for the exchange, and declares it where it is missing and may be.
pub(super) async fn prepare(connection: &Connection, settings: &Settings) -> Result<FoundExchange, Failure> {
    let names = Names::of(settings)?;
    if exists(connection, &names.exchange).await? {
        let shortfalls = if settings.declare { falls_short(connection, &names).await? } else { Vec::new() };
        return Ok(FoundExchange::Exists(shortfalls));
    }
    if !settings.declare {
        return Ok(FoundExchange::Missing("declare is false".to_owned()));
    }
    match declare(connection, &names).await {
        Ok(()) => Ok(FoundExchange::Declared),
        Err(failure) if failure.reason.class() == Class::Retry => Err(failure),
        Err(failure) => Ok(FoundExchange::Missing(format!("it cannot be declared: {failure}"))),
    }
}

/// Whether an exchange exists, of whatever type.
pub(super) async fn exists(connection: &Connection, exchange: &ShortString) -> Result<bool, Failure> {
    let channel = connection.channel().await?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    // The type does not matter in a passive declaration.
    let asked = channel.exchange_declare(exchange.clone(), ExchangeKind::Topic, passive, FieldTable::default());
    Ok(not_missing(ask(asked).await)?.is_some())
}

/// How many messages wait in a queue, of whatever type. `None` if it does not exist.
pub(super) async fn waiting(connection: &Connection, queue: &ShortString) -> Result<Option<u32>, Failure> {
    let channel = connection.channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let answer = ask(channel.queue_declare(queue.clone(), passive, FieldTable::default())).await;
    not_missing(answer.map(|queue| queue.message_count()))
}

fn not_missing<T>(answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(failure) if failure.reason == Reason::Missing => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Declares the alternate exchange and its queue first, so that the exchange never exists without them.
async fn declare(connection: &Connection, names: &Names) -> Result<(), Failure> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    if !exists(connection, &names.unrouted).await? {
        let channel = connection.channel().await?;
        let asked =
            channel.exchange_declare(names.unrouted.clone(), ExchangeKind::Fanout, durable, FieldTable::default());
        ask(asked).await?;
    }
    if waiting(connection, &names.unrouted).await?.is_none() {
        let channel = connection.channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        ask(channel.queue_declare(names.unrouted.clone(), durable, unrouted_arguments())).await?;
    }
    let channel = connection.channel().await?;
    let (unrouted, any) = (&names.unrouted, ShortString::default());
    let bound =
        channel.queue_bind(unrouted.clone(), unrouted.clone(), any, QueueBindOptions::default(), FieldTable::default());
    ask(bound).await?;
    let asked = channel.exchange_declare(names.exchange.clone(), ExchangeKind::Topic, durable, arguments(names));
    ask(asked).await
}

/// The arguments of the exchange.
fn arguments(names: &Names) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), text(names.unrouted.as_str()));
    arguments
}

/// The arguments of the queue that is bound to the alternate exchange.
fn unrouted_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(UNROUTED_TTL));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(UNROUTED_BYTES));
    arguments.insert("x-overflow".into(), text("drop-head"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// Compares an existing exchange with one that the bridge would declare, by declaring it: the broker changes nothing
/// and reports the first difference (406). Without the right to declare it (403), nothing can be compared.
pub(super) async fn falls_short(connection: &Connection, names: &Names) -> Result<Vec<String>, Failure> {
    let channel = connection.channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let asked = channel.exchange_declare(names.exchange.clone(), ExchangeKind::Topic, durable, arguments(names));
    match ask(asked).await {
        Ok(()) => Ok(Vec::new()),
        Err(failure) if failure.reason.class() == Class::Retry => Err(failure),
        Err(failure) => Ok(difference(&names.exchange, &failure.detail).into_iter().collect()),
    }
}

/// Explains `inequivalent arg 'type' for exchange 'alma' in vhost '/': received 'topic' but current is 'direct'`.
fn difference(exchange: &ShortString, said: &str) -> Option<String> {
    let (argument, rest) = said.split_once("inequivalent arg '")?.1.split_once('\'')?;
    let (_, current) = rest.split_once("but current is ")?;
    match argument {
        "alternate-exchange" if current.starts_with("none") => Some(format!(
            "exchange {exchange} has no alternate exchange: unless a policy gives it one, the broker returns an event that \
             no queue is bound for"
        )),
        // Another alternate exchange gets them.
        "alternate-exchange" => None,
        "durable" => Some(format!("exchange {exchange} is not durable: a restart of the broker removes it")),
        "type" => Some(format!(
            "exchange {exchange} has type {}, expected topic: bindings with * and # do not work",
            current.trim_matches('\'')
        )),
        other => Some(format!("exchange {exchange} has {other} {}", current.trim_matches('\''))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_explained() {
        let of = |said: &str| difference(&"alma".into(), said);
        let said = |argument: &str, rest: &str| {
            format!("406 PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange 'alma' in vhost '/': {rest}")
        };
        let kind = of(&said("type", "received 'topic' but current is 'direct'")).expect("falls short");
        assert!(kind.contains("has type direct, expected topic"), "{kind}");
        let durable = of(&said("durable", "received 'true' but current is 'false'")).expect("falls short");
        assert!(durable.contains("not durable"), "{durable}");
        let received = "received the value 'alma.unrouted' of type 'longstr' but current is";
        let none = of(&said("alternate-exchange", &format!("{received} none"))).expect("falls short");
        assert!(none.contains("no alternate exchange"), "{none}");
        assert_eq!(of(&said("alternate-exchange", &format!("{received} the value 'x' of type 'longstr'"))), None);
        assert_eq!(of("403 ACCESS_REFUSED - configure access refused"), None);
    }

    #[test]
    fn names_follow_the_exchange() {
        let mut settings = crate::sinks::rabbitmq::tests::settings();
        assert_eq!(Names::of(&settings).expect("fits").unrouted.as_str(), "alma.unrouted");
        settings.exchange = "x".repeat(250);
        assert_eq!(Names::of(&settings).err().expect("too long").reason, Reason::Malformed);
    }
}
