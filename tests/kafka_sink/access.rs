//! TLS, login and rights.

use std::collections::BTreeSet;
use std::process::Command;

use alma_bridge::config::{self, ClientTls, Format, Login, Secret};
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::brokers::output;
use crate::support::{
    BROKER, Rights, connected, event, events, kcat, kcat_all, prefix, reason, sasl, settings, sink, var,
};

#[tokio::test]
async fn logs_in_by_every_mechanism_over_tls() {
    let _shared = BROKER.read().await;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let topic = format!("{}.loan", prefix());
        let mut sink = connected(&sasl("ADMIN", mechanism)).await;
        assert_eq!(sink.publish(&events(&topic, 3)).await, vec![Outcome::CONFIRMED; 3], "{mechanism}");
    }
    // Without a mechanism in the properties.
    connected(&config::KafkaSink { properties: [].into(), ..sasl("ADMIN", "") }).await;
}

#[tokio::test]
async fn a_wrong_password_is_a_refused_login() {
    let _shared = BROKER.read().await;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut settings = sasl("ADMIN", mechanism);
        settings.login = Some(Login { username: "admin".into(), password: Secret::new(*b"hunter2") });
        let failure = sink(&settings).connect().await.expect_err("a wrong password");
        assert_eq!(failure.reason, Reason::Login, "{mechanism}: {failure}");
        assert!(!failure.detail.contains("hunter2"));
    }
}

#[tokio::test]
async fn logs_in_by_client_certificate() {
    let _shared = BROKER.read().await;
    let tls = |name: Option<&str>, ca: &str| {
        let file = |ending: &str| name.map(|name| var(&format!("{name}_{ending}")).into());
        Some(ClientTls { ca_file: Some(var(ca).into()), cert_file: file("CERT"), key_file: file("KEY") })
    };
    let by = |tls| config::KafkaSink { brokers: vec![var("KAFKA_SSL")], tls, ..settings() };
    let topic = format!("{}.loan", prefix());
    let mut good = connected(&by(tls(Some("CLIENT"), "CA"))).await;
    assert_eq!(good.publish(&events(&topic, 3)).await, vec![Outcome::CONFIRMED; 3]);
    for (what, wrong) in [("none", tls(None, "CA")), ("other authority", tls(Some("CLIENT"), "OTHER_CA"))] {
        let failure = sink(&by(wrong)).connect().await.expect_err(what);
        assert_eq!(failure.reason, Reason::Login, "{what}: {failure}");
    }
}

#[tokio::test]
async fn a_topic_without_the_right_to_write_holds_up_no_other() {
    let _alone = BROKER.write().await;
    let prefix = prefix();
    let (mine, read_only, foreign) = (format!("{prefix}.loan"), format!("{prefix}.bib"), format!("{prefix}.item"));
    let mut admin = connected(&settings()).await;
    for topic in [&mine, &read_only, &foreign] {
        admin.publish(&events(topic, 1)).await;
    }

    // Without any right at all the producer gets no id, which librdkafka takes for fatal.
    let mut sink = connected(&sasl("LIMITED", "SCRAM-SHA-512")).await;
    let outcomes = sink.publish(&events(&mine, 3)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Rights)), "{outcomes:?}");
    let _describe = Rights::on(&read_only, &["Describe"]);
    let outcomes = sink.publish(&events(&read_only, 3)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Rights)), "{outcomes:?}");

    // The same sink goes on once a right is given.
    let _mine = Rights::on(&mine, &["Write"]);
    let mut window = events(&mine, 10);
    window[3] = event(&read_only, 3, 10, Format::CloudEvents);
    window[6] = event(&foreign, 6, 10, Format::CloudEvents);
    let outcomes = sink.publish(&window).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        let expected = [3, 6].contains(&place).then_some(Reason::Rights);
        assert_eq!(reason(outcome), expected, "{place}: {outcome:?}");
    }
    let _others = (Rights::on(&read_only, &["Write"]), Rights::on(&foreign, &["Write"]));
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 10]);
    assert_eq!(kcat_all(&foreign, "%k", 2).len(), 2);

    // Nor may it create any.
    let outcomes = sink.publish(&events(&format!("{prefix}.fee"), 1)).await;
    assert_eq!(reason(&outcomes[0]), Some(Reason::Rights), "{outcomes:?}");
}

/// The rights of the bridge in docs/brokers.md: Write and Create under the prefix, nothing on the cluster.
#[tokio::test]
async fn the_least_rights_are_enough() {
    let _alone = BROKER.write().await;
    let prefix = prefix();
    let rights = Rights::under(&format!("{prefix}."), &["Write", "Create"]);
    let mut sink = connected(&sasl("LIMITED", "SCRAM-SHA-256")).await;
    let window = [events(&format!("{prefix}.loan"), 5), events(&format!("{prefix}.bib"), 5)].concat();
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 10]);
    drop(rights);
    let _rights = Rights::under(&format!("{prefix}."), &["Write"]);
    let mut sink = connected(&sasl("LIMITED", "SCRAM-SHA-256")).await;
    assert_eq!(sink.publish(&window).await, vec![Outcome::CONFIRMED; 10], "topics that are there take no other right");
}

/// Runs a consumer that shares no code with the bridge as the user `limited`, and returns what it printed.
fn subscriber(arguments: &[&str]) -> String {
    output(Command::new(var("PYTHON")).arg("tests/kafka_sink/subscriber.py").args(arguments))
}

/// The rights of a subscriber in docs/subscribe.md: Read on its topic and on its group, and nothing else.
#[tokio::test]
async fn a_subscriber_needs_read_on_its_topic_and_its_group() {
    let _alone = BROKER.write().await;
    let prefix = prefix();
    let (mine, other, group) = (format!("{prefix}.loan"), format!("{prefix}.bib"), format!("{prefix}-service"));
    let mut admin = connected(&settings()).await;
    for topic in [&mine, &other] {
        assert_eq!(admin.publish(&events(topic, 3)).await, vec![Outcome::CONFIRMED; 3]);
    }

    let topic_right = Rights::on(&mine, &["Read"]);
    assert_eq!(subscriber(&["consume", &mine, &group, "1"]), "refused: GROUP_AUTHORIZATION_FAILED\n");
    drop(topic_right);
    let _group_right = Rights::on_group(&group, &["Read"]);
    assert_eq!(subscriber(&["consume", &mine, &group, "1"]), "refused: TOPIC_AUTHORIZATION_FAILED\n");

    let _topic_right = Rights::on(&mine, &["Read"]);
    // The second run gets only what the first one has not committed.
    let read = subscriber(&["consume", &mine, &group, "2"]) + &subscriber(&["consume", &mine, &group, "1"]);
    let read: BTreeSet<_> = read.lines().map(str::to_owned).collect();
    assert_eq!(read, kcat(&mine, "%k").into_iter().collect());
    assert_eq!(read.len(), 3);

    for (refused, error) in [
        (vec!["consume", &other, &group, "1"], "TOPIC_AUTHORIZATION_FAILED"),
        (vec!["consume", &mine, "another-group", "1"], "GROUP_AUTHORIZATION_FAILED"),
        (vec!["produce", &mine], "TOPIC_AUTHORIZATION_FAILED"),
        (vec!["create", &format!("{prefix}.fee")], "TOPIC_AUTHORIZATION_FAILED"),
    ] {
        assert_eq!(subscriber(&refused), format!("refused: {error}\n"), "{refused:?}");
    }
}
