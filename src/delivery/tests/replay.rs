//! A replay's windows between those of live events.

use std::time::Duration;

use super::bench::{Bench, Setup};
use super::kit::{Answer, failed};
use crate::clock::Timestamp;
use crate::delivery::{PumpEnded, Replayed};
use crate::message::Message;
use crate::sinks::{Outcome, Reason};

fn messages(topic: &str, ids: &[&str]) -> Vec<Message> {
    ids.iter().map(|id| Message::sample(topic, id, b"", Timestamp::default())).collect()
}

fn replayed(published: u64, duplicates: u64, failed: &[(Reason, u64)]) -> Replayed {
    Replayed { published, duplicates, failed: failed.iter().copied().collect() }
}

#[tokio::test(start_paused = true)]
async fn a_window_is_confirmed_before_it_counts_and_the_cursor_stays() {
    let bench = Bench::start(|window| Answer::After(Duration::from_secs(3), vec![Outcome::CONFIRMED; window.len()]));
    let asked = tokio::time::Instant::now();
    let told = bench.handle.replay(messages("alma.loan", &["1", "2"])).await;
    assert_eq!(told, Ok(replayed(2, 0, &[])));
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(bench.scene().windows, [["1", "2"]]);
    assert!(bench.log().advances.is_empty());
}

#[tokio::test(start_paused = true)]
async fn repeats_are_counted_and_refusals_are_told_and_not_set_aside() {
    let bench = Bench::start(|window| {
        let alone = window.len() == 1;
        Answer::each(window, |message| match message.id.as_str() {
            "large" if alone => failed(Reason::TooLarge),
            // One condemns all that it is sent with.
            _ if window.iter().any(|message| message.id.as_str() == "large") => failed(Reason::TooLarge),
            "known" => Outcome::Confirmed { duplicate: true },
            "denied" => failed(Reason::Rights),
            _ => Outcome::CONFIRMED,
        })
    });
    let told = bench.handle.replay(messages("alma.loan", &["1", "large", "known", "denied", "2"])).await;
    assert_eq!(told, Ok(replayed(3, 1, &[(Reason::TooLarge, 1), (Reason::Rights, 1)])));
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_made_again_and_only_the_rest_is_sent_again() {
    let mut cuts = 2;
    let bench = Bench::start(move |window| {
        cuts -= 1;
        if cuts < 0 {
            return Answer::confirm(window);
        }
        Answer::each(
            window,
            |message| if message.id.as_str() == "1" { Outcome::CONFIRMED } else { failed(Reason::Timeout) },
        )
    });
    let told = bench.handle.replay(messages("alma.loan", &["1", "2", "3"])).await;
    assert_eq!(told, Ok(replayed(3, 0, &[])));
    assert_eq!(bench.scene().windows, [vec!["1", "2", "3"], vec!["2", "3"], vec!["2", "3"]]);
    assert_eq!(bench.scene().connected, 3);
}

#[tokio::test(start_paused = true)]
async fn a_replay_and_live_events_take_turns() {
    let setup = Setup::new();
    let events: Vec<String> = (0..2048).map(|number| format!("alma.live live-{number}")).collect();
    for event in &events {
        setup.feed.push(event, Timestamp::default());
    }
    let bench = setup.start(|window| Answer::After(Duration::from_millis(10), vec![Outcome::CONFIRMED; window.len()]));
    for number in 0..4 {
        let id = format!("again-{number}");
        assert_eq!(bench.handle.replay(messages("alma.loan", &[&id])).await, Ok(replayed(1, 0, &[])));
    }
    bench.until_settled().await;
    let kinds: Vec<bool> = bench.scene().windows.iter().map(|window| window[0].starts_with("again")).collect();
    assert_eq!(kinds.iter().filter(|again| **again).count(), 4);
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    assert!(kinds.windows(2).all(|pair| pair[0] != pair[1]), "neither waits for two of the other: {kinds:?}");
    let live: Vec<String> = bench.scene().confirmed.iter().filter(|id| id.starts_with("live")).cloned().collect();
    let expected: Vec<&str> = events.iter().filter_map(|event| event.split(' ').nth(1)).collect();
    assert_eq!(live, expected, "live events keep their order, and none is repeated");
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_nobody_waits_for_any_more_is_left() {
    let bench = Bench::start(|window| Answer::each(window, |_| failed(Reason::Timeout)));
    let waiting = bench.handle.replay(messages("alma.loan", &["1"]));
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err());
    let tried = bench.scene().windows.len();
    assert!(tried > 2, "{tried}");
    bench.script(Answer::confirm);
    bench.push(&["alma.loan 2"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_pump_says_so() {
    let bench = Bench::start(|window| Answer::each(window, |_| failed(Reason::Timeout)));
    let handle = bench.handle.clone();
    let waiting = tokio::spawn(async move { handle.replay(messages("alma.loan", &["1"])).await });
    bench.until("it is tried", |bench| !bench.scene().windows.is_empty()).await;
    bench.stop().await;
    assert_eq!(waiting.await.expect("told"), Err(PumpEnded));
}
