//! librdkafka as this sink uses it: its properties, its callbacks, and the thread that serves them.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;

use super::errors;
use super::reports::Reports;
use crate::config::KafkaSink;
use crate::sinks::{Failure, Reason};

/// How long librdkafka tries to deliver a message before its outcome counts as unknown.
pub(super) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long connecting and logging in may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The mechanism if `properties` names none: the strongest that Kafka has for user and password.
const DEFAULT_MECHANISM: &str = "SCRAM-SHA-512";

/// How long after "all brokers are down" a connection may still succeed. A host with two addresses is reported as down
/// as soon as the first address refuses.
const DOWN_GRACE: Duration = Duration::from_secs(1);

/// How often to check for a refused login while a window is in flight.
const REFUSAL_LOOK: Duration = Duration::from_millis(250);

/// librdkafka repeats an identical error at least every 30 s. A longer silence means that the broker is back.
const ERRORS_REPEAT_WITHIN: Duration = Duration::from_secs(40);

/// The largest message in bytes for bodies of up to `max_body`, within librdkafka's range of `message.max.bytes`.
pub(super) fn message_limit(max_body: usize) -> usize {
    crate::sinks::message_limit(max_body).clamp(1_000, 1_000_000_000)
}

/// The SASL mechanism for a login.
pub(super) fn mechanism(settings: &KafkaSink) -> &str {
    let given = ["sasl.mechanism", "sasl.mechanisms"].iter().find_map(|key| settings.properties.get(*key));
    given.map_or(DEFAULT_MECHANISM, String::as_str)
}

/// The properties that producer, admin client and consumer share: servers, TLS, login, the operator's own properties.
pub(super) fn common(settings: &KafkaSink) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("client.id", "alma-bridge");
    config.set("socket.keepalive.enable", "true");
    // Brokers close idle connections after ten minutes, which is not worth logging.
    config.set("log.connection.close", "false");
    // A cluster may ask its clients for metrics. The bridge exposes its own.
    config.set("enable.metrics.push", "false");
    // The configuration refuses properties that the bridge sets itself.
    for (key, value) in &settings.properties {
        config.set(key, value);
    }
    config.set("bootstrap.servers", settings.brokers.join(","));
    config.set("allow.auto.create.topics", "false");
    config.set("reconnect.backoff.max.ms", "1000");
    config.set("socket.timeout.ms", "15000");
    secure(&mut config, settings);
    config
}

fn secure(config: &mut ClientConfig, settings: &KafkaSink) {
    let protocol = match (&settings.tls, &settings.login) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(login) = &settings.login {
        // Only one of the two names for this property, so that their order does not matter.
        config.remove("sasl.mechanism");
        config.set("sasl.mechanisms", mechanism(settings));
        config.set("sasl.username", &login.username);
        config.set("sasl.password", String::from_utf8_lossy(login.password.expose()));
    }
    if let Some(tls) = &settings.tls {
        // The built-in OpenSSL does not know the system's folders. "probe" looks where distributions keep them.
        config.set("ssl.ca.location", tls.ca_file.as_deref().map_or("probe".into(), Path::to_string_lossy));
        if let Some(file) = &tls.cert_file {
            config.set("ssl.certificate.location", file.to_string_lossy());
        }
        if let Some(file) = &tls.key_file {
            config.set("ssl.key.location", file.to_string_lossy());
        }
    }
}

/// The producer's properties.
pub(super) fn producing(settings: &KafkaSink, max_body: usize) -> ClientConfig {
    let mut config = common(settings);
    if !["linger.ms", "queue.buffering.max.ms"].iter().any(|key| settings.properties.contains_key(*key)) {
        // At 1,000 events a second, half are confirmed within 0.7 ms of their receipt. With any lingering it is about 4
        // ms, because librdkafka waits in whole milliseconds and the next window waits for the previous one. Small
        // windows would gain about 7 % under load from lingering: the first few messages of a window are sent alone, an
        // idempotent producer has no second request in flight if the first holds five messages
        // (rd_kafka_toppar_producer_serve), and it polls without a pause until they are confirmed.
        config.set("linger.ms", "0");
    }
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    config.set("delivery.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
    // A broker that can't reach its replicas reports that in time for another attempt.
    config.set("request.timeout.ms", "10000");
    // A missing topic is noticed well within the delivery time-out.
    config.set("topic.metadata.propagation.max.ms", "5000");
    config.set("message.max.bytes", message_limit(max_body).to_string());
    config.set("partitioner", "murmur2_random");
    config
}

/// How long the thread that serves a producer's callbacks waits for one. A producer may outlive its use by this much.
/// rdkafka spins through the last millisecond of it: with 1 s, that took 0.1 % of a processor.
const POLL: Duration = Duration::from_secs(5);

/// Identifies the message of a delivery report.
pub(super) struct Ticket {
    /// The message's place in its window.
    pub(super) place: usize,
    /// Where the reports of the window go.
    pub(super) reports: Arc<Reports>,
}

/// The report of a message that librdkafka reports as delivered without an offset.
pub(super) const NO_OFFSET: Code = Code::DuplicateSequenceNumber;

/// What librdkafka's callbacks have reported.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The last refusal of a login or a certificate.
    refused: Option<String>,
    /// The last other error of a connection.
    trouble: Option<String>,
    /// Since when all brokers are down.
    down_since: Option<Instant>,
    /// When the last error was reported.
    last_error: Option<Instant>,
    /// The producer has an id, according to the statistics, which only `check --connect` turns on.
    idempotent: bool,
}

/// The context of librdkafka's callbacks. It outlives the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Context(Arc<Mutex<Told>>);

impl Context {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Plain fields, which are usable even if another thread panicked while it updated them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a broker is connected, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        let told = self.told();
        told.down_since.is_none() || told.last_error.is_none_or(|at| at.elapsed() > ERRORS_REPEAT_WITHIN)
    }

    /// Why there is no connection. `None` while there may be one.
    pub(super) fn down(&self) -> Option<Failure> {
        let told = self.told();
        if told.down_since.is_some_and(|since| since.elapsed() >= DOWN_GRACE) { Some(told.failure()) } else { None }
    }

    /// The last failure that was reported, for a deadline that passed.
    pub(super) fn last(&self) -> Failure {
        self.told().failure()
    }

    /// Whether the producer has an id.
    pub(super) fn is_idempotent(&self) -> bool {
        self.told().idempotent
    }
}

impl Told {
    fn failure(&self) -> Failure {
        match (&self.refused, &self.trouble) {
            (Some(text), _) => Failure::new(Reason::Login, text.clone()),
            (None, Some(text)) => Failure::new(Reason::Unreachable, text.clone()),
            (None, None) => Failure::new(Reason::Unreachable, "no broker answered in time"),
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // Connection failures are also reported as errors, and the pump logs those.
        if facility == "FAIL" || level as i32 > RDKafkaLogLevel::Warning as i32 {
            tracing::debug!(target: "librdkafka", facility, "{text}");
        } else {
            tracing::warn!(target: "librdkafka", facility, "{text}");
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.told().idempotent = statistics.eos.is_some_and(|eos| eos.idemp_state == "Assigned");
    }

    fn error(&self, error: KafkaError, text: &str) {
        let ours = errors::with_our_keys(text);
        let mut told = self.told();
        told.last_error = Some(Instant::now());
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => {
                told.down_since.get_or_insert_with(Instant::now);
            }
            Some(code) if errors::reason(code) == Reason::Login => told.refused = Some(ours),
            // With TLS 1.3, a broker refuses a client's certificate after the handshake, so it looks like a transport
            // error.
            _ if text.contains("SSL alert") => told.refused = Some(ours),
            _ => told.trouble = Some(ours),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let report = match result {
            // librdkafka also reports success if a broker takes a batch for a duplicate, or confirms a later batch of
            // the partition: it concludes that the earlier one was stored. That is wrong for a new partition, which may
            // refuse the first batch for lack of a leader and accept the second. Only an offset proves that a record is
            // in the log.
            Ok(message) if message.offset() < 0 => Err(NO_OFFSET),
            Ok(_) => {
                let mut told = self.told();
                told.down_since = None;
                told.refused = None;
                Ok(())
            }
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        };
        // Nobody takes the report if the pump's deadline has dropped the window.
        ticket.reports.put((ticket.place, report));
    }
}

/// A running producer. When dropped, it ends on its own thread.
pub(super) struct Live {
    /// Shared with the thread that serves its callbacks.
    pub(super) producer: Arc<BaseProducer<Context>>,
    /// What the callbacks have reported.
    pub(super) context: Context,
}

impl Live {
    /// Creates a producer, which starts to connect by itself. [`Live::reached`] waits for that.
    ///
    /// Blocks for some milliseconds to read certificates.
    pub(super) fn start(name: &str, config: &ClientConfig) -> Result<Self, Failure> {
        let context = Context::default();
        let producer: BaseProducer<Context> =
            config.create_with_context(context.clone()).map_err(|error| errors::client_failure(&error))?;
        let producer = Arc::new(producer);
        let served = Arc::clone(&producer);
        // Not one of rdkafka's own threaded producers, which wake ten times a second and copy each failed message.
        std::thread::Builder::new()
            .name(format!("kafka-{name}"))
            .spawn(move || {
                // Once the thread is the only owner, it destroys the producer, which blocks nobody here.
                while Arc::strong_count(&served) > 1 {
                    served.poll(POLL);
                }
            })
            .map_err(|error| Failure::new(Reason::Busy, format!("no thread for the producer: {error}")))?;
        Ok(Self { producer, context })
    }

    /// Waits until a broker has answered after the login, and returns the cluster's id.
    pub(super) async fn reached(&self) -> Result<String, Failure> {
        let until = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let producer = Arc::clone(&self.producer);
            // In short calls, so that a thread is never blocked for longer than the sink waits.
            let cluster = blocking(move || producer.client().fetch_cluster_id(Duration::from_millis(200))).await?;
            if let Some(cluster) = cluster {
                return Ok(cluster);
            }
            if let Some(failure) = self.context.down() {
                return Err(failure);
            }
            if Instant::now() >= until {
                return Err(self.context.last());
            }
        }
    }

    /// Returns once all brokers are down and one of them has refused the login since the last confirm.
    pub(super) async fn log_in_refused(&self) {
        while self.context.down().is_none_or(|failure| failure.reason != Reason::Login) {
            tokio::time::sleep(REFUSAL_LOOK).await;
        }
    }

    /// The fatal error of this producer, after which it sends nothing any more.
    pub(super) fn fatal(&self) -> Option<Failure> {
        let (code, words) = self.producer.client().fatal_error()?;
        Some(Failure::new(errors::reason(code), words))
    }

    /// Purges everything that is queued or in flight. No broker gets any of it afterwards.
    pub(super) async fn purge(&self) {
        let producer = Arc::clone(&self.producer);
        let _ = blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
            // Collects the reports of what was purged. This does not wait for the network.
            let _ = producer.flush(Duration::from_secs(1));
        })
        .await;
    }
}

/// Runs a blocking call of librdkafka on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|error| Failure::new(Reason::Unreachable, format!("a call of librdkafka panicked: {error}")))
}
