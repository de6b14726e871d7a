//! Windows that overlap: the next is begun while the one before is on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Setup, owned};
use super::kit::{Answer, ScriptedSink, failed, lock};
use crate::clock::Timestamp;
use crate::message::Message;
use crate::sinks::{Outcome, Reason, Windows};

const SLOW: Duration = Duration::from_secs(1);

const TWO: Windows = Windows { events: 2, overlap: true, ..Windows::WHOLE };

const EVENTS: [&str; 12] =
    ["t 0a", "t 0b", "t 1a", "t 1b", "t 2a", "t 2b", "t 3a", "t 3b", "t 4a", "t 4b", "t 5a", "t 5b"];
const ALL: &str = "0a 0b 1a 1b 2a 2b 3a 3b 4a 4b 5a 5b";

/// A pump whose sink takes windows that overlap.
fn start(script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
    start_with(Setup::new(), &EVENTS, script)
}

fn start_with(setup: Setup, events: &[&str], script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
    start_taking(TWO, setup, events, script)
}

fn start_taking(
    takes: Windows,
    setup: Setup,
    events: &[&str],
    script: impl FnMut(&[Message]) -> Answer + Send + 'static,
) -> Bench {
    let sink = ScriptedSink::new(script);
    lock(&sink.0).takes = takes;
    for event in events {
        setup.feed.push(event, Timestamp::default());
    }
    setup.start_with(sink)
}

/// The first id of each window that was sent.
fn sent(bench: &Bench) -> String {
    bench.scene().windows.iter().map(|window| window[0].as_str()).collect::<Vec<_>>().join(" ")
}

fn confirmed(bench: &Bench) -> String {
    bench.scene().confirmed.join(" ")
}

fn begins_with(window: &[Message], id: &str) -> bool {
    window[0].id.as_str() == id
}

fn slowly(window: &[Message]) -> Answer {
    Answer::After(SLOW, vec![Outcome::CONFIRMED; window.len()])
}

fn all_fail(window: &[Message], reason: Reason) -> Answer {
    Answer::Outcomes(vec![failed(reason); window.len()])
}

/// Does something else with the window that begins with an id, the first time that it is sent.
fn once(
    id: &'static str,
    mut other: impl FnMut(&[Message]) -> Answer + Send,
) -> impl FnMut(&[Message]) -> Answer + Send {
    let mut first = true;
    move |window| if begins_with(window, id) && std::mem::take(&mut first) { other(window) } else { slowly(window) }
}

#[tokio::test(start_paused = true)]
async fn the_next_window_is_sent_before_the_one_on_its_way_is_confirmed() {
    let bench = start(slowly);
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 4a 5a");
    assert_eq!(confirmed(&bench), ALL);
    assert_eq!(bench.scene().at_once, 2);
}

#[tokio::test(start_paused = true)]
async fn the_cursor_passes_each_window_when_it_is_confirmed() {
    let bench = start(slowly);
    bench.until_settled().await;
    // Each time at the first event of the window that is on its way by then; the first has the offset 1.
    let places: Vec<u64> = bench.log().advances.iter().map(|(place, _)| place.0).collect();
    assert_eq!(places, [1, 5, 9, 13, 17, 21, 24]);
}

#[tokio::test(start_paused = true)]
async fn windows_do_not_overlap_where_the_sink_does_not_say_so() {
    let bench = start_taking(Windows { overlap: false, ..TWO }, Setup::new(), &EVENTS, slowly);
    bench.until_settled().await;
    assert!(bench.scene().at_once < 2);
    assert_eq!(sent(&bench), "0a 1a 2a 3a 4a 5a", "as large as the sink takes them, all the same");
}

#[tokio::test(start_paused = true)]
async fn a_window_has_no_more_bytes_than_the_sink_takes() {
    let bytes = EVENTS[0].len() * 4;
    let bench = start_taking(Windows { events: 512, bytes, overlap: true }, Setup::new(), &EVENTS, slowly);
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 2a 4a");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_costs_what_is_on_its_way_one_more_try() {
    let bench = start(once("2a", |window| all_fail(window, Reason::Unreachable)));
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 2a 3a 4a 5a");
    assert_eq!(confirmed(&bench), ALL);
    let scene = bench.scene();
    assert_eq!((scene.abandoned, scene.connected), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_window_that_hangs_takes_the_one_behind_it_along() {
    let bench = start(once("2a", |_| Answer::Hang));
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 2a 2b 3a 4a 5a", "the first window after a deadline is half as large");
    assert_eq!(confirmed(&bench), ALL);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_sent_alone_and_the_window_behind_it_is_not_sent_again() {
    let refuse = |message: &Message| match message.id.as_str() {
        "2a" => failed(Reason::TooLarge),
        _ => Outcome::CONFIRMED,
    };
    let bench = start(move |window| Answer::each(window, refuse));
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 2a 4a 5a");
    assert_eq!(confirmed(&bench), ALL.replace("2a ", ""));
    assert_eq!(bench.letters().await, owned(&[("t", "2a", Reason::TooLarge)]));
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_is_awaited_before_a_letter_that_has_no_room() {
    let setup = Setup { dead_max_size: 0, ..Setup::new() };
    let bench = start_with(setup, &["t 0a", "t 0b", "panics 1a", "t 1b"], slowly);
    bench.until("the rest of the window is confirmed", |bench| confirmed(bench) == "0a 0b 1b").await;
    assert_eq!(bench.log().cursor.0, 5, "not past what has no letter");
    assert!(bench.letters().await.is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_within_its_grace_is_tried_until_it_is_taken_and_the_others_flow() {
    let mut tries = 0;
    let events = EVENTS.map(|event| if event.contains('2') { event.replace('t', "x") } else { event.to_owned() });
    let bench = start_with(Setup::new(), &events.each_ref().map(String::as_str), move |window| {
        tries += usize::from(begins_with(window, "2a"));
        if begins_with(window, "2a") && tries < 3 { all_fail(window, Reason::Missing) } else { slowly(window) }
    });
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 2a 4a 2a 5a");
    assert_eq!(bench.scene().confirmed.len(), EVENTS.len());
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_does_not_wait_for_a_topic_within_its_grace() {
    let bench = start(once("2a", |window| all_fail(window, Reason::Missing)));
    bench.until("it is the turn of 2", |bench| bench.scene().confirmed.len() == 4).await;
    let begun = Instant::now();
    bench.until("3 is confirmed", |bench| bench.scene().confirmed.len() == 6).await;
    assert!(begun.elapsed() < SLOW + Duration::from_millis(50), "{:?}", begun.elapsed());
    bench.until_settled().await;
    assert_eq!(confirmed(&bench), "0a 0b 1a 1b 3a 3b 2a 2b 4a 4b 5a 5b");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_operator_in_two_windows_is_tried_in_order() {
    let mut left = 2;
    let bench = start(move |window| {
        let fails = left > 0 && (begins_with(window, "2a") || begins_with(window, "3a"));
        left -= usize::from(fails);
        if fails { all_fail(window, Reason::Missing) } else { slowly(window) }
    });
    bench.until_settled().await;
    assert_eq!(confirmed(&bench), ALL);
    assert_eq!(bench.scene().windows[4..6], [["2a", "2b"], ["3a", "3b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_does_not_wait_for_a_topic_within_its_grace() {
    let mut events = EVENTS;
    events[4] = "x 2a";
    let outcomes = || Answer::Outcomes(vec![failed(Reason::Missing), failed(Reason::Unreachable)]);
    let bench = start_with(Setup::new(), &events, once("2a", move |_| outcomes()));
    bench.until_settled().await;
    assert_eq!(sent(&bench), "0a 1a 2a 3a 2b 3a 2a 4a 5a");
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_while_windows_are_sent_in_pieces() {
    let setup = Setup::new();
    let feed = setup.feed.clone();
    let (most, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (noted, counted) = (Arc::clone(&most), Arc::clone(&seen));
    let events: Vec<String> = (0..200).map(|id| format!("t {id}")).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let bench = start_taking(Windows { events: 4, ..TWO }, setup, &events, move |window| {
        let log = lock(&feed.log);
        let open = log.read - usize::try_from(log.cursor.0 / 2).expect("few");
        noted.fetch_max(open, Ordering::Relaxed);
        counted.fetch_add(1, Ordering::Relaxed);
        let outcome = if window.len() > 1 { failed(Reason::TooLarge) } else { Outcome::CONFIRMED };
        Answer::Outcomes(vec![outcome; window.len()])
    });
    bench.until_settled().await;
    assert!(seen.load(Ordering::Relaxed) > events.len(), "whole windows and their pieces");
    // One in pieces, the one behind it, one read ahead.
    assert!(most.load(Ordering::Relaxed) <= 3 * 4, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_window_is_begun_loses_nothing() {
    let bench = start(once("3a", |_| panic!("scripted")));
    bench.until_settled().await;
    assert_eq!(confirmed(&bench), ALL);
    assert!(bench.letters().await.is_empty());
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="panic"} 2"#);
}

#[tokio::test(start_paused = true)]
async fn a_stop_awaits_all_that_is_on_its_way_and_begins_no_more() {
    let bench = start(slowly);
    bench.until("two are on their way", |bench| bench.scene().windows.len() == 2).await;
    let sink = bench.sink.clone();
    let setup = bench.stop().await;
    assert_eq!(lock(&sink.0).windows.len(), 2);
    assert_eq!(lock(&sink.0).confirmed, ["0a", "0b", "1a", "1b"]);
    assert_eq!(lock(&setup.feed.log).cursor.0, 8);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_turn_has_it_before_the_backlog_is_delivered() {
    let bench = start(slowly);
    bench.until("two are on their way", |bench| bench.scene().windows.len() == 2).await;
    let replay = Message::sample("t", "replayed", b"{}", Timestamp::default());
    let replayed = bench.handle.replay(vec![replay]).await.expect("runs");
    assert_eq!(replayed.published, 1);
    assert_eq!(confirmed(&bench), "0a 0b 1a 1b replayed");
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed.len(), EVENTS.len() + 1);
}
