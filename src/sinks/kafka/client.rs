//! librdkafka as this sink runs it: its properties, what its callbacks tell, and the thread that serves them.

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

/// How long librdkafka tries to deliver a message before its fate counts as unknown.
pub(super) const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection and its log-in may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The mechanism where `properties` names none: the strongest that Kafka has for user and password.
const DEFAULT_MECHANISM: &str = "SCRAM-SHA-512";

/// How long after "all brokers are down" a connection is still hoped for: a host with two addresses is reported as
/// down when its first one refuses.
const DOWN_GRACE: Duration = Duration::from_secs(1);

/// How often it is looked at whether the log-in is refused, while a window is on its way.
const REFUSAL_LOOK: Duration = Duration::from_millis(250);

/// librdkafka repeats an identical error every 30 s at most; silence beyond that says that the broker is back.
const ERRORS_REPEAT_WITHIN: Duration = Duration::from_secs(40);

/// Largest message in bytes for bodies of up to `max_body`, within librdkafka's own bounds of `message.max.bytes`.
pub(super) fn message_limit(max_body: usize) -> usize {
    crate::sinks::message_limit(max_body).clamp(1_000, 1_000_000_000)
}

/// The SASL mechanism, where there is a log-in.
pub(super) fn mechanism(settings: &KafkaSink) -> &str {
    let given = ["sasl.mechanism", "sasl.mechanisms"].iter().find_map(|key| settings.properties.get(*key));
    given.map_or(DEFAULT_MECHANISM, String::as_str)
}

/// What producer, admin client and consumer share: servers, TLS, log-in, the operator's own properties.
pub(super) fn common(settings: &KafkaSink) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set_log_level(RDKafkaLogLevel::Warning);
    config.set("client.id", "alma-bridge");
    config.set("socket.keepalive.enable", "true");
    // Brokers end idle connections after ten minutes; that is no event.
    config.set("log.connection.close", "false");
    // A cluster may ask its clients for their metrics; what the bridge tells, it tells by its own.
    config.set("enable.metrics.push", "false");
    // The configuration has refused those that are the bridge's own.
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
        // One of two names for the same, so that their order does not decide.
        config.remove("sasl.mechanism");
        config.set("sasl.mechanisms", mechanism(settings));
        config.set("sasl.username", &login.username);
        config.set("sasl.password", String::from_utf8_lossy(login.password.expose()));
    }
    if let Some(tls) = &settings.tls {
        // The OpenSSL that is built in knows no system's folders; "probe" looks where distributions keep them.
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
        // At 1,000 a second half of the events are confirmed within 0.7 ms of their receipt, and with a tenth of a millisecond
        // of it or more within some 4 ms: librdkafka waits in whole milliseconds, and the next window waits for the one
        // before. Small windows would gain by it, some 7 % under load: the first few of a window go alone, an idempotent
        // producer has no second request on its way where the first holds five messages
        // (rd_kafka_toppar_producer_serve), and it polls without a pause until they are confirmed.
        config.set("linger.ms", "0");
    }
    config.set("enable.idempotence", "true");
    config.set("acks", "all");
    config.set("delivery.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string());
    // A broker that can't reach its replicas says so in time for another try.
    config.set("request.timeout.ms", "10000");
    // A topic that is gone is known well within the delivery time-out.
    config.set("topic.metadata.propagation.max.ms", "5000");
    config.set("message.max.bytes", message_limit(max_body).to_string());
    config.set("partitioner", "murmur2_random");
    config
}

/// How long the thread that serves a producer's callbacks waits for one: so long may a producer outlive its use. rdkafka
/// spins through the last millisecond of it, which a second made 0.1 % of a processor.
const POLL: Duration = Duration::from_secs(5);

/// Where the delivery report of one message goes.
pub(super) struct Ticket {
    /// The message's place in its window.
    pub(super) place: usize,
    /// Of that window.
    pub(super) reports: Arc<Reports>,
}

/// The report of a message that librdkafka calls delivered without saying where.
pub(super) const NO_OFFSET: Code = Code::DuplicateSequenceNumber;

/// What librdkafka's callbacks have told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The last refusal of a log-in or a certificate.
    refused: Option<String>,
    /// The last other error of a connection.
    trouble: Option<String>,
    /// Since when all brokers are down.
    down_since: Option<Instant>,
    /// When the last error came.
    last_error: Option<Instant>,
    /// The producer holds an id, by the statistics (asked for by `check --connect` alone).
    idempotent: bool,
}

/// Handed to librdkafka; it outlives the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Context(Arc<Mutex<Told>>);

impl Context {
    fn told(&self) -> MutexGuard<'_, Told> {
        // Plain fields: what another thread left half-told is still worth reading.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a broker is connected, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        let told = self.told();
        told.down_since.is_none() || told.last_error.is_none_or(|at| at.elapsed() > ERRORS_REPEAT_WITHIN)
    }

    /// Why there is no connection; none while there may be one.
    pub(super) fn down(&self) -> Option<Failure> {
        let told = self.told();
        if told.down_since.is_some_and(|since| since.elapsed() >= DOWN_GRACE) { Some(told.failure()) } else { None }
    }

    /// Whatever was told last, for a deadline that passed.
    pub(super) fn last(&self) -> Failure {
        self.told().failure()
    }

    /// Whether the producer holds an id.
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
        // Failures of connections come as errors too, and the pump tells of them.
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
            // With TLS 1.3 a broker refuses a client's certificate after the handshake, on what is a transport by then.
            _ if text.contains("SSL alert") => told.refused = Some(ours),
            _ => told.trouble = Some(ours),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let report = match result {
            // librdkafka calls it a success, too, when a broker takes a batch for a repeat, or confirms a later one of the
            // partition: it concludes that the earlier one was stored. A new partition proves it wrong, which refuses
            // a first batch as not yet led and takes the second. Only an offset says that a record is in the log.
            Ok(message) if message.offset() < 0 => Err(NO_OFFSET),
            Ok(_) => {
                let mut told = self.told();
                told.down_since = None;
                told.refused = None;
                Ok(())
            }
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Unknown)),
        };
        // Nobody takes it any more where the pump's deadline dropped the window.
        ticket.reports.put((ticket.place, report));
    }
}

/// A running producer. Dropped, it ends by itself on its own thread, with nothing left to send.
pub(super) struct Live {
    /// Shared with the thread that serves its callbacks.
    pub(super) producer: Arc<BaseProducer<Context>>,
    /// What the callbacks told.
    pub(super) context: Context,
}

impl Live {
    /// Makes a producer. It begins to connect by itself; whether it gets there is [`Live::reached`].
    ///
    /// Blocks for some milliseconds: certificates are read.
    pub(super) fn start(name: &str, config: &ClientConfig) -> Result<Self, Failure> {
        let context = Context::default();
        let producer: BaseProducer<Context> =
            config.create_with_context(context.clone()).map_err(|error| errors::client_failure(&error))?;
        let producer = Arc::new(producer);
        let served = Arc::clone(&producer);
        // rdkafka's own threaded producers wake ten times a second and copy each message that failed.
        std::thread::Builder::new()
            .name(format!("kafka-{name}"))
            .spawn(move || {
                // Alone with it, the thread is its last owner: destroying it here blocks nobody.
                while Arc::strong_count(&served) > 1 {
                    served.poll(POLL);
                }
            })
            .map_err(|error| Failure::new(Reason::Busy, format!("no thread for the producer: {error}")))?;
        Ok(Self { producer, context })
    }

    /// Waits until a broker has answered behind the log-in, and returns the cluster's id.
    pub(super) async fn reached(&self) -> Result<String, Failure> {
        let until = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let producer = Arc::clone(&self.producer);
            // In slices, so that a thread is never held longer than the sink waits.
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

    /// Returns once all brokers are down and one of them has refused the log-in since the last confirm.
    pub(super) async fn log_in_refused(&self) {
        while self.context.down().is_none_or(|failure| failure.reason != Reason::Login) {
            tokio::time::sleep(REFUSAL_LOOK).await;
        }
    }

    /// The error after which this producer sends nothing any more.
    pub(super) fn fatal(&self) -> Option<Failure> {
        let (code, words) = self.producer.client().fatal_error()?;
        Some(Failure::new(errors::reason(code), words))
    }

    /// Takes back all that is queued or in flight: what a broker has not got by now it will not get.
    pub(super) async fn purge(&self) {
        let producer = Arc::clone(&self.producer);
        let _ = blocking(move || {
            producer.purge(PurgeConfig::default().queue().inflight());
            // The reports of what was purged; nothing waits for the network any more.
            let _ = producer.flush(Duration::from_secs(1));
        })
        .await;
    }
}

/// Runs a call of librdkafka that blocks on a thread where that is allowed.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(|error| Failure::new(Reason::Unreachable, format!("librdkafka's call did not end: {error}")))
}
