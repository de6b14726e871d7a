//! Windows that overlap: the next is begun while the one before is on its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Setup, owned};
use super::kit::{Answer, ScriptedSink, failed, lock};
use crate::clock::Timestamp;
use crate::message::Message;
use crate::sinks::{Outcome, Reason};

/// A pump whose sink takes windows that overlap, of one event each.
fn start(setup: Setup, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
    let sink = ScriptedSink::new(script);
    lock(&sink.0).overlaps = true;
    lock(&setup.feed.log).window = Some(1);
    setup.feed.push("t 0", Timestamp::default());
    for id in 1..6 {
        setup.feed.push(&format!("t {id}"), Timestamp::default());
    }
    setup.start_with(sink)
}

fn id(window: &[Message]) -> &str {
    window[0].id.as_str()
}

const SLOW: Duration = Duration::from_secs(5);

fn slowly(window: &[Message]) -> Answer {
    Answer::After(SLOW, vec![Outcome::CONFIRMED; window.len()])
}

/// Does something else with the window of one event, the first time that it is sent.
fn once(
    number: &'static str,
    mut other: impl FnMut(&[Message]) -> Answer + Send,
) -> impl FnMut(&[Message]) -> Answer + Send {
    let mut first = true;
    move |window| if id(window) == number && std::mem::take(&mut first) { other(window) } else { slowly(window) }
}

#[tokio::test(start_paused = true)]
async fn the_next_window_is_sent_before_the_one_on_its_way_is_confirmed() {
    let bench = start(Setup::new(), slowly);
    bench.until_settled().await;
    let scene = bench.scene();
    assert_eq!(scene.windows.concat(), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(scene.confirmed, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(scene.at_once, 2);
}

#[tokio::test(start_paused = true)]
async fn the_cursor_passes_each_window_when_it_is_confirmed() {
    let bench = start(Setup::new(), slowly);
    bench.until_settled().await;
    // Each time at the first event of the window that is on its way by then; the first has the offset 1.
    let places: Vec<u64> = bench.log().advances.iter().map(|(place, _)| place.0).collect();
    assert_eq!(places, [1, 3, 5, 7, 9, 11, 12]);
}

#[tokio::test(start_paused = true)]
async fn windows_do_not_overlap_where_the_sink_does_not_say_so() {
    let bench = start(Setup::new(), slowly);
    bench.scene().overlaps = false;
    bench.until_settled().await;
    assert!(bench.scene().at_once < 2);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_costs_what_is_on_its_way_one_more_try() {
    let bench = start(Setup::new(), once("2", |_| Answer::Outcomes(vec![failed(Reason::Unreachable)])));
    bench.until_settled().await;
    let scene = bench.scene();
    assert_eq!(scene.windows.concat(), ["0", "1", "2", "3", "2", "3", "4", "5"]);
    assert_eq!(scene.confirmed, ["0", "1", "2", "3", "4", "5"]);
    assert_eq!((scene.abandoned, scene.connected), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_window_that_hangs_takes_the_one_behind_it_along() {
    let bench = start(Setup::new(), once("2", |_| Answer::Hang));
    bench.until_settled().await;
    let scene = bench.scene();
    assert_eq!(scene.windows.concat(), ["0", "1", "2", "3", "2", "3", "4", "5"]);
    assert_eq!(scene.confirmed, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_set_aside_and_the_window_behind_it_is_not_sent_again() {
    let bench = start(Setup::new(), once("2", |_| Answer::Outcomes(vec![failed(Reason::TooLarge)])));
    bench.until_settled().await;
    assert_eq!(bench.scene().windows.concat(), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(bench.scene().confirmed, ["0", "1", "3", "4", "5"]);
    assert_eq!(bench.letters().await, owned(&[("t", "2", Reason::TooLarge)]));
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_is_awaited_before_a_letter_that_has_no_room() {
    let setup = Setup { dead_max_size: 0, ..Setup::new() };
    let bench = start(setup, once("2", |_| Answer::Outcomes(vec![failed(Reason::TooLarge)])));
    bench.until("the one behind is confirmed", |bench| bench.scene().confirmed.len() == 3).await;
    assert_eq!(bench.scene().confirmed, ["0", "1", "3"]);
    assert_eq!(bench.log().cursor.0, 5, "not past what has no letter");
    assert!(bench.letters().await.is_empty());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_within_its_grace_is_tried_until_it_is_taken_and_the_others_flow() {
    let mut tries = 0;
    let bench = start(Setup::new(), move |window| {
        tries += usize::from(id(window) == "2");
        let is_missing = id(window) == "2" && tries < 3;
        if is_missing { Answer::Outcomes(vec![failed(Reason::Missing)]) } else { slowly(window) }
    });
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed.len(), 6);
    let sent = bench.scene().windows.concat();
    assert_eq!(sent.iter().filter(|sent| *sent != "2").count(), 5, "{sent:?}");
    assert_eq!(sent.iter().filter(|sent| *sent == "2").count(), 3, "{sent:?}");
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_has_begun_does_not_wait_for_a_topic_within_its_grace() {
    let bench = start(Setup::new(), once("2", |_| Answer::Outcomes(vec![failed(Reason::Missing)])));
    bench.until("it is the turn of 2", |bench| bench.scene().confirmed.len() == 2).await;
    let begun = Instant::now();
    bench.until("3 is confirmed", |bench| bench.scene().confirmed.len() == 3).await;
    assert!(begun.elapsed() < SLOW + Duration::from_millis(50), "{:?}", begun.elapsed());
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["0", "1", "3", "2", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_while_windows_are_sent_in_pieces() {
    let setup = Setup::new();
    let feed = setup.feed.clone();
    let (most, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (noted, counted) = (Arc::clone(&most), Arc::clone(&seen));
    let bench = start(setup, move |window| {
        let log = lock(&feed.log);
        let open = log.read - usize::try_from(log.cursor.0 / 2).expect("few");
        noted.fetch_max(open, Ordering::Relaxed);
        counted.fetch_add(1, Ordering::Relaxed);
        let outcome = if window.len() > 1 { failed(Reason::TooLarge) } else { Outcome::CONFIRMED };
        Answer::Outcomes(vec![outcome; window.len()])
    });
    bench.log().window = Some(4);
    let events: Vec<String> = (6..200).map(|id| format!("t {id}")).collect();
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    bench.until_settled().await;
    assert!(seen.load(Ordering::Relaxed) > 200, "whole windows and their pieces");
    // The last piece of one, the one behind it, one begun, one read ahead.
    assert!(most.load(Ordering::Relaxed) <= 4 * 4, "{most:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_window_is_begun_loses_nothing() {
    let bench = start(Setup::new(), once("3", |_| panic!("scripted")));
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["0", "1", "2", "3", "4", "5"]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_awaits_all_that_is_on_its_way_and_begins_no_more() {
    let bench = start(Setup::new(), slowly);
    bench.until("two are on their way", |bench| bench.scene().windows.len() == 2).await;
    let sink = bench.sink.clone();
    let setup = bench.stop().await;
    assert_eq!(lock(&sink.0).windows.len(), 2);
    assert_eq!(lock(&sink.0).confirmed, ["0", "1"]);
    assert_eq!(lock(&setup.feed.log).cursor.0, 4);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_turn_has_it_before_the_backlog_is_delivered() {
    let bench = start(Setup::new(), slowly);
    bench.until("two are on their way", |bench| bench.scene().windows.len() == 2).await;
    let replay = Message::sample("t", "replayed", b"{}", Timestamp::default());
    let replayed = bench.handle.replay(vec![replay]).await.expect("runs");
    assert_eq!(replayed.published, 1);
    assert_eq!(bench.scene().confirmed, ["0", "1", "replayed"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed.len(), 7);
}
