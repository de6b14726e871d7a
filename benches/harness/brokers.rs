//! The brokers that `tests/brokers` has started, and the bare client of each: confirmed, 512 in flight, no HTTP. It is
//! the ceiling of that broker on this machine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream;
use futures_util::{StreamExt as _, stream};
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ExchangeKind};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::processors::{Processors, Spent};

/// In flight at once, as many as a window of the bridge has.
const WINDOW: usize = 512;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where one broker is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broker {
    Kafka,
    RabbitMq,
    Nats,
}

/// Where one run's events go: a prefix of topics, an exchange with one durable queue, a stream.
pub(crate) struct Place {
    broker: Broker,
    name: String,
}

fn var(name: &str) -> String {
    std::env::var(format!("ALMA_BRIDGE_TEST_{name}"))
        .unwrap_or_else(|_| panic!("ALMA_BRIDGE_TEST_{name} is not set: start with tests/brokers run"))
}

impl Place {
    /// That no other run has used; what the broker needs is made.
    pub(crate) async fn new(broker: Broker) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let place = Self { broker, name: format!("b{}", since.as_micros()) };
        match broker {
            Broker::Kafka => {
                let admin: AdminClient<DefaultClientContext> = kafka().create().expect("a client");
                let topic = place.topic();
                let topic = NewTopic::new(&topic, 1, TopicReplication::Fixed(1));
                admin.create_topics([&topic], &AdminOptions::new()).await.expect("created");
            }
            Broker::RabbitMq => place.make_queue().await,
            Broker::Nats => {
                let subjects = vec![format!("{}.>", place.name)];
                let config = jetstream::stream::Config { name: place.name.clone(), subjects, ..Default::default() };
                nats().await.create_stream(config).await.expect("created");
            }
        }
        place
    }

    /// What `work` gives at a place of its own. The place is removed behind it, with all that landed there: what is measured
    /// next finds the broker as this did.
    pub(crate) async fn within<T>(broker: Broker, work: impl AsyncFnOnce(&Self) -> T) -> T {
        let place = Self::new(broker).await;
        let given = work(&place).await;
        place.remove().await;
        given
    }

    async fn make_queue(&self) {
        let (connection, name) = (rabbitmq().await, &self.name);
        let channel = connection.create_channel().await.expect("a channel");
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let none = FieldTable::default;
        let exchange = channel.exchange_declare(name.as_str().into(), ExchangeKind::Topic, durable, none()).await;
        exchange.expect("declared");
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(name.as_str().into(), durable, none()).await.expect("declared");
        let (queue, exchange) = (name.as_str().into(), name.as_str().into());
        channel.queue_bind(queue, exchange, "#".into(), QueueBindOptions::default(), none()).await.expect("bound");
    }

    fn topic(&self) -> String {
        format!("{}.loan", self.name)
    }

    /// The keys of the bridge's sink.
    pub(crate) fn sink(&self) -> String {
        let name = &self.name;
        let own = match self.broker {
            Broker::Kafka => format!("type = \"kafka\"\nbrokers = [\"{}\"]", var("KAFKA")),
            Broker::RabbitMq => format!("type = \"rabbitmq\"\nurl = \"{}\"\nexchange = \"{name}\"", var("RABBITMQ")),
            Broker::Nats => format!("type = \"nats\"\nservers = [\"{}\"]\nstream = \"{name}\"", var("NATS")),
        };
        format!("topic = \"{name}.{{action}}\"\n{own}")
    }

    /// The same sink where nobody listens.
    pub(crate) fn unreachable_sink(&self) -> String {
        let (address, nowhere) = match self.broker {
            Broker::Kafka => (var("KAFKA"), "127.0.0.1:1"),
            Broker::RabbitMq => (var("RABBITMQ"), "amqp://127.0.0.1:1/%2f"),
            Broker::Nats => (var("NATS"), "nats://127.0.0.1:1"),
        };
        self.sink().replace(&address, nowhere)
    }

    /// How many messages the broker holds.
    pub(crate) async fn landed(&self) -> u64 {
        match self.broker {
            Broker::Kafka => {
                let (consumer, topic) = (kafka().create::<BaseConsumer>().expect("a client"), self.topic());
                let (low, high) = consumer.fetch_watermarks(&topic, 0, PATIENCE).expect("asked");
                u64::try_from(high - low).expect("forward")
            }
            Broker::RabbitMq => {
                let channel = rabbitmq().await.create_channel().await.expect("a channel");
                let passive = QueueDeclareOptions { passive: true, ..Default::default() };
                let queue = channel.queue_declare(self.name.as_str().into(), passive, FieldTable::default()).await;
                queue.expect("there").message_count().into()
            }
            Broker::Nats => {
                let mut stream = nats().await.get_stream(&self.name).await.expect("there");
                stream.info().await.expect("told").state.messages
            }
        }
    }

    async fn remove(self) {
        match self.broker {
            Broker::Kafka => {
                let admin: AdminClient<DefaultClientContext> = kafka().create().expect("a client");
                admin.delete_topics(&[&self.topic()], &AdminOptions::new()).await.expect("deleted");
            }
            Broker::RabbitMq => {
                let (connection, name) = (rabbitmq().await, self.name.as_str());
                let channel = connection.create_channel().await.expect("a channel");
                channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.expect("deleted");
                channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.expect("deleted");
            }
            Broker::Nats => {
                nats().await.delete_stream(&self.name).await.expect("deleted");
            }
        }
    }

    /// Publishes all by the bare client and waits for the last confirm: how long it took, and what it cost.
    pub(crate) async fn publish_bare(&self, messages: impl ExactSizeIterator<Item = String>) -> (Duration, Spent) {
        let client = Client::connect(self.broker).await;
        let (count, processors, begun) = (messages.len(), Processors::now(), Instant::now());
        let sends = messages.map(|message| client.send(self, message));
        stream::iter(sends).buffer_unordered(WINDOW).collect::<()>().await;
        (begun.elapsed(), processors.spent(Duration::ZERO, count))
    }

    /// Send to confirm of that many messages of the bare client at a rate: p50 and p99.
    pub(crate) async fn delays_of_the_bare_client(&self, count: usize, per_second: u32) -> [Duration; 2] {
        let client = Client::connect(self.broker).await;
        let started = tokio::time::Instant::now();
        let sends = (0..count).map(|number| {
            let after = Duration::from_secs(1) / per_second * u32::try_from(number).expect("few");
            let (client, due) = (&client, started + after);
            async move {
                tokio::time::sleep_until(due).await;
                client.send(self, super::body(number)).await;
                due.elapsed()
            }
        });
        let mut times: Vec<Duration> = stream::iter(sends).buffer_unordered(WINDOW).collect().await;
        times.sort_unstable();
        [500, 990].map(|share| super::within(&times, share))
    }
}

/// A connected bare client.
enum Client {
    Kafka(FutureProducer),
    /// The connection lives as long as its channel is used.
    RabbitMq(lapin::Channel, lapin::Connection),
    Nats(jetstream::Context),
}

impl Client {
    async fn connect(broker: Broker) -> Self {
        match broker {
            Broker::Kafka => {
                let mut config = kafka();
                config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
                Self::Kafka(config.create().expect("a client"))
            }
            Broker::RabbitMq => {
                let connection = rabbitmq().await;
                let channel = connection.create_channel().await.expect("a channel");
                channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
                Self::RabbitMq(channel, connection)
            }
            Broker::Nats => Self::Nats(nats().await),
        }
    }

    /// Returns once it is confirmed.
    async fn send(&self, place: &Place, message: String) {
        let topic = place.topic();
        match self {
            Self::Kafka(producer) => {
                let record = FutureRecord::to(&topic).key(&message[..26]).payload(&message);
                producer.send(record, PATIENCE).await.expect("confirmed");
            }
            Self::RabbitMq(channel, _) => {
                let properties = BasicProperties::default().with_delivery_mode(2);
                let (exchange, key) = (place.name.as_str().into(), topic.as_str().into());
                let options = BasicPublishOptions::default();
                let sent = channel.basic_publish(exchange, key, options, message.as_bytes(), properties).await;
                sent.expect("sent").await.expect("confirmed");
            }
            Self::Nats(context) => {
                let sent = context.publish(topic, message.into()).await;
                sent.expect("sent").await.expect("confirmed");
            }
        }
    }
}

fn kafka() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", var("KAFKA"));
    config
}

async fn rabbitmq() -> lapin::Connection {
    let runtime = async_rs::Runtime::tokio_current();
    let options = lapin::ConnectionProperties::default();
    lapin::Connection::connect_with_runtime(&var("RABBITMQ"), options, runtime).await.expect("connects")
}

async fn nats() -> jetstream::Context {
    jetstream::new(async_nats::connect(var("NATS")).await.expect("connects"))
}
