//! What the tests share: where the broker is, events, and a reader that shares no code with the sink.

use std::process::Command;

use alma_bridge::config::{self, ClientTls, Login, Secret, Unroutable};
use alma_bridge::sinks::rabbitmq::RabbitMqSink;
use alma_bridge::sinks::{Outcome, Reason, Sink};
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::brokers::output;
pub(crate) use crate::brokers::{brokers, var};
pub(crate) use crate::events::{deliver, deliver_though_killed, event, events, fresh, publish_overlapping, reason};

/// Tests that stop the broker, block it or change rights hold it alone; all others share it.
pub(crate) static BROKER: RwLock<()> = RwLock::const_new(());

/// The largest body of the sinks under test.
pub(crate) const MAX_BODY: usize = 8 << 20;

fn python(arguments: &[&str]) -> String {
    output(Command::new(var("PYTHON")).arg("tests/rabbitmq_sink/reader.py").args(arguments))
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

/// Puts what was declared and bound on the broker's disk: its metadata wait in memory for up to some seconds, and a kill
/// takes what waits, such as the binding alone.
pub(crate) fn sync_metadata() {
    brokers(&["rabbitmqctl", "eval", "ok = mnesia:sync_log()."]);
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

    /// As [`Rights::give`], and to bind to an exchange only by routing keys that match.
    pub(crate) fn and_to_bind(self, exchange: &str, keys: &str) -> Self {
        api("PUT", "topic-permissions/%2f/limited", &json!({"exchange": exchange, "write": "^$", "read": keys}));
        self
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
    alma_bridge::ingress::tls::install_provider();
    RabbitMqSink::new(&"main".parse().expect("a name"), settings, MAX_BODY)
}

/// A sink that is connected.
pub(crate) async fn connected(settings: &config::RabbitMqSink) -> RabbitMqSink {
    let mut sink = sink(settings);
    sink.connect().await.expect("the broker runs");
    sink
}

/// The reasons of outcomes.
pub(crate) fn reasons(outcomes: &[Outcome]) -> Vec<Option<Reason>> {
    outcomes.iter().map(reason).collect()
}
