//! What the tests share: where the broker is, events, and a reader that shares no code with the sink.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use alma_bridge::config::{self, ClientTls, Login, Secret};
use alma_bridge::sinks::Sink;
use alma_bridge::sinks::kafka::KafkaSink;
use tokio::sync::RwLock;

pub(crate) use crate::brokers::{brokers, var};
pub(crate) use crate::events::{
    deliver, deliver_though_killed, event, events, fresh as prefix, publish_overlapping, reason,
};

/// Tests that stop the broker hold it alone; all others share it.
pub(crate) static BROKER: RwLock<()> = RwLock::const_new(());

/// The largest body of the sinks under test.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// Rights of the user `limited`, taken away again at the end, also of a test that fails.
pub(crate) struct Rights(Vec<String>);

impl Rights {
    /// On one topic.
    pub(crate) fn on(topic: &str, operations: &[&str]) -> Self {
        Self::give(&["--topic", topic], operations)
    }

    /// On all topics whose names begin so.
    pub(crate) fn under(prefix: &str, operations: &[&str]) -> Self {
        Self::give(&["--topic", prefix, "--resource-pattern-type", "prefixed"], operations)
    }

    /// On one consumer group.
    pub(crate) fn on_group(group: &str, operations: &[&str]) -> Self {
        Self::give(&["--group", group], operations)
    }

    fn give(on: &[&str], operations: &[&str]) -> Self {
        let user = format!("User:{}", var("KAFKA_LIMITED_USER"));
        let mut add = vec!["kafka-acls", "--add", "--allow-principal", &user];
        add.extend(on);
        add.extend(operations.iter().flat_map(|operation| ["--operation", operation]));
        let rights = Self(on.iter().map(|&part| part.to_owned()).collect());
        brokers(&add);
        rights
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let done = Command::new(var("BROKERS")).args(["kafka-acls", "--remove", "--force"]).args(&self.0).output();
        if let Err(error) = done {
            eprintln!("rights stay: {error}");
        }
    }
}

/// The plain listener; topics are created.
pub(crate) fn settings() -> config::KafkaSink {
    config::KafkaSink {
        brokers: vec![var("KAFKA")],
        create_topics: true,
        partitions: 3,
        replication: -1,
        properties: BTreeMap::new(),
        login: None,
        tls: None,
    }
}

/// The listener with TLS and SASL.
pub(crate) fn sasl(user: &str, mechanism: &str) -> config::KafkaSink {
    let password = Secret::new(var(&format!("KAFKA_{user}_PASSWORD")).into_bytes());
    config::KafkaSink {
        brokers: vec![var("KAFKA_SASL_SSL")],
        properties: [("sasl.mechanism".to_owned(), mechanism.to_owned())].into(),
        login: Some(Login { username: var(&format!("KAFKA_{user}_USER")), password }),
        tls: Some(ClientTls { ca_file: Some(var("CA").into()), ..ClientTls::default() }),
        ..settings()
    }
}

/// A sink that is not connected.
pub(crate) fn sink(settings: &config::KafkaSink) -> KafkaSink {
    KafkaSink::new(&"main".parse().expect("a name"), settings, MAX_BODY)
}

/// A sink that is connected.
pub(crate) async fn connected(settings: &config::KafkaSink) -> KafkaSink {
    let mut sink = sink(settings);
    sink.connect().await.expect("the broker runs");
    sink
}

/// The keys of a topic once there are so many different ones: a broker that comes back has its topics a moment later.
pub(crate) fn keys_once(topic: &str, count: usize) -> BTreeSet<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let keys: BTreeSet<String> = kcat(topic, "%k").into_iter().collect();
        if keys.len() >= count || Instant::now() > deadline {
            return keys;
        }
    }
}

/// All records of a topic, read by kcat with its format string and a line end after each.
pub(crate) fn kcat(topic: &str, format: &str) -> Vec<String> {
    let format = format!("{format}\n");
    let arguments = ["-b", &var("KAFKA"), "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", &format];
    let done = Command::new(var("KCAT"))
        .args(["-X", "fetch.message.max.bytes=20000000", "-X", "receive.message.max.bytes=100000000"])
        .args(arguments)
        .output()
        .expect("kcat runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

/// The same, once there are this many records: a busy broker may show a consumer the end of a new partition before the
/// records that it has confirmed.
pub(crate) fn kcat_all(topic: &str, format: &str, count: usize) -> Vec<String> {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let records = kcat(topic, format);
        if records.len() >= count || std::time::Instant::now() >= deadline {
            return records;
        }
    }
}
