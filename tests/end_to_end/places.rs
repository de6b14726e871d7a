//! Where a test's events go on each broker, and how they are read back.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::brokers::{brokers, output, var};
use crate::harness::{Bridge, Client, wait_up_to};

/// For what a broker has to come back for, or a parked topic's minute.
const LONG: Duration = Duration::from_mins(3);

/// A kind of broker; the brokers are started once for all tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    Kafka,
    RabbitMq,
    Nats,
}

static LOCKS: [RwLock<()>; 3] = [const { RwLock::new(()) }; 3];

impl Broker {
    /// Others may use it too; it is neither stopped nor are rights changed.
    pub(crate) fn shared(self) -> RwLockReadGuard<'static, ()> {
        LOCKS[self as usize].read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody else uses it.
    pub(crate) fn alone(self) -> RwLockWriteGuard<'static, ()> {
        LOCKS[self as usize].write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name as a sink's type and in `tests/brokers`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::RabbitMq => "rabbitmq",
            Self::Nats => "nats",
        }
    }
}

/// A broker that is down or hangs while this lives.
pub(crate) struct Away(Broker, &'static str);

impl Away {
    /// Ended in an orderly way.
    pub(crate) fn ended(broker: Broker) -> Self {
        brokers(&["term", broker.name()]);
        Self(broker, "start")
    }

    /// Its connections stay, and nothing answers.
    pub(crate) fn hanging(broker: Broker) -> Self {
        brokers(&["stop", broker.name()]);
        Self(broker, "cont")
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        brokers(&[self.1, self.0.name()]);
    }
}

/// A prefix of topics of its own; on RabbitMQ an exchange, on NATS a stream of its own too.
pub(crate) struct Place {
    pub(crate) broker: Broker,
    pub(crate) prefix: String,
}

impl Place {
    /// That no other test, and no earlier run, has used.
    pub(crate) fn new(broker: Broker) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let prefix = format!("e{}-{}", since.as_millis(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { broker, prefix }
    }

    /// The keys of a sink's table that name this place, but not how to get to the broker.
    pub(crate) fn keys(&self) -> String {
        let prefix = &self.prefix;
        let own = match self.broker {
            Broker::Kafka => String::new(),
            Broker::RabbitMq => format!("exchange = \"{prefix}\"\n"),
            Broker::Nats => format!("stream = \"{}\"\n", self.stream()),
        };
        format!("type = \"{}\"\ntopic = \"{prefix}.{{action}}\"\n{own}", self.broker.name())
    }

    /// The table of a sink of this name that is anonymous and has all rights.
    pub(crate) fn sink(&self, name: &str) -> String {
        let where_it_is = match self.broker {
            Broker::Kafka => format!("brokers = [\"{}\"]", var("KAFKA")),
            Broker::RabbitMq => format!("url = \"{}\"", var("RABBITMQ")),
            Broker::Nats => format!("servers = [\"{}\"]", var("NATS")),
        };
        format!("[sinks.{name}]\n{}{where_it_is}\n", self.keys())
    }

    /// The table of a sink of this name that logs in as the limited user, whose password is in `DIR/password`.
    pub(crate) fn limited_sink(&self, name: &str) -> String {
        let (where_it_is, user) = match self.broker {
            Broker::Kafka => {
                let (broker, ca) = (var("KAFKA_SASL_SSL"), var("CA"));
                (format!("brokers = [\"{broker}\"]\ntls = {{ ca_file = \"{ca}\" }}"), var("KAFKA_LIMITED_USER"))
            }
            Broker::RabbitMq => (format!("url = \"{}\"", var("RABBITMQ")), var("RABBITMQ_LIMITED_USER")),
            Broker::Nats => (format!("servers = [\"{}\"]", var("NATS")), var("NATS_LIMITED_USER")),
        };
        let login = format!("username = \"{user}\"\npassword_file = \"DIR/password\"\n");
        format!("[sinks.{name}]\n{}{where_it_is}\n{login}", self.keys())
    }

    /// Of the limited user.
    pub(crate) fn limited_password(&self) -> String {
        var(match self.broker {
            Broker::Kafka => "KAFKA_LIMITED_PASSWORD",
            Broker::RabbitMq => "RABBITMQ_LIMITED_PASSWORD",
            Broker::Nats => "NATS_LIMITED_PASSWORD",
        })
    }

    /// The topic of an action.
    pub(crate) fn topic(&self, action: &str) -> String {
        format!("{}.{action}", self.prefix)
    }

    fn stream(&self) -> String {
        self.prefix.to_uppercase()
    }

    /// RabbitMQ keeps for us what we are bound for: all of this exchange, which a connected bridge has declared.
    pub(crate) fn subscribe(&self) {
        if self.broker == Broker::RabbitMq {
            let queue = &self.prefix;
            rabbitmq_api("PUT", &format!("queues/%2f/{queue}"), &json!({ "durable": true }));
            rabbitmq_api("POST", &format!("bindings/%2f/e/{queue}/q/{queue}"), &json!({ "routing_key": "#" }));
        }
    }

    /// All that is there, in the broker's order.
    pub(crate) fn read(&self) -> Vec<Landed> {
        match self.broker {
            Broker::Kafka => read("kafka", &format!("{}.", self.prefix)),
            Broker::RabbitMq => read("rabbitmq", &self.prefix),
            Broker::Nats => read("nats", &self.stream()),
        }
    }

    /// How often each event of the load is there, by its number.
    pub(crate) fn read_numbers(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for landed in self.read() {
            *counts.entry(landed.number()).or_default() += 1;
        }
        counts
    }
}

/// Reads a queue, a stream, or all topics under a prefix.
pub(crate) fn read(kind: &str, place: &str) -> Vec<Landed> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/reader.py");
    let lines = output(Command::new(var("PYTHON")).args([script, kind, place]));
    lines.lines().map(|line| serde_json::from_str(line).expect("a message")).collect()
}

/// A message as `reader.py` shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Landed {
    pub(crate) topic: String,
    pub(crate) id: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) persistent: Option<bool>,
    pub(crate) millis: Option<i64>,
    pub(crate) mode: String,
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) attributes: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) data: Value,
    body: String,
}

impl Landed {
    /// An attribute as text.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(|value| value.as_str().expect("text"))
    }

    /// The message's own bytes.
    pub(crate) fn body(&self) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(&self.body).expect("Base64")
    }

    /// Of a loan that the load sent.
    pub(crate) fn number(&self) -> u64 {
        self.data["item_loan"]["loan_id"].as_str().expect("a loan").parse().expect("a number")
    }
}

/// Waits until the sink is connected.
pub(crate) fn wait_until_up(bridge: &Bridge, sink: &str, broker: Broker) {
    let metric = format!("alma_bridge_sink_up{{sink=\"{sink}\",type=\"{}\"}}", broker.name());
    wait_up_to(LONG, "the sink to be connected", || (bridge.metric(&metric) == Some(1.0)).then_some(()));
}

/// Waits until nothing waits for a sink: all was confirmed, or is a dead letter.
pub(crate) fn wait_until_delivered(bridge: &Bridge, sink: &str) {
    let metric = format!("alma_bridge_sink_waiting_events{{sink=\"{sink}\"}}");
    wait_up_to(LONG, "the sink to have delivered all", || (bridge.metric(&metric) == Some(0.0)).then_some(()));
}

/// Waits until a count, or the sum of several, by the beginning of its lines, has a value.
pub(crate) fn wait_until_metric(bridge: &Bridge, name: &str, value: u64) {
    wait_up_to(LONG, &format!("{name} to be {value}"), || (bridge.metric_sum(name) == value).then_some(()));
}

/// Asks for or changes something by RabbitMQ's management API; the path is such as `queues/%2f/NAME`.
pub(crate) fn rabbitmq_api(method: &str, path: &str, body: &Value) -> Value {
    let address = var("RABBITMQ_API").trim_start_matches("http://").parse().expect("an address");
    let login = format!("{}:{}", var("RABBITMQ_ADMIN_USER"), var("RABBITMQ_ADMIN_PASSWORD"));
    let login = base64::engine::general_purpose::STANDARD.encode(login);
    let body = body.to_string();
    let answer = Client::connect(address).send(
        format!(
            "{method} /api/{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Basic {login}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}
