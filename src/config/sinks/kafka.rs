//! `type = "kafka"`: Apache Kafka.

mod properties;

use std::collections::BTreeMap;

use super::login::Login;
use super::tls::ClientTls;
use crate::config::settings::{Table, Walk};

/// The keys of `type = "kafka"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSink {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    /// Whether the bridge creates a missing topic.
    pub create_topics: bool,
    /// For topics that the bridge creates. -1 is the broker's default.
    pub partitions: i32,
    /// For topics that the bridge creates. -1 is the broker's default.
    pub replication: i32,
    /// Properties of librdkafka, from the list of those that are allowed.
    pub properties: BTreeMap<String, String>,
    /// SASL.
    pub login: Option<Login>,
    /// `None` for a plain connection.
    pub tls: Option<ClientTls>,
}

impl KafkaSink {
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Self {
        let brokers = table.list("brokers", &["127.0.0.1:9092"], walk, |text| {
            let fits =
                text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if fits && !text.contains("://") { Ok(text.to_owned()) } else { Err("expected host:port".to_owned()) }
        });
        let properties = properties::read(table, walk);
        let broker_count = |name, table: &mut Table, walk: &mut Walk| {
            i32::try_from(table.number(name, "-1", (-1, 10_000), walk)).expect("within its bounds")
        };
        Self {
            brokers,
            create_topics: table.boolean("create_topics", true, walk),
            partitions: broker_count("partitions", table, walk),
            replication: broker_count("replication", table, walk),
            properties,
            login: Login::read(table, walk),
            tls: ClientTls::read(table, walk),
        }
    }
}
