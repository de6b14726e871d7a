//! `check --connect` for Kafka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::client::{self, Live, Ticket, blocking, message_limit};
use super::reports::Reports;
use super::topics::{self, Admin, Look, TopicLimits};
use super::{errors, hints, survey};
use crate::config::KafkaSink;
use crate::sinks::tools::{Check, TOPIC, about_topics};
use crate::sinks::{Failure, Reason};

/// How long the producer may take to get an id after a broker is reached.
const PRODUCER_ID_WITHIN: Duration = Duration::from_secs(5);

/// How long the answer to one record may take.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks everything that publishing to these topics needs. Creates and publishes nothing.
pub async fn probe(settings: &KafkaSink, max_body: usize, topics: &[String]) -> Vec<Check> {
    let mut config = client::producing(settings, max_body);
    // Only the statistics tell whether librdkafka got a producer id.
    config.set("statistics.interval.ms", "200");
    let live = match start(config).await {
        Ok(live) => live,
        Err(failure) => return vec![hints::not_reached(settings, &failure)],
    };
    let cluster = match live.reached().await {
        Ok(cluster) => cluster,
        Err(failure) => return vec![hints::not_reached(settings, &failure)],
    };
    let mut checks = vec![Check::good("broker reached", format!("cluster {cluster}"))];
    checks.extend(secured(settings));
    checks.push(idempotent(&live).await);
    match Admin::new(&client::common(settings)).await {
        Ok(admin) => {
            let limit = message_limit(max_body);
            checks.extend(Survey { settings, limit, live: &live, admin, undescribed: Vec::new() }.run(topics).await);
        }
        Err(failure) => checks.push(hints::not_reached(settings, &failure)),
    }
    checks
}

async fn start(config: ClientConfig) -> Result<Live, Failure> {
    blocking(move || Live::start("check", &config)).await?
}

/// The checks for TLS and login, after a broker was reached.
fn secured(settings: &KafkaSink) -> Vec<Check> {
    let tls = match &settings.tls {
        Some(tls) => {
            let by = tls.ca_file.as_ref().map_or("the system's authorities".into(), |file| file.display().to_string());
            Check::good("TLS", format!("the broker's certificate was verified with {by}"))
        }
        None => Check::warning("TLS", "not used", "events are not encrypted: set tls = { ca_file = \"…\" }"),
    };
    let login = match (&settings.login, settings.tls.as_ref().and_then(|tls| tls.cert_file.as_ref())) {
        (Some(login), _) => {
            let mechanism = client::mechanism(settings);
            Check::good("login", format!("{} with {mechanism}", login.username))
        }
        (None, Some(_)) => Check::good("login", "with a client certificate"),
        (None, None) => Check::warning(
            "login",
            "none",
            "anybody who reaches the broker may publish: set username and password_file, or a client certificate in tls",
        ),
    };
    vec![tls, login]
}

async fn idempotent(live: &Live) -> Check {
    let what = "producer id";
    let until = Instant::now() + PRODUCER_ID_WITHIN;
    loop {
        if live.context.is_idempotent() {
            return Check::good(what, "granted, so the client's own retries cause no repeats");
        }
        if let Some(failure) = live.fatal() {
            return Check::bad(
                what,
                failure.detail,
                "grant Write on the topics, and before Kafka 2.8 also IdempotentWrite on the cluster",
            );
        }
        if Instant::now() >= until {
            return Check::bad(
                what,
                "not granted in time",
                "see the brokers' log; fewer brokers than transaction.state.log.replication.factor grant none",
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The checks of the cluster and its topics.
struct Survey<'a> {
    settings: &'a KafkaSink,
    /// The largest message in bytes.
    limit: usize,
    live: &'a Live,
    admin: Admin,
    /// Topics and brokers whose settings the bridge may not read.
    undescribed: Vec<String>,
}

impl Survey<'_> {
    async fn run(mut self, topics: &[String]) -> Vec<Check> {
        let mut checks = Vec::new();
        let can_replicate = self.cluster(&mut checks).await;
        let (mut there, mut missing, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (topic, found) in topics::look_all(self.live, topics.to_vec()).await {
            match found {
                Look::There { partitions, replicas, .. } => there.push((topic, partitions, replicas)),
                Look::Missing => missing.push(topic),
                Look::Failed(failure) => {
                    let mend = "grant Describe and Write on it";
                    failed.push((topic, Check::bad(format!("topic {TOPIC}"), failure.detail, mend)));
                }
            }
        }
        checks.extend(about_topics(failed));
        checks.extend(about_topics(self.existing(there).await));
        checks.extend(about_topics(self.missing(missing, can_replicate).await));
        if !self.undescribed.is_empty() {
            checks.push(Check::warning(
                format!("settings of {}", self.undescribed.join(", ")),
                topics::not_described().detail,
                "limits were not compared; this needs DescribeConfigs on the cluster and on the topics, only for this check",
            ));
        }
        checks
    }

    /// Checks the brokers. Returns whether they can hold the replicas of a created topic.
    async fn cluster(&mut self, checks: &mut Vec<Check>) -> bool {
        let brokers = match self.admin.brokers().await {
            Ok(brokers) => brokers,
            Err(failure) => {
                checks.push(Check::warning("brokers", failure.detail, "check advertised.listeners of the brokers"));
                return true;
            }
        };
        let limits = self.admin.broker_limits(brokers[0]).await.unwrap_or_else(|_| {
            self.undescribed.push("the brokers".to_owned());
            TopicLimits::default()
        });
        checks.extend(survey::of_cluster(self.settings, &limits, brokers.len(), self.limit));
        survey::can_replicate(self.settings, &limits, brokers.len())
    }

    async fn existing(&mut self, there: Vec<(String, usize, usize)>) -> Vec<(String, Check)> {
        if there.is_empty() {
            return Vec::new();
        }
        let names: Vec<String> = there.iter().map(|(topic, ..)| topic.clone()).collect();
        let limits = self.admin.topic_limits(&names).await.unwrap_or_default();
        let writer = start(impossible(self.settings)).await;
        let mut found = Vec::new();
        for (topic, partitions, replicas) in there {
            let mut checks = vec![Check::good(format!("topic {TOPIC}"), format!("{partitions} partitions"))];
            checks.push(match &writer {
                Ok(writer) => may_write(writer, &topic).await,
                Err(failure) => hints::not_reached(self.settings, failure),
            });
            checks.extend(survey::of_topic(replicas, limits.get(&topic), self.limit));
            if !limits.contains_key(&topic) {
                self.undescribed.push(topic.clone());
            }
            found.extend(checks.into_iter().map(|check| (topic.clone(), check)));
        }
        found
    }

    /// Checks topics that do not exist. `cluster` has already reported whether the brokers can hold their replicas.
    async fn missing(&self, missing: Vec<String>, can_replicate: bool) -> Vec<(String, Check)> {
        let what = format!("topic {TOPIC}");
        if missing.is_empty() {
            return Vec::new();
        }
        if !self.settings.create_topics {
            let mend = format!("create it with kafka-topics.sh --create --topic {TOPIC}, or set create_topics = true");
            let check = Check::bad(what, "does not exist", mend);
            return missing.into_iter().map(|topic| (topic, check.clone())).collect();
        }
        let mut asked = self.settings.clone();
        if !can_replicate {
            asked.replication = 1;
        }
        let created = self.admin.create(&asked, self.limit, &missing, true).await;
        let judged = created.into_iter().map(|(topic, result)| {
            let check = match result {
                Ok(()) => Check::good(
                    &*what,
                    "does not exist yet and may be created; its first event shows whether it may be written to",
                ),
                Err(failure) => Check::bad(&*what, failure.detail, not_created(failure.reason)),
            };
            (topic, check)
        });
        judged.collect()
    }
}

/// What to do about a topic that can't be created.
fn not_created(reason: Reason) -> &'static str {
    match reason {
        Reason::Rights => {
            "grant Create on the cluster or on the prefixed topics, or create it and set create_topics = false"
        }
        Reason::Missing => "correct what the broker reports, or create the topic by hand",
        _ => "see the brokers' log",
    }
}

/// A producer whose records no broker stores. It is used to test the right to write. The protocol allows only acks 0, 1
/// and -1: a broker that is asked for another number checks the writer's rights, and then answers
/// `INVALID_REQUIRED_ACKS` without appending anything.
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
    let what = format!("right to write to {TOPIC}");
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
                    "granted, but the broker stored an empty record with acks=2, which Apache Kafka refuses",
                    "subscribers of this topic must skip a record that has neither a value nor CloudEvents headers",
                );
            }
            Err(_) => Code::MessageTimedOut,
        },
        Err((error, _)) => error.rdkafka_error_code().unwrap_or(Code::Unknown),
    };
    match code {
        Code::InvalidRequiredAcks => {
            Check::good(what, "granted; tested with a record that no broker stores (acks=2), so nothing was written")
        }
        _ if errors::reason(code) == Reason::Rights => {
            let mend = format!("kafka-acls.sh --add --allow-principal User:… --operation Write --topic {TOPIC}");
            Check::bad(what, errors::words(code), mend)
        }
        _ => Check::bad(
            what,
            format!("unknown: {}", errors::words(code)),
            "the topic's leader did not answer: check advertised.listeners of the brokers",
        ),
    }
}
