//! The wall clock jumps by a day, forth and back: what is delivered does not hang on it.

use std::collections::BTreeSet;
use std::fs;

use crate::harness::brokers::var;
use crate::harness::{Bridge, Setup, landed, loan, number_of, wait_for};

/// Puts the bridge's clock so far from the machine's.
fn put_clock(setup: &Setup, offset: &str) {
    let new = setup.path("clock.new");
    fs::write(&new, offset).expect("written");
    fs::rename(new, setup.path("clock")).expect("renamed");
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
    for (name, value) in [
        ("LD_PRELOAD", var("FAKETIME")),
        ("FAKETIME_TIMESTAMP_FILE", setup.path("clock").display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ] {
        setup.environment(name, &value);
    }
    put_clock(&setup, "+0");
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
