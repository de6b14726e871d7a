//! The bridge restarts or is killed under load, behind a proxy.

use std::time::Duration;

use crate::harness::{Bridge, Setup, number_of, wait_for};
use crate::load::{Load, Outcomes};
use crate::on_each_proxy;
use crate::proxy::{Backend, Kind, Proxy};

on_each_proxy!(a_restart_of_half_a_second, a_restart_of_two_seconds, a_kill);

/// How the bridge ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Stop,
    Kill,
}

/// Ends the bridge under load and starts it again when it was away for so long. All that was taken must land.
fn restart(kind: Kind, end: End, away: Duration) -> Outcomes {
    restart_behind(|place| Proxy::start(kind, &[place]), end, away)
}

/// The same behind any proxy.
pub(crate) fn restart_behind(proxy: impl Fn(Backend) -> Proxy, end: End, away: Duration) -> Outcomes {
    let [place] = Backend::reserved();
    let setup = Setup::new(&place.listeners());
    let bridge = start(&setup);
    let proxy = proxy(place);
    let load = Load::start(&proxy.door, 16, Duration::from_millis(100));
    load.wait_for_more(100);
    let _bridge = restarted(&setup, bridge, end, away);
    load.wait_for_more(100);
    let outcomes = load.end();
    wait_for("all to land", || landed(&setup).is_superset(&outcomes.taken()).then_some(()));
    let (others, total) = (outcomes.others().len(), outcomes.total());
    println!("{:?}: {others} of {total} not taken, slowest answer {:?}", proxy.kind, outcomes.slowest());
    outcomes
}

fn restarted(setup: &Setup, bridge: Bridge, end: End, away: Duration) -> Bridge {
    match end {
        End::Stop => assert!(bridge.stop().success()),
        End::Kill => bridge.kill(),
    }
    // The time that a restart takes is what the test is about.
    std::thread::park_timeout(away);
    start(setup)
}

/// With the stop delay that the Caddyfile asks for.
fn start(setup: &Setup) -> Bridge {
    let bridge = setup.start_unready(&["--stop-delay", "1s"]);
    wait_for("the bridge to be ready", || (bridge.admin_get("/readyz").status == 200).then_some(()));
    bridge
}

fn landed(setup: &Setup) -> std::collections::BTreeSet<u64> {
    setup.landed("alma.loan").iter().map(number_of).collect()
}

/// nginx can't wait for its only bridge. It answers 502, after which Alma tries again in an hour, and never 4xx.
fn assert_taken_or_502(kind: Kind, outcomes: &Outcomes) {
    if kind == Kind::Nginx {
        let others = outcomes.others();
        assert!(others.iter().all(|status| *status == Some(502)), "{others:?}");
    } else {
        outcomes.assert_all_taken();
    }
}

fn a_restart_of_half_a_second(kind: Kind) {
    assert_taken_or_502(kind, &restart(kind, End::Stop, Duration::from_millis(500)));
}

fn a_restart_of_two_seconds(kind: Kind) {
    assert_taken_or_502(kind, &restart(kind, End::Stop, Duration::from_secs(2)));
}

/// An event that the bridge was about to answer, or that comes before the proxy notices, may get a 5xx: Alma sends it again.
fn a_kill(kind: Kind) {
    let outcomes = restart(kind, End::Kill, Duration::ZERO);
    let others = outcomes.others();
    assert!(others.iter().all(|status| matches!(status, Some(502 | 503))), "{others:?}");
}

/// With a second bridge, no proxy refuses anything while the first one restarts.
fn a_restart_beside_a_second_bridge(kind: Kind) {
    let places: [Backend; 2] = Backend::reserved();
    let setups = places.map(|place| Setup::new(&place.listeners()));
    let [first, _second] = setups.each_ref().map(start);
    let proxy = Proxy::start(kind, &places);
    let load = Load::start(&proxy.door, 16, Duration::from_millis(100));
    load.wait_for_more(100);
    let _first = restarted(&setups[0], first, End::Stop, Duration::from_millis(500));
    load.wait_for_more(100);
    let outcomes = load.end();
    outcomes.assert_all_taken();
    wait_for("all to land", || {
        let both = &landed(&setups[0]) | &landed(&setups[1]);
        both.is_superset(&outcomes.taken()).then_some(())
    });
}

mod two_bridges {
    use super::a_restart_beside_a_second_bridge;
    use super::on_each_proxy;
    on_each_proxy!(a_restart_beside_a_second_bridge);
}
