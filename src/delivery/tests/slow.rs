//! A slow link: what is confirmed before a deadline counts, and windows become smaller until they fit.

use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Setup};
use super::kit::{Answer, ScriptedSink, failed, lock};
use crate::clock::Timestamp;
use crate::message::Message;
use crate::sinks::{Outcome, Reason, Windows};

const EIGHT: Windows = Windows { events: 8, ..Windows::WHOLE };

/// A pump with `count` events of one topic that wait for it, with the numbers from 0 as ids.
fn start(takes: Windows, count: usize, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
    let sink = ScriptedSink::new(script);
    lock(&sink.0).takes = takes;
    let setup = Setup::new();
    for number in 0..count {
        setup.feed.push(&format!("t {number}"), Timestamp::default());
    }
    setup.start_with(sink)
}

fn sizes(bench: &Bench) -> Vec<usize> {
    bench.scene().windows.iter().map(Vec::len).collect()
}

/// All were confirmed in order, each once.
fn assert_each_once(bench: &Bench, count: usize) {
    let expected: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(bench.scene().confirmed, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_before_the_deadline_is_not_sent_again() {
    let mut first = true;
    let confirmed = Some(Outcome::CONFIRMED);
    let bench = start(Windows::WHOLE, 4, move |window| {
        if std::mem::take(&mut first) {
            Answer::Part(vec![confirmed.clone(), None, confirmed.clone(), None])
        } else {
            Answer::confirm(window)
        }
    });
    bench.until_settled().await;
    assert_eq!(bench.scene().windows, [vec!["0", "1", "2", "3"], vec!["1", "3"]]);
    let scene = bench.scene();
    assert_eq!((scene.abandoned, scene.connected), (1, 2), "the old attempt is ended before the rest is sent");
    drop(scene);
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="timeout"} 2"#);
}

/// At one event in 10 s none of the whole windows fits its deadline of 30 s.
#[tokio::test(start_paused = true)]
async fn windows_shrink_until_they_fit_their_deadline() {
    let bench = start(EIGHT, 24, |_| Answer::Paced(Duration::from_secs(10)));
    let begun = Instant::now();
    bench.until_settled().await;
    assert_each_once(&bench, 24);
    assert!(begun.elapsed() < Duration::from_mins(5), "{:?}", begun.elapsed());
    let sizes = sizes(&bench);
    assert_eq!(sizes[0], 8);
    assert!(sizes[2..].iter().all(|size| *size <= 2), "{sizes:?}");
    assert!(bench.scene().abandoned <= 2, "it does not try larger ones again and again: {sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn windows_grow_again_once_they_are_confirmed_soon() {
    let mut windows = 0;
    let bench = start(Windows { overlap: true, ..EIGHT }, 120, move |_| {
        windows += 1;
        Answer::Paced(if windows <= 4 { Duration::from_secs(40) } else { Duration::from_millis(100) })
    });
    bench.until_settled().await;
    let sizes = sizes(&bench);
    assert!(sizes.contains(&1), "one event is the least: {sizes:?}");
    assert_eq!(sizes[sizes.len() - 3..sizes.len() - 1], [8, 8], "{sizes:?}");
    assert_eq!(bench.scene().confirmed.len(), 120);
    assert_eq!(bench.scene().at_once, 2, "whole windows overlap again");
}

#[tokio::test(start_paused = true)]
async fn a_time_out_that_the_sink_tells_shrinks_windows_too() {
    let bench = start(EIGHT, 16, |window| {
        let in_time = |place| if place < 3 { Outcome::CONFIRMED } else { failed(Reason::Timeout) };
        Answer::Outcomes((0..window.len()).map(in_time).collect())
    });
    bench.until_settled().await;
    assert_eq!(sizes(&bench)[..3], [8, 4, 1], "five are left: four of them, then what is left of these");
    assert_eq!(bench.scene().confirmed.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn windows_stay_as_they_are_where_nothing_was_late() {
    let mut first = true;
    let bench = start(EIGHT, 16, move |window| {
        let outcome = if std::mem::take(&mut first) { failed(Reason::Busy) } else { Outcome::CONFIRMED };
        Answer::Outcomes(vec![outcome; window.len()])
    });
    bench.until_settled().await;
    assert_eq!(sizes(&bench), [8, 8, 8]);
}

#[tokio::test(start_paused = true)]
async fn letters_of_a_parked_topic_that_are_confirmed_in_time_are_removed() {
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(|window| Answer::Outcomes(vec![failed(Reason::Rights); window.len()]));
    bench.push(&["t 0", "t 1", "t 2", "t 3"]);
    bench.until_settled().await;
    let mut calls = 0;
    bench.script(move |window| {
        calls += 1;
        match calls {
            2 => Answer::Part(vec![Some(Outcome::CONFIRMED), Some(Outcome::CONFIRMED), None]),
            _ => Answer::confirm(window),
        }
    });
    bench.handle.retry_parked();
    bench.until("all are published", |bench| bench.scene().confirmed.len() == 4).await;
    assert_each_once(&bench, 4);
    bench.until("none is left", |bench| bench.letters.summary().letters() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_counts_what_was_confirmed_in_time() {
    let mut first = true;
    let bench = start(Windows::WHOLE, 0, move |window| {
        if std::mem::take(&mut first) {
            Answer::Part(vec![Some(Outcome::CONFIRMED), None, None])
        } else {
            Answer::confirm(window)
        }
    });
    let messages = (0..3).map(|number: u32| Message::sample("t", &number.to_string(), b"{}", Timestamp::default()));
    let replayed = bench.handle.replay(messages.collect()).await.expect("runs");
    assert_eq!(replayed.published, 3);
    assert_each_once(&bench, 3);
}
