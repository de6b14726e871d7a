//! What can be tested without a broker. `tests/kafka_sink` has the rest.

use super::*;
use crate::config::{ClientTls, Login, Secret};

/// Settings with a broker that does not exist, and with topics created.
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

fn login() -> Login {
    Login { username: "bridge".into(), password: Secret::new(*b"hunter2") }
}

fn made(settings: &config::KafkaSink) -> ClientConfig {
    client::producing(settings, 8 << 20)
}

#[test]
fn the_producer_is_configured_for_durable_delivery() {
    let made = made(&settings());
    for (key, expected) in [
        ("bootstrap.servers", "127.0.0.1:1"),
        ("security.protocol", "plaintext"),
        ("enable.idempotence", "true"),
        ("acks", "all"),
        ("delivery.timeout.ms", "30000"),
        ("reconnect.backoff.max.ms", "1000"),
        ("allow.auto.create.topics", "false"),
        ("partitioner", "murmur2_random"),
        // 8 MiB × 4/3 + 64 KiB
        ("message.max.bytes", "11250346"),
    ] {
        assert_eq!(made.get(key), Some(expected), "{key}");
    }
    assert_eq!(made.get("sasl.mechanisms"), None);
    // librdkafka accepts every name and value.
    made.create_native_config().expect("librdkafka accepts it");
}

#[test]
fn the_operators_properties_are_kept_unless_they_weaken_durability() {
    let mut settings = settings();
    // The configuration refuses the last two. Even if it did not, they would be overridden.
    let given = [
        ("compression.codec", "zstd"),
        ("client.id", "alma-1"),
        ("queue.buffering.max.ms", "20"),
        ("acks", "1"),
        ("enable.idempotence", "false"),
    ];
    settings.properties = given.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    let made = made(&settings);
    assert_eq!((made.get("compression.codec"), made.get("client.id")), (Some("zstd"), Some("alma-1")));
    assert_eq!((made.get("queue.buffering.max.ms"), made.get("linger.ms")), (Some("20"), None));
    assert_eq!((made.get("acks"), made.get("enable.idempotence")), (Some("all"), Some("true")));
}

#[test]
fn tls_and_login_determine_the_protocol() {
    let tls = Some(ClientTls {
        ca_file: Some("ca.pem".into()),
        cert_file: Some("me.pem".into()),
        key_file: Some("me.key".into()),
    });
    for (tls, login, protocol) in [
        (None, None, "plaintext"),
        (tls.clone(), None, "ssl"),
        (None, Some(login()), "sasl_plaintext"),
        (tls.clone(), Some(login()), "sasl_ssl"),
    ] {
        let made = made(&config::KafkaSink { login, tls, ..settings() });
        assert_eq!(made.get("security.protocol"), Some(protocol));
    }
    let made_tls = made(&config::KafkaSink { tls, ..settings() });
    assert_eq!(made_tls.get("ssl.ca.location"), Some("ca.pem"));
    assert_eq!(made_tls.get("ssl.certificate.location"), Some("me.pem"));
    assert_eq!(made_tls.get("ssl.key.location"), Some("me.key"));
    let system = made(&config::KafkaSink { tls: Some(ClientTls::default()), ..settings() });
    assert_eq!(system.get("ssl.ca.location"), Some("probe"));
}

#[test]
fn the_mechanism_is_the_strongest_unless_one_is_named() {
    let mut settings = config::KafkaSink { login: Some(login()), ..settings() };
    assert_eq!(made(&settings).get("sasl.mechanisms"), Some("SCRAM-SHA-512"));
    assert_eq!(made(&settings).get("sasl.password"), Some("hunter2"));
    for name in ["sasl.mechanism", "sasl.mechanisms"] {
        settings.properties = [(name.to_owned(), "PLAIN".to_owned())].into();
        assert_eq!(made(&settings).get("sasl.mechanisms"), Some("PLAIN"));
        assert_eq!(made(&settings).get("sasl.mechanism"), None);
    }
    assert!(!format!("{:?}", made(&settings)).contains("hunter2"));
}

#[tokio::test]
async fn a_broker_that_does_not_exist_is_unreachable() {
    let mut sink = KafkaSink::new(&"main".parse().expect("a name"), &settings(), 8 << 20);
    let failure = sink.connect().await.expect_err("nothing listens on port 1");
    assert_eq!(failure.reason, Reason::Unreachable);
    assert!(failure.detail.contains("refused"), "{failure}");
    assert!(!sink.is_up());
}

#[tokio::test]
async fn a_missing_certificate_file_is_reported_by_its_key() {
    let tls = Some(ClientTls { ca_file: Some("/nonexistent/ca.pem".into()), ..ClientTls::default() });
    let settings = config::KafkaSink { tls, ..settings() };
    let mut sink = KafkaSink::new(&"main".parse().expect("a name"), &settings, 8 << 20);
    let failure = sink.connect().await.expect_err("no such file");
    assert_eq!(failure.reason, Reason::Login);
    assert!(failure.detail.contains("tls.ca_file"), "{failure}");
}

#[test]
fn the_deadline_is_longer_than_the_clients() {
    let sink = KafkaSink::new(&"main".parse().expect("a name"), &settings(), 8 << 20);
    assert!(sink.deadline() > DELIVERY_TIMEOUT + READY_TIMEOUT);
}
