//! From one broker to the next with events waiting: edit the file, then SIGHUP.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Bridge, Load, Setup, wait_for, wait_up_to};
use crate::places::{Away, Broker, Place, wait_until_delivered, wait_until_up};

const WAITING: u64 = 20_000;

fn waiting(bridge: &Bridge) -> u64 {
    bridge.metric_sum("alma_bridge_sink_waiting_events{sink=\"main\"}")
}

fn move_to(setup: &Setup, bridge: &Bridge, place: &Place) {
    let reloads = || bridge.log().matches("configuration reloaded").count();
    let before = reloads();
    setup.configure(&place.sink("main"));
    bridge.signal(Signal::HUP);
    wait_for("the reload", || (reloads() > before).then_some(()));
    wait_until_up(bridge, "main", place.broker);
}

#[test]
fn twenty_thousand_waiting_events_move_from_rabbitmq_to_kafka_to_nats_under_load() {
    let _alone = Broker::RabbitMq.alone();
    let _shared = [Broker::Kafka.shared(), Broker::Nats.shared()];
    let [rabbitmq, kafka, nats] = [Broker::RabbitMq, Broker::Kafka, Broker::Nats].map(Place::new);
    let setup = Setup::new(&rabbitmq.sink("main"));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", Broker::RabbitMq);
    rabbitmq.subscribe();
    let next = Arc::new(AtomicU64::new(1));
    let load = Load::start(bridge.ingress, &next, 8);
    wait_for("some to land", || {
        (bridge.metric_sum("alma_bridge_published_events_total{sink=\"main\"") > 500).then_some(())
    });
    let away = Away::hanging(Broker::RabbitMq);
    wait_up_to(Duration::from_mins(2), "20,000 events to wait", || (waiting(&bridge) >= WAITING).then_some(()));
    let mut taken = load.end();
    // From now on a gentler one, so that what waits is what moves.
    let load = Load::start(bridge.ingress, &next, 1);
    move_to(&setup, &bridge, &kafka);
    wait_for("Kafka to get some", || (waiting(&bridge) < WAITING - 2_000).then_some(()));
    move_to(&setup, &bridge, &nats);
    let before = load.count();
    wait_for("more events to be taken", || (load.count() >= before + 100).then_some(()));
    // The load fails at any answer but 204.
    taken.extend(load.end());
    wait_until_delivered(&bridge, "main");
    drop(away);
    let landed = [&rabbitmq, &kafka, &nats].map(|place| place.read_numbers().into_keys().collect::<BTreeSet<u64>>());
    let counts = landed.each_ref().map(BTreeSet::len);
    println!("{} taken; RabbitMQ, Kafka, NATS got {counts:?}", taken.len());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    let lost: Vec<_> = taken.iter().filter(|number| !landed.iter().any(|here| here.contains(number))).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), taken.len());
}
