//! `check --connect` for Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::client::{self, Live, Ticket, blocking, message_limit};
use super::reports::Reports;
use super::topics::{self, Admin, Look};
use super::{errors, survey};
use crate::config::KafkaSink;
use crate::sinks::tools::Check;
use crate::sinks::{Failure, Reason};

/// How long a producer id may take once a broker is reached.
const PRODUCER_ID_WITHIN: Duration = Duration::from_secs(5);

/// How long the answer to one record may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Looks at all that publishing to these topics takes. Nothing is created, and nothing is published.
pub async fn probe(settings: &KafkaSink, max_body: usize, topics: &[String]) -> Vec<Check> {
    let mut config = client::producing(settings, max_body);
    // The one place where librdkafka tells whether it was given a producer id.
    config.set("statistics.interval.ms", "200");
    let live = match start(config).await {
        Ok(live) => live,
        Err(failure) => return vec![not_reached(&failure)],
    };
    let cluster = match live.reached().await {
        Ok(cluster) => cluster,
        Err(failure) => return vec![not_reached(&failure)],
    };
    let mut checks = vec![Check::good("broker reached", format!("cluster {cluster}"))];
    checks.extend(secured(settings));
    checks.push(idempotent(&live).await);
    let limit = message_limit(max_body);
    match Admin::new(&client::common(settings)).await {
        Ok(mut admin) => {
            match admin.broker_limits().await {
                Ok(limits) => checks.extend(survey::of_broker(settings, &limits, limit)),
                Err(failure) => checks.push(not_described("settings of the brokers", &failure, "cluster")),
            }
            check_topics(settings, limit, &live, &admin, topics, &mut checks).await;
        }
        Err(failure) => checks.push(not_reached(&failure)),
    }
    checks
}

async fn start(config: ClientConfig) -> Result<Live, Failure> {
    blocking(move || Live::start("check", &config)).await?
}

fn not_reached(failure: &Failure) -> Check {
    let detail = failure.detail.clone();
    match failure.reason {
        Reason::Login => Check::bad(
            "log-in and TLS",
            detail,
            "look at username, password_file, the property sasl.mechanism, and the files of tls",
        ),
        _ => Check::bad(
            "broker reached",
            detail,
            "look at brokers, at the network between, and at tls: a listener with TLS wants tls = {}",
        ),
    }
}

/// What TLS and log-in prove, once a broker was reached.
fn secured(settings: &KafkaSink) -> Vec<Check> {
    let tls = match &settings.tls {
        Some(tls) => {
            let by = tls.ca_file.as_ref().map_or("the system's authorities".into(), |file| file.display().to_string());
            Check::good("TLS", format!("the broker's certificate was proven by {by}"))
        }
        None => Check::warning("TLS", "not used", "events travel in the clear: set tls = { ca_file = \"…\" }"),
    };
    let login = match (&settings.login, settings.tls.as_ref().and_then(|tls| tls.cert_file.as_ref())) {
        (Some(login), _) => {
            let mechanism = client::mechanism(settings);
            Check::good("log-in", format!("{} by {mechanism}", login.username))
        }
        (None, Some(_)) => Check::good("log-in", "by client certificate"),
        (None, None) => Check::warning(
            "log-in",
            "none",
            "whoever reaches the broker may publish: set username and password_file, or a client certificate in tls",
        ),
    };
    vec![tls, login]
}

async fn idempotent(live: &Live) -> Check {
    let what = "producer id";
    let until = Instant::now() + PRODUCER_ID_WITHIN;
    loop {
        if live.context.is_idempotent() {
            return Check::good(what, "given: no repeats by the client's own retries");
        }
        if let Some(failure) = live.fatal() {
            return Check::bad(
                what,
                failure.detail,
                "give the right Write on the topics; before Kafka 2.8 also IdempotentWrite on the cluster",
            );
        }
        if Instant::now() >= until {
            return Check::bad(
                what,
                "not given in time",
                "the brokers' log says why; with fewer brokers than transaction.state.log.replication.factor there is none",
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn not_described(what: &str, failure: &Failure, resource: &str) -> Check {
    Check::warning(
        what,
        format!("not told: {}", failure.detail),
        format!("limits were not compared; it takes the right DescribeConfigs on the {resource}, for this check alone"),
    )
}

async fn check_topics(
    settings: &KafkaSink,
    limit: usize,
    live: &Live,
    admin: &Admin,
    topics: &[String],
    checks: &mut Vec<Check>,
) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (topic, found) in topics::look_all(live, topics.to_vec()).await {
        match found {
            Look::There { partitions, replicas, .. } => there.push((topic, partitions, replicas)),
            Look::Missing => missing.push(topic),
            Look::Failed(failure) => checks.push(Check::bad(
                format!("topic {topic}"),
                failure.detail,
                "give the rights Describe and Write on it",
            )),
        }
    }
    if !there.is_empty() {
        let names: Vec<String> = there.iter().map(|(topic, ..)| topic.clone()).collect();
        let limits = admin.topic_limits(&names).await.unwrap_or_default();
        let writer = start(impossible(settings)).await;
        for (topic, partitions, replicas) in there {
            checks.push(Check::good(format!("topic {topic}"), format!("{partitions} partitions")));
            checks.push(match &writer {
                Ok(writer) => may_write(writer, &topic).await,
                Err(failure) => not_reached(failure),
            });
            if !limits.contains_key(&topic) {
                checks.push(not_described(&format!("settings of {topic}"), &topics::not_described(), "topic"));
            }
            checks.extend(survey::of_topic(&topic, replicas, limits.get(&topic), limit));
        }
    }
    if missing.is_empty() {
        return;
    }
    if !settings.create_topics {
        checks.extend(missing.iter().map(|topic| {
            let mend = format!("create it by kafka-topics.sh --create --topic {topic}, or set create_topics = true");
            Check::bad(format!("topic {topic}"), "does not exist", mend)
        }));
        return;
    }
    for (topic, result) in admin.create(settings, limit, &missing, true).await {
        checks.push(match result {
            Ok(()) => Check::good(
                format!("topic {topic}"),
                "does not exist yet and may be created; whether it may be written to shows with its first event",
            ),
            Err(failure) => Check::bad(
                format!("topic {topic}"),
                failure.detail,
                "give the right Create on the cluster or on the prefixed topics, or create it and set create_topics = false",
            ),
        });
    }
}

/// A producer whose records no broker stores: the protocol knows acks 0, 1 and -1 alone, and a broker that is asked
/// for another number judges the writer's rights and then answers `INVALID_REQUIRED_ACKS` without appending anything.
/// That is how the right to write is found out with nothing written.
fn impossible(settings: &KafkaSink) -> ClientConfig {
    let mut config = client::common(settings);
    config.set("acks", "2");
    config.set("enable.idempotence", "false");
    config.set("retries", "0");
    config.set("delivery.timeout.ms", RECORD_TIMEOUT.as_millis().to_string());
    config.set("linger.ms", "0");
    config.remove("queue.buffering.max.ms");
    config
}

async fn may_write(writer: &Live, topic: &str) -> Check {
    let what = format!("right to write to {topic}");
    let reports = Arc::new(Reports::default());
    let ticket = Box::new(Ticket { place: 0, reports: Arc::clone(&reports) });
    let record: BaseRecord<'_, (), (), _> = BaseRecord::with_opaque_to(topic, ticket)
        .partition(0)
        .headers(OwnedHeaders::new().insert(Header { key: "alma-bridge", value: Some("check") }));
    let code = match writer.producer.send(record) {
        Ok(()) => match tokio::time::timeout(RECORD_TIMEOUT * 2, reports.take(1)).await.as_deref() {
            Ok([(_, Err(code)), ..]) => *code,
            Ok(_) => {
                return Check::warning(
                    what,
                    "given, but the broker stored an empty record with acks=2, which Apache Kafka refuses",
                    "readers of this topic should pass over a record without value and headers of CloudEvents",
                );
            }
            Err(_) => Code::MessageTimedOut,
        },
        Err((error, _)) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
    };
    match code {
        Code::InvalidRequiredAcks => {
            Check::good(what, "given; asked by a record that no broker stores (acks=2), so nothing was written")
        }
        _ if errors::reason(code) == Reason::Rights => {
            let mend = format!("kafka-acls.sh --add --allow-principal User:… --operation Write --topic {topic}");
            Check::bad(what, errors::words(code), mend)
        }
        _ => Check::bad(
            what,
            format!("not found out: {}", errors::words(code)),
            "the topic's leader did not answer: look at advertised.listeners of the brokers",
        ),
    }
}
