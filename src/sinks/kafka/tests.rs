//! What can be tested without a broker; `tests/kafka_sink.rs` has the rest.

use super::*;
use crate::config::{ClientTls, Login, Secret};

/// A broker that is not there, topics created.
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
fn the_promise_is_configured() {
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
    // Every name and value is one that librdkafka knows.
    made.create_native_config().expect("librdkafka takes it");
}

#[test]
fn the_operators_properties_are_kept_and_the_promise_stands_over_them() {
    let mut settings = settings();
    // The last two are refused by the configuration, and would not be heard if they were not.
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
fn tls_and_log_in_choose_the_protocol() {
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
async fn a_broker_that_is_not_there_is_unreachable() {
    let mut sink = KafkaSink::new(&"main".parse().expect("a name"), &settings(), 8 << 20);
    let failure = sink.connect().await.expect_err("nothing listens on port 1");
    assert_eq!(failure.reason, Reason::Unreachable);
    assert!(failure.detail.contains("refused"), "{failure}");
    assert!(!sink.is_up());
}

#[tokio::test]
async fn a_certificate_that_is_not_there_is_told() {
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
