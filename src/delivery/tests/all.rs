//! All pumps together: start, replace, remove, stop.

use std::sync::Arc;
use std::time::Duration;

use super::bench::{Setup, sink_config};
use super::kit::{Answer, MemoryFeed, ScriptedSink, failed, lock};
use crate::clock::Clock;
use crate::dead_letters::DeadLetterStores;
use crate::delivery::{Delivery, DeliveryError, DeliveryOptions, SinkSetup, SinkState};
use crate::message::Message;
use crate::sinks::Reason;
use crate::storage::RealDisk;

const WITHIN: Duration = Duration::from_secs(10);

struct Bench {
    setup: Setup,
    delivery: Delivery<MemoryFeed>,
}

impl Bench {
    fn new() -> Self {
        let setup = Setup::new();
        let delivery = Delivery::new(DeliveryOptions {
            letters: DeadLetterStores::new(RealDisk::shared(), setup.dead_dir(), 1 << 20, setup.letter_metrics.clone()),
            metrics: setup.metrics.clone(),
            clock: setup.clock.clone(),
        });
        Self { setup, delivery }
    }

    fn push(&self, events: &[&str]) {
        for event in events {
            self.setup.feed.push(event, self.setup.clock.now());
        }
    }

    fn sink(name: &str, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> (SinkSetup, ScriptedSink) {
        let sink = ScriptedSink::new(script);
        let setup =
            SinkSetup { config: sink_config(name), sink: Box::new(sink.clone()), make: Arc::new(super::kit::make) };
        (setup, sink)
    }

    async fn until_settled(&self) {
        for _ in 0..10_000 {
            if crate::journal::Feed::backlog(&self.setup.feed).events == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never settled: {:?}", self.delivery.handles().statuses());
    }
}

#[tokio::test(start_paused = true)]
async fn another_sink_goes_on_from_the_place_of_the_one_before() {
    let mut bench = Bench::new();
    let (setup, old) = Bench::sink("main", |window| {
        Answer::each(window, |message| match message.id.as_str() {
            "3" => failed(Reason::Unreachable),
            "2" => failed(Reason::TooLarge),
            _ => crate::sinks::Outcome::CONFIRMED,
        })
    });
    let handle = bench.delivery.add(setup, bench.setup.feed.clone()).expect("starts");
    bench.push(&["t 1", "t 2", "t 3", "t 4"]);
    handle.wait_for(|status| status.confirmed == 2).await.expect("runs");
    bench.push(&["t 5"]);
    let (setup, new) = Bench::sink("main", Answer::confirm);
    bench.delivery.replace(setup, WITHIN).await.expect("replaces");
    bench.until_settled().await;
    assert_eq!(lock(&old.0).confirmed, ["1", "4"]);
    let new = lock(&new.0).confirmed.clone();
    // Its letters are its own as well.
    let letters = bench.delivery.handles().get(&"main".parse().expect("a name")).expect("runs").status().dead_letters;
    assert!(new == ["3", "4", "5"] || new == ["2", "3", "4", "5"], "{new:?}");
    assert_eq!(letters.letters() + new.len() as u64, 4);
    assert_eq!(lock(&old.0).closed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_is_cut_off_and_its_place_is_kept() {
    let mut bench = Bench::new();
    let (setup, old) = Bench::sink("main", |_| Answer::Hang);
    bench.delivery.add(setup, bench.setup.feed.clone()).expect("starts");
    bench.push(&["t 1", "t 2"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (setup, new) = Bench::sink("main", Answer::confirm);
    bench.delivery.replace(setup, Duration::from_secs(1)).await.expect("replaces");
    bench.until_settled().await;
    assert_eq!(lock(&new.0).confirmed, ["1", "2"]);
    assert_eq!(lock(&old.0).abandoned, 1, "what the old one was sending is ended");
}

#[tokio::test(start_paused = true)]
async fn a_sink_is_added_once_and_taken_out_by_name() {
    let mut bench = Bench::new();
    let (setup, _) = Bench::sink("main", Answer::confirm);
    bench.delivery.add(setup, bench.setup.feed.clone()).expect("starts");
    let (again, _) = Bench::sink("main", Answer::confirm);
    let refused = bench.delivery.add(again, bench.setup.feed.clone()).expect_err("runs already");
    assert!(matches!(refused, DeliveryError::Running(_)), "{refused}");
    let name = "main".parse().expect("a name");
    bench.push(&["t 1"]);
    bench.until_settled().await;
    let feed = bench.delivery.remove(&name, WITHIN).await.expect("gives its place back");
    assert!(bench.delivery.handles().all().is_empty());
    assert!(matches!(bench.delivery.remove(&name, WITHIN).await, Err(DeliveryError::NotRunning(_))));
    // It comes back, with the letters and the place it had.
    bench.push(&["t 2"]);
    let (setup, sink) = Bench::sink("main", Answer::confirm);
    bench.delivery.add(setup, feed).expect("starts again");
    bench.until_settled().await;
    assert_eq!(lock(&sink.0).confirmed, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_settles_all_under_one_deadline_and_names_who_did_not() {
    let mut bench = Bench::new();
    let slow = MemoryFeed::default();
    slow.push("t 9", bench.setup.clock.now());
    let (setup, quick) = Bench::sink("quick", |window| {
        Answer::After(Duration::from_secs(3), vec![crate::sinks::Outcome::CONFIRMED; window.len()])
    });
    bench.delivery.add(setup, bench.setup.feed.clone()).expect("starts");
    let (setup, _) = Bench::sink("slow", |_| Answer::Hang);
    bench.delivery.add(setup, slow).expect("starts");
    bench.push(&["t 1"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = tokio::time::Instant::now();
    let cut_off = bench.delivery.stop(WITHIN).await;
    assert_eq!(cut_off.iter().map(ToString::to_string).collect::<Vec<_>>(), ["slow"]);
    assert!(asked.elapsed() < WITHIN + Duration::from_secs(1));
    assert_eq!(lock(&quick.0).confirmed, ["1"]);
    assert!(bench.delivery.handles().statuses().iter().all(|status| status.state == SinkState::Stopped));
}

#[tokio::test(start_paused = true)]
async fn gauges_are_set_from_the_snapshots() {
    let mut bench = Bench::new();
    let (setup, _) = Bench::sink("main", |window| Answer::each(window, |_| failed(Reason::Rights)));
    bench.delivery.add(setup, bench.setup.feed.clone()).expect("starts");
    bench.push(&["t 1"]);
    let handle = bench.delivery.handles().all().remove(0);
    tokio::time::sleep(Duration::from_secs(30)).await;
    bench.delivery.handles().set_gauges(&bench.setup.metrics, bench.setup.clock.now());
    let text = bench.setup.registry.encode();
    assert!(text.contains("alma_bridge_sink_waiting_events{sink=\"main\"} 1\n"), "{text}");
    assert!(text.contains("alma_bridge_sink_oldest_waiting_age_seconds{sink=\"main\"} 30."), "{text}");
    handle.wait_for(|status| !status.parked.is_empty()).await.expect("runs");
    bench.delivery.handles().set_gauges(&bench.setup.metrics, bench.setup.clock.now());
    assert!(bench.setup.registry.encode().contains("alma_bridge_sink_parked_topics{sink=\"main\"} 1\n"));
}
