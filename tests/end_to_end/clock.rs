//! The wall clock jumps: what is delivered does not hang on it, unless a broker refuses what is ahead of its own.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use crate::harness::brokers::{brokers, var};
use crate::harness::{Bridge, Setup, landed, loan, number_of, wait_for};
use crate::places::{Broker, Place, wait_until_delivered, wait_until_metric, wait_until_up};

/// Puts the bridge's clock so far from the machine's.
fn put_clock(setup: &Setup, offset: &str) {
    let new = setup.path("clock.new");
    fs::write(&new, offset).expect("written");
    fs::rename(new, setup.path("clock")).expect("renamed");
}

/// The bridges that are started from now on have the clock of [`put_clock`].
fn let_clock_be_put(setup: &mut Setup) {
    for (name, value) in [
        ("LD_PRELOAD", var("FAKETIME")),
        ("FAKETIME_TIMESTAMP_FILE", setup.path("clock").display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ] {
        setup.environment(name, &value);
    }
    put_clock(setup, "+0");
}

fn take(bridge: &Bridge, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let answer = bridge.post(&loan(number));
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// What the bridge itself says that the time is.
fn day_of(bridge: &Bridge) -> String {
    bridge.log().lines().last().and_then(|line| line.get(14..24)).expect("a line with a time").to_owned()
}

#[test]
fn a_day_forth_and_back_loses_nothing_and_delivers_all() {
    let mut setup = Setup::new("[sinks.main]\ntype = \"file\"\ndir = \"DIR/blocked/main\"\n");
    let_clock_be_put(&mut setup);
    // What waits outlives `retain` (24 h) whatever the clock says.
    fs::write(setup.path("blocked"), "").expect("written");
    let bridge = setup.start();
    let mut days = BTreeSet::new();
    let mut taken = 0;
    for offset in ["+0", "+1d", "-1d", "+2d", "+0"] {
        put_clock(&setup, offset);
        take(&bridge, taken..taken + 20);
        taken += 20;
        days.insert(day_of(&bridge));
    }
    assert!(days.len() >= 4, "the clock did jump: {days:?}");
    bridge.kill();
    put_clock(&setup, "-1d");
    let bridge = setup.start();
    take(&bridge, taken..taken + 20);
    taken += 20;
    put_clock(&setup, "+1d");
    fs::remove_file(setup.path("blocked")).expect("removed");
    let there = || landed(&setup.path("blocked/main"), "alma.loan").iter().map(number_of).collect::<BTreeSet<u64>>();
    wait_for("all to land", || (there() == (0..taken).collect()).then_some(()));
    // It goes on, and knows a repeat.
    put_clock(&setup, "+0");
    take(&bridge, taken..taken + 20);
    assert_eq!(bridge.post(&loan(taken)).outcome(), Some("repeat"));
    wait_for("these too", || (there().len() as u64 == taken + 20).then_some(()));
}

/// Kafka refuses what is more than an hour ahead of its clock, unless its topic says otherwise.
#[test]
fn events_of_a_clock_that_is_two_hours_ahead_wait_until_kafka_takes_them() {
    let _shared = Broker::Kafka.shared();
    let place = Place::new(Broker::Kafka);
    let mut setup = Setup::new(&format!("{}setup_grace = \"1s\"\n", place.sink("main")));
    let_clock_be_put(&mut setup);
    let bridge = setup.start();
    wait_until_up(&bridge, "main", Broker::Kafka);
    put_clock(&setup, "+2h");
    take(&bridge, 0..20);
    wait_until_metric(&bridge, "alma_bridge_sink_parked_topics{sink=\"main\"}", 1);
    wait_until_delivered(&bridge, "main");
    assert_eq!(bridge.metric("alma_bridge_dead_letters{sink=\"main\",reason=\"clock\"}"), Some(20.0));
    let status = String::from_utf8(setup.command(&["status"]).stdout).expect("text");
    assert!(status.contains("message.timestamp.after.max.ms"), "{status}");
    put_clock(&setup, "+0");
    let (topic, longer) = (place.topic("loan"), "message.timestamp.after.max.ms=86400000");
    brokers(&["kafka-configs", "--alter", "--entity-type", "topics", "--entity-name", &topic, "--add-config", longer]);
    bridge.signal(Signal::HUP);
    wait_until_metric(&bridge, "alma_bridge_dead_letters{sink=\"main\"", 0);
    assert_eq!(place.read_numbers().len(), 20);
}
