//! What an operator mends: grace, parked topics, and their way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Setup, owned};
use super::kit::{Answer, failed};
use crate::config::{RabbitMqSink, Secret, SinkKind, Unroutable};
use crate::delivery::SinkState;
use crate::message::Message;
use crate::sinks::{Outcome, Reason};
use crate::testing::disk::{Fail, Kind, SimDisk};

/// Confirms all but a topic that has no rights until they are given.
fn without_rights(topic: &'static str) -> (Arc<AtomicBool>, impl FnMut(&[Message]) -> Answer + Send + 'static) {
    let given = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&given);
    let script = move |window: &[Message]| {
        let given = seen.load(Ordering::SeqCst);
        Answer::each(window, |message| {
            if message.topic.as_str() == topic && !given { failed(Reason::Rights) } else { Outcome::CONFIRMED }
        })
    };
    (given, script)
}

fn parked(bench: &Bench) -> Vec<(String, u64)> {
    bench.status().parked.iter().map(|parked| (parked.topic.to_string(), parked.letters)).collect()
}

/// These events, of topic `t`, which has no rights: parked.
async fn with_parked(events: &[&str]) -> Bench {
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let (_, script) = without_rights("t");
    let bench = setup.start(script);
    bench.push(events);
    bench.until("parked", |bench| !parked(bench).is_empty()).await;
    bench
}

#[tokio::test(start_paused = true)]
async fn within_its_grace_a_topic_is_tried_again_and_nothing_is_set_aside() {
    let (rights, script) = without_rights("alma.user");
    let bench = Bench::start(script);
    bench.push(&["alma.loan 1", "alma.user 2", "alma.bib 3", "alma.user 4"]);
    bench.until("the others are taken", |bench| bench.scene().confirmed.len() == 2).await;
    bench.until("it waits", |bench| matches!(bench.status().state, SinkState::BackingOff { .. })).await;
    let SinkState::BackingOff { why, .. } = bench.status().state else { panic!("it waits") };
    assert_eq!(why.reason, Reason::Rights);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bench.scene().windows.len() > 8, "it is tried under back-off");
    assert_eq!(bench.scene().abandoned, 0);
    rights.store(true, Ordering::SeqCst);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "3", "2", "4"]);
    assert!(bench.letters().await.is_empty() && parked(&bench).is_empty());
    assert_eq!(bench.status().state, SinkState::Up);
}

#[tokio::test(start_paused = true)]
async fn past_its_grace_a_topic_is_parked_and_the_others_flow() {
    let (_, script) = without_rights("alma.user");
    let bench = Bench::start(script);
    let asked = Instant::now();
    bench.push(&["alma.user 1", "alma.loan 2"]);
    bench.until("parked", |bench| !parked(bench).is_empty()).await;
    assert!((Duration::from_mins(1)..Duration::from_secs(61)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    bench.until_settled().await;
    assert_eq!(parked(&bench), [("alma.user".to_owned(), 1)]);
    let asked = Instant::now();
    bench.push(&["alma.user 3", "alma.loan 4", "alma.user 5"]);
    bench.until_settled().await;
    assert!(asked.elapsed() < Duration::from_millis(100), "nobody waits for a parked topic");
    assert_eq!(bench.scene().confirmed, ["2", "4"]);
    let letters = ["1", "3", "5"].map(|id| ("alma.user", id, Reason::Rights));
    assert_eq!(bench.letters().await, owned(&letters));
    assert_eq!((bench.status().state, parked(&bench)), (SinkState::Up, vec![("alma.user".to_owned(), 3)]));
}

/// RabbitMQ's full queue of one subscriber is none of the others' business.
#[tokio::test(start_paused = true)]
async fn a_topic_within_its_grace_holds_up_no_other_and_costs_it_no_copy() {
    let bench = Bench::start(|window| {
        Answer::each(window, |message| match message.topic.as_str() {
            "full" => failed(Reason::Nacked),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.push(&["full 0", "free 1"]);
    bench.until("the first is refused", |bench| bench.scene().confirmed.len() == 1).await;
    for number in 2..20 {
        let (text, asked) = (format!("{} {number}", if number % 3 == 0 { "full" } else { "free" }), Instant::now());
        bench.push(&[&text]);
        if number % 3 > 0 {
            let arrived = |bench: &Bench| bench.scene().confirmed.last() == Some(&number.to_string());
            bench.until("it is confirmed", arrived).await;
            assert!(asked.elapsed() < Duration::from_millis(100), "{number} took {:?}", asked.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(parked(&bench).is_empty(), "its grace is a minute");
    bench.until_settled().await;
    assert_eq!(parked(&bench), [("full".to_owned(), 7)]);
    let scene = bench.scene();
    let is_free = |id: &&String| id.parse::<u32>().is_ok_and(|number| number % 3 > 0);
    assert_eq!(scene.windows.iter().flatten().filter(is_free).count(), 13, "each once: {:?}", scene.windows);
    assert_eq!(scene.abandoned, 0, "nothing is wrong with the connection");
    let last = scene.windows.iter().rev().find(|window| window.len() > 1).expect("a window");
    assert_eq!(*last, ["0", "3", "6", "9", "12", "15", "18"], "what waited is sent in order");
}

#[tokio::test(start_paused = true)]
async fn a_topic_of_which_some_is_taken_each_time_is_parked_after_its_grace_all_the_same() {
    let bench = Bench::start(|window| {
        let mut outcomes = vec![failed(Reason::Nacked); window.len()];
        outcomes[0] = Outcome::CONFIRMED;
        Answer::Outcomes(outcomes)
    });
    let events: Vec<_> = (0..200).map(|number| format!("full {number}")).collect();
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    let asked = Instant::now();
    bench.until("parked", |bench| !parked(bench).is_empty()).await;
    assert!(asked.elapsed() < Duration::from_secs(61), "{:?}", asked.elapsed());
    bench.until_settled().await;
    let (left, taken) = (parked(&bench)[0].1, bench.scene().confirmed.len() as u64);
    assert!(taken > 5 && left + taken == 200, "{left} are left, {taken} were taken");
    // What is taken of its letters is removed, too.
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert!(parked(&bench)[0].1 < left, "{} of {left} are left", parked(&bench)[0].1);
    bench.script(Answer::confirm);
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    let mut confirmed = bench.scene().confirmed.clone();
    confirmed.sort_by_key(|id| id.parse::<u32>().expect("a number"));
    assert_eq!(confirmed, (0..200).map(|number| number.to_string()).collect::<Vec<_>>(), "each once");
}

/// What waits stays in memory, and a crash publishes again what flowed past it.
#[tokio::test(start_paused = true)]
async fn the_others_flow_only_so_far_past_a_topic_within_its_grace() {
    let (_, script) = without_rights("t");
    let bench = Bench::start(script);
    bench.push(&["t 0"]);
    bench.until("it is refused", |bench| !bench.scene().windows.is_empty()).await;
    let events: Vec<_> = (1..=20_000).map(|number| format!("free {number}")).collect();
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let flowed = bench.scene().confirmed.len();
    assert!((8_192..8_192 + 512).contains(&flowed), "{flowed}");
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed.len(), 20_000);
    assert_eq!(parked(&bench), [("t".to_owned(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_journal_ends_the_pump_once_a_topic_is_out_of_its_grace() {
    let (rights, script) = without_rights("t");
    let bench = Bench::start(script);
    bench.push(&["t 0", "free 1"]);
    bench.until("it is refused", |bench| bench.scene().confirmed.len() == 1).await;
    bench.setup.feed.close();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_ne!(bench.status().state, SinkState::Stopped);
    rights.store(true, Ordering::SeqCst);
    bench.until("stopped", |bench| bench.status().state == SinkState::Stopped).await;
    assert_eq!(bench.scene().confirmed, ["1", "0"]);
}

/// Letters that can't be read for a moment are no reason for others to be letters.
#[tokio::test(start_paused = true)]
async fn a_disk_that_fails_does_not_change_why_a_topic_is_parked() {
    let (rights, script) = without_rights("alma.user");
    let disk = SimDisk::new();
    let mut setup = Setup { disk: Arc::new(disk.clone()), ..Setup::new() };
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(script);
    bench.push(&["alma.user 1"]);
    bench.until_settled().await;
    disk.fail(Fail::new(Kind::Read, 1));
    bench.handle.retry_parked();
    bench.until("its letter could not be read", |_| !disk.is_faulty()).await;
    bench.push(&["alma.user 2"]);
    bench.until_settled().await;
    assert_eq!(bench.letters().await, owned(&["1", "2"].map(|id| ("alma.user", id, Reason::Rights))));
    rights.store(true, Ordering::SeqCst);
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert_eq!(bench.scene().confirmed, ["1", "2"]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_parked_topic_is_tried_every_minute_and_flows_again_in_order() {
    let (rights, script) = without_rights("alma.user");
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(script);
    bench.push(&["alma.user 1", "alma.user 2", "alma.user 3"]);
    bench.until_settled().await;
    let before = bench.scene().windows.len();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(bench.scene().windows[before..], [["1"]; 3], "its oldest letter alone, once a minute, same id");
    bench.push(&["alma.user 4"]);
    bench.until_settled().await;
    rights.store(true, Ordering::SeqCst);
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert_eq!(bench.scene().confirmed, ["1", "2", "3", "4"]);
    assert!(bench.letters().await.is_empty());
    bench.push(&["alma.user 5"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed.last().map(String::as_str), Some("5"));
}

#[tokio::test(start_paused = true)]
async fn a_reload_tries_parked_topics_at_once() {
    let (rights, script) = without_rights("alma.user");
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(script);
    bench.push(&["alma.user 1"]);
    bench.until("parked", |bench| !parked(bench).is_empty()).await;
    rights.store(true, Ordering::SeqCst);
    let asked = Instant::now();
    bench.handle.retry_parked();
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(bench.scene().confirmed, ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_parked_topic_is_parked_after_a_restart_and_tried_first() {
    let (_, script) = without_rights("alma.user");
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(script);
    bench.push(&["alma.user 1", "alma.loan 2"]);
    bench.until_settled().await;
    let setup = bench.stop().await;

    let (_, script) = without_rights("alma.user");
    let bench = setup.start(script);
    assert_eq!(parked(&bench), [("alma.user".to_owned(), 1)]);
    bench.push(&["alma.user 3"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows, [["1"]]);
    let setup = bench.stop().await;

    let bench = setup.start(Answer::confirm);
    bench.push(&["alma.user 4"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "3", "4"], "the letters come before new events");
    assert!(parked(&bench).is_empty() && bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_letter_of_a_parked_topic_that_is_refused_for_what_it_is_does_not_block_it() {
    let bench = with_parked(&["t 1", "t 2", "t 3", "t 4"]).await;
    bench.script(|window| {
        let large = window.iter().any(|message| message.id.as_str() == "3");
        Answer::each(window, |_| if large { failed(Reason::TooLarge) } else { Outcome::CONFIRMED })
    });
    bench.handle.retry_parked();
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert_eq!(bench.letters().await, owned(&[("t", "3", Reason::TooLarge)]));
    assert_eq!(bench.scene().confirmed, ["1", "2", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_over_a_parked_letter_costs_that_letter_only() {
    let bench = with_parked(&["t 1", "t 2", "t 3", "t 4"]).await;
    bench.script(|window| {
        if window.iter().any(|message| message.id.as_str() == "2") { Answer::Panic } else { Answer::confirm(window) }
    });
    bench.handle.retry_parked();
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert_eq!(bench.letters().await, owned(&[("t", "2", Reason::Panic)]));
    assert_eq!(bench.scene().confirmed, ["1", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_goes_while_a_topic_comes_back_loses_nothing() {
    let bench = with_parked(&["t 1", "t 2", "t 3"]).await;
    let mut calls = 0;
    bench.script(move |window| {
        calls += 1;
        match calls {
            2 => Answer::each(window, |message| match message.id.as_str() {
                "2" => Outcome::CONFIRMED,
                _ => failed(Reason::Unreachable),
            }),
            3 => Answer::Hang,
            _ => Answer::confirm(window),
        }
    });
    bench.handle.retry_parked();
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
    assert_eq!(bench.scene().confirmed, ["1", "2", "3"]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_comes_back_makes_room_for_a_sink_that_waits() {
    let (rights, script) = without_rights("t");
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    setup.dead_max_size = 200;
    let bench = setup.start(script);
    bench.push(&["t 1"]);
    bench.until_settled().await;
    bench.push(&["t 2", "other 3"]);
    bench.until("it waits", |bench| matches!(bench.status().state, SinkState::BackingOff { .. })).await;
    rights.store(true, Ordering::SeqCst);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "3", "2"], "what waited to be set aside is sent");
    assert!(bench.letters().await.is_empty() && parked(&bench).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_parked_topic_without_letters_is_given_another_try() {
    let (_, script) = without_rights("t");
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(script);
    bench.push(&["t 1"]);
    bench.until("parked", |bench| !parked(bench).is_empty()).await;
    bench.until_settled().await;
    let id = bench.letters.list().await.expect("lists")[0].id;
    bench.letters.remove(vec![id]).await.expect("removes");
    bench.handle.retry_parked();
    bench.until("unparked", |bench| parked(bench).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_judged_by_what_it_did_alone() {
    // A channel lost to one topic takes the rest of a mixed window with it.
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    let bench = setup.start(|window| {
        let lost = window.iter().any(|message| message.topic.as_str() == "bad");
        Answer::each(window, |message| match message.topic.as_str() {
            "bad" => failed(Reason::Rights),
            _ if lost => failed(Reason::Missing),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.push(&["good 1", "bad 2", "fine 3", "bad 4"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "3"]);
    assert_eq!(parked(&bench), [("bad".to_owned(), 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_in_its_grace_does_not_drag_others_into_its_back_off() {
    // RabbitMQ closes the channel at the first message without rights: those behind it are unknown.
    let bench = Bench::start(|window| {
        let bad = window.iter().position(|message| message.topic.as_str() == "bad").unwrap_or(window.len());
        let mut outcomes = vec![Outcome::CONFIRMED; window.len()];
        if let Some(first) = outcomes.get_mut(bad) {
            *first = failed(Reason::Rights);
            outcomes[bad + 1..].fill(failed(Reason::Unreachable));
        }
        Answer::Outcomes(outcomes)
    });
    let mut events: Vec<_> = (0..100).map(|id| format!("bad {id}")).collect();
    events.push("good 100".to_owned());
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    bench.until("the other is taken", |bench| bench.scene().confirmed.len() == 1).await;
    let windows = bench.scene().windows.len();
    assert!(windows <= 3, "{windows} attempts before the good one was taken");
    bench.until_settled().await;
    assert_eq!(parked(&bench), [("bad".to_owned(), 100)]);
}

#[tokio::test(start_paused = true)]
async fn unroutable_dead_is_a_dead_letter_at_once() {
    let mut setup = Setup::new();
    setup.config.kind = SinkKind::RabbitMq(RabbitMqSink {
        url: Secret::new(*b"amqp://127.0.0.1"),
        exchange: "alma".into(),
        declare: true,
        unroutable: Unroutable::Dead,
        login: None,
        tls: None,
    });
    let bench = setup.start(|window| {
        Answer::each(window, |message| match message.topic.as_str() {
            "t" => failed(Reason::Unroutable),
            _ => Outcome::CONFIRMED,
        })
    });
    let asked = Instant::now();
    bench.push(&["t 1", "u 2"]);
    bench.until_settled().await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert!(parked(&bench).is_empty());
    assert_eq!(bench.letters().await, owned(&[("t", "1", Reason::Unroutable)]));
}
