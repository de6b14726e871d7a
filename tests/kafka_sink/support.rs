//! What the tests share: where the broker is, events, and a reader that shares no code with the sink.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alma_bridge::clock::Timestamp;
use alma_bridge::config::{self, ClientTls, Format, Login, Secret};
use alma_bridge::message::{ContentType, EventId, Message, Topic};
use alma_bridge::sinks::kafka::KafkaSink;
use alma_bridge::sinks::{Failure, Outcome, Reason, Sink};
use tokio::sync::RwLock;

/// Tests that stop the broker hold it alone; all others share it.
pub(crate) static BROKER: RwLock<()> = RwLock::const_new(());

/// The largest body of the sinks under test.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// One of the variables of `tests/brokers`.
pub(crate) fn var(name: &str) -> String {
    std::env::var(format!("ALMA_BRIDGE_TEST_{name}")).unwrap_or_else(|_| {
        panic!("ALMA_BRIDGE_TEST_{name} is not set: these tests want a real Kafka, start them with tests/brokers run")
    })
}

/// `tests/brokers` with these arguments; fails with what it wrote.
pub(crate) fn brokers(arguments: &[&str]) {
    let done = Command::new(var("BROKERS")).args(arguments).output().expect("tests/brokers runs");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

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

/// A first segment that no other test, and no earlier run, has used.
pub(crate) fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("t{}-{}", since.as_millis(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An event on `topic` whose id and key hold `number`, with `size` bytes of JSON.
pub(crate) fn event(topic: &str, number: usize, size: usize, format: Format) -> Message {
    let body = format!("{{\"id\":\"{number}\",\"pad\":\"{}\"}}", "x".repeat(size));
    let attribute = |name: &'static str, value: &str| (name, value.to_owned());
    let id = format!("{number}.0123456789abcdef");
    Message {
        topic: Topic::from_name(topic),
        id: EventId::from_text(&id),
        source_name: "alma".parse().expect("a name"),
        partition_key: format!("key-{number}"),
        received: Timestamp::from_micros(1_704_164_645_000_000),
        recorded: Timestamp::from_micros(1_704_164_645_678_901),
        content_type: ContentType::Json,
        attributes: vec![
            attribute("specversion", "1.0"),
            attribute("id", &id),
            attribute("source", "/alma/01TEST_INST"),
            attribute("type", "com.exlibrisgroup.alma.loan"),
            attribute("datacontenttype", "application/json"),
            attribute("partitionkey", &format!("key-{number}")),
        ],
        data: body.into(),
        format,
    }
}

/// `count` small events on `topic`.
pub(crate) fn events(topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|number| event(topic, number, 200, Format::CloudEvents)).collect()
}

/// The reason of an outcome; none of a confirm.
pub(crate) fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Confirmed { .. } => None,
        Outcome::Failed(Failure { reason, .. }) => Some(*reason),
    }
}

/// Publishes what is left as a pump does, connecting again after each failure, until all is confirmed; counts along.
pub(crate) async fn deliver(sink: &mut KafkaSink, messages: &[Message], confirmed: &AtomicUsize) {
    let deliver = async {
        let mut left: Vec<Message> = messages.to_vec();
        while !left.is_empty() {
            let window: Vec<Message> = left.iter().take(512).cloned().collect();
            let outcomes = sink.publish(&window).await;
            let failed = outcomes.iter().filter(|outcome| reason(outcome).is_some()).count();
            confirmed.fetch_add(outcomes.len() - failed, Ordering::Relaxed);
            let mut outcomes = outcomes.iter();
            left.retain(|_| outcomes.next().is_none_or(|outcome| reason(outcome).is_some()));
            if failed > 0 {
                sink.abandon().await;
                while sink.connect().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(2), deliver).await.expect("all is delivered in time");
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
