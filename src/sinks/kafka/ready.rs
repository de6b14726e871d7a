//! Prepares the topics of a window before it is sent.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Live;
use super::topics::{self, Admin, Look};
use super::{KafkaSink, client, survey};
use crate::message::Message;
use crate::sinks::tools::about_topics;
use crate::sinks::{Failure, Reason};

impl KafkaSink {
    /// Looks up topics that were not seen yet, and creates missing ones if allowed. Returns why the others can't be
    /// published to.
    pub(super) async fn ready_topics(&mut self, window: &[Message]) -> BTreeMap<String, Failure> {
        let unseen: BTreeSet<&str> =
            window.iter().map(|message| message.topic.as_str()).filter(|topic| !self.known.contains(*topic)).collect();
        let Some(live) = self.live.as_ref().filter(|_| !unseen.is_empty()) else { return BTreeMap::new() };
        let mut failed = BTreeMap::new();
        let (mut there, mut missing) = (BTreeMap::new(), Vec::new());
        for (topic, found) in topics::look_all(live, unseen.into_iter().map(str::to_owned).collect()).await {
            match found {
                Look::There { replicas, .. } => {
                    there.insert(topic, replicas);
                }
                Look::Missing if self.settings.create_topics => missing.push(topic),
                Look::Missing => {
                    let detail = "the topic does not exist, and create_topics = false";
                    failed.insert(topic, Failure::new(Reason::Missing, detail));
                }
                Look::Failed(failure) => {
                    failed.insert(topic, failure);
                }
            }
        }
        let created = self.create(live, &missing, &mut failed).await;
        self.known.extend(there.keys().cloned());
        self.described.extend(created.iter().cloned());
        self.known.extend(created);
        there.retain(|topic, _| self.described.insert(topic.clone()));
        self.warn_of_topics(there);
        failed
    }

    /// Creates topics. Returns those that now exist.
    async fn create(&self, live: &Live, missing: &[String], failed: &mut BTreeMap<String, Failure>) -> Vec<String> {
        if missing.is_empty() {
            return Vec::new();
        }
        let results = match Admin::new(&client::common(&self.settings)).await {
            Ok(admin) => admin.create(&self.settings, self.limit, missing, false).await,
            Err(failure) => missing.iter().map(|topic| (topic.clone(), Err(failure.clone()))).collect(),
        };
        let mut created = Vec::new();
        for (topic, result) in results {
            match result {
                Ok(()) => {
                    tracing::info!(sink = self.name.as_str(), topic, "created a Kafka topic");
                    created.push(topic);
                }
                Err(failure) => {
                    failed.insert(topic, failure);
                }
            }
        }
        topics::wait_for_leaders(live, &created).await;
        created
    }

    /// How the brokers' defaults, which apply to topics without their own settings, fall short.
    pub(super) async fn shortcomings(&self) -> Vec<String> {
        let Ok(mut admin) = Admin::new(&client::common(&self.settings)).await else { return Vec::new() };
        let Ok(brokers) = admin.brokers().await else { return Vec::new() };
        // Without the right to describe them, nothing is known. `check --connect` reports that.
        let limits = admin.broker_limits(brokers[0]).await.unwrap_or_default();
        survey::shortcomings(&survey::of_cluster(&self.settings, &limits, brokers.len(), self.limit))
    }

    /// Warns once about each existing topic that falls short. Does not delay the delivery.
    fn warn_of_topics(&self, there: BTreeMap<String, usize>) {
        if there.is_empty() {
            return;
        }
        let (sink, config, limit) = (self.name.clone(), client::common(&self.settings), self.limit);
        tokio::spawn(async move {
            let names: Vec<String> = there.keys().cloned().collect();
            let limits = match Admin::new(&config).await {
                Ok(admin) => admin.topic_limits(&names).await.unwrap_or_default(),
                Err(_) => BTreeMap::new(),
            };
            for (topic, replicas) in there {
                let found = survey::of_topic(replicas, limits.get(&topic), limit);
                let found = about_topics(found.into_iter().map(|check| (topic.clone(), check)));
                for text in survey::shortcomings(&found) {
                    tracing::warn!(sink = sink.as_str(), "{text}");
                }
            }
        });
    }
}
