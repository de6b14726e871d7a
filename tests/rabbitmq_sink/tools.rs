//! `check --connect` and `tail`.

use std::time::Duration;

use alma_bridge::config::{self, Format, Login, Secret};
use alma_bridge::sinks::rabbitmq::{probe, tail};
use alma_bridge::sinks::tools::{Check, Landed, Patterns, TailOptions, Verdict};
use alma_bridge::sinks::{Failure, Reason, Sink};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::forward::by_another_address;
use crate::support::{
    BROKER, MAX_BODY, Rights, api, bind, connected, event, events, fresh, limited, login, over_tls, read_ids, settings,
    sink, var,
};

async fn checks(settings: &config::RabbitMqSink, max_body: usize, topics: &[&str]) -> Vec<Check> {
    let topics: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).collect();
    probe(&"main".parse().expect("a name"), settings, max_body, &topics).await
}

fn verdict<'a>(checks: &'a [Check], what: &str) -> &'a Verdict {
    let found = checks.iter().find(|check| check.what.contains(what));
    &found.unwrap_or_else(|| panic!("no line about {what}: {checks:#?}")).verdict
}

fn assert_good(checks: &[Check], what: &str, found: &str) {
    assert!(matches!(verdict(checks, what), Verdict::Good(text) if text.contains(found)), "{what}: {checks:#?}");
}

fn assert_bad(checks: &[Check], what: &str, found: &str) {
    assert!(matches!(verdict(checks, what), Verdict::Bad(text, _) if text.contains(found)), "{what}: {checks:#?}");
}

#[tokio::test]
async fn the_checklist_finds_what_is_there_and_nothing_lands() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let settings = config::RabbitMqSink { login: Some(login("ADMIN")), ..over_tls(&exchange, None) };
    let before = checks(&settings, MAX_BODY, &["alma.loan"]).await;
    assert_good(&before, &format!("exchange {exchange}"), "declares it when it connects");
    connected(&settings).await;
    bind(&exchange, &exchange, "#");
    let found = checks(&settings, MAX_BODY, &["alma.loan", "alma.bib"]).await;
    assert_good(&found, "server reached", "RabbitMQ 4");
    assert_good(&found, "TLS", "TLS 1.3, verified");
    assert_good(&found, "login", "user admin (PLAIN)");
    assert_good(&found, "vhost /", "allowed");
    assert_good(&found, &format!("exchange {exchange}"), "exists");
    assert_good(&found, &format!("queue {exchange}.unrouted"), "empty");
    assert_good(&found, "right to publish alma.loan, alma.bib", "allowed");
    assert_good(&found, "max_message_size", "11250346 bytes");
    assert_eq!(read_ids(&exchange).len(), 0, "nothing was published");
    // Bodies of 16 MiB can be larger than the broker takes.
    let found = checks(&settings, 16 << 20, &[]).await;
    let Verdict::Warning(found, mend) = verdict(&found, "max_message_size") else { panic!("{found:#?}") };
    assert!(found.contains("16777216 bytes") && mend.contains("max_message_size = 22435157"), "{found} {mend}");
}

#[tokio::test]
async fn the_checklist_says_what_is_missing() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut live = connected(&settings(&exchange)).await;
    live.publish(&events("alma.loan", 2)).await;
    let found = checks(&settings(&exchange), MAX_BODY, &[]).await;
    assert!(matches!(verdict(&found, "TLS"), Verdict::Warning(..)), "{found:#?}");
    assert!(matches!(verdict(&found, ".unrouted"), Verdict::Warning(text, _) if text.contains("2 events")));
    let rights = Rights::on_topics(&exchange, "^alma\\.loan$");
    let found = checks(&limited(&exchange), MAX_BODY, &["alma.loan", "alma.bib"]).await;
    drop(rights);
    assert_good(&found, "right to publish alma.loan", "allowed");
    assert_good(&found, "max_message_size", "11250346 bytes");
    assert_bad(&found, "right to publish alma.bib", "write access to topic 'alma.bib'");
    let missing = config::RabbitMqSink { declare: false, ..settings(&fresh()) };
    assert_bad(&checks(&missing, MAX_BODY, &["alma.loan"]).await, "exchange", "does not exist, and declare is false");
}

#[tokio::test]
async fn the_checklist_tells_how_far_one_gets() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let nowhere = config::RabbitMqSink { url: Secret::new(*b"amqp://127.0.0.1:1/%2f"), ..settings(&exchange) };
    assert_bad(&checks(&nowhere, MAX_BODY, &[]).await, "server reached", "127.0.0.1:1");
    let mut other_authority = over_tls(&exchange, None);
    other_authority.tls.as_mut().expect("TLS").ca_file = Some(var("OTHER_CA").into());
    let found = checks(&other_authority, MAX_BODY, &[]).await;
    assert_good(&found, "server reached", "127.0.0.1");
    assert_bad(&found, "TLS", "certificate");
    let wrong = Some(Login { username: "admin".into(), password: Secret::new(*b"hunter2") });
    let found = checks(&config::RabbitMqSink { login: wrong, ..settings(&exchange) }, MAX_BODY, &[]).await;
    assert_bad(&found, "login", "Login was refused");
    let url = Secret::new(var("RABBITMQ").replace("%2f", "nowhere").into_bytes());
    let found = checks(&config::RabbitMqSink { url, ..settings(&exchange) }, MAX_BODY, &[]).await;
    assert_good(&found, "login", "user guest");
    assert_bad(&found, "vhost nowhere", "not found");
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_hint_fits_its_cause() {
    let _shared = BROKER.read().await;
    alma_bridge::ingress::tls::install_provider();
    let exchange = fresh();
    let at = |url: String, settings| config::RabbitMqSink { url: Secret::new(url.into_bytes()), ..settings };
    let (plain, over) = (var("RABBITMQ"), var("RABBITMQ_TLS"));
    let place = |url: &str| url.split('/').nth(2).expect("a place").to_owned();
    let another = by_another_address(&place(&over)).await;
    let mut other_authority = over_tls(&exchange, None);
    other_authority.tls.as_mut().expect("TLS").ca_file = Some(var("OTHER_CA").into());
    for (settings, part) in [
        (other_authority, "tls.ca_file"),
        (at(format!("amqps://{another}/%2f"), over_tls(&exchange, None)), "a name in the certificate"),
        (at(plain.replace("amqp://", "amqps://"), over_tls(&exchange, None)), "does not speak TLS"),
        (at(over.replace("amqps://", "amqp://"), settings(&exchange)), "use amqps://"),
    ] {
        let found = checks(&settings, MAX_BODY, &[]).await;
        assert!(matches!(verdict(&found, "TLS"), Verdict::Bad(_, mend) if mend.contains(part)), "{part}: {found:#?}");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_for_all_topics_is_told_once() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    connected(&settings(&exchange)).await;
    let found = checks(&limited(&exchange), MAX_BODY, &["alma.bib", "alma.loan"]).await;
    assert_bad(&found, "right to publish alma.bib, alma.loan", "ACCESS_REFUSED");
}

struct Tail {
    landed: mpsc::Receiver<Landed>,
    task: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl Tail {
    async fn start(settings: config::RabbitMqSink, patterns: &[&str]) -> Self {
        let (into, landed) = mpsc::channel(4);
        let (ready, begun) = oneshot::channel();
        let topics = Patterns(patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        let options = TailOptions { topics, from_start: false, into, ready };
        let task =
            tokio::spawn(async move { tail(&"main".parse().expect("a name"), &settings, "alma", options).await });
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("in time").expect("reading has begun");
        Self { landed, task }
    }

    async fn next(&mut self) -> (String, Value) {
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
async fn tail_shows_what_comes_from_now_on_and_leaves_no_queue() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    sink.publish(&events("alma.loan", 5)).await;
    let mut all = Tail::start(settings(&exchange), &[]).await;
    let mut some = Tail::start(settings(&exchange), &["alma.lo*", "alma.item"]).await;
    let window = [
        event("other.loan", 99, 3, Format::CloudEvents),
        event("alma.bib", 100, 3, Format::CloudEvents),
        event("alma.loan.loan_created", 101, 3, Format::CloudEventsBinary),
    ];
    sink.publish(&window).await;
    // More than are let wait for a reader.
    sink.publish(&events("alma.bib", 300)).await;
    assert_eq!(all.next().await.0, "alma.bib");
    for tail in [&mut all, &mut some] {
        let (topic, document) = tail.next().await;
        assert_eq!((topic.as_str(), &document["id"]), ("alma.loan.loan_created", &"101.0123456789abcdef".into()));
        assert_eq!(
            (&document["datacontenttype"], &document["data"]["pad"]),
            (&"application/json".into(), &"xxx".into())
        );
    }
    for _ in 0..300 {
        assert_eq!(all.next().await.0, "alma.bib");
    }
    assert_eq!(read_ids(&format!("{exchange}.unrouted")).len(), 6, "what the tails took was routed");
    all.end().await;
    some.end().await;
    let bound = api("GET", &format!("exchanges/%2f/{exchange}/bindings/source"), &Value::Null);
    assert_eq!(bound.as_array().map(Vec::len), Some(0), "{bound}");
}

#[tokio::test]
async fn tail_says_that_the_past_cannot_be_had() {
    let _shared = BROKER.read().await;
    let (into, _landed) = mpsc::channel(1);
    let options = TailOptions { topics: Patterns::default(), from_start: true, into, ready: oneshot::channel().0 };
    let failure = tail(&"main".parse().expect("a name"), &settings("x"), "alma", options).await.expect_err("refused");
    assert!(failure.detail.contains("--from-start is not possible"), "{failure}");
}

/// The least rights of a reader: its own queue (`amq.gen-…`), and to read the exchange.
#[tokio::test]
async fn tail_needs_no_right_to_publish() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let mut live = connected(&settings(&exchange)).await;
    let _rights = Rights::give("^amq\\.gen.*", "^amq\\.gen.*", &format!("^(amq\\.gen.*|{exchange})$"));
    let mut tail = Tail::start(limited(&exchange), &[]).await;
    live.publish(&events("alma.loan", 1)).await;
    assert_eq!(tail.next().await.0, "alma.loan");
    let failure = sink(&limited(&exchange)).publish(&events("alma.loan", 1)).await;
    assert_eq!(crate::support::reasons(&failure), [Some(Reason::Unreachable)], "not connected");
    tail.end().await;
}
