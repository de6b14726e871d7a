//! `check --connect` for RabbitMQ.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;

use super::address::Address;
use super::connection::{Connection, ask, connection_name};
use super::errors::{max_message_size, sort};
use super::exchange::{self, Names};
use super::greeting::{Greeting, SPEAKS_TLS, greet};
use super::publication::short;
use crate::config::{RabbitMqSink as Settings, SinkName, Unroutable};
use crate::sinks::message_limit;
use crate::sinks::tools::{Check, TOPIC, Verdict, about_topics, mend_tls};
use crate::sinks::{Failure, Reason};

/// Checks server, TLS, login, vhost, exchange, limits, and the right to publish to each of `topics`.
///
/// Nothing is created or published: the messages that test rights and limits are in a transaction that is rolled back.
/// The broker checks them nevertheless.
pub async fn probe(name: &SinkName, settings: &Settings, max_body: usize, topics: &[String]) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(connection) = reach(name, settings, &mut checks).await {
        look(&connection, settings, max_body, topics, &mut checks).await;
        connection.close().await;
    }
    checks
}

/// Checks server, TLS, login and vhost. Returns a connection if all of them are good.
async fn reach(name: &SinkName, settings: &Settings, checks: &mut Vec<Check>) -> Option<Connection> {
    let reached = "server reached";
    let address = match Address::of(settings) {
        Ok(address) => address,
        Err(failure) => {
            checks.push(Check::bad(reached, failure.detail, "correct url, url_file or url_env"));
            return None;
        }
    };
    let place = format!("{}:{}", address.host(), address.port());
    match greet(&address).await {
        Ok(greeting) => {
            checks.push(Check::good(reached, format!("{place} ({})", greeting.product)));
            checks.push(tls(&greeting));
            checks.extend(mechanism(&greeting, &address));
        }
        Err(failure) if failure.reason == Reason::Login => {
            let mend = mend_tls(&failure.detail, &place).unwrap_or_else(|| {
                "check the files of tls: they must be PEM and readable by the bridge's user".to_owned()
            });
            checks.extend([Check::good(reached, place), Check::bad("TLS", failure.detail, mend)]);
            return None;
        }
        Err(failure) if failure.detail == SPEAKS_TLS => {
            let mend = format!("use amqps:// for {place}, or set tls = {{ ca_file = \"…\" }}");
            checks.extend([Check::good(reached, place), Check::bad("TLS", failure.detail, mend)]);
            return None;
        }
        Err(failure) => {
            let mend = "check url, the network, that the server runs, and that it speaks AMQP at this port";
            checks.push(Check::bad(reached, format!("{place}: {}", failure.detail), mend));
            return None;
        }
    }
    let vhost = format!("vhost {}", address.vhost());
    match Connection::open(&connection_name(name), &address).await {
        Ok(connection) => {
            checks.extend([Check::good("login", login(&address)), Check::good(vhost, "allowed")]);
            Some(connection)
        }
        Err(failure) => {
            checks.extend(not_let_in(&failure, &address, vhost));
            None
        }
    }
}

fn tls(greeting: &Greeting) -> Check {
    match &greeting.tls {
        Some(version) => Check::good("TLS", format!("{version}, verified")),
        None => {
            Check::warning("TLS", "none", "use amqps:// or set tls, unless the whole network is under your control")
        }
    }
}

fn mechanism(greeting: &Greeting, address: &Address) -> Option<Check> {
    let wanted = address.mechanism().name();
    if greeting.mechanisms.iter().any(|offered| offered == wanted) {
        return None;
    }
    let found = format!("the server offers {}, expected {wanted}", greeting.mechanisms.join(", "));
    Some(Check::bad("login", found, "enable rabbitmq_auth_mechanism_ssl for EXTERNAL, or set username and password"))
}

fn login(address: &Address) -> String {
    match address.mechanism() {
        lapin::uri::SASLMechanism::External => "with a certificate (EXTERNAL)".to_owned(),
        other => format!("user {} ({other})", address.user()),
    }
}

/// The checks if the login failed. The broker distinguishes a wrong password from a vhost without access.
fn not_let_in(failure: &Failure, address: &Address, vhost: String) -> Vec<Check> {
    let detail = failure.detail.clone();
    if detail.contains("vhost") {
        let mend = format!(
            "the URL ends with the vhost, percent-encoded (/ is %2f); use rabbitmqctl set_permissions -p {} {}",
            address.vhost(),
            address.user()
        );
        return vec![Check::good("login", login(address)), Check::bad(vhost, detail, mend)];
    }
    let mend = match failure.reason {
        Reason::Login => "check username and password, or the user for the certificate's name",
        _ => "see the server's log",
    };
    vec![Check::bad("login", detail, mend)]
}

async fn look(
    connection: &Connection,
    settings: &Settings,
    max_body: usize,
    topics: &[String],
    checks: &mut Vec<Check>,
) {
    let names = match Names::of(settings) {
        Ok(names) => names,
        Err(failure) => {
            checks.push(Check::bad("exchange", failure.detail, "give it a shorter name"));
            return;
        }
    };
    let what = format!("exchange {}", names.exchange);
    // Where to test the limit: the default exchange, unless the user is known to have the right to write elsewhere.
    let mut by = (ShortString::default(), "alma-bridge-check");
    match exchange::exists(connection, &names.exchange).await {
        Ok(true) => {
            existing(connection, settings, &names, &what, checks).await;
            let mut rights = Vec::new();
            for topic in topics {
                let check = right_to_publish(connection, &names.exchange, topic).await;
                if matches!(check.verdict, Verdict::Good(_)) {
                    by = (names.exchange.clone(), topic);
                }
                rights.push((topic.clone(), check));
            }
            checks.extend(about_topics(rights));
        }
        Ok(false) if settings.declare => {
            checks
                .push(Check::good(&*what, "does not exist; the bridge declares it when it connects, if its user may"));
        }
        Ok(false) => {
            let mend = format!(
                "declare a durable topic exchange {} with an alternate exchange, or set declare = true",
                names.exchange
            );
            checks.push(Check::bad(&*what, "does not exist, and declare is false", mend));
        }
        Err(failure) => checks.push(Check::bad(&*what, failure.detail, "see the server's log")),
    }
    checks.push(limit(connection, by, message_limit(max_body)).await);
    let quorum = "depends on each queue: a quorum queue confirms once most of its members have the event on disk";
    checks.push(Check::good("durability", quorum));
}

async fn existing(connection: &Connection, settings: &Settings, names: &Names, what: &str, checks: &mut Vec<Check>) {
    checks.push(Check::good(what, "exists"));
    if settings.declare {
        match exchange::falls_short(connection, names).await {
            Ok(shortfalls) => checks.extend(shortfalls.into_iter().map(|short| {
                Check::warning(
                    what,
                    short,
                    "delete it so that the bridge declares it, or give it a policy; the bridge alters nothing",
                )
            })),
            Err(failure) => checks.push(Check::warning(what, failure.detail, "see the server's log")),
        }
    }
    if settings.unroutable != Unroutable::Keep {
        return;
    }
    let queue = format!("queue {}", names.unrouted);
    match exchange::waiting(connection, &names.unrouted).await {
        Ok(Some(0)) => checks.push(Check::good(queue, "empty")),
        Ok(Some(events)) => {
            let found = format!("{events} events that no queue was bound for");
            checks.push(Check::warning(queue, found, format!("bind a queue to exchange {}", names.exchange)));
        }
        // The exchange may have another alternate exchange.
        Ok(None) | Err(_) => {}
    }
}

async fn right_to_publish(connection: &Connection, exchange: &ShortString, topic: &str) -> Check {
    let what = format!("right to publish {TOPIC}");
    match try_to_publish(connection, exchange, topic, &[]).await {
        Ok(()) => Check::good(what, "allowed"),
        Err(failure) if failure.reason == Reason::Rights => {
            let mend = format!(
                "allow the user to write to exchange {exchange} (set_permissions), and to this routing key (set_topic_permissions)"
            );
            Check::bad(what, failure.detail.replace(&format!("'{topic}'"), &format!("'{TOPIC}'")), mend)
        }
        Err(failure) => Check::bad(what, failure.detail, mend_of(connection)),
    }
}

/// Checks the broker's limit, which it reports only if a message exceeds it.
async fn limit(connection: &Connection, (exchange, topic): (ShortString, &str), needed: usize) -> Check {
    let what = "max_message_size";
    match try_to_publish(connection, &exchange, topic, &vec![b' '; needed]).await {
        Ok(()) => Check::good(what, format!("accepts {needed} bytes, the largest event")),
        Err(failure) if failure.reason == Reason::TooLarge => {
            let found = max_message_size(&failure.detail).map_or(failure.detail, |limit| format!("{limit} bytes"));
            let mend = format!("set max_message_size = {needed} in rabbitmq.conf; larger events become dead letters");
            Check::warning(what, format!("{found}, but events can have {needed}"), mend)
        }
        Err(failure) if failure.reason == Reason::Rights => {
            let mend = "allow the user to write to the exchange, or check max_message_size in rabbitmq.conf by hand";
            Check::warning(what, format!("unknown; events can have {needed} bytes"), mend)
        }
        Err(failure) => Check::warning(what, failure.detail, mend_of(connection)),
    }
}

fn mend_of(connection: &Connection) -> &'static str {
    if connection.is_blocked() {
        "the broker blocks publishers: resolve its memory or disk alarm"
    } else {
        "see the server's log"
    }
}

/// Publishes in a transaction and rolls it back. The broker checks rights and size, but routes nothing.
async fn try_to_publish(
    connection: &Connection,
    exchange: &ShortString,
    topic: &str,
    body: &[u8],
) -> Result<(), Failure> {
    let channel = connection.channel().await?;
    let routing_key = short(topic)?;
    ask(channel.tx_select()).await?;
    let refusal = connection.refusal();
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let judged = async {
        ask(channel.basic_publish(exchange.clone(), routing_key, options, body, properties)).await?;
        ask(channel.tx_rollback()).await
    };
    match judged.await {
        // Awaited in any case, so that the next call does not get this error.
        Err(failure) if !channel.status().connected() => Err(refusal.await.map_or(failure, |error| sort(&error))),
        answer => answer,
    }
}
