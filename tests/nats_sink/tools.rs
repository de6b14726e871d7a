//! `check --connect` and `tail`.

use std::time::Duration;

use alma_bridge::config::{ClientTls, Format, Login, NatsAuth, NatsSink as Settings, Secret, TopicPart, TopicTemplate};
use alma_bridge::sinks::nats::{NatsSink, Subjects, probe, tail};
use alma_bridge::sinks::tools::{Check, Landed, Patterns, TailOptions, Verdict};
use alma_bridge::sinks::{Failure, Reason, Sink};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::forward::by_another_address;
use crate::support::{MAX_BODY, Place, Rights, SERVER, timed, var};

fn verdict<'a>(checks: &'a [Check], what: &str) -> &'a Verdict {
    let found = checks.iter().find(|check| check.what.contains(what));
    &found.unwrap_or_else(|| panic!("no line about {what}: {checks:#?}")).verdict
}

pub(crate) async fn look(place: &Place, topics: &[String]) -> Vec<Check> {
    let name = "main".parse().expect("a name");
    let (checks, took) = timed(probe(&name, &place.settings, &place.subjects(), MAX_BODY, topics)).await;
    assert!(took < Duration::from_secs(3), "{took:?}: {checks:#?}");
    checks
}

#[tokio::test]
async fn the_checklist_finds_what_is_there_and_writes_nothing() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    place.connected().await.publish(&place.events("loan", 1)).await;
    let checks = look(&place, &[place.topic("loan"), place.topic("bib")]).await;
    for good in ["server reached", "login", "max_payload", "stream", "publish"] {
        assert!(matches!(verdict(&checks, good), Verdict::Good(_)), "{good}: {checks:#?}");
    }
    assert!(!checks.iter().any(|check| matches!(check.verdict, Verdict::Bad(..))), "{checks:#?}");
    assert!(matches!(verdict(&checks, "replicas"), Verdict::Warning(..)), "{checks:#?}");
    assert!(matches!(verdict(&checks, "TLS"), Verdict::Warning(..)), "{checks:#?}");
    assert_eq!(place.read().len(), 1, "nothing was published");
}

#[tokio::test]
async fn the_checklist_creates_no_stream() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    let what = format!("stream {}", place.settings.stream);
    let checks = look(&place, &[place.topic("loan")]).await;
    assert!(
        matches!(verdict(&checks, &what), Verdict::Good(text) if text.contains("the bridge creates it")),
        "{checks:#?}"
    );
    assert!(matches!(verdict(&checks, "publish"), Verdict::Warning(..)), "{checks:#?}");
    place.settings.create_stream = false;
    assert!(matches!(verdict(&look(&place, &[]).await, &what), Verdict::Bad(..)), "none was created");
}

#[tokio::test]
async fn the_checklist_says_what_is_missing() {
    let _alone = SERVER.write().await;
    let place = Place::new();
    place.add(&json!({ "storage": "memory" }));
    let rights = Rights::publish(&[&place.topic("loan")]);
    let checks = look(&place.limited(), &[place.topic("loan"), place.topic("bib")]).await;
    drop(rights);
    let right = |action| format!("right to publish {}", place.topic(action));
    assert!(matches!(verdict(&checks, &right("loan")), Verdict::Good(_)), "{checks:#?}");
    assert!(matches!(verdict(&checks, &right("bib")), Verdict::Bad(..)), "{checks:#?}");
    assert!(
        checks.iter().any(|check| matches!(&check.verdict, Verdict::Warning(found, _) if found.contains("memory")))
    );

    let mut wrong = place.clone();
    let password = Secret::new(*b"wrong");
    wrong.settings.auth = NatsAuth::Login(Login { username: var("NATS_USER"), password });
    assert!(matches!(verdict(&look(&wrong, &[]).await, "login"), Verdict::Bad(..)));
    let mut nowhere = place.clone();
    nowhere.settings.servers = vec!["nats://127.0.0.1:1".into()];
    let checks = look(&nowhere, &[place.topic("loan")]).await;
    assert!(checks.len() == 1 && matches!(verdict(&checks, "server reached"), Verdict::Bad(..)), "{checks:#?}");
    let mut small = place.clone();
    let auth = NatsAuth::Token(Secret::new(var("NATS_TOKEN").into_bytes()));
    small.settings = Settings { servers: vec![var("NATS_TOKEN_URL")], auth, ..small.settings };
    assert!(matches!(verdict(&look(&small, &[]).await, "max_payload"), Verdict::Warning(..)));
}

/// `run` would wait for ever for a stream that nobody can make.
#[tokio::test]
async fn replicas_that_a_lone_server_can_not_hold_fail() {
    let _shared = SERVER.read().await;
    let mut place = Place::new();
    place.settings.replicas = 3;
    let topics = ["bib", "loan"].map(|action| place.topic(action));
    let checks = look(&place, &topics).await;
    let Verdict::Bad(found, mend) = verdict(&checks, "replicas") else { panic!("{checks:#?}") };
    assert!(found.contains("in no cluster") && mend.contains("replicas = 1"), "{checks:#?}");
    let both = format!("right to publish {}", topics.join(", "));
    assert!(matches!(verdict(&checks, &both), Verdict::Warning(..)), "rights are not the cause: {checks:#?}");
    place.settings.replicas = 1;
    let checks = look(&place, &topics).await;
    assert!(matches!(verdict(&checks, "stream"), Verdict::Good(_)), "none was created: {checks:#?}");
    assert!(matches!(verdict(&checks, &both), Verdict::Warning(..)), "told once: {checks:#?}");
}

#[tokio::test]
async fn a_hint_fits_its_cause() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let tls = |ca: &str| Some(ClientTls { ca_file: Some(ca.into()), ..ClientTls::default() });
    let (over, ca) = (var("NATS_TLS"), var("CA"));
    let token = NatsAuth::Token(Secret::new(var("NATS_TOKEN").into_bytes()));
    let another = by_another_address(over.trim_start_matches("tls://")).await;
    for (server, auth, tls, parts) in [
        (over.clone(), NatsAuth::None, tls(&var("OTHER_CA")), ["TLS", "tls.ca_file"]),
        (format!("tls://{another}"), NatsAuth::None, tls(&ca), ["TLS", "a name in the certificate"]),
        (var("NATS_TOKEN_URL"), token, tls(&ca), ["TLS", "does not speak TLS"]),
        (over.clone(), NatsAuth::None, tls("/nonexistent/ca.pem"), ["TLS", "files of tls"]),
        (var("NATS_TOKEN_URL"), NatsAuth::None, None, ["login", "token"]),
    ] {
        let settings = Settings { servers: vec![server], auth, tls, ..place.settings.clone() };
        let checks = look(&Place { settings, ..place.clone() }, &[]).await;
        let Verdict::Bad(_, mend) = verdict(&checks, parts[0]) else { panic!("{parts:?}: {checks:#?}") };
        assert!(mend.contains(parts[1]), "{parts:?}: {checks:#?}");
    }
}

pub(crate) struct Tail {
    landed: mpsc::Receiver<Landed>,
    task: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Tail {
    pub(crate) async fn start(place: &Place, patterns: &[&str], from_start: bool) -> Self {
        let (into, landed) = mpsc::channel(64);
        let (ready, begun) = oneshot::channel();
        let topics = Patterns(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        let (settings, subjects) = (place.settings.clone(), place.subjects());
        let options = TailOptions { topics, from_start, into, ready };
        let name = "main".parse().expect("a name");
        let task = tokio::spawn(async move { tail(&name, &settings, &subjects, options).await });
        tokio::time::timeout(Duration::from_secs(10), begun).await.expect("in time").expect("reading has begun");
        Self { landed, task }
    }

    pub(crate) async fn next(&mut self) -> (String, Value) {
        let landed = tokio::time::timeout(Duration::from_secs(10), self.landed.recv()).await;
        let landed = landed.expect("in time").expect("the tail runs");
        (landed.topic, serde_json::from_slice(&landed.document).expect("JSON"))
    }

    pub(crate) async fn end(self) {
        drop(self.landed);
        let ended = tokio::time::timeout(Duration::from_secs(5), self.task).await;
        ended.expect("in time").expect("no panic").expect("no failure");
    }
}

#[tokio::test]
async fn tail_shows_what_comes_from_now_on_in_both_modes() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    sink.publish(&place.events("loan", 5)).await;
    let mut tail = Tail::start(&place, &[], false).await;
    let body = r#"{"id":"100","action":"BIB","event":{"value":"BIB ü"},"bib":{"mms_id":"99"}}"#;
    let binary = place.message(body.to_owned(), Format::CloudEventsBinary);
    sink.publish(std::slice::from_ref(&binary)).await;
    let (topic, document) = tail.next().await;
    assert_eq!(topic, place.topic("bib"));
    let structured: Value = serde_json::from_slice(&binary.structured()).expect("JSON");
    assert_eq!(document, structured, "put together again");
    let plain = place.event("item", 101, 3);
    sink.publish(std::slice::from_ref(&plain)).await;
    let (topic, document) = tail.next().await;
    assert_eq!((topic, &document["id"]), (place.topic("item"), &json!(plain.id.as_str())));
    tail.end().await;
}

#[tokio::test]
async fn tail_reads_from_the_start_what_is_asked_for() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let mut sink = place.connected().await;
    let loans = place.events("loan", 700);
    sink.publish(&place.events("bib", 5)).await;
    sink.publish(&loans).await;
    let mut tail = Tail::start(&place, &[&place.topic("lo*")], true).await;
    for loan in &loans {
        let (topic, document) = tail.next().await;
        assert_eq!((topic, &document["id"]), (place.topic("loan"), &json!(loan.id.as_str())));
    }
    tail.end().await;
}

#[tokio::test]
async fn tail_of_a_stream_that_is_not_there_says_so() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let (into, _landed) = mpsc::channel(1);
    let (ready, _begun) = oneshot::channel();
    let options = TailOptions { topics: Patterns::default(), from_start: true, into, ready };
    let name = "main".parse().expect("a name");
    let failure = tail(&name, &place.settings, &place.subjects(), options).await.expect_err("no stream");
    assert_eq!(failure.reason, Reason::Missing, "{failure}");
}

/// A stream that an operator made, on subjects that take every topic, though not all under the prefix.
#[tokio::test]
async fn a_stream_on_narrow_subjects_that_are_enough_is_warned_of_nowhere() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let narrow = json!({ "subjects": [format!("{}.*", place.prefix), format!("others-{}.>", place.prefix)] });
    place.add(&json!({ "duplicate_window": 7_200_000_000_000_u64, "subjects": narrow["subjects"] }));
    let mut sink = place.sink();
    assert_eq!(sink.connect().await, Ok(Vec::new()));
    let checks = look(&place, &[place.topic("loan")]).await;
    let warned =
        checks.iter().find(|check| matches!(&check.verdict, Verdict::Warning(found, _) if found.contains("subjects")));
    assert!(warned.is_none(), "{checks:#?}");
    let mut tail = Tail::start(&place, &[], true).await;
    sink.publish(&[place.event("loan", 1, 10)]).await;
    assert_eq!(tail.next().await.0, place.topic("loan"));
    tail.end().await;
}

#[tokio::test]
async fn a_stream_is_created_on_no_more_than_the_literal_prefix() {
    let _shared = SERVER.read().await;
    let place = Place::new();
    let parts = vec![TopicPart::Literal(format!("{}.library.alma.", place.prefix)), TopicPart::Action];
    let subjects = Subjects::of(&TopicTemplate { parts });
    let mut sink = NatsSink::new("main".parse().expect("a name"), place.settings.clone(), subjects, MAX_BODY);
    assert_eq!(sink.connect().await, Ok(Vec::new()));
    assert_eq!(place.info()["subjects"], json!([format!("{}.library.alma.>", place.prefix)]));
}
