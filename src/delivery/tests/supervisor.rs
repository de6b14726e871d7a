//! The supervisor: sinks are started, replaced, removed and stopped.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Setup, sink_config};
use super::kit::{Answer, MemoryFeed, ScriptedSink, failed, lock};
use crate::clock::Clock;
use crate::config::{self, Config, SinkName};
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{DeliveryOptions, Places, PumpHandle, SinkSetup, SinkState, Supervisor, Way};
use crate::journal::Registration;
use crate::sinks::Reason;
use crate::storage::RealDisk;

/// Longer than a pump needs to settle.
const WITHIN: Duration = Duration::from_secs(10);

/// A feed for each name. Those that are not here share one.
#[derive(Clone)]
struct Feeds {
    shared: MemoryFeed,
    others: BTreeMap<&'static str, MemoryFeed>,
    retired: Arc<Mutex<Vec<SinkName>>>,
}

impl Places for Feeds {
    type Feed = MemoryFeed;

    fn register(&self, _: &Registration) -> io::Result<()> {
        Ok(())
    }

    fn knows(&self, _: &SinkName) -> bool {
        true
    }

    fn feed(&self, sink: &SinkName) -> Option<MemoryFeed> {
        Some(self.others.get(sink.as_str()).unwrap_or(&self.shared).clone())
    }

    fn retire(&self, sink: &SinkName) {
        lock(&self.retired).push(sink.clone());
    }
}

/// The sinks that the next configuration has.
type Scripted = Arc<Mutex<BTreeMap<SinkName, ScriptedSink>>>;

struct Bench {
    setup: Setup,
    base: Config,
    places: Feeds,
    scripted: Scripted,
    sinks: Supervisor<Feeds>,
}

impl Bench {
    fn new() -> Self {
        Self::with(BTreeMap::new())
    }

    fn with(others: BTreeMap<&'static str, MemoryFeed>) -> Self {
        let (setup, scripted) = (Setup::new(), Scripted::default());
        let options = DeliveryOptions {
            letters: DeadLetterStores::new(RealDisk::shared(), setup.dead_dir(), 1 << 20, setup.letter_metrics.clone()),
            metrics: setup.metrics.clone(),
            clock: setup.clock.clone(),
        };
        let sinks = Arc::clone(&scripted);
        let build = move |config: &config::Sink, _: &Config| {
            let sink = Box::new(lock(&sinks)[&config.name].clone());
            Ok(SinkSetup { config: config.clone(), sink, make: Arc::new(super::kit::make) })
        };
        let places = Feeds { shared: setup.feed.clone(), others, retired: Arc::default() };
        let sinks = Supervisor::new(Way::Journal(places.clone()), Arc::new(build), options);
        let base = config::load_defaults(&[]).expect("valid").config;
        Self { setup, base, places, scripted, sinks }
    }

    /// A configuration with these sinks. Another `version` of a sink replaces it.
    async fn apply(&self, sinks: &[(&str, usize, &ScriptedSink)]) {
        let sink = |(name, version, sink): &(&str, usize, &ScriptedSink)| {
            let config = config::Sink { max_topics: 200 + version, ..sink_config(name) };
            lock(&self.scripted).insert(config.name.clone(), (*sink).clone());
            config
        };
        let config = Config { sinks: sinks.iter().map(sink).collect(), ..self.base.clone() };
        let problems = self.sinks.apply(&config).await;
        assert!(problems.is_empty(), "{problems:?}");
    }

    fn main(&self) -> PumpHandle {
        self.sinks.handles().get(&"main".parse().expect("a name")).expect("runs")
    }

    fn push(&self, events: &[&str]) {
        for event in events {
            self.setup.feed.push(event, self.setup.clock.now());
        }
    }

    async fn until_settled(&self) {
        for _ in 0..10_000 {
            if crate::journal::Feed::backlog(&self.setup.feed).events == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never settled: {:?}", self.sinks.handles().statuses());
    }
}

#[tokio::test(start_paused = true)]
async fn another_sink_goes_on_from_the_place_of_the_one_before() {
    let bench = Bench::new();
    let old = ScriptedSink::new(|window| {
        Answer::each(window, |message| match message.id.as_str() {
            "3" => failed(Reason::Unreachable),
            "2" => failed(Reason::TooLarge),
            _ => crate::sinks::Outcome::CONFIRMED,
        })
    });
    bench.apply(&[("main", 0, &old)]).await;
    bench.push(&["t 1", "t 2", "t 3", "t 4"]);
    bench.main().wait_for(|status| status.confirmed == 2).await.expect("runs");
    bench.push(&["t 5"]);
    let new = ScriptedSink::new(Answer::confirm);
    bench.apply(&[("main", 1, &new)]).await;
    bench.until_settled().await;
    assert_eq!(lock(&old.0).confirmed, ["1", "4"]);
    let new = lock(&new.0).confirmed.clone();
    // Its letters are its own as well.
    let letters = bench.main().status().dead_letters;
    assert!(new == ["3", "4", "5"] || new == ["2", "3", "4", "5"], "{new:?}");
    assert_eq!(letters.letters() + new.len() as u64, 4);
    assert_eq!(lock(&old.0).closed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_is_cut_off_and_its_place_is_kept() {
    let bench = Bench::new();
    let old = ScriptedSink::new(|_| Answer::Hang);
    lock(&old.0).deadline = Duration::from_hours(1);
    bench.apply(&[("main", 0, &old)]).await;
    bench.push(&["t 1", "t 2"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let new = ScriptedSink::new(Answer::confirm);
    bench.apply(&[("main", 1, &new)]).await;
    bench.until_settled().await;
    assert_eq!(lock(&new.0).confirmed, ["1", "2"]);
    assert_eq!(lock(&old.0).abandoned, 1, "what the old one was sending is ended");
}

#[tokio::test(start_paused = true)]
async fn a_sink_runs_once_and_comes_back_with_its_place() {
    let bench = Bench::new();
    let first = ScriptedSink::new(Answer::confirm);
    bench.apply(&[("main", 0, &first)]).await;
    let again = ScriptedSink::new(Answer::confirm);
    bench.apply(&[("main", 0, &again)]).await;
    bench.push(&["t 1"]);
    bench.until_settled().await;
    assert_eq!(lock(&first.0).confirmed, ["1"], "nothing changed, so it was not replaced");
    bench.apply(&[]).await;
    assert!(bench.sinks.handles().all().is_empty());
    assert_eq!(lock(&bench.places.retired).iter().map(SinkName::as_str).collect::<Vec<_>>(), ["main"]);
    bench.push(&["t 2"]);
    bench.apply(&[("main", 0, &again)]).await;
    bench.until_settled().await;
    assert_eq!(lock(&again.0).confirmed, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_settles_all_under_one_deadline_and_names_who_did_not() {
    let slow = MemoryFeed::default();
    let bench = Bench::with(BTreeMap::from([("slow", slow.clone())]));
    slow.push("t 9", bench.setup.clock.now());
    let quick = ScriptedSink::new(|window| {
        Answer::After(Duration::from_secs(3), vec![crate::sinks::Outcome::CONFIRMED; window.len()])
    });
    bench.apply(&[("quick", 0, &quick), ("slow", 0, &ScriptedSink::new(|_| Answer::Hang))]).await;
    bench.push(&["t 1"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = Instant::now();
    let cut_off = bench.sinks.stop(asked + WITHIN).await;
    assert_eq!(cut_off.iter().map(ToString::to_string).collect::<Vec<_>>(), ["slow"]);
    assert!(asked.elapsed() < WITHIN + Duration::from_secs(1));
    assert_eq!(lock(&quick.0).confirmed, ["1"]);
    assert!(bench.sinks.handles().statuses().iter().all(|status| status.state == SinkState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn gauges_are_set_from_the_snapshots() {
    let bench = Bench::new();
    let sink = ScriptedSink::new(|window| Answer::each(window, |_| failed(Reason::Rights)));
    bench.apply(&[("main", 0, &sink)]).await;
    bench.push(&["t 1"]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    bench.sinks.handles().set_gauges(&bench.setup.metrics, bench.setup.clock.now());
    let text = bench.setup.registry.encode();
    assert!(text.contains("alma_bridge_sink_waiting_events{sink=\"main\"} 1\n"), "{text}");
    assert!(text.contains("alma_bridge_sink_oldest_waiting_age_seconds{sink=\"main\"} 30."), "{text}");
    bench.main().wait_for(|status| !status.parked.is_empty()).await.expect("runs");
    bench.sinks.handles().set_gauges(&bench.setup.metrics, bench.setup.clock.now());
    assert!(bench.setup.registry.encode().contains("alma_bridge_sink_parked_topics{sink=\"main\"} 1\n"));
}
