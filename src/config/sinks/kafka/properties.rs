//! librdkafka's own properties.
//!
//! Some of them switch off certificate checks, load code or hold a secret; others break what the bridge promises. A
//! list of forbidden properties has a gap whenever librdkafka gets a new one, so this is a list of allowed ones. The
//! others are here only for the error to name the reason, or the key to use. Names: CONFIGURATION.md of librdkafka
//! 2.12.

use std::collections::BTreeMap;

use crate::config::settings::values::suggestion;
use crate::config::settings::{Table, Walk};

/// They affect neither what the bridge promises nor the security of the connection.
const ALLOWED: [&str; 33] = [
    "api.version.request.timeout.ms",
    "batch.num.messages",
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "enable.metrics.push",
    "enable.random.seed",
    "linger.ms",
    "log.connection.close",
    "message.copy.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "sticky.partitioning.linger.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// Two names for the same property.
const SASL_MECHANISM: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];
const LINGER: [&str; 2] = ["linger.ms", "queue.buffering.max.ms"];

/// Mechanisms that log in with user and password.
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Far below the 30 s that a delivery may take. librdkafka creates no producer that lingers longer than that.
const LONGEST_LINGER_MS: f64 = 5_000.0;

/// Why the others are refused. A `*` at the end stands for any ending. The first entry that matches counts.
const REFUSED: [(&str, &[&str]); 37] = [
    ("it is always all", &["acks", "request.required.acks"]),
    ("it is always true", &["enable.idempotence"]),
    ("the bridge resends by itself", &["enable.gapless.guarantee"]),
    ("the bridge uses no transactions", &["transactional.id", "transaction.timeout.ms"]),
    (
        "the bridge's own deadline depends on it",
        &[
            "delivery.timeout.ms",
            "message.timeout.ms",
            "message.send.max.retries",
            "request.timeout.ms",
            "retries",
            "retry.backoff.*",
            "socket.timeout.ms",
            "topic.metadata.propagation.max.ms",
            "topic.metadata.refresh.fast.interval.ms",
        ],
    ),
    (
        "the idempotent producer sets it",
        &["max.in.flight*", "msg_order_cmp", "queue.buffering.backpressure.threshold", "queuing.strategy"],
    ),
    ("the bridge backs off by itself", &["reconnect.backoff.*"]),
    ("the bridge itself limits what is queued", &["queue.buffering.max.kbytes"]),
    ("it follows ingress.max_body", &["message.max.bytes", "receive.message.max.bytes"]),
    ("it is murmur2_random, as Java's clients have it", &["partitioner", "partitioner_cb"]),
    ("use create_topics", &["allow.auto.create.topics"]),
    ("use brokers", &["bootstrap.servers", "metadata.broker.list"]),
    ("use actions and sources", &["topic.blacklist"]),
    ("it follows tls and username", &["security.protocol"]),
    ("use username", &["sasl.username"]),
    ("use password_file or password_env", &["sasl.password"]),
    ("use tls.ca_file", &["ssl.ca.*", "ssl_ca"]),
    ("use tls.cert_file", &["ssl.certificate.location", "ssl.certificate.pem", "ssl_certificate"]),
    ("use an unencrypted key in tls.key_file", &["ssl.key.password"]),
    ("use tls.key_file", &["ssl.key.*", "ssl_key"]),
    ("use tls.cert_file and tls.key_file, which are PEM files", &["ssl.keystore.*"]),
    (
        "the broker's certificate is always checked",
        &["enable.ssl.certificate.verification", "ssl.certificate.verify_cb"],
    ),
    ("the broker's host name is always checked", &["ssl.endpoint.identification.algorithm"]),
    (
        "weak algorithms would leave the broker's certificate unchecked",
        &["ssl.cipher.suites", "ssl.curves.list", "ssl.sigalgs.list"],
    ),
    ("revocation lists are not supported", &["ssl.crl.location"]),
    (
        "no foreign code is loaded",
        &["interceptors", "plugin.library.paths", "ssl.engine.*", "ssl.providers", "ssl_engine_callback_data"],
    ),
    ("use tls", &["ssl.*"]),
    ("Kerberos is not built in, use username and password_file", &["sasl.kerberos.*"]),
    (
        "OAUTHBEARER is not supported, use username and password_file",
        &["enable.sasl.oauthbearer.unsecure.jwt", "https.ca.*", "oauthbearer_token_refresh_cb", "sasl.oauthbearer.*"],
    ),
    ("use username and password_file", &["sasl.*"]),
    (
        "librdkafka's log goes to the bridge's own, see log.level",
        &["debug", "log.queue", "log.thread.name", "log_level"],
    ),
    ("the bridge has metrics of its own", &["statistics.interval.ms", "stats_cb"]),
    ("the bridge needs every delivery report", &["delivery.report.only.error", "dr_cb", "dr_msg_cb"]),
    ("the client asks the broker for its version", &["api.version.*", "broker.version.fallback"]),
    (
        "only a program can set it",
        &[
            "background_event_cb",
            "builtin.features",
            "closesocket_cb",
            "connect_cb",
            "default_topic_conf",
            "enabled_events",
            "error_cb",
            "internal.termination.signal",
            "log_cb",
            "opaque",
            "open_cb",
            "resolve_cb",
            "socket_cb",
            "throttle_cb",
        ],
    ),
    (
        "it no longer does anything",
        &["produce.offset.report", "socket.blocking.max.ms", "topic.metadata.refresh.fast.cnt"],
    ),
    (
        "it is for consumers, and the bridge is a producer",
        &[
            "auto.commit.*",
            "auto.offset.reset",
            "check.crcs",
            "consume.callback.max.messages",
            "consume_cb",
            "coordinator.query.interval.ms",
            "enable.auto.*",
            "enable.partition.eof",
            "fetch.*",
            "group.*",
            "heartbeat.interval.ms",
            "isolation.level",
            "max.partition.fetch.bytes",
            "max.poll.interval.ms",
            "offset.store.*",
            "offset_commit_cb",
            "partition.assignment.strategy",
            "queued.*",
            "rebalance_cb",
            "session.timeout.ms",
        ],
    ),
];

/// Reads `properties`: only allowed ones, with values that librdkafka accepts.
///
/// The name of an environment variable can't have a dot, so `COMPRESSION_TYPE` stands for `compression.type`. That is
/// unambiguous, because no allowed property has an underscore.
pub(super) fn read(table: &mut Table, walk: &mut Walk) -> BTreeMap<String, String> {
    let logs_in = table.has("username");
    let section = table.key("properties");
    let mut properties = BTreeMap::new();
    // `.` sorts before `_`, so a variable comes after the same property in the file and overrides it.
    for (written, value) in table.texts("properties", walk) {
        let key = format!("{section}.{written}");
        let name = if walk.is_variable(&key) { written.replace('_', ".") } else { written };
        if let Some(problem) = problem(&name, &value, logs_in) {
            walk.error(&key, problem);
            continue;
        }
        let origin = walk.origin(&key);
        walk.note_from(&format!("{section}.{name}"), "set", origin);
        properties.insert(name, value);
    }
    properties
}

/// What is wrong with a property. The text never shows the value of one that is not allowed: it may be a password.
fn problem(name: &str, value: &str, logs_in: bool) -> Option<String> {
    if !ALLOWED.contains(&name) {
        let refused = REFUSED.iter().find(|(_, names)| names.iter().any(|pattern| fits(pattern, name)));
        if let Some((why, _)) = refused {
            return Some(format!("cannot be set here: {why}"));
        }
        let known = REFUSED.iter().flat_map(|(_, names)| *names).filter(|name| !name.ends_with('*'));
        let near = suggestion(name, ALLOWED.iter().chain(known).copied());
        return Some(format!("unknown property of librdkafka{near}"));
    }
    if SASL_MECHANISM.contains(&name) {
        if !logs_in {
            return Some("found without a login, expected username and password_file too".to_owned());
        }
        if !MECHANISMS.contains(&value) {
            return Some(format!(
                "found {value:?}, expected one of {}{}",
                MECHANISMS.join(", "),
                suggestion(value, MECHANISMS)
            ));
        }
    }
    if LINGER.contains(&name) && value.parse().is_ok_and(|linger: f64| linger > LONGEST_LINGER_MS) {
        return Some(format!("found {value:?}, expected at most {LONGEST_LINGER_MS} milliseconds"));
    }
    librdkafka_refuses(name, value).map(|words| format!("librdkafka refuses it: {words}"))
}

fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |beginning| name.starts_with(beginning))
}

/// librdkafka's own words, if it refuses the value. Only for allowed properties: some of the others act at once.
#[cfg(feature = "kafka")]
fn librdkafka_refuses(name: &str, value: &str) -> Option<String> {
    use rdkafka::error::KafkaError;
    match rdkafka::ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => None,
        Err(KafkaError::ClientConfig(_, words, _, _)) => Some(words),
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(not(feature = "kafka"))]
const fn librdkafka_refuses(_: &str, _: &str) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_and_secret_properties_are_refused_and_the_key_to_use_is_named() {
        for (name, value, part) in [
            ("enable.ssl.certificate.verification", "false", "always checked"),
            ("ssl.endpoint.identification.algorithm", "none", "always checked"),
            ("ssl.cipher.suites", "eNULL", "unchecked"),
            ("ssl.engine.location", "/tmp/evil.so", "no foreign code"),
            ("ssl.engine.id", "x", "no foreign code"),
            ("ssl.providers", "x", "no foreign code"),
            ("plugin.library.paths", "/tmp/evil.so", "no foreign code"),
            ("interceptors", "x", "no foreign code"),
            ("ssl.ca.pem", "x", "tls.ca_file"),
            ("ssl.key.pem", "hush", "tls.key_file"),
            ("ssl.key.password", "hush", "unencrypted key"),
            ("ssl.keystore.password", "hush", "PEM"),
            ("ssl.something.new", "x", "use tls"),
            ("sasl.password", "hush", "password_file"),
            ("sasl.oauthbearer.client.secret", "hush", "OAUTHBEARER"),
            ("sasl.oauthbearer.config", "hush", "OAUTHBEARER"),
            ("sasl.kerberos.kinit.cmd", "rm -r /", "Kerberos"),
            ("sasl.something.new", "x", "username"),
            ("bootstrap.servers", "elsewhere:9092", "use brokers"),
            ("delivery.report.only.error", "true", "delivery report"),
            ("group.id", "x", "consumers"),
            ("acks", "1", "always all"),
        ] {
            let said = problem(name, value, true).unwrap_or_else(|| panic!("{name} is allowed"));
            assert!(said.contains(part) && !said.contains("hush"), "{name}: {said}");
        }
    }

    #[test]
    fn an_unknown_property_is_refused_and_a_similar_one_is_suggested() {
        let said = problem("compresion.type", "zstd", false).expect("unknown");
        assert!(said.contains("did you mean `compression.type`"), "{said}");
        // A hidden property of librdkafka, which makes it talk to brokers of its own.
        assert!(problem("test.mock.num.brokers", "3", false).is_some());
        assert!(problem("password", "hush", false).is_some_and(|said| !said.contains("hush")));
    }

    #[test]
    fn a_mechanism_needs_a_login_and_must_use_user_and_password() {
        assert_eq!(problem("sasl.mechanism", "SCRAM-SHA-256", true), None);
        assert!(problem("sasl.mechanism", "SCRAM-SHA-256", false).is_some_and(|said| said.contains("username")));
        for mechanism in ["GSSAPI", "OAUTHBEARER", "scram-sha-256"] {
            assert!(problem("sasl.mechanisms", mechanism, true).is_some(), "{mechanism}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_value_that_librdkafka_refuses_is_refused() {
        for (name, value) in [("compression.type", "zstandard"), ("batch.size", "0"), ("linger.ms", "soon")] {
            let said = problem(name, value, false).unwrap_or_else(|| panic!("{name} = {value} is taken"));
            assert!(said.contains("librdkafka refuses it") && said.contains("property"), "{said}");
        }
        assert!(problem("linger.ms", "29999", false).is_some_and(|said| said.contains("at most 5000")));
        assert_eq!(problem("compression.type", "zstd", false), None);
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn librdkafka_knows_every_allowed_property() {
        for name in ALLOWED {
            let set = rdkafka::ClientConfig::new().set(name, "").create_native_config();
            let words = set.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(!words.contains("No such configuration property"), "{name}: {words}");
            assert!(!name.contains('_'), "{name} could not be set by an environment variable");
        }
    }
}
