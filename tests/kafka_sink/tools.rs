//! `check --connect` and `tail`.

use std::time::Duration;

use alma_bridge::config::{self, Format, Login, Secret};
use alma_bridge::sinks::Sink;
use alma_bridge::sinks::kafka::{probe::probe, tail::tail};
use alma_bridge::sinks::tools::{Check, Landed, Patterns, TailOptions, Verdict};
use tokio::sync::{mpsc, oneshot};

use crate::support::{BROKER, MAX_BODY, Rights, connected, event, events, kcat, prefix, sasl, settings, sink};

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
    for good in ["broker reached", "TLS", "log-in", "producer id", &format!("right to write to {there}")] {
        assert!(matches!(verdict(&checks, good), Verdict::Good(_)), "{checks:#?}");
    }
    assert!(
        matches!(verdict(&checks, &format!("topic {missing}")), Verdict::Good(text) if text.contains("may be created"))
    );
    assert!(matches!(verdict(&checks, &format!("max.message.bytes of {there}")), Verdict::Good(_)), "{checks:#?}");
    assert!(matches!(verdict(&checks, &format!("replication of {there}")), Verdict::Warning(..)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "message.max.bytes of the brokers"), Verdict::Warning(..)), "{checks:#?}");
    assert_eq!(kcat(&there, "%k").len(), 1, "nothing was published");
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
    assert!(matches!(verdict(&checks, "log-in"), Verdict::Good(_)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "producer id"), Verdict::Bad(..)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "right to write"), Verdict::Bad(..)), "{checks:#?}");
    for untold in ["settings of the brokers", &format!("settings of {topic}")] {
        assert!(matches!(verdict(&checks, untold), Verdict::Warning(..)), "{checks:#?}");
    }

    let mut wrong = sasl("ADMIN", "PLAIN");
    wrong.login = Some(Login { username: "admin".into(), password: Secret::new(*b"wrong") });
    let checks = probe(&wrong, MAX_BODY, &[]).await;
    assert!(checks.len() == 1 && matches!(verdict(&checks, "log-in"), Verdict::Bad(..)), "{checks:#?}");
    let nowhere = config::KafkaSink { brokers: vec!["127.0.0.1:1".into()], ..settings() };
    assert!(matches!(verdict(&probe(&nowhere, MAX_BODY, &[]).await, "broker reached"), Verdict::Bad(..)));
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
