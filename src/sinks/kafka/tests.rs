//! What can be tested without a broker; `tests/kafka_sink.rs` has the rest.

use super::*;
use crate::config::{ClientTls, Login, Secret};

/// A broker that is not there, topics created.
pub(super) fn settings() -> config::KafkaSink {
    config::KafkaSink {
        brokers: vec!["127.0.0.1:1".into()],
        create_topics: true,
        partitions: -1,
        replication: -1,
        properties: std::collections::BTreeMap::new(),
        login: None,
        tls: None,
    }
}

fn login() -> Option<Login> {
    Some(Login { username: "bridge".into(), password: Secret::new(*b"hunter2") })
}
