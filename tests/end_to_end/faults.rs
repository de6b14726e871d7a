//! Many connections, a broker that is away, a bridge that is killed, brokers that are down at the start.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::harness::{Load, Setup, loan, wait_for, wait_up_to};
use crate::places::{Away, Broker, Place, wait_until_delivered, wait_until_up};

/// What Alma waits for an answer.
const ALMAS_PATIENCE: Duration = Duration::from_secs(5);

fn two_thousand_events_at_64_connections_all_land(broker: Broker) {
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    place.subscribe();
    let load = Load::start(bridge.ingress, &Arc::new(AtomicU64::new(1)), 64);
    wait_for("2,000 events to be taken", || (load.count() >= 2_000).then_some(()));
    let taken = load.end();
    wait_until_delivered(&bridge, "main");
    let landed = place.read_numbers();
    assert_eq!(landed.keys().copied().collect::<BTreeSet<_>>(), taken.iter().copied().collect());
    println!("{} taken, {} landed", taken.len(), landed.values().sum::<usize>());
}

fn a_broker_away_for_ten_seconds_under_load_costs_nothing(broker: Broker) {
    const AWAY: Duration = Duration::from_secs(10);
    let _alone = broker.alone();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let bridge = setup.start();
    wait_until_up(&bridge, "main", broker);
    place.subscribe();
    let load = Load::start(bridge.ingress, &Arc::new(AtomicU64::new(1)), 2);
    wait_for("some events to be taken", || (load.count() >= 200).then_some(()));
    let away = Away::ended(broker);
    let (since, before) = (Instant::now(), load.count());
    wait_for("ten seconds to pass", || (since.elapsed() >= AWAY).then_some(()));
    assert!(load.count() > before, "events are taken without the broker");
    drop(away);
    let slowest = load.slowest();
    // The load fails at any answer but 204.
    let taken = load.end();
    wait_until_delivered(&bridge, "main");
    assert!(slowest < ALMAS_PATIENCE, "{slowest:?}");
    let landed = place.read_numbers();
    let lost: Vec<_> = taken.iter().filter(|number| !landed.contains_key(number)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), taken.len());
    let repeats = landed.values().sum::<usize>() - landed.len();
    println!("{} taken, 0 lost, {repeats} repeated, slowest answer {slowest:?}", taken.len());
}

fn nothing_is_lost_when_the_bridge_is_killed_under_load(broker: Broker) {
    const KILLS: usize = 5;
    let _shared = broker.shared();
    let place = Place::new(broker);
    let setup = Setup::new(&place.sink("main"));
    let next = Arc::new(AtomicU64::new(1));
    let mut taken = BTreeSet::new();
    for kill in 0..KILLS {
        let bridge = setup.start();
        if kill == 0 {
            wait_until_up(&bridge, "main", broker);
            place.subscribe();
        }
        let load = Load::start(bridge.ingress, &next, 8);
        // At another point of the work each time.
        let enough = 100 + kill * 97;
        wait_for("some events to be taken", || (load.count() >= enough).then_some(()));
        bridge.kill();
        taken.extend(load.end_with_lost_connections());
    }
    let bridge = setup.start();
    wait_until_delivered(&bridge, "main");
    let landed = place.read_numbers();
    let lost: Vec<_> = taken.iter().filter(|number| !landed.contains_key(number)).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), taken.len());
    let repeats = landed.values().sum::<usize>() - landed.len();
    println!("{KILLS} kills: {} taken, 0 lost, {repeats} repeated", taken.len());
}

crate::on_each_broker!(
    two_thousand_events_at_64_connections_all_land,
    a_broker_away_for_ten_seconds_under_load_costs_nothing,
    nothing_is_lost_when_the_bridge_is_killed_under_load,
);

#[test]
fn two_of_three_brokers_down_at_the_start_hold_up_nothing() {
    let _alone = [Broker::Kafka.alone(), Broker::RabbitMq.alone(), Broker::Nats.alone()];
    let places = [Broker::Kafka, Broker::RabbitMq, Broker::Nats].map(Place::new);
    let tables: String = places.iter().map(|place| place.sink(place.broker.name())).collect();
    let setup = Setup::new(&tables);
    let away = [Away::ended(Broker::Kafka), Away::ended(Broker::RabbitMq)];
    let bridge = setup.start();
    for number in 1..=50 {
        let answer = bridge.post(&loan(number));
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
    wait_until_delivered(&bridge, "nats");
    assert_eq!(places[2].read_numbers().len(), 50);
    for down in ["kafka", "rabbitmq"] {
        let status = bridge.status();
        let sink = status["sinks"].as_array().expect("sinks").iter().find(|sink| sink["name"] == down).expect("it");
        assert!(sink["state"] != "up" && sink["waiting_events"] == 50, "{sink}");
    }
    drop(away);
    for place in &places[..2] {
        wait_until_delivered(&bridge, place.broker.name());
    }
    assert_eq!(places[0].read_numbers().len(), 50);
    // Nobody was bound when they came.
    let kept = crate::places::read("rabbitmq", &format!("{}.unrouted", places[1].prefix));
    assert_eq!(kept.len(), 50);
    wait_up_to(ALMAS_PATIENCE, "nobody to be needed", || {
        let status = bridge.status();
        let sinks = status["sinks"].as_array().expect("sinks");
        sinks.iter().all(|sink| sink["state"] == "up").then_some(())
    });
}
