//! `check --connect` and `tail`.

use std::time::Duration;

use alma_bridge::config::{self, ClientTls, Format, Login, Secret};
use alma_bridge::sinks::Sink;
use alma_bridge::sinks::kafka::{probe::probe, tail::tail};
use alma_bridge::sinks::tools::{Check, Landed, Patterns, TailOptions, Verdict};
use tokio::sync::{mpsc, oneshot};

use crate::forward::by_another_address;
use crate::support::{BROKER, MAX_BODY, Rights, connected, event, events, kcat_all, prefix, sasl, settings, sink, var};

fn verdict<'a>(checks: &'a [Check], what: &str) -> &'a Verdict {
    let found = checks.iter().find(|check| check.what.contains(what));
    &found.unwrap_or_else(|| panic!("no line about {what}: {checks:#?}")).verdict
}

#[tokio::test]
async fn the_checklist_finds_what_is_there_and_writes_nothing() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let (there, missing) = (format!("{prefix}.loan"), format!("{prefix}.bib"));
    connected(&settings()).await.publish(&events(&there, 1)).await;
    let checks = probe(&sasl("ADMIN", "SCRAM-SHA-512"), MAX_BODY, &[there.clone(), missing.clone()]).await;
    for good in ["broker reached", "TLS", "login", "producer id", &format!("right to write to {there}")] {
        assert!(matches!(verdict(&checks, good), Verdict::Good(_)), "{checks:#?}");
    }
    assert!(
        matches!(verdict(&checks, &format!("topic {missing}")), Verdict::Good(text) if text.contains("may be created"))
    );
    assert!(matches!(verdict(&checks, &format!("max.message.bytes of {there}")), Verdict::Good(_)), "{checks:#?}");
    assert!(matches!(verdict(&checks, &format!("replication of {there}")), Verdict::Warning(..)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "message.max.bytes of the brokers"), Verdict::Warning(..)), "{checks:#?}");
    assert_eq!(kcat_all(&there, "%k", 1).len(), 1, "nothing was published");
    let checks =
        probe(&config::KafkaSink { create_topics: false, ..settings() }, MAX_BODY, std::slice::from_ref(&missing))
            .await;
    assert!(
        matches!(verdict(&checks, &format!("topic {missing}")), Verdict::Bad(..)),
        "nothing was created: {checks:#?}"
    );
}

#[tokio::test]
async fn the_checklist_says_what_is_missing() {
    let _alone = BROKER.write().await;
    let topic = format!("{}.loan", prefix());
    connected(&settings()).await.publish(&events(&topic, 1)).await;
    let rights = Rights::on(&topic, &["Describe"]);
    let checks = probe(&sasl("LIMITED", "PLAIN"), MAX_BODY, std::slice::from_ref(&topic)).await;
    drop(rights);
    assert!(matches!(verdict(&checks, "login"), Verdict::Good(_)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "producer id"), Verdict::Bad(..)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "right to write"), Verdict::Bad(..)), "{checks:#?}");
    let untold = format!("settings of the brokers, {topic}");
    assert!(matches!(verdict(&checks, &untold), Verdict::Warning(..)), "{checks:#?}");

    let mut wrong = sasl("ADMIN", "PLAIN");
    wrong.login = Some(Login { username: "admin".into(), password: Secret::new(*b"wrong") });
    let checks = probe(&wrong, MAX_BODY, &[]).await;
    assert!(checks.len() == 1 && matches!(verdict(&checks, "login"), Verdict::Bad(..)), "{checks:#?}");
    let nowhere = config::KafkaSink { brokers: vec!["127.0.0.1:1".into()], ..settings() };
    assert!(matches!(verdict(&probe(&nowhere, MAX_BODY, &[]).await, "broker reached"), Verdict::Bad(..)));
}

fn bad(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| matches!(check.verdict, Verdict::Bad(..))).collect()
}

/// `run` could create no topic at all; that is one cause, and no matter of rights.
#[tokio::test]
async fn more_replicas_than_brokers_are_told_once() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let topics = ["bib", "item", "loan"].map(|action| format!("{prefix}.{action}"));
    let checks = probe(&config::KafkaSink { replication: 3, ..settings() }, MAX_BODY, &topics).await;
    let [Check { what, verdict: Verdict::Bad(found, mend) }] = bad(&checks)[..] else { panic!("{checks:#?}") };
    assert!(what == "replication of created topics" && found.contains("3, but only 1"), "{checks:#?}");
    assert!(mend.contains("lower replication") && !mend.contains("right"), "{checks:#?}");
    assert!(
        matches!(verdict(&checks, &topics.join(", ")), Verdict::Good(text) if text.contains("may be created")),
        "the rights were looked at all the same: {checks:#?}"
    );
}

#[tokio::test]
async fn what_may_not_be_described_is_told_once() {
    let _alone = BROKER.write().await;
    let prefix = prefix();
    let topics = ["bib", "item", "loan"].map(|action| format!("{prefix}.{action}"));
    let mut sink = connected(&settings()).await;
    for topic in &topics {
        sink.publish(&events(topic, 1)).await;
    }
    let rights = Rights::under(&format!("{prefix}."), &["Write"]);
    let checks = probe(&sasl("LIMITED", "PLAIN"), MAX_BODY, &topics).await;
    drop(rights);
    assert!(bad(&checks).is_empty(), "the rights in docs/brokers.md are enough: {checks:#?}");
    let untold: Vec<_> = checks.iter().filter(|check| check.what.starts_with("settings of")).collect();
    assert_eq!(untold.len(), 1, "{checks:#?}");
    assert_eq!(untold[0].what, format!("settings of the brokers, {}", topics.join(", ")));
    let mut whats: Vec<&str> = checks.iter().map(|check| check.what.as_str()).collect();
    whats.sort_unstable();
    whats.dedup();
    assert_eq!(whats.len(), checks.len(), "nothing is told twice: {checks:#?}");
}

#[tokio::test]
async fn a_hint_fits_its_cause_and_names_our_key() {
    let _shared = BROKER.read().await;
    let tls = |ca: &str| Some(ClientTls { ca_file: Some(ca.into()), ..ClientTls::default() });
    let at = |broker: &str, tls| config::KafkaSink { brokers: vec![broker.to_owned()], tls, ..settings() };
    let (plain, sasl_ssl, ssl) = (var("KAFKA"), var("KAFKA_SASL_SSL"), var("KAFKA_SSL"));
    let (ca, other_ca) = (var("CA"), var("OTHER_CA"));
    let another = by_another_address(&sasl_ssl).await;
    let over_sasl = |change: config::KafkaSink| config::KafkaSink { login: sasl("ADMIN", "PLAIN").login, ..change };
    for (settings, line, parts) in [
        (over_sasl(at(&sasl_ssl, tls(&other_ca))), "TLS", vec!["tls.ca_file", other_ca.as_str(), "127.0.0.1"]),
        (over_sasl(at(&another, tls(&ca))), "TLS", vec!["tls.ca_file", "must name 127.0.0.2"]),
        (at(&sasl_ssl, None), "broker reached", vec!["set tls", sasl_ssl.as_str()]),
        (at(&plain, tls(&ca)), "TLS", vec!["does not speak TLS", plain.as_str()]),
        (at(&ssl, tls(&ca)), "TLS", vec!["tls.cert_file", "tls.key_file"]),
        (at(&ssl, tls("/nonexistent/ca.pem")), "TLS", vec!["files of tls"]),
        (at(&sasl_ssl, tls(&ca)), "login", vec!["username", "password_file"]),
    ] {
        let mut checks = probe(&settings, MAX_BODY, &[]).await;
        // On a busy machine librdkafka's words may come only after the probe's own deadline.
        for _ in 0..3 {
            if checks.iter().any(|check| check.what == line) {
                break;
            }
            checks = probe(&settings, MAX_BODY, &[]).await;
        }
        let [Check { what, verdict: Verdict::Bad(found, mend) }] = &checks[..] else { panic!("{checks:#?}") };
        assert!(what == line && parts.iter().all(|part| mend.contains(part)), "{line} {parts:?}: {checks:#?}");
        assert!(!found.contains("ssl.ca.location") && !found.contains("security.protocol"), "{found}");
    }
}

#[tokio::test]
async fn the_first_connection_tells_what_falls_short() {
    let _shared = BROKER.read().await;
    let mut sink = sink(&settings());
    let warnings = sink.connect().await.expect("the broker runs");
    for setting in ["default.replication.factor", "message.max.bytes=11250346"] {
        assert!(warnings.iter().any(|warning| warning.contains(setting)), "{setting}: {warnings:?}");
    }
    assert_eq!(sink.connect().await, Ok(Vec::new()), "once is enough");
}

struct Tail {
    landed: mpsc::Receiver<Landed>,
    task: tokio::task::JoinHandle<Result<(), alma_bridge::sinks::Failure>>,
}

impl Tail {
    async fn start(settings: config::KafkaSink, prefix: &str, patterns: &[&str], from_start: bool) -> Self {
        let (into, landed) = mpsc::channel(64);
        let (ready, begun) = oneshot::channel();
        let topics = Patterns(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        let prefix = prefix.to_owned();
        let options = TailOptions { topics, from_start, into, ready };
        let task = tokio::spawn(async move { tail(&settings, &prefix, options).await });
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("in time").expect("reading has begun");
        Self { landed, task }
    }

    async fn next(&mut self) -> (String, serde_json::Value) {
        let landed = tokio::time::timeout(Duration::from_secs(20), self.landed.recv()).await;
        let landed = landed.expect("in time").expect("the tail runs");
        (landed.topic, serde_json::from_slice(&landed.document).expect("JSON"))
    }

    async fn end(self) {
        drop(self.landed);
        let ended = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        ended.expect("in time").expect("no panic").expect("no failure");
    }
}

#[tokio::test]
async fn tail_shows_what_comes_from_now_on_in_both_modes() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let (old, new) = (format!("{prefix}.loan"), format!("{prefix}.bib"));
    let mut sink = connected(&settings()).await;
    sink.publish(&events(&old, 5)).await;
    let mut tail = Tail::start(settings(), &prefix, &[], false).await;
    sink.publish(&[event(&old, 100, 3, Format::CloudEventsBinary)]).await;
    let (topic, document) = tail.next().await;
    assert_eq!(topic, old);
    assert_eq!(document["id"], "100.0123456789abcdef");
    assert_eq!(document["datacontenttype"], "application/json");
    assert_eq!(document["data"]["pad"], "xxx");
    // A topic that is made while it runs, and one whose name only begins alike.
    sink.publish(&events(&format!("{prefix}x.loan"), 1)).await;
    sink.publish(&[event(&new, 101, 3, Format::CloudEvents)]).await;
    assert_eq!(tail.next().await.0, new);
    tail.end().await;
}

#[tokio::test]
async fn tail_reads_from_the_start_what_is_asked_for() {
    let _shared = BROKER.read().await;
    let prefix = prefix();
    let mut sink = connected(&settings()).await;
    sink.publish(&events(&format!("{prefix}.loan"), 5)).await;
    sink.publish(&events(&format!("{prefix}.bib"), 5)).await;
    let mut tail = Tail::start(settings(), &prefix, &[&format!("{prefix}.lo*")], true).await;
    for _ in 0..5 {
        assert_eq!(tail.next().await.0, format!("{prefix}.loan"));
    }
    tail.end().await;
}

/// The least rights of a reader: Describe and Read on its topics, none on a group.
#[tokio::test]
async fn tail_wants_no_right_on_a_group() {
    let _alone = BROKER.write().await;
    let prefix = prefix();
    let topic = format!("{prefix}.loan");
    connected(&settings()).await.publish(&events(&topic, 3)).await;
    let _rights = Rights::on(&topic, &["Read"]);
    let mut tail = Tail::start(sasl("LIMITED", "SCRAM-SHA-256"), &prefix, &[], true).await;
    for _ in 0..3 {
        tail.next().await;
    }
    tail.end().await;
}
