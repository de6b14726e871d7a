//! Looks up topics, creates them, and reads their limits.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::{Client, ClientContext, DefaultClientContext};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::client::{Live, blocking};
use super::errors;
use crate::config::KafkaSink;
use crate::sinks::{Failure, Reason};

/// Time limit for one request about a topic.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for all requests before one window.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a created topic may take to have leaders.
const LEADERS_WITHIN: Duration = Duration::from_secs(5);

/// Kafka's default of `max.message.bytes`. A created topic never accepts less.
const KAFKA_DEFAULT_LIMIT: usize = 1_048_588;

/// A topic of every cluster that has had a consumer. Metadata for one topic costs less than for none, which means all.
const ANY_TOPIC: &str = "__consumer_offsets";

/// What the cluster says about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It exists.
    There {
        /// How many partitions it has.
        partitions: usize,
        /// The fewest replicas of any partition.
        replicas: usize,
        /// Every partition has a leader.
        led: bool,
    },
    /// It does not exist.
    Missing,
    /// The cluster does not tell.
    Failed(Failure),
}

/// Looks up one topic. Blocks for up to [`ASK_TIMEOUT`].
pub(super) fn look<C: ClientContext>(client: &Client<C>, topic: &str) -> Look {
    let metadata = match client.fetch_metadata(Some(topic), ASK_TIMEOUT) {
        Ok(metadata) => metadata,
        Err(error) => return Look::Failed(errors::client_failure(&error)),
    };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Look::Missing;
    };
    match found.error().map(Code::from) {
        None | Some(Code::NoError) => {}
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Look::Missing,
        Some(Code::LeaderNotAvailable) => return Look::There { partitions: 0, replicas: 0, led: false },
        Some(code) => return Look::Failed(errors::failure(code)),
    }
    let partitions = found.partitions();
    Look::There {
        partitions: partitions.len(),
        replicas: partitions.iter().map(|one| one.replicas().len()).min().unwrap_or(0),
        led: !partitions.is_empty() && partitions.iter().all(|one| one.leader() >= 0),
    }
}

/// Looks up several topics. Those for which [`READY_TIMEOUT`] leaves no time fail with [`Reason::Timeout`].
pub(super) async fn look_all(live: &Live, topics: Vec<String>) -> Vec<(String, Look)> {
    let producer = std::sync::Arc::clone(&live.producer);
    let asked = topics.clone();
    let looks = blocking(move || {
        use rdkafka::producer::Producer as _;
        let until = Instant::now() + READY_TIMEOUT / 2;
        let ask = |topic: String| {
            let found = if Instant::now() < until {
                look(producer.client(), &topic)
            } else {
                Look::Failed(Failure::new(Reason::Timeout, "the cluster takes too long to describe its topics"))
            };
            (topic, found)
        };
        asked.into_iter().map(ask).collect()
    })
    .await;
    looks.unwrap_or_else(|failure| topics.into_iter().map(|topic| (topic, Look::Failed(failure.clone()))).collect())
}

/// Waits, for a limited time, until all partitions of the created topics have leaders. A producer that asks earlier
/// would take a topic for missing.
pub(super) async fn wait_for_leaders(live: &Live, topics: &[String]) {
    let until = Instant::now() + LEADERS_WITHIN;
    let mut waiting = topics.to_vec();
    while !waiting.is_empty() && Instant::now() < until {
        let looks = look_all(live, waiting).await;
        waiting = looks
            .into_iter()
            .filter(|(_, found)| !matches!(found, Look::There { led: true, .. }))
            .map(|x| x.0)
            .collect();
        if !waiting.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A client that changes or describes the cluster. It has its own connection, which is made when needed and not kept.
pub(super) struct Admin(Option<AdminClient<DefaultClientContext>>);

impl Admin {
    /// Creates a client with the properties of [`super::client::common`].
    pub(super) async fn new(config: &ClientConfig) -> Result<Self, Failure> {
        let config = config.clone();
        let client = blocking(move || config.create()).await?;
        client.map(|client| Self(Some(client))).map_err(|error| errors::client_failure(&error))
    }

    fn client(&self) -> &AdminClient<DefaultClientContext> {
        self.0.as_ref().expect("taken out only when dropped")
    }

    /// Creates topics as configured. With `validate_only`, only checks whether they could be created.
    ///
    /// An existing topic counts as created.
    pub(super) async fn create(
        &self,
        settings: &KafkaSink,
        limit: usize,
        topics: &[String],
        validate_only: bool,
    ) -> BTreeMap<String, Result<(), Failure>> {
        let limit = limit.max(KAFKA_DEFAULT_LIMIT).to_string();
        let new: Vec<_> = topics
            .iter()
            .map(|topic| {
                NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(settings.replication))
                    .set("max.message.bytes", &limit)
            })
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(ASK_TIMEOUT))
            .operation_timeout(Some(ASK_TIMEOUT))
            .validate_only(validate_only);
        let results = match self.client().create_topics(&new, &options).await {
            Ok(results) => results,
            Err(error) => {
                let failure = errors::client_failure(&error);
                return topics.iter().map(|topic| (topic.clone(), Err(failure.clone()))).collect();
            }
        };
        let sorted = |result| match result {
            Ok(topic) | Err((topic, Code::TopicAlreadyExists)) => (topic, Ok(())),
            Err((topic, code)) => (topic, Err(not_created(settings, code))),
        };
        results.into_iter().map(sorted).collect()
    }

    /// The ids of the brokers that are up.
    pub(super) async fn brokers(&mut self) -> Result<Vec<i32>, Failure> {
        let untold = || Failure::new(Reason::Timeout, "no broker reported its id");
        let client = self.0.take().ok_or_else(untold)?;
        let (client, metadata) = blocking(move || {
            let metadata = client.inner().fetch_metadata(Some(ANY_TOPIC), ASK_TIMEOUT);
            (client, metadata)
        })
        .await?;
        self.0 = Some(client);
        // All brokers in the metadata, because the one that answered has no id if it was reached by a bootstrap
        // address.
        let metadata = metadata.map_err(|error| errors::client_failure(&error))?;
        let ids: Vec<i32> = metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id).collect();
        if ids.is_empty() { Err(untold()) } else { Ok(ids) }
    }

    /// What the settings of a broker say for topics that have none of their own.
    pub(super) async fn broker_limits(&self, id: i32) -> Result<TopicLimits, Failure> {
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let described = self.client().describe_configs(&[ResourceSpecifier::Broker(id)], &options).await;
        let described = described.map_err(|error| errors::client_failure(&error))?;
        let Some(found) = described.into_iter().next() else {
            return Err(Failure::new(Reason::Timeout, "the broker described nothing"));
        };
        let found = found.map_err(errors::failure)?;
        if found.entries.is_empty() {
            return Err(not_described());
        }
        Ok(TopicLimits {
            message_bytes: number(&found, "message.max.bytes"),
            min_insync: number(&found, "min.insync.replicas"),
            replicas: number(&found, "default.replication.factor"),
        })
    }

    /// What topics take; those that may not be described are left out.
    pub(super) async fn topic_limits(&self, topics: &[String]) -> Result<BTreeMap<String, TopicLimits>, Failure> {
        let asked: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        let described = self.client().describe_configs(&asked, &options).await;
        let described = described.map_err(|error| errors::client_failure(&error))?;
        let told = described.into_iter().flatten().filter(|found| !found.entries.is_empty());
        let limits = told.filter_map(|found| match &found.specifier {
            OwnedResourceSpecifier::Topic(topic) => Some((
                topic.clone(),
                TopicLimits {
                    message_bytes: number(&found, "max.message.bytes"),
                    min_insync: number(&found, "min.insync.replicas"),
                    replicas: None,
                },
            )),
            _ => None,
        });
        Ok(limits.collect())
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        // Joins the client's threads, which takes up to 100 ms.
        if let (Some(client), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

/// Settings of a topic, or of a broker for topics without their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TopicLimits {
    /// `max.message.bytes` of a topic, `message.max.bytes` of a broker.
    pub(super) message_bytes: Option<usize>,
    /// `min.insync.replicas`.
    pub(super) min_insync: Option<usize>,
    /// A broker's `default.replication.factor`.
    pub(super) replicas: Option<usize>,
}

/// The failure if nothing is described. rdkafka 0.39 does not say why, but this is how a missing right appears.
pub(super) fn not_described() -> Failure {
    Failure::new(Reason::Rights, "the broker describes no setting, probably for lack of the right to do so")
}

fn number(found: &ConfigResource, name: &str) -> Option<usize> {
    found.get(name)?.value.as_deref()?.parse().ok()
}

/// Why a topic could not be created, as a failure that an operator can act on.
fn not_created(settings: &KafkaSink, code: Code) -> Failure {
    let words = errors::words(code);
    let detail = match code {
        Code::InvalidTopic => format!(
            "the topic does not exist and cannot be created: {words}; a name that differs only in . and _ collides with it"
        ),
        Code::InvalidReplicationFactor => format!(
            "the topic does not exist and cannot be created: {words}; replication = {} exceeds the number of brokers that \
             are up",
            settings.replication
        ),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!("the topic does not exist and may not be created: {words}; this needs the right Create")
        }
        _ => format!("the topic does not exist and cannot be created: {words}"),
    };
    Failure::new(errors::reason(code), detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_cannot_be_created_needs_an_operator() {
        let settings = super::super::tests::settings();
        for (code, reason) in [
            (Code::InvalidTopic, Reason::Missing),
            (Code::InvalidReplicationFactor, Reason::Missing),
            (Code::PolicyViolation, Reason::Missing),
            (Code::TopicAuthorizationFailed, Reason::Rights),
            (Code::ClusterAuthorizationFailed, Reason::Rights),
            (Code::OperationTimedOut, Reason::Timeout),
        ] {
            assert_eq!(not_created(&settings, code).reason, reason, "{code:?}");
        }
    }
}
