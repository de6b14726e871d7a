//! TLS, login and the rights of a subscriber.

use std::process::Command;

use alma_bridge::config::{self, Login, Secret};
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::brokers::output;
use crate::support::{BROKER, Rights, bind, connected, events, fresh, login, over_tls, read_ids, settings, sink, var};

#[tokio::test]
async fn logs_in_by_password_and_by_certificate_over_tls() {
    let _shared = BROKER.read().await;
    let by_password = |exchange: &str| config::RabbitMqSink { login: Some(login("ADMIN")), ..over_tls(exchange, None) };
    let by_certificate = |exchange: &str| over_tls(exchange, Some("CLIENT"));
    let by: [&dyn Fn(&str) -> config::RabbitMqSink; 2] = [&by_password, &by_certificate];
    for settings in by {
        let exchange = fresh();
        let mut sink = connected(&settings(&exchange)).await;
        assert_eq!(sink.publish(&events("alma.loan", 600)).await, vec![Outcome::CONFIRMED; 600]);
        sink.close().await;
        assert_eq!(read_ids(&format!("{exchange}.unrouted")).len(), 600);
    }
}

#[tokio::test]
async fn what_is_not_trusted_is_a_refused_login() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut other_authority = over_tls(&exchange, Some("CLIENT"));
    other_authority.tls.as_mut().expect("TLS").ca_file = Some(var("OTHER_CA").into());
    let wrong = Some(Login { username: "admin".into(), password: Secret::new(*b"hunter2") });
    for (what, settings) in [
        ("another authority", other_authority),
        ("a stranger's certificate", over_tls(&exchange, Some("STRANGER"))),
        ("a wrong password", config::RabbitMqSink { login: wrong.clone(), ..settings(&exchange) }),
        ("a wrong password over TLS", config::RabbitMqSink { login: wrong, ..over_tls(&exchange, None) }),
    ] {
        let failure = sink(&settings).connect().await.expect_err(what);
        assert_eq!(failure.reason, Reason::Login, "{what}: {failure}");
        assert!(!failure.detail.contains("hunter2"), "{failure}");
    }
}

#[tokio::test]
async fn a_vhost_that_is_not_there_is_named() {
    let _shared = BROKER.read().await;
    let url = var("RABBITMQ").replace("%2f", "nowhere");
    let failure = sink(&config::RabbitMqSink { url: Secret::new(url.into_bytes()), ..settings(&fresh()) })
        .connect()
        .await
        .expect_err("no such vhost");
    assert_eq!(failure.reason, Reason::Missing, "{failure}");
    assert!(failure.detail.contains("vhost nowhere not found"), "{failure}");
}

#[tokio::test]
async fn the_wrong_port_is_unreachable_within_its_time() {
    let _shared = BROKER.read().await;
    let plain_at_tls = var("RABBITMQ_TLS").replace("amqps", "amqp");
    let tls_at_plain = var("RABBITMQ").replace("amqp://", "amqps://");
    for url in [plain_at_tls, tls_at_plain, "amqp://127.0.0.1:1/%2f".to_owned()] {
        let begun = std::time::Instant::now();
        let settings = config::RabbitMqSink { url: Secret::new(url.clone().into_bytes()), ..settings(&fresh()) };
        let failure = sink(&settings).connect().await.expect_err(&url);
        assert!(matches!(failure.reason, Reason::Unreachable | Reason::Login), "{url}: {failure}");
        assert!(begun.elapsed().as_secs() < 12, "{url}: {:?}", begun.elapsed());
    }
}

/// Runs a consumer that shares no code with the bridge as the user `limited`, and returns what it printed.
fn subscriber(arguments: &[&str]) -> String {
    output(Command::new(var("PYTHON")).arg("tests/rabbitmq_sink/subscriber.py").args(arguments))
}

fn assert_refused(arguments: &[&str]) {
    let printed = subscriber(arguments);
    assert!(printed.starts_with("refused: ACCESS_REFUSED"), "{arguments:?}: {printed}");
}

/// The rights in docs/subscribe.md of a subscriber that declares and binds its queue, for one routing key.
#[tokio::test]
async fn a_subscriber_declares_binds_and_consumes_its_own_queue() {
    let _alone = BROKER.write().await;
    let (exchange, other) = (fresh(), fresh());
    let queue = format!("{exchange}-service");
    let mut sink = connected(&settings(&exchange)).await;
    connected(&settings(&other)).await.close().await;

    let own = format!("^{queue}$");
    let _rights = Rights::give(&own, &own, &format!("^({queue}|{exchange})$")).and_to_bind(&exchange, r"^alma\.loan$");
    assert_eq!(subscriber(&["declare", &queue]), "");
    assert_eq!(subscriber(&["bind", &queue, &exchange, "alma.loan"]), "");
    let sent = events("alma.loan", 3);
    assert_eq!(sink.publish(&sent).await, vec![Outcome::CONFIRMED; 3]);
    // The second run gets only what the first one has not acknowledged.
    let read = subscriber(&["consume", &queue, "2"]) + &subscriber(&["consume", &queue, "1"]);
    let sent: Vec<_> = sent.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(read.lines().collect::<Vec<_>>(), sent);

    for refused in [
        ["bind", &queue, &exchange, "alma.bib"].as_slice(),
        &["bind", &queue, &exchange, "#"],
        &["bind", &queue, &other, "alma.loan"],
        &["declare", &format!("{queue}-2")],
        &["consume", &format!("{exchange}.unrouted"), "1"],
        &["publish", &exchange, "alma.loan"],
        &["delete", &exchange],
    ] {
        assert_refused(refused);
    }
    assert!(read_ids(&queue).is_empty());
}

/// The rights in docs/subscribe.md of a subscriber whose queue an operator has declared and bound.
#[tokio::test]
async fn a_subscriber_consumes_the_queue_of_an_operator() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let (queue, other) = (format!("{exchange}-service"), format!("{exchange}-other"));
    let mut sink = connected(&settings(&exchange)).await;
    bind(&exchange, &queue, "alma.loan");
    bind(&exchange, &other, "alma.loan");
    assert_eq!(sink.publish(&events("alma.loan", 3)).await, vec![Outcome::CONFIRMED; 3]);

    let _rights = Rights::give("^$", "^$", &format!("^{queue}$"));
    assert_eq!(subscriber(&["consume", &queue, "3"]).lines().count(), 3);
    for refused in [
        ["consume", &other, "1"].as_slice(),
        &["bind", &queue, &exchange, "alma.bib"],
        &["declare", &format!("{queue}-2")],
        &["publish", &exchange, "alma.loan"],
    ] {
        assert_refused(refused);
    }
}
