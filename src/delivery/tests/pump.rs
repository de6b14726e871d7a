//! While nothing fails, and at the ends.

use std::sync::Arc;
use std::time::Duration;

use super::bench::{Bench, Setup, owned, sink_config};
use super::kit::Answer;
use crate::delivery::SinkState;
use crate::message::Message;
use crate::message::StoredEvent;
use crate::sinks::{Outcome, Reason};

#[tokio::test(start_paused = true)]
async fn a_confirmed_window_moves_the_cursor_and_is_counted() {
    let bench = Bench::start(|window| Answer::After(Duration::from_millis(30), vec![Outcome::CONFIRMED; window.len()]));
    bench.push(&["alma.loan 1", "alma.bib 2", "alma.loan 3"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows, [["1", "2", "3"]]);
    bench.has_metric(r#"alma_bridge_published_events_total{sink="main",topic="alma.loan"} 2"#);
    bench.has_metric(r#"alma_bridge_sink_up{sink="main",type="file"} 1"#);
    bench.has_metric(r#"alma_bridge_delivery_delay_seconds_count{sink="main"} 3"#);
    let status = bench.status();
    assert_eq!((status.state, status.confirmed, status.duplicates), (SinkState::Up, 3, 0));
    assert!(status.last_confirm.is_some());
    assert_eq!(status.backlog, crate::journal::Backlog::default());
}

#[tokio::test(start_paused = true)]
async fn it_connects_before_the_first_event() {
    let bench = Bench::start(Answer::confirm);
    bench.until("up", |bench| bench.status().state == SinkState::Up).await;
    let scene = bench.scene();
    assert_eq!((scene.connected, scene.windows.len()), (1, 0));
    drop(scene);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_cut_into_windows_of_512_events_or_4_mib() {
    let setup = Setup::new();
    for id in 0..1_100 {
        setup.feed.push(&format!("alma.loan {id}"), crate::clock::Timestamp::default());
    }
    let bench = setup.start(Answer::confirm);
    bench.until_settled().await;
    let sizes: Vec<_> = bench.scene().windows.iter().map(Vec::len).collect();
    assert_eq!(sizes, [512, 512, 76]);
    let expected: Vec<_> = (0..1_100).map(|id: u32| id.to_string()).collect();
    assert_eq!(bench.scene().confirmed, expected);

    let setup = Setup::new();
    for id in ["a", "b", "c", "d"] {
        let big = format!("alma.loan {id} {}", "x".repeat(2 << 20));
        setup.feed.push(&big, crate::clock::Timestamp::default());
    }
    let bench = setup.start(Answer::confirm);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_next_window_is_read_while_one_is_in_flight() {
    let bench = Bench::start(|window| Answer::After(Duration::from_secs(5), vec![Outcome::CONFIRMED; window.len()]));
    bench.push(&["t 1"]);
    bench.until("the first is in flight", |bench| bench.scene().windows.len() == 1).await;
    bench.push(&["t 2"]);
    bench.push(&["t 3"]);
    bench.until("the figures are fresh", |bench| bench.status().backlog.events == 3).await;
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_sink_does_not_ask_for_is_settled_silently() {
    let bench = Bench::start(Answer::confirm);
    bench.push(&["unwanted 1"]);
    bench.until_settled().await;
    bench.push(&["t 2", "unwanted 3"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows, [["2"]]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_sink_asks_for_is_counted_once() {
    let first = Setup::new();
    let mut second = Setup::new();
    second.config = sink_config("other");
    second.filters = first.filters.clone();
    second.metrics = first.metrics.clone();
    // The second sink asks for one more than the first does.
    second.make = Arc::new(|event: &StoredEvent| {
        let takes = event.body.ends_with(b" 2");
        takes.then(|| Message::sample("t", "2", b"{}", event.received))
    });
    let benches = [first.start(Answer::confirm), second.start(Answer::confirm)];
    for bench in &benches {
        bench.push(&["t 1", "unwanted 2", "unwanted 3", "unwanted 4"]);
    }
    for bench in &benches {
        bench.until_settled().await;
    }
    benches[0].has_metric("alma_bridge_unwanted_events_total 2");
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_is_a_confirm_and_counted() {
    let bench = Bench::start(|window| Answer::each(window, |_| Outcome::Confirmed { duplicate: true }));
    bench.push(&["t 1"]);
    bench.until_settled().await;
    assert_eq!((bench.status().confirmed, bench.status().duplicates), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_awaits_what_is_in_flight_and_closes() {
    let bench = Bench::start(|window| Answer::After(Duration::from_secs(5), vec![Outcome::CONFIRMED; window.len()]));
    bench.push(&["t 1", "t 2"]);
    bench.until("in flight", |bench| bench.scene().windows.len() == 1).await;
    bench.push(&["t 3"]);
    bench.stop.cancel();
    bench.until("stopped", |bench| bench.status().state == SinkState::Stopped).await;
    assert_eq!(bench.scene().confirmed, ["1", "2"]);
    assert_eq!(bench.scene().closed, 1);
    assert_eq!(bench.log().cursor.0, 4);
    assert_eq!(bench.log().rewound, 1);
    bench.has_metric(r#"alma_bridge_sink_up{sink="main",type="file"} 0"#);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_broker_that_is_down() {
    let bench = Bench::start(|window| Answer::each(window, |_| super::kit::failed(Reason::Unreachable)));
    bench.push(&["t 1"]);
    bench.until("tried", |bench| bench.scene().windows.len() > 3).await;
    let asked = tokio::time::Instant::now();
    let setup = bench.stop().await;
    assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
    // Nothing is lost: the next start delivers it.
    let bench = setup.start(Answer::confirm);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_journal_ends_the_pump_once_all_is_delivered() {
    let bench = Bench::start(|window| Answer::After(Duration::from_secs(1), vec![Outcome::CONFIRMED; window.len()]));
    bench.push(&["t 1"]);
    bench.until("in flight", |bench| bench.scene().windows.len() == 1).await;
    bench.push(&["t 2"]);
    bench.setup.feed.close();
    bench.until("stopped", |bench| bench.status().state == SinkState::Stopped).await;
    assert_eq!(bench.scene().confirmed, ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_pump_itself_costs_nothing() {
    let bench = Bench::start(Answer::confirm);
    bench.until("up", |bench| bench.status().state == SinkState::Up).await;
    bench.log().panics = 1;
    bench.push(&["t 1"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1"]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn letters_are_not_kept_twice_when_the_cursor_went_back() {
    let bench = Bench::start(|window| Answer::each(window, |_| super::kit::failed(Reason::TooLarge)));
    bench.push(&["t 1", "t 2"]);
    bench.until_settled().await;
    let setup = bench.stop().await;
    super::kit::lock(&setup.feed.log).cursor = crate::journal::Offset(0);
    crate::journal::Feed::rewind(&mut setup.feed.clone());
    let bench = setup.start(|window| Answer::each(window, |_| super::kit::failed(Reason::TooLarge)));
    bench.until_settled().await;
    assert_eq!(bench.letters().await, owned(&[("t", "1", Reason::TooLarge), ("t", "2", Reason::TooLarge)]));
}
