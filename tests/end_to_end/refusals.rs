//! Missing rights, bounds of size, nobody bound.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::brokers::{brokers, var};
use crate::harness::{Bridge, Setup, loan, wait_for};
use crate::places::{Broker, Place, rabbitmq_api, read, wait_until_delivered, wait_until_metric, wait_until_up};

/// Rights of the limited user, taken away again at the end, also of a test that fails.
struct Rights<'a>(&'a Place);

impl Rights<'_> {
    /// To publish these actions, and to make what is missing.
    fn give(&self, actions: &[&str]) {
        let prefix = &self.0.prefix;
        match self.0.broker {
            Broker::Kafka => {
                let user = format!("User:{}", var("KAFKA_LIMITED_USER"));
                for action in actions {
                    let topic = self.0.topic(action);
                    let on = ["--topic", &topic, "--operation", "Write", "--operation", "Create"];
                    brokers(&[["kafka-acls", "--add", "--allow-principal", &user].as_slice(), &on].concat());
                }
            }
            Broker::RabbitMq => {
                let user = var("RABBITMQ_LIMITED_USER");
                let own = format!("^{prefix}(\\.unrouted)?$");
                let rights = json!({ "configure": own, "write": own, "read": own });
                rabbitmq_api("PUT", &format!("permissions/%2f/{user}"), &rights);
                let keys = format!("^{prefix}\\.({})$", actions.join("|"));
                let rights = json!({ "exchange": prefix, "write": keys, "read": "^$" });
                rabbitmq_api("PUT", &format!("topic-permissions/%2f/{user}"), &rights);
            }
            Broker::Nats => {
                let subjects: Vec<String> = actions.iter().map(|action| self.0.topic(action)).collect();
                let given = subjects.iter().flat_map(|subject| ["--publish", subject.as_str()]);
                brokers(&std::iter::once("nats-rights").chain(given).collect::<Vec<_>>());
            }
        }
    }
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        match self.0.broker {
            Broker::Kafka => {
                for action in ["loan", "bib", "item"] {
                    brokers(&["kafka-acls", "--remove", "--force", "--topic", &self.0.topic(action)]);
                }
            }
            Broker::RabbitMq => {
                let user = var("RABBITMQ_LIMITED_USER");
                let none = json!({ "configure": "^$", "write": "^$", "read": "^$" });
                rabbitmq_api("PUT", &format!("permissions/%2f/{user}"), &none);
                rabbitmq_api("DELETE", &format!("topic-permissions/%2f/{user}"), &json!({}));
            }
            Broker::Nats => brokers(&["nats-rights"]),
        }
    }
}

/// An event of any action, with a number as Alma's id.
fn event(action: &str, number: usize) -> Vec<u8> {
    format!(r#"{{"id":"{number}","action":"{action}","institution":{{"value":"01TEST_INST"}}}}"#).into_bytes()
}

fn take(bridge: &Bridge, body: &[u8]) {
    let answer = bridge.post(body);
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// The topics' ids, each once.
fn landed(place: &Place, action: &str) -> BTreeSet<String> {
    let topic = place.topic(action);
    let here = place.read().into_iter().filter(|landed| landed.topic == topic);
    here.map(|landed| landed.attribute("id").expect("an id").to_owned()).collect()
}

fn parks_and_lands(broker: Broker) {
    let _alone = broker.alone();
    let place = Place::new(broker);
    let rights = Rights(&place);
    rights.give(&["loan", "item"]);
    let setup = Setup::unwritten();
    setup.write_secret("password", &place.limited_password());
    setup.configure(&format!("{}setup_grace = \"1s\"\n", place.limited_sink("main")));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    place.subscribe();
    for number in 0..10 {
        for action in ["LOAN", "BIB", "ITEM"] {
            take(&bridge, &event(action, number));
        }
    }
    wait_until_metric(&bridge, "alma_bridge_sink_parked_topics{sink=\"main\"}", 1);
    wait_until_delivered(&bridge, "main");
    assert_eq!((landed(&place, "loan").len(), landed(&place, "bib").len(), landed(&place, "item").len()), (10, 0, 10));
    assert_eq!(bridge.metric_sum("alma_bridge_dead_letters{sink=\"main\""), 10);
    assert!(setup.command(&["status"]).status.code() == Some(1), "a person is needed");
    for action in ["LOAN", "BIB", "ITEM"] {
        take(&bridge, &event(action, 10));
    }
    rights.give(&["loan", "bib", "item"]);
    wait_until_metric(&bridge, "alma_bridge_dead_letters{sink=\"main\"", 0);
    wait_until_metric(&bridge, "alma_bridge_sink_parked_topics{sink=\"main\"}", 0);
    wait_until_delivered(&bridge, "main");
    for action in ["loan", "bib", "item"] {
        assert_eq!(landed(&place, action).len(), 11, "{action}");
    }
}

/// A queue, bound for one action, that refuses more messages than this.
fn refuse_more_than(place: &Place, queue: &str, action: &str, most: usize) {
    let definition = json!({ "max-length": most, "overflow": "reject-publish" });
    let policy = json!({ "pattern": format!("^{queue}$"), "definition": definition, "apply-to": "queues" });
    rabbitmq_api("PUT", &format!("policies/%2f/{queue}"), &policy);
    bind(place, queue, action);
    let is_in_effect = || rabbitmq_api("GET", &format!("queues/%2f/{queue}"), &json!({}))["policy"] == queue;
    wait_for("the policy to be in effect", || is_in_effect().then_some(()));
}

fn bind(place: &Place, queue: &str, action: &str) {
    rabbitmq_api("PUT", &format!("queues/%2f/{queue}"), &json!({ "durable": true }));
    let binding = json!({ "routing_key": place.topic(action) });
    rabbitmq_api("POST", &format!("bindings/%2f/e/{}/q/{queue}", place.prefix), &binding);
}

/// One subscriber's queue is full. That is its own affair.
#[test]
fn a_full_queue_that_refuses_holds_up_no_other_topic_and_copies_nothing() {
    let _shared = Broker::RabbitMq.shared();
    let place = Place::new(Broker::RabbitMq);
    let setup = Setup::new(&format!("{}setup_grace = \"10s\"\n", place.sink("main")));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", Broker::RabbitMq);
    let [full, free] = ["full", "free"].map(|name| format!("{}-{name}", place.prefix));
    refuse_more_than(&place, &full, "bib", 5);
    bind(&place, &free, "loan");
    let begun = std::time::Instant::now();
    for number in 0..50 {
        take(&bridge, &event("BIB", number));
        take(&bridge, &event("LOAN", number));
    }
    let loans = format!("alma_bridge_published_events_total{{sink=\"main\",topic=\"{}\"}}", place.topic("loan"));
    wait_until_metric(&bridge, &loans, 50);
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(10),
        "within the grace of the other: {:?}",
        begun.elapsed()
    );
    wait_until_metric(&bridge, "alma_bridge_sink_parked_topics{sink=\"main\"}", 1);
    wait_until_delivered(&bridge, "main");
    for number in 50..60 {
        take(&bridge, &event("LOAN", number));
    }
    wait_until_delivered(&bridge, "main");
    assert_eq!(read("rabbitmq", &free).len(), 60, "each once");
    let (letters, taken) = (bridge.metric_sum("alma_bridge_dead_letters{sink=\"main\""), read("rabbitmq", &full).len());
    assert!(taken >= 5 && letters + taken as u64 == 50, "{letters} letters, {taken} were taken");
    let status = String::from_utf8(setup.command(&["status"]).stdout).expect("text");
    assert!(status.contains("reject-publish"), "{status}");
    rabbitmq_api("DELETE", &format!("policies/%2f/{full}"), &json!({}));
    bridge.signal(rustix::process::Signal::HUP);
    wait_until_metric(&bridge, "alma_bridge_dead_letters{sink=\"main\"", 0);
    let ids: BTreeSet<_> = read("rabbitmq", &full).into_iter().filter_map(|landed| landed.id).collect();
    assert_eq!(ids.len(), 50);
}

fn an_event_of_eight_mebibytes_lands(broker: Broker) {
    const MAX_BODY: usize = 8 << 20;
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    place.subscribe();
    let mut body = event("BIB", 1);
    let rest = br#","pad":""}"#;
    body.pop();
    let pad = "x".repeat(MAX_BODY - body.len() - rest.len());
    body.extend_from_slice(format!(r#","pad":"{pad}"}}"#).as_bytes());
    assert_eq!(body.len(), MAX_BODY);
    take(&bridge, &body);
    // No text at all: Base64 makes it a third larger.
    let opaque = vec![0xff; MAX_BODY];
    take(&bridge, &opaque);
    wait_until_delivered(&bridge, "main");
    assert_eq!(bridge.metric_sum("alma_bridge_dead_letters{sink=\"main\""), 0);
    let landed = place.read();
    assert_eq!(landed.len(), 2);
    for landed in &landed {
        let whole = if landed.topic == place.topic("bib") {
            let document = landed.body();
            document.windows(body.len()).any(|window| window == body)
        } else {
            landed.data["base64"].as_str().is_some_and(|text| text.len() >= MAX_BODY / 3 * 4)
        };
        assert!(whole, "{}", landed.topic);
    }
}

crate::on_each_broker!(an_event_of_eight_mebibytes_lands);

/// All three at once, because each takes the minute after which parked events are tried again.
#[test]
fn a_topic_without_rights_is_parked_and_lands_by_itself_once_they_are_given() {
    std::thread::scope(|scope| {
        for broker in [Broker::Kafka, Broker::RabbitMq, Broker::Nats] {
            scope.spawn(move || parks_and_lands(broker));
        }
    });
}

/// A large event among small ones at a broker whose bound it passes, and at a file that has none.
fn dead_letter_at_that_sink_alone(setup: &Setup, place: Option<&Place>, size: usize) {
    let bridge = setup.start();
    if let Some(place) = place {
        wait_until_up(&bridge, "main", place.broker);
        place.subscribe();
    }
    for number in 0..5 {
        take(&bridge, &loan(number));
    }
    let mut large = loan(5);
    large.pop();
    large.extend_from_slice(format!(r#","pad":"{}"}}"#, "x".repeat(size)).as_bytes());
    take(&bridge, &large);
    for number in 6..10 {
        take(&bridge, &loan(number));
    }
    for sink in ["main", "other"] {
        wait_until_delivered(&bridge, sink);
    }
    assert_eq!(setup.landed("alma.loan").len(), 10, "at the other sink it lands");
    assert_eq!(bridge.metric("alma_bridge_dead_letters{sink=\"main\",reason=\"too_large\"}"), Some(1.0));
    assert_eq!(bridge.metric_sum("alma_bridge_dead_letters{sink=\"other\""), 0);
    if let Some(place) = place {
        let there: BTreeSet<u64> = place.read_numbers().into_keys().collect();
        assert_eq!(there, (0..10).filter(|number| *number != 5).collect());
    } else {
        assert!(bridge.metric_sum("alma_bridge_published_events_total{sink=\"main\"") >= 9);
    }
}

#[test]
fn what_passes_kafkas_bound_is_a_dead_letter_and_the_next_flow() {
    let _shared = Broker::Kafka.shared();
    let place = Place::new(Broker::Kafka);
    brokers(&["kafka-topics", "--create", "--topic", &place.topic("loan"), "--config", "max.message.bytes=100000"]);
    let setup = Setup::new(&format!("{}[sinks.other]\ntype = \"file\"\n", place.sink("main")));
    dead_letter_at_that_sink_alone(&setup, Some(&place), 200_000);
}

#[test]
fn what_passes_rabbitmqs_bound_is_a_dead_letter_and_the_next_flow() {
    let _shared = Broker::RabbitMq.shared();
    let place = Place::new(Broker::RabbitMq);
    // The broker's own max_message_size is 16 MiB.
    let ingress = "[ingress]\nlisten = \"127.0.0.1:0\"\nmax_body = \"20MiB\"\n";
    let setup = Setup::new(&format!("{ingress}{}[sinks.other]\ntype = \"file\"\n", place.sink("main")));
    dead_letter_at_that_sink_alone(&setup, Some(&place), 17 << 20);
}

#[test]
fn what_passes_nats_bound_is_a_dead_letter_and_the_next_flow() {
    let _shared = Broker::Nats.shared();
    let prefix = Place::new(Broker::Nats).prefix;
    // The server that wants a token has NATS's own bound of 1 MiB.
    let setup = Setup::unwritten();
    setup.write_secret("token", &var("NATS_TOKEN"));
    setup.configure(&format!(
        "[sinks.main]\ntype = \"nats\"\nservers = [\"{}\"]\ntoken_file = \"DIR/token\"\nstream = \"{prefix}\"\n\
         topic = \"{prefix}.{{action}}\"\n[sinks.other]\ntype = \"file\"\n",
        var("NATS_TOKEN_URL")
    ));
    dead_letter_at_that_sink_alone(&setup, None, 2 << 20);
}

#[test]
fn what_nobody_is_bound_for_is_kept_in_unrouted_on_rabbitmq() {
    let _shared = Broker::RabbitMq.shared();
    let place = Place::new(Broker::RabbitMq);
    let setup = Setup::new(&place.sink("main"));
    let bridge = setup.start();
    for number in 0..20 {
        take(&bridge, &loan(number));
    }
    wait_until_delivered(&bridge, "main");
    let queue = format!("{}.unrouted", place.prefix);
    let kept = read("rabbitmq", &queue);
    assert_eq!(kept.iter().map(crate::places::Landed::number).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(kept.iter().all(|kept| kept.topic == place.topic("loan") && kept.persistent == Some(true)));
    // Bound now: the next ones go there, and there alone.
    place.subscribe();
    take(&bridge, &loan(20));
    wait_for("it to land", || (place.read_numbers().len() == 1).then_some(()));
    assert_eq!(read("rabbitmq", &queue).len(), 20);
}
