//! A full journal gives up events that the pump has read: each is given up or delivered, never both.

use std::time::Duration;

use super::bench::{Bench, Setup};
use super::kit::{Answer, ScriptedSink, failed, lock};
use crate::clock::Timestamp;
use crate::journal::Offset;
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Reason, Windows};

/// Long enough to give events up meanwhile.
const SLOW: Duration = Duration::from_secs(5);

/// The offsets are 1, 3, 5 and 7.
const EVENTS: [&str; 4] = ["a 1", "b 3", "a 5", "b 7"];

fn start(takes: Windows, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
    let sink = ScriptedSink::new(script);
    lock(&sink.0).takes = takes;
    let setup = Setup::new();
    for event in EVENTS {
        setup.feed.push(event, Timestamp::default());
    }
    setup.start_with(sink)
}

/// The first time the script's own answer, and then all is confirmed.
fn first(mut answer: impl FnMut(&[Message]) -> Answer + Send) -> impl FnMut(&[Message]) -> Answer + Send {
    let mut is_first = true;
    move |window| if std::mem::take(&mut is_first) { answer(window) } else { Answer::confirm(window) }
}

fn given_up(bench: &Bench) -> Vec<u64> {
    bench.log().given_up.iter().map(|offset| offset.0).collect()
}

fn confirmed(bench: &Bench) -> String {
    bench.scene().confirmed.join(" ")
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_while_the_sink_is_down_is_not_sent() {
    let bench =
        start(Windows::WHOLE, first(|window| Answer::After(SLOW, vec![failed(Reason::Unreachable); window.len()])));
    bench.until("the window is sent", |bench| !bench.scene().windows.is_empty()).await;
    bench.scene().connects = (0..4).map(|_| Failure::new(Reason::Unreachable, "scripted")).collect();
    bench.until("the sink is down", |bench| bench.scene().tries.len() > 2).await;
    bench.log().give_up(Offset(4));
    assert_eq!(given_up(&bench), [1, 3], "at once, while the sink is down");
    bench.until_settled().await;
    assert_eq!(given_up(&bench), [1, 3]);
    assert_eq!(confirmed(&bench), "5 7");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_before_the_first_connection_is_not_sent() {
    let sink = ScriptedSink::new(Answer::confirm);
    lock(&sink.0).connects = (0..4).map(|_| Failure::new(Reason::Unreachable, "scripted")).collect();
    let setup = Setup::new();
    for event in EVENTS {
        setup.feed.push(event, Timestamp::default());
    }
    let bench = setup.start_with(sink);
    bench.until("events are read ahead", |bench| bench.log().read == EVENTS.len()).await;
    bench.log().give_up(Offset(4));
    bench.until_settled().await;
    assert_eq!((given_up(&bench), confirmed(&bench)), (vec![1, 3], "5 7".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_after_the_journal_passed_it_is_not_given_up() {
    let bench = start(Windows::WHOLE, first(|window| Answer::After(SLOW, vec![Outcome::CONFIRMED; window.len()])));
    bench.until("the window is sent", |bench| !bench.scene().windows.is_empty()).await;
    bench.log().give_up(Offset(4));
    assert_eq!(given_up(&bench), [0; 0], "in flight");
    bench.until_settled().await;
    assert_eq!(given_up(&bench), [0; 0]);
    assert_eq!(confirmed(&bench), "1 3 5 7");
    assert_eq!(bench.scene().windows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_the_journal_passed_it_is_given_up_and_not_sent_again() {
    for reason in [Reason::Unreachable, Reason::TooLarge, Reason::Nacked] {
        let fail = move |window: &[Message]| {
            Answer::After(SLOW, window.iter().map(|message| outcome(message, reason)).collect())
        };
        let bench = start(Windows::WHOLE, first(fail));
        bench.until("the window is sent", |bench| !bench.scene().windows.is_empty()).await;
        bench.log().give_up(Offset(4));
        bench.until_settled().await;
        assert_eq!(given_up(&bench), [1], "{reason}");
        assert_eq!(confirmed(&bench), "3 7 5", "{reason}");
        assert!(bench.letters().await.is_empty(), "{reason}");
    }
}

/// Fails the topic `a`.
fn outcome(message: &Message, reason: Reason) -> Outcome {
    if message.topic.as_str() == "a" { failed(reason) } else { Outcome::CONFIRMED }
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_ahead_of_a_topic_that_waits_is_not_given_up() {
    let mut tries = 0;
    let bench = start(Windows::WHOLE, move |window| {
        tries += 1;
        Answer::each(window, |message| if tries < 3 { outcome(message, Reason::Missing) } else { Outcome::CONFIRMED })
    });
    bench.until("b is confirmed", |bench| confirmed(bench) == "3 7").await;
    bench.log().give_up(Offset(6));
    assert_eq!(given_up(&bench), [1, 5]);
    bench.until_settled().await;
    assert_eq!(given_up(&bench), [1, 5]);
    assert_eq!(confirmed(&bench), "3 7", "neither is sent again");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_begun_is_not_given_up_until_it_is_recalled() {
    let takes = Windows { events: 2, overlap: true, ..Windows::WHOLE };
    let bench = start(takes, first(|window| Answer::After(SLOW, vec![failed(Reason::Unreachable); window.len()])));
    bench.until("both windows are sent", |bench| bench.scene().windows.len() == 2).await;
    bench.log().give_up(Offset(8));
    assert_eq!(given_up(&bench), [0; 0], "in flight");
    bench.until("the first fails", |bench| bench.scene().abandoned > 0).await;
    assert_eq!(given_up(&bench), [1, 3, 5, 7]);
    assert_eq!(confirmed(&bench), "");
    bench.push(&["a 9"]);
    bench.until_settled().await;
    assert_eq!(confirmed(&bench), "9");
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_set_aside_is_given_up_and_is_no_dead_letter() {
    let setup = Setup { dead_max_size: 1, ..Setup::new() };
    setup.feed.push("a 1", Timestamp::default());
    let bench = setup.start(|window| Answer::each(window, |_| failed(Reason::TooLarge)));
    bench.until("the letter waits", |bench| bench.scene().windows.len() == 1 && bench.log().in_flight.is_empty()).await;
    bench.log().give_up(Offset(2));
    assert_eq!(given_up(&bench), [1]);
    bench.script(Answer::confirm);
    bench.push(&["a 3"]);
    bench.until_settled().await;
    assert_eq!((given_up(&bench), confirmed(&bench)), (vec![1], "3".to_owned()));
    assert!(bench.letters().await.is_empty());
}
