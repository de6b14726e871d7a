//! What the tests share: where the broker is, events, and a reader that shares no code with the sink.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alma_bridge::clock::Timestamp;
use alma_bridge::config::{self, ClientTls, Format, Login, Secret, Unroutable};
use alma_bridge::message::{ContentType, EventId, Message, Topic};
use alma_bridge::sinks::rabbitmq::RabbitMqSink;
use alma_bridge::sinks::{Failure, Outcome, Reason, Sink};
use serde_json::{Value, json};
use tokio::sync::RwLock;

/// Tests that stop the broker, block it or change rights hold it alone; all others share it.
pub(crate) static BROKER: RwLock<()> = RwLock::const_new(());

/// The largest body of the sinks under test.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// One of the variables of `tests/brokers`.
pub(crate) fn var(name: &str) -> String {
    std::env::var(format!("ALMA_BRIDGE_TEST_{name}")).unwrap_or_else(|_| {
        panic!(
            "ALMA_BRIDGE_TEST_{name} is not set: these tests want a real RabbitMQ, start them with tests/brokers run"
        )
    })
}

/// `tests/brokers` with these arguments; fails with what it wrote.
pub(crate) fn brokers(arguments: &[&str]) {
    output(Command::new(var("BROKERS")).args(arguments));
}

fn python(arguments: &[&str]) -> String {
    output(Command::new(var("PYTHON")).arg("tests/rabbitmq_sink/reader.py").args(arguments))
}

fn output(command: &mut Command) -> String {
    let done = command.output().expect("it starts");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// All messages of a queue, which is empty then.
pub(crate) fn read(queue: &str) -> Vec<Value> {
    python(&["read", queue]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The message ids of a queue, which is empty then.
pub(crate) fn read_ids(queue: &str) -> Vec<String> {
    read(queue).iter().map(|message| message["message_id"].as_str().expect("an id").to_owned()).collect()
}

/// The management API; a path such as `queues/%2f/NAME`.
pub(crate) fn api(method: &str, path: &str, body: &Value) -> Value {
    serde_json::from_str(&python(&["api", method, path, &body.to_string()])).unwrap_or(Value::Null)
}

/// A durable queue that is bound to an exchange.
pub(crate) fn bind(exchange: &str, queue: &str, key: &str) {
    bind_with(exchange, queue, key, &json!({}));
}

/// A durable queue with these arguments that is bound to an exchange.
pub(crate) fn bind_with(exchange: &str, queue: &str, key: &str, arguments: &Value) {
    api("PUT", &format!("queues/%2f/{queue}"), &json!({"durable": true, "arguments": arguments}));
    api("POST", &format!("bindings/%2f/e/{exchange}/q/{queue}"), &json!({"routing_key": key}));
}

/// A durable topic exchange without an alternate exchange.
pub(crate) fn bare_exchange(exchange: &str) {
    api("PUT", &format!("exchanges/%2f/{exchange}"), &json!({"type": "topic", "durable": true}));
}

/// Publishers are blocked while it lives.
pub(crate) struct Alarm;

impl Alarm {
    pub(crate) fn set() -> Self {
        let alarm = Self;
        python(&["alarm", "on"]);
        alarm
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        python(&["alarm", "off"]);
    }
}

/// Rights of the user `limited`, taken away again at the end, also of a test that fails.
pub(crate) struct Rights;

impl Rights {
    pub(crate) fn give(configure: &str, write: &str, read: &str) -> Self {
        api("PUT", "permissions/%2f/limited", &json!({"configure": configure, "write": write, "read": read}));
        Self
    }

    /// As [`Rights::give`], and of an exchange only routing keys that match.
    pub(crate) fn on_topics(exchange: &str, keys: &str) -> Self {
        let rights = Self::give("^$", &format!("^{exchange}$"), "^$");
        api("PUT", "topic-permissions/%2f/limited", &json!({"exchange": exchange, "write": keys, "read": ".*"}));
        rights
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        api("PUT", "permissions/%2f/limited", &json!({"configure": "^$", "write": "^$", "read": "^$"}));
        api("DELETE", "topic-permissions/%2f/limited", &Value::Null);
    }
}

/// The plain listener as guest.
pub(crate) fn settings(exchange: &str) -> config::RabbitMqSink {
    config::RabbitMqSink {
        url: Secret::new(var("RABBITMQ").into_bytes()),
        exchange: exchange.to_owned(),
        declare: true,
        unroutable: Unroutable::Keep,
        login: None,
        tls: None,
    }
}

/// User and password of `ADMIN` or `LIMITED`.
pub(crate) fn login(user: &str) -> Login {
    let password = Secret::new(var(&format!("RABBITMQ_{user}_PASSWORD")).into_bytes());
    Login { username: var(&format!("RABBITMQ_{user}_USER")), password }
}

/// The plain listener as the user without rights.
pub(crate) fn limited(exchange: &str) -> config::RabbitMqSink {
    config::RabbitMqSink { login: Some(login("LIMITED")), ..settings(exchange) }
}

/// The listener with TLS; by the certificate of `CLIENT` or `STRANGER` where one is named.
pub(crate) fn over_tls(exchange: &str, certificate: Option<&str>) -> config::RabbitMqSink {
    let file = |ending: &str| certificate.map(|name| var(&format!("{name}_{ending}")).into());
    let tls = ClientTls { ca_file: Some(var("CA").into()), cert_file: file("CERT"), key_file: file("KEY") };
    config::RabbitMqSink { url: Secret::new(var("RABBITMQ_TLS").into_bytes()), tls: Some(tls), ..settings(exchange) }
}

/// A sink that is not connected.
pub(crate) fn sink(settings: &config::RabbitMqSink) -> RabbitMqSink {
    // As the program does before anything else.
    alma_bridge::tls::install_provider();
    RabbitMqSink::new(&"main".parse().expect("a name"), settings, MAX_BODY)
}

/// A sink that is connected.
pub(crate) async fn connected(settings: &config::RabbitMqSink) -> RabbitMqSink {
    let mut sink = sink(settings);
    sink.connect().await.expect("the broker runs");
    sink
}

/// A name that no other test, and no earlier run, has used.
pub(crate) fn fresh() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    format!("t{}-{}", since.as_millis(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An event on `topic` whose id holds `number`, with `size` bytes of padding.
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

/// The reasons of outcomes.
pub(crate) fn reasons(outcomes: &[Outcome]) -> Vec<Option<Reason>> {
    outcomes.iter().map(reason).collect()
}

/// Publishes what is left as a pump does, connecting again after each failure, until all is confirmed; counts along.
pub(crate) async fn deliver(sink: &mut RabbitMqSink, messages: &[Message], confirmed: &AtomicUsize) {
    let deliver = async {
        let mut left: Vec<Message> = messages.to_vec();
        while !left.is_empty() {
            let window: Vec<Message> = left.iter().take(512).cloned().collect();
            let deadline = sink.deadline();
            let outcomes = tokio::time::timeout(deadline, sink.publish(&window)).await.expect("within its deadline");
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
