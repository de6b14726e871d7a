//! Letters that can't be read, that find no room, and that somebody has tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::bench::{Bench, Setup, owned};
use super::kit::{Answer, failed};
use crate::dead_letters::LetterId;
use crate::delivery::Retried;
use crate::message::Message;
use crate::sinks::{Outcome, Reason};
use crate::testing::disk::SimDisk;

/// A topic `t` with these letters, parked, on a disk that can be spoilt; and whether it has its rights.
async fn parked(events: &[&str]) -> (Bench, SimDisk, Arc<AtomicBool>) {
    parked_topics(events, 1).await
}

async fn parked_topics(events: &[&str], topics: usize) -> (Bench, SimDisk, Arc<AtomicBool>) {
    let disk = SimDisk::new();
    let mut setup = Setup { disk: Arc::new(disk.clone()), ..Setup::new() };
    setup.config.setup_grace = Duration::ZERO;
    let rights = Arc::new(AtomicBool::new(false));
    let given = Arc::clone(&rights);
    let bench = setup.start(move |window| {
        let given = given.load(Ordering::SeqCst);
        Answer::each(window, |_| if given { Outcome::CONFIRMED } else { failed(Reason::Rights) })
    });
    bench.push(events);
    bench.until_settled().await;
    assert_eq!(bench.status().parked.len(), topics);
    (bench, disk, rights)
}

fn dir(bench: &Bench) -> PathBuf {
    bench.setup.dead_dir().join("main")
}

async fn ids(bench: &Bench) -> Vec<LetterId> {
    bench.letters.list().await.expect("lists").iter().map(|letter| letter.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_damaged_oldest_letter_of_a_parked_topic_holds_up_no_other() {
    let (bench, disk, rights) = parked(&["t 1", "t 2", "t 3"]).await;
    let first = disk.find(&dir(&bench), b"t 1").expect("is on disk");
    disk.flip(&first, first.bytes.start);
    rights.store(true, Ordering::SeqCst);
    bench.handle.retry_parked();
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert_eq!(bench.scene().confirmed, ["2", "3"], "published, not stranded");
    assert_eq!(bench.status().dead_letters.damaged, 1, "and told");
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_the_disk_does_not_give_holds_up_no_other_and_is_tried_again() {
    let (bench, disk, rights) = parked(&["t 1", "t 2", "t 3"]).await;
    let first = disk.find(&dir(&bench), b"t 1").expect("is on disk");
    disk.faults(|faults| faults.bad_spot = Some(first));
    rights.store(true, Ordering::SeqCst);
    bench.handle.retry_parked();
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert_eq!(bench.scene().confirmed, ["2", "3"]);
    assert_eq!(bench.status().dead_letters.unreadable, 1, "it is told");
    bench.push(&["t 4"]);
    bench.until_settled().await;
    assert_eq!(bench.scene().confirmed, ["2", "3", "4"], "new events are no letters");
    disk.faults(|faults| faults.bad_spot = None);
    bench.until("the last letter is published", |bench| bench.scene().confirmed.len() == 4).await;
    assert!(bench.letters().await.is_empty());
    assert_eq!(bench.status().dead_letters.unreadable, 0);
}

#[tokio::test(start_paused = true)]
async fn a_topic_stays_parked_while_only_letters_that_can_not_be_read_are_left() {
    let (bench, disk, rights) = parked(&["t 1"]).await;
    let only = disk.find(&dir(&bench), b"t 1").expect("is on disk");
    disk.faults(|faults| faults.bad_spot = Some(only));
    let asked = Instant::now();
    bench.handle.retry_parked();
    bench.until("its letter was not given", |bench| bench.status().dead_letters.unreadable == 1).await;
    bench.push(&["t 2"]);
    bench.until_settled().await;
    assert_eq!(bench.status().parked.len(), 1, "whether it is taken is not known");
    rights.store(true, Ordering::SeqCst);
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert!(asked.elapsed() < Duration::from_mins(2), "{:?}", asked.elapsed());
    assert_eq!(bench.scene().confirmed, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_refused_for_what_it_is_finds_room_in_a_full_store() {
    let mut setup = Setup::new();
    setup.config.setup_grace = Duration::ZERO;
    setup.dead_max_size = 300;
    let bench = setup.start(|window| Answer::each(window, |_| failed(Reason::Rights)));
    bench.push(&["t 1", "t 2"]);
    bench.until_settled().await;
    bench.script(|window| {
        Answer::each(window, |message| match message.id.as_str() {
            "1" => failed(Reason::TooLarge),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.handle.retry_parked();
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert_eq!(bench.letters().await, owned(&[("t", "1", Reason::TooLarge)]));
    assert_eq!(bench.scene().confirmed, ["2"]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_loses_the_connection_goes_on_as_soon_as_there_is_one() {
    let (bench, _, _) = parked(&["t 1", "t 2", "t 3"]).await;
    let mut calls = 0;
    bench.script(move |window| {
        calls += 1;
        if calls == 2 { Answer::each(window, |_| failed(Reason::Unreachable)) } else { Answer::confirm(window) }
    });
    let asked = Instant::now();
    bench.handle.retry_parked();
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!(bench.scene().confirmed, ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_always_loses_the_connection_leaves_live_events_their_time() {
    let (bench, _, _) = parked(&["t 1"]).await;
    bench.script(|window| {
        Answer::each(window, |message| match message.topic.as_str() {
            "t" => failed(Reason::Unreachable),
            _ => Outcome::CONFIRMED,
        })
    });
    bench.handle.retry_parked();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let tries = bench.scene().windows.len();
    for number in 0..100 {
        bench.push(&[&format!("u {number}")]);
        bench.until_settled().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let lost = bench.scene().windows[tries..].iter().filter(|window| *window == &["1"]).count();
    assert!((5..30).contains(&lost), "{lost} connections lost in 50 s");
}

fn numbered(topic: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("{topic} {number}")).collect()
}

fn borrowed(events: &[String]) -> Vec<&str> {
    events.iter().map(String::as_str).collect()
}

/// `dead_max_size` allows a gibibyte of letters, which takes minutes to publish.
#[tokio::test(start_paused = true)]
async fn many_letters_of_a_parked_topic_take_turns_with_live_events() {
    let (bench, _, _) = parked(&borrowed(&numbered("t", 0..8_000))).await;
    bench.script(|window| Answer::After(Duration::from_millis(100), vec![Outcome::CONFIRMED; window.len()]));
    bench.handle.retry_parked();
    bench.until("letters are published", |bench| bench.scene().confirmed.len() > 1).await;
    let asked = Instant::now();
    bench.push(&["u 8001", "t 8000"]);
    bench.until("the other topic is taken", |bench| bench.scene().confirmed.iter().any(|id| id == "8001")).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    assert_eq!(bench.status().parked.len(), 1, "most letters are still to be published");
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    let letters: Vec<_> = bench.scene().confirmed.iter().filter(|id| *id != "8001").cloned().collect();
    assert!(letters.iter().map(|id| id.parse::<usize>().expect("a number")).eq(0..=8_000), "each once and in order");
    assert!(bench.letters().await.is_empty());
}

/// A topic whose events arrive as fast as the sink takes them must not stay parked for ever.
#[tokio::test(start_paused = true)]
async fn a_parked_topic_catches_up_with_its_own_live_events() {
    let (bench, _, _) = parked(&borrowed(&numbered("t", 0..4_000))).await;
    bench.script(|window| Answer::After(Duration::from_millis(10), vec![Outcome::CONFIRMED; window.len()]));
    bench.push(&borrowed(&numbered("t", 4_000..20_000)));
    bench.handle.retry_parked();
    bench.until("unparked", |bench| bench.status().parked.is_empty()).await;
    assert!(bench.scene().confirmed.len() < 16_000, "{} were confirmed before", bench.scene().confirmed.len());
    bench.until_settled().await;
    assert!(bench.scene().confirmed.iter().map(|id| id.parse::<usize>().expect("a number")).eq(0..20_000));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_the_last_letter_of_each_parked_topic_was_tried() {
    let events = [numbered("t", 0..3_000), numbered("u", 3_000..6_000)].concat();
    let (bench, _, rights) = parked_topics(&borrowed(&events), 2).await;
    rights.store(true, Ordering::SeqCst);
    bench.handle.retry_parked();
    bench.handle.tried_parked().await.expect("runs");
    assert!(bench.status().parked.is_empty() && bench.letters().await.is_empty());
    assert_eq!(bench.scene().confirmed.len(), 6_000);
    let asked = Instant::now();
    bench.handle.tried_parked().await.expect("runs");
    assert!(asked.elapsed() < Duration::from_secs(1), "nothing is due any more");
}

/// Refuses letters for what they are, so that there are some to be tried again.
async fn with_letters(events: &[&str]) -> Bench {
    let bench = Bench::start(|window| Answer::each(window, |_| failed(Reason::TooLarge)));
    bench.push(events);
    bench.until_settled().await;
    bench
}

/// Confirms topic `u`, and has no room for others.
fn busy_for_letters(window: &[Message]) -> Answer {
    Answer::each(window, |message| match message.topic.as_str() {
        "u" => Outcome::CONFIRMED,
        _ => failed(Reason::Busy),
    })
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_at_its_deadline_and_live_events_have_their_turn_meanwhile() {
    let bench = with_letters(&["t 1", "t 2"]).await;
    bench.script(busy_for_letters);
    let (handle, letters, all) = (bench.handle.clone(), bench.letters.clone(), ids(&bench).await);
    let asked = Instant::now();
    let retry = tokio::spawn(async move { handle.retry(&letters, all, asked + Duration::from_secs(20)).await });
    for number in 0..10 {
        bench.push(&[&format!("u {number}")]);
        bench.until("it is taken", |bench| bench.scene().confirmed.len() == number + 1).await;
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    }
    let told = timeout(Duration::from_secs(30), retry).await.expect("it ends").expect("no panic").expect("runs");
    assert!((Duration::from_secs(20)..Duration::from_secs(26)).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().all(|(_, retried)| matches!(retried, Retried::Kept(why) if why.contains("in time"))),
        "{told:?}"
    );
    assert!(matches!(&told[0].1, Retried::Kept(why) if why.contains("busy")), "{told:?}");
    let tries = bench.scene().windows.len();
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.scene().windows.len(), tries, "nobody works on it any more");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_nobody_waits_for_any_more_ends() {
    let bench = with_letters(&["t 1"]).await;
    bench.script(busy_for_letters);
    let retry = bench.handle.retry(&bench.letters, ids(&bench).await, Instant::now() + Duration::from_hours(1));
    timeout(Duration::from_secs(3), retry).await.expect_err("it is tried for an hour");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let tries = bench.scene().windows.len();
    bench.push(&["u 2"]);
    bench.until_settled().await;
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.scene().windows.len(), tries + 1, "the event alone");
    assert_eq!(bench.letters().await, owned(&[("t", "1", Reason::TooLarge)]));
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_while_the_broker_is_down() {
    let bench = with_letters(&["t 1"]).await;
    bench.scene().up = false;
    let down = crate::sinks::Failure::new(Reason::Unreachable, "scripted");
    bench.scene().connects = vec![down; 1_000].into();
    let asked = Instant::now();
    let retry = bench.handle.retry(&bench.letters, ids(&bench).await, asked + Duration::from_secs(20));
    let told = timeout(Duration::from_mins(1), retry).await.expect("it ends").expect("runs");
    assert!(asked.elapsed() < Duration::from_secs(26), "{:?}", asked.elapsed());
    assert!(matches!(&told[0].1, Retried::Kept(why) if why.contains("unreachable")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn many_letters_take_turns_with_live_events() {
    let bench = with_letters(&borrowed(&numbered("t", 0..40))).await;
    bench.script(|window| Answer::After(Duration::from_millis(60), vec![Outcome::CONFIRMED; window.len()]));
    let (handle, letters, all) = (bench.handle.clone(), bench.letters.clone(), ids(&bench).await);
    let retry = tokio::spawn(async move { handle.retry(&letters, all, Instant::now() + Duration::from_mins(1)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = Instant::now();
    bench.push(&["u 100"]);
    bench.until("it is taken", |bench| bench.scene().confirmed.iter().any(|id| id == "100")).await;
    assert!(asked.elapsed() < Duration::from_millis(400), "{:?}", asked.elapsed());
    let told = retry.await.expect("no panic").expect("runs");
    assert_eq!(told.iter().filter(|(_, retried)| *retried == Retried::Taken).count(), 40);
    assert!(bench.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn letters_of_another_sink_are_published_by_this_one() {
    let gone = with_letters(&["t 1", "unwanted 2"]).await;
    let bench = Bench::start(Answer::confirm);
    let until = Instant::now() + Duration::from_mins(1);
    let told = bench.handle.retry(&gone.letters, ids(&gone).await, until).await.expect("runs");
    assert_eq!(told, [(ids_of(&told), Retried::Taken)]);
    assert_eq!(bench.scene().confirmed, ["1"]);
    assert!(gone.letters().await.is_empty() && bench.letters().await.is_empty());
}

fn ids_of(told: &[(LetterId, Retried)]) -> LetterId {
    told[0].0
}
