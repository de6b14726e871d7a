//! The broker away, messages refused, panics, dead letters that can't be kept.

use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Setup, owned};
use super::kit::{Answer, ScriptedSink, failed};
use crate::dead_letters::LetterId;
use crate::delivery::{Retried, SinkState};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Outcomes, Reason};

fn confirm_but(id: &'static str, otherwise: Outcome) -> impl Fn(&Message) -> Outcome {
    move |message| if message.id.as_str() == id { otherwise.clone() } else { Outcome::CONFIRMED }
}

#[tokio::test(start_paused = true)]
async fn a_window_past_its_deadline_is_abandoned_and_sent_again() {
    let mut hangs = 2;
    let bench = Bench::start(move |window| {
        hangs -= 1;
        if hangs >= 0 { Answer::Hang } else { Answer::confirm(window) }
    });
    let asked = Instant::now();
    bench.push(&["t 1", "t 2"]);
    bench.until_settled().await;
    assert!(asked.elapsed() >= 2 * ScriptedSink::DEADLINE);
    assert_eq!(bench.scene().windows, [["1", "2"]; 3], "the same ids in the same order");
    let scene = bench.scene();
    assert_eq!((scene.abandoned, scene.connected), (2, 3));
    drop(scene);
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="timeout"} 4"#);
}

#[tokio::test(start_paused = true)]
async fn only_what_is_not_confirmed_is_sent_again() {
    let mut first = true;
    let bench = Bench::start(move |window| {
        let down = std::mem::take(&mut first);
        // Answers come in any order: which ones are there is all that counts.
        Answer::each(window, |message| match message.id.as_str() {
            "2" | "4" if down => failed(Reason::Unreachable),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.push(&["t 1", "t 2", "t 3", "t 4", "t 5"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows[1..], [["2", "4"]]);
    assert_eq!(bench.scene().confirmed, ["1", "3", "5", "2", "4"]);
    let scene = bench.scene();
    assert_eq!((scene.abandoned, scene.connected), (1, 2));
    drop(scene);
    let cursors: Vec<_> = bench.log().advances.iter().map(|(cursor, _)| cursor.0).collect();
    assert_eq!(cursors, [1, 3, 10], "the cursor waits at the oldest that is not settled");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_not_connected_is_given_nothing() {
    let sink = ScriptedSink::new(Answer::confirm);
    {
        let mut scene = super::kit::lock(&sink.0);
        scene.connects = (0..20).map(|_| Failure::new(Reason::Login, "wrong password")).collect();
    }
    let bench = Setup::new().start_with(sink);
    bench.push(&["t 1"]);
    bench.until("it waits", |bench| bench.scene().connects.len() < 15).await;
    assert!(bench.scene().windows.is_empty());
    let status = bench.status();
    let SinkState::BackingOff { why, next_try } = status.state else { panic!("{:?}", status.state) };
    assert_eq!(why, Failure::new(Reason::Login, "wrong password"));
    let now = crate::clock::Clock::now(&*bench.setup.clock);
    assert!(next_try.since(now) <= Duration::from_secs(5) && next_try > now);
    assert_eq!(status.backlog.events, 1);
    bench.has_metric(r#"alma_bridge_sink_up{sink="main",type="file"} 0"#);
    bench.until_settled().await;
    assert_eq!((bench.scene().confirmed.clone(), bench.status().state), (vec!["1".to_owned()], SinkState::Up));
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="login"} 20"#);
}

#[tokio::test(start_paused = true)]
async fn it_backs_off_between_100_ms_and_5_s_for_ever() {
    let sink = ScriptedSink::new(Answer::confirm);
    super::kit::lock(&sink.0).connects = (0..200).map(|_| Failure::new(Reason::Unreachable, "down")).collect();
    let bench = Setup::new().start_with(sink);
    bench.push(&["t 1"]);
    bench.until_settled().await;
    let takes = bench.scene().connect_takes;
    let waits: Vec<Duration> =
        bench.scene().tries.windows(2).map(|pair| (pair[1] - pair[0]).saturating_sub(takes)).collect();
    assert_eq!(waits.len(), 200);
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(5));
    // The paused clock counts in milliseconds.
    let rounding = Duration::from_millis(2);
    let mut ceiling = 2 * shortest;
    for (index, wait) in waits.iter().enumerate() {
        assert!((shortest..=ceiling + rounding).contains(wait), "wait {index} is {wait:?}, the ceiling {ceiling:?}");
        ceiling = (2 * ceiling).min(longest);
    }
    // After the first few, waits are spread over the whole range.
    let late = &waits[10..];
    assert!(late.iter().any(|wait| *wait < longest / 4), "{late:?}");
    assert!(late.iter().any(|wait| *wait > longest / 4 * 3), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_goes_while_nothing_comes_is_made_again() {
    let bench = Bench::start(Answer::confirm);
    bench.until("up", |bench| bench.scene().connected == 1).await;
    bench.scene().up = false;
    bench.until("up again", |bench| bench.scene().connected == 2).await;
    bench.push(&["t 1"]);
    bench.until_settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_hangs_or_panics_is_tried_again() {
    use futures_util::future::BoxFuture;

    use crate::sinks::Sink;

    struct Hard(ScriptedSink, usize);
    impl Sink for Hard {
        fn connect(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
            self.1 += 1;
            match self.1 {
                1 => Box::pin(std::future::pending()),
                2 => panic!("scripted"),
                _ => self.0.connect(),
            }
        }
        fn publish_into<'a>(&'a mut self, window: &'a [Message], outcomes: &'a mut Outcomes) -> BoxFuture<'a, ()> {
            self.0.publish_into(window, outcomes)
        }
        fn abandon(&mut self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
        fn close(&mut self) -> BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
        fn deadline(&self) -> Duration {
            self.0.deadline()
        }
        fn is_up(&self) -> bool {
            self.0.is_up()
        }
    }
    let scripted = ScriptedSink::new(Answer::confirm);
    let bench = Setup::new().start_boxed(scripted.clone(), Box::new(Hard(scripted, 0)));
    bench.push(&["t 1"]);
    bench.until_settled().await;
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="timeout"} 1"#);
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="panic"} 1"#);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_gives_no_outcome_is_sent_again() {
    let mut first = true;
    let bench = Bench::start(move |window| {
        let missing = usize::from(std::mem::take(&mut first));
        Answer::Outcomes(vec![Outcome::CONFIRMED; window.len() - missing])
    });
    bench.push(&["t 1", "t 2", "t 3"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows, [vec!["1", "2", "3"], vec!["3"]]);
    assert_eq!(bench.scene().abandoned, 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_condemned_for_one_message_costs_that_one_only() {
    let bench = Bench::start(|window| {
        let condemned = window.iter().any(|message| message.id.as_str() == "77");
        Answer::each(window, |_| if condemned { failed(Reason::TooLarge) } else { Outcome::CONFIRMED })
    });
    let events: Vec<_> = (0..200).map(|id| format!("alma.bib {id}")).collect();
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    bench.until_settled().await;
    assert_eq!(bench.letters().await, owned(&[("alma.bib", "77", Reason::TooLarge)]));
    assert_eq!(bench.scene().confirmed.len(), 199);
    assert!(bench.scene().windows.contains(&vec!["77".to_owned()]), "it was refused alone");
    let scene = bench.scene();
    assert!(scene.windows.len() <= 17, "{} attempts for one among 200", scene.windows.len());
    drop(scene);
    assert_eq!(bench.scene().abandoned, 0, "a refusal is no reason to connect again");
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_among_others_is_taken_when_alone() {
    let bench = Bench::start(|window| {
        Answer::each(window, |message| match (message.id.as_str(), window.len()) {
            ("2", 2..) => failed(Reason::Malformed),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.push(&["t 1", "t 2", "t 3"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().windows[1..], [["2"]]);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_durable_before_the_cursor_passes_it() {
    let bench = Bench::start(|window| Answer::each(window, confirm_but("2", failed(Reason::TooLarge))));
    bench.push(&["t 1", "t 2", "t 3"]);
    bench.until_settled().await;
    for (cursor, letters) in &bench.log().advances {
        assert!(cursor.0 <= 3 || *letters == 1, "at {cursor} there were {letters} letters");
    }
    bench.has_metric(r#"alma_bridge_dead_letters{sink="main",reason="too_large"} 1"#);
    let setup = bench.stop().await;
    let bench = setup.start(Answer::confirm);
    bench.until("up", |bench| bench.status().state == SinkState::Up).await;
    assert_eq!(bench.letters().await, owned(&[("t", "2", Reason::TooLarge)]), "it is there after a restart");
    assert!(bench.status().parked.is_empty(), "what is refused for what it is waits for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_sending_costs_one_message_its_place() {
    let bench = Bench::start(|window| {
        if window.iter().any(|message| message.id.as_str() == "5") { Answer::Panic } else { Answer::confirm(window) }
    });
    let events: Vec<_> = (0..20).map(|id| format!("t {id}")).collect();
    bench.push(&events.iter().map(String::as_str).collect::<Vec<_>>());
    bench.until_settled().await;
    assert_eq!(bench.letters().await, owned(&[("t", "5", Reason::Panic)]));
    assert_eq!(bench.scene().confirmed.len(), 19);
    let scene = bench.scene();
    let (abandoned, connected) = (scene.abandoned, scene.connected);
    assert!(abandoned > 1 && connected == abandoned + 1, "connected {connected}, abandoned {abandoned}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_making_costs_one_message_its_place() {
    let bench = Bench::start(Answer::confirm);
    bench.push(&["t 1", "panics 2", "t 3"]);
    bench.until_settled().await;
    assert_eq!(bench.letters().await, owned(&[("", "2", Reason::Panic)]));
    assert_eq!(bench.scene().windows, [["1", "3"]]);
    bench.has_metric(r#"alma_bridge_publish_errors_total{sink="main",reason="panic"} 1"#);
}

#[tokio::test(start_paused = true)]
async fn topics_beyond_max_topics_are_dead_letters() {
    let mut setup = Setup::new();
    setup.config.max_topics = 2;
    let bench = setup.start(Answer::confirm);
    bench.push(&["a 1", "b 2", "c 3", "a 4", "d 5"]);
    bench.until_settled().await;
    bench.push(&["b 6", "c 7"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["1", "2", "4", "6"]);
    let many = Reason::TooManyTopics;
    assert_eq!(bench.letters().await, owned(&[("c", "3", many), ("d", "5", many), ("c", "7", many)]));
}

#[tokio::test(start_paused = true)]
async fn over_dead_max_size_the_sink_waits_until_there_is_room() {
    let mut setup = Setup::new();
    setup.dead_max_size = 200;
    let bench = setup.start(|window| Answer::each(window, |_| failed(Reason::TooLarge)));
    bench.push(&["t 1"]);
    bench.until_settled().await;
    bench.push(&["t 2"]);
    bench.until("it waits", |bench| matches!(bench.status().state, SinkState::BackingOff { .. })).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let SinkState::BackingOff { why, .. } = bench.status().state else { panic!("it waits") };
    assert!(why.detail.contains("dead letters full") && why.detail.contains("dead_max_size is 200"), "{why}");
    assert_eq!((bench.log().cursor.0, bench.status().backlog.events), (3, 1));
    bench.has_metric(r#"alma_bridge_sink_up{sink="main",type="file"} 0"#);
    // `dead-letters drop`
    let first = bench.letters.list().await.expect("lists")[0].id;
    bench.handle.dead_letters().expect("there are").remove(vec![first]).await.expect("removes");
    bench.until_settled().await;
    bench.until("up", |bench| bench.status().state == SinkState::Up).await;
    assert_eq!(bench.letters().await, owned(&[("t", "2", Reason::TooLarge)]));
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_published_again_when_asked() {
    let bench = Bench::start(|window| Answer::each(window, |_| failed(Reason::TooLarge)));
    bench.push(&["t 1", "t 2", "unwanted 3"]);
    bench.until_settled().await;
    let ids: Vec<_> = bench.letters.list().await.expect("lists").iter().map(|letter| letter.id).collect();
    let kept = bench.retry(ids.clone()).await.expect("runs");
    assert!(kept.iter().all(|(_, retried)| matches!(retried, Retried::Kept(why) if why.contains("too_large"))));
    // The broker is down for a while, then takes them.
    let mut down = 2;
    bench.script(move |window| {
        down -= 1;
        if down >= 0 { Answer::each(window, |_| failed(Reason::Unreachable)) } else { Answer::confirm(window) }
    });
    let taken = bench.retry(vec![ids[0], LetterId(999), ids[1]]).await.expect("runs");
    assert_eq!(taken, [(ids[0], Retried::Taken), (LetterId(999), Retried::Gone), (ids[1], Retried::Taken)]);
    assert_eq!(bench.scene().confirmed, ["1", "2"]);
    assert!(bench.letters().await.is_empty());
    let (handle, letters) = (bench.handle.clone(), bench.letters.clone());
    bench.stop().await;
    assert!(handle.retry(&letters, ids, Instant::now()).await.is_err(), "a stopped pump says so");
}
