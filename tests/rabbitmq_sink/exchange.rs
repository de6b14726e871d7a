//! The exchange: declared, found, compared, gone.

use alma_bridge::config;
use alma_bridge::sinks::{Outcome, Reason, Sink};
use serde_json::{Value, json};

use crate::support::{
    BROKER, Rights, api, bare_exchange, bind, connected, events, fresh, limited, read_ids, reasons, settings, sink,
};

#[tokio::test]
async fn an_event_that_nobody_is_bound_for_is_kept() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    assert_eq!(sink.publish(&events("alma.loan", 3)).await, vec![Outcome::CONFIRMED; 3]);
    let unrouted = format!("{exchange}.unrouted");
    assert_eq!(read_ids(&unrouted).len(), 3);
    let found = api("GET", &format!("exchanges/%2f/{exchange}"), &Value::Null);
    assert_eq!((&found["type"], &found["durable"]), (&json!("topic"), &json!(true)));
    assert_eq!(found["arguments"], json!({"alternate-exchange": unrouted}));
    let found = api("GET", &format!("queues/%2f/{unrouted}"), &Value::Null);
    let expected = json!({
        "x-queue-type": "quorum", "x-message-ttl": 604_800_000, "x-max-length-bytes": 1_073_741_824,
        "x-overflow": "drop-head",
    });
    assert_eq!((&found["durable"], &found["arguments"]), (&json!(true), &expected));
    // Once somebody is bound, it is their queue alone that gets it.
    bind(&exchange, &exchange, "alma.loan");
    assert_eq!(sink.publish(&events("alma.loan", 2)).await, vec![Outcome::CONFIRMED; 2]);
    assert_eq!((read_ids(&exchange).len(), read_ids(&unrouted).len()), (2, 0));
    assert_eq!(crate::support::sink(&settings(&exchange)).connect().await, Ok(Vec::new()), "found as declared");
}

#[tokio::test]
async fn what_exists_is_used_as_it_is_and_what_falls_short_is_told() {
    let _shared = BROKER.read().await;
    for (kind, durable, arguments, told) in [
        ("topic", true, json!({}), Some("no alternate exchange")),
        ("topic", true, json!({"alternate-exchange": "other"}), None),
        ("topic", false, json!({}), Some("not durable")),
        ("direct", true, json!({}), Some("has type direct, expected topic")),
    ] {
        let exchange = fresh();
        let made = json!({"type": kind, "durable": durable, "arguments": arguments});
        api("PUT", &format!("exchanges/%2f/{exchange}"), &made);
        bind(&exchange, &exchange, "alma.loan");
        let mut sink = sink(&settings(&exchange));
        let warnings = sink.connect().await.expect("it is taken as it is");
        assert_eq!(warnings.len(), usize::from(told.is_some()), "{warnings:?}");
        assert!(warnings.iter().all(|warning| told.is_some_and(|told| warning.contains(told))), "{warnings:?}");
        assert_eq!(sink.publish(&events("alma.loan", 2)).await, vec![Outcome::CONFIRMED; 2], "{made}");
        let found = api("GET", &format!("exchanges/%2f/{exchange}"), &Value::Null);
        assert_eq!(
            (&found["type"], &found["durable"], &found["arguments"]),
            (&json!(kind), &json!(durable), &arguments)
        );
    }
}

#[tokio::test]
async fn a_missing_exchange_is_the_operators_matter_where_it_may_not_be_declared() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = sink(&config::RabbitMqSink { declare: false, ..settings(&exchange) });
    let warnings = sink.connect().await.expect("connected all the same");
    assert!(warnings[0].contains("does not exist: declare is false"), "{warnings:?}");
    assert_eq!(reasons(&sink.publish(&events("alma.loan", 3)).await), [Some(Reason::Missing); 3]);
    assert!(sink.is_up());
    // Made by somebody, it is taken by the next try.
    bare_exchange(&exchange);
    bind(&exchange, &exchange, "alma.loan");
    assert_eq!(sink.publish(&events("alma.loan", 3)).await, vec![Outcome::CONFIRMED; 3]);
}

#[tokio::test]
async fn an_exchange_that_vanished_is_declared_again() {
    let _shared = BROKER.read().await;
    let exchange = fresh();
    let mut sink = connected(&settings(&exchange)).await;
    assert_eq!(sink.publish(&events("alma.loan", 1)).await, [Outcome::CONFIRMED]);
    api("DELETE", &format!("exchanges/%2f/{exchange}"), &Value::Null);
    assert_eq!(sink.publish(&events("alma.loan", 20)).await, vec![Outcome::CONFIRMED; 20]);
    assert_eq!(read_ids(&format!("{exchange}.unrouted")).len(), 21);
}

#[tokio::test]
async fn a_user_who_may_not_declare_is_told_and_events_wait() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let rights = Rights::give("^$", &format!("^{exchange}$"), "^$");
    let mut sink = sink(&limited(&exchange));
    let warnings = sink.connect().await.expect("connected all the same");
    assert!(warnings[0].contains("cannot be declared: rights: 403"), "{warnings:?}");
    assert_eq!(reasons(&sink.publish(&events("alma.loan", 3)).await), [Some(Reason::Missing); 3]);
    drop(rights);
}

/// The rights of the bridge in docs/brokers.md: to run, write on the exchange; to declare, all three on both names.
#[tokio::test]
async fn the_least_rights_are_enough() {
    let _alone = BROKER.write().await;
    let exchange = fresh();
    let both = format!("^{exchange}(\\.unrouted)?$");
    let rights = Rights::give(&both, &both, &both);
    let mut sink = sink(&limited(&exchange));
    assert_eq!(sink.connect().await, Ok(Vec::new()));
    assert_eq!(sink.publish(&events("alma.loan", 2)).await, vec![Outcome::CONFIRMED; 2]);
    drop(rights);
    let _rights = Rights::give("^$", &format!("^{exchange}$"), "^$");
    assert_eq!(sink.connect().await, Ok(Vec::new()));
    assert_eq!(sink.publish(&events("alma.loan", 2)).await, vec![Outcome::CONFIRMED; 2]);
    assert_eq!(read_ids(&format!("{exchange}.unrouted")).len(), 4);
}
