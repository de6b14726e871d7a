//! A rolling update: bridges behind a balancer are replaced one after the other, under load.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Bridge, Setup, loan, number_of, wait_for};
use crate::load::{Load, Outcomes};
use crate::proxy::{Backend, Kind, Proxy};

/// How long a bridge goes on taking events after SIGTERM: longer than the balancer needs to notice.
const STOP_DELAY: &str = "3s";

/// A balancer like a Service of Kubernetes: it passes connections on to bridges that are ready, and tries nothing twice.
const BALANCER: &str = "
defaults
    mode tcp
    timeout client 30s
    timeout server 30s
    timeout connect 5s
    retries 0
frontend alma
    bind ADDRESS
    default_backend bridges
backend bridges
    option httpchk GET /readyz
    default-server check inter 1s fall 1 rise 1
";

struct Fleet {
    places: [Backend; 2],
    setups: Vec<Setup>,
    bridges: Vec<Bridge>,
}

impl Fleet {
    fn start(stop_delay: &str) -> Self {
        let places = Backend::reserved();
        let setups: Vec<Setup> = places.iter().map(|place: &Backend| Setup::new(&place.listeners())).collect();
        let bridges = setups.iter().map(|setup| ready(setup, stop_delay)).collect();
        Self { places, setups, bridges }
    }

    /// Replaces each bridge by a new process on the same folder, and goes on to the next when that one is ready.
    fn roll(&mut self, stop_delay: &str, load: &Load) {
        for (bridge, setup) in self.bridges.iter_mut().zip(&self.setups) {
            load.wait_for_more(100);
            bridge.signal(Signal::TERM);
            assert!(bridge.ended().success());
            *bridge = ready(setup, stop_delay);
        }
        load.wait_for_more(100);
    }

    /// Each event that was taken landed on one of the bridges, once and unchanged.
    fn assert_landed(&self, outcomes: &Outcomes) {
        let taken = outcomes.taken();
        let landed = wait_for("all to land", || {
            let mut landed = BTreeMap::new();
            for event in self.setups.iter().flat_map(|setup| setup.landed("alma.loan")) {
                landed.entry(number_of(&event)).or_insert_with(Vec::new).push(event["data"].clone());
            }
            taken.iter().all(|number| landed.contains_key(number)).then_some(landed)
        });
        for number in taken {
            let sent: serde_json::Value = serde_json::from_slice(&loan(number)).expect("JSON");
            assert_eq!(landed[&number], [sent], "event {number}");
        }
    }
}

fn ready(setup: &Setup, stop_delay: &str) -> Bridge {
    let bridge = setup.start_unready(&["--stop-delay", stop_delay]);
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    bridge
}

/// A balancer that tries nothing twice, in front of these bridges.
fn balancer(places: &[Backend]) -> Proxy {
    let servers = places
        .iter()
        .enumerate()
        .map(|(number, place)| format!("    server bridge-{number} {} port {}\n", place.ingress, place.admin.port()));
    Proxy::start_with(Kind::HaProxy, &(BALANCER.to_owned() + &servers.collect::<String>()))
}

fn rolling_update(stop_delay: &str, balancer: impl Fn(&[Backend]) -> Proxy) -> Outcomes {
    let mut fleet = Fleet::start(stop_delay);
    let balancer = balancer(&fleet.places);
    let load = Load::start(&balancer.door, 8, Duration::from_millis(50));
    fleet.roll(stop_delay, &load);
    let outcomes = load.end();
    fleet.assert_landed(&outcomes);
    println!(
        "stop delay {stop_delay}: {} of {} refused, slowest answer {:?}",
        outcomes.others().len(),
        outcomes.total(),
        outcomes.slowest()
    );
    outcomes
}

#[test]
fn a_rolling_update_refuses_and_loses_no_event() {
    rolling_update(STOP_DELAY, balancer).assert_all_taken();
}

/// What the stop delay is for, and that the test above would see it missing.
#[test]
fn without_a_stop_delay_the_balancer_sends_events_to_a_bridge_that_is_gone() {
    let outcomes = rolling_update("0s", balancer);
    assert!(!outcomes.others().is_empty());
}

/// `HAProxy` as the documentation configures it tries the next bridge.
#[test]
fn a_proxy_that_tries_the_next_bridge_refuses_nothing_even_without_a_stop_delay() {
    rolling_update("0s", |places| Proxy::start(Kind::HaProxy, places)).assert_all_taken();
}
