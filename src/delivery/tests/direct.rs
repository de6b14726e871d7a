//! `storage = "none"`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::bench::sink_config;
use super::kit::{Answer, ScriptedSink, failed, lock, make};
use crate::alma::{SignatureHeader, Unverified, Verified};
use crate::clock::Clock as _;
use crate::config::{NamedSecret, Secret, SecretFrom, SinkName};
use crate::delivery::{DeliveryMetrics, Direct, SinkSetup, SinkState};
use crate::journal::{Intake as _, NotTaken, Taken};
use crate::message::Message;
use crate::sinks::{Failure, Outcome, Reason};
use crate::telemetry::Registry;
use crate::testing::TestClock;

const DEADLINE: Duration = Duration::from_secs(4);

struct Bench {
    direct: Arc<Direct>,
    registry: Registry,
    clock: Arc<TestClock>,
}

impl Bench {
    fn new() -> Self {
        let (mut registry, clock) = (Registry::default(), TestClock::running());
        let metrics = DeliveryMetrics::register(&mut registry);
        let direct = Arc::new(Direct::new(DEADLINE, metrics, clock.clone()));
        Self { direct, registry, clock }
    }

    async fn with(script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> (Self, ScriptedSink) {
        let bench = Self::new();
        let sink = bench.sink("main", script).await;
        bench.up().await;
        (bench, sink)
    }

    async fn sink(&self, name: &str, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> ScriptedSink {
        let sink = ScriptedSink::new(script);
        self.set(name, sink.clone()).await;
        sink
    }

    async fn set(&self, name: &str, sink: ScriptedSink) {
        let setup = SinkSetup { config: sink_config(name), sink: Box::new(sink), make: Arc::new(make) };
        let mut all = self.names();
        all.insert(setup.config.name.clone());
        self.direct.apply(vec![setup], all, Duration::from_secs(10)).await;
    }

    fn names(&self) -> BTreeSet<SinkName> {
        self.direct.handles().statuses().into_iter().map(|sink| sink.name).collect()
    }

    async fn up(&self) {
        for handle in self.direct.handles().all() {
            handle.wait_for(|status| status.state == SinkState::Up).await.expect("runs");
        }
    }

    async fn take(&self, text: &str) -> Result<Taken, NotTaken> {
        self.direct.take(verified(text), self.clock.now()).await
    }
}

fn verified(text: &str) -> Verified {
    let secret = NamedSecret {
        name: "default".into(),
        from: SecretFrom::Env("X".into()),
        secret: Some(Secret::new(*b"made-up")),
    };
    let body = text.to_owned().into_bytes();
    let signature = SignatureHeader::sign(b"made-up", &body);
    Unverified::new(signature, body.into()).verify(&"alma".parse().expect("a name"), &[secret]).expect("fits")
}

fn why(taken: Result<Taken, NotTaken>) -> String {
    match taken {
        Err(NotTaken::NotConfirmed(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_taken_once_every_sink_that_wants_it_confirmed() {
    let (bench, first) = Bench::with(Answer::confirm).await;
    let second = bench
        .sink("second", |window| Answer::After(Duration::from_secs(2), vec![Outcome::CONFIRMED; window.len()]))
        .await;
    bench.up().await;
    assert_eq!(bench.direct.ready(), Ok(()));
    let asked = Instant::now();
    assert_eq!(bench.take("t 1").await, Ok(Taken::Stored));
    assert!(asked.elapsed() >= Duration::from_secs(2));
    assert_eq!(
        (lock(&first.0).confirmed.clone(), lock(&second.0).confirmed.clone()),
        (vec!["1".into()], vec!["1".into()])
    );
    assert_eq!(bench.take("t 1").await, Ok(Taken::Stored), "a repeat is not known as one");
}

#[tokio::test(start_paused = true)]
async fn one_sink_that_does_not_confirm_is_enough_for_a_503() {
    let (bench, first) = Bench::with(Answer::confirm).await;
    bench.sink("second", |window| Answer::each(window, |_| failed(Reason::TooLarge))).await;
    bench.up().await;
    assert_eq!(why(bench.take("t 1").await), "sink second: too_large: scripted");
    assert_eq!(lock(&first.0).confirmed, ["1"]);
    assert!(bench.direct.handles().statuses().iter().all(|status| status.state == SinkState::Up));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_asks_for_is_taken_and_counted() {
    let (bench, _) = Bench::with(Answer::confirm).await;
    assert_eq!(bench.take("unwanted 1").await, Ok(Taken::Stored));
    assert!(bench.registry.encode().contains("alma_bridge_unwanted_events_total 1\n"));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_making_is_a_503() {
    let (bench, sink) = Bench::with(Answer::confirm).await;
    assert_eq!(why(bench.take("panics 1").await), "sink main: making the message panicked");
    assert!(lock(&sink.0).windows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_does_not_answer_is_a_503_in_time_and_recovers() {
    let mut hangs = true;
    let (bench, sink) =
        Bench::with(move |window| if std::mem::take(&mut hangs) { Answer::Hang } else { Answer::confirm(window) })
            .await;
    let asked = Instant::now();
    why(bench.take("t 1").await);
    assert_eq!(asked.elapsed(), DEADLINE);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.take("t 2").await, Ok(Taken::Stored));
    assert_eq!(lock(&sink.0).windows, [["1"], ["2"]], "what was answered 503 is not sent again");
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_in_time_is_taken_though_its_neighbours_are_not() {
    let mut first = true;
    let (bench, sink) = Bench::with(move |window| {
        // Meanwhile three events come, and make one window.
        if std::mem::take(&mut first) {
            return Answer::After(Duration::from_secs(1), vec![Outcome::CONFIRMED; window.len()]);
        }
        let known = |message: &Message| (message.id.as_str() != "2").then_some(Outcome::CONFIRMED);
        Answer::Part(window.iter().map(known).collect())
    })
    .await;
    let others = async {
        while lock(&sink.0).windows.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let taken = ["t 1", "t 2", "t 3"].map(|text| async {
            let asked = Instant::now();
            (bench.take(text).await.is_ok(), asked.elapsed() < Duration::from_secs(2))
        });
        futures_util::future::join_all(taken).await
    };
    let (first, others) = tokio::join!(bench.take("t 0"), others);
    assert_eq!(first, Ok(Taken::Stored));
    assert_eq!(others, [(true, true), (false, false), (true, true)], "taken at once, or not at all");
    assert_eq!(lock(&sink.0).windows[1], ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_down_refuses_at_once_and_is_not_ready() {
    let bench = Bench::new();
    let sink = ScriptedSink::new(Answer::confirm);
    lock(&sink.0).connects = (0..30).map(|_| Failure::new(Reason::Unreachable, "refused")).collect();
    // While it connects, too.
    lock(&sink.0).connect_takes = Duration::from_secs(1);
    bench.set("main", sink.clone()).await;
    let handle = bench.direct.handles().all().remove(0);
    handle.wait_for(|status| matches!(status.state, SinkState::BackingOff { .. })).await.expect("runs");
    let asked = Instant::now();
    for id in 0..50 {
        let asked = Instant::now();
        assert_eq!(why(bench.take(&format!("t {id}")).await), "sink main: unreachable: refused");
        assert!(asked.elapsed() < Duration::from_millis(10), "{:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(asked.elapsed() > Duration::from_secs(2));
    assert_eq!(why(bench.direct.ready().map(|()| Taken::Stored)), "sink main: unreachable: refused");
    bench.up().await;
    assert_eq!(bench.direct.ready(), Ok(()));
    assert_eq!(bench.take("t 99").await, Ok(Taken::Stored));
    assert_eq!(lock(&sink.0).windows, [["99"]]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_event_does_not_turn_its_neighbours_away() {
    for bad in [Answer::Panic, Answer::Outcomes(Vec::new())] {
        let panics = matches!(bad, Answer::Panic);
        let (bench, _) = Bench::with(move |window| {
            let condemned = window.iter().any(|message| message.id.as_str() == "3");
            match condemned {
                true if panics => Answer::Panic,
                true => Answer::each(window, |_| failed(Reason::Malformed)),
                false => Answer::confirm(window),
            }
        })
        .await;
        let taken = futures_util::future::join_all((0..8).map(|id| format!("t {id}")).map(|text| {
            let bench = &bench;
            async move { bench.take(&text).await.is_ok() }
        }))
        .await;
        let expected: Vec<_> = (0..8).map(|id| id != 3).collect();
        assert_eq!(taken, expected, "panics: {panics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_rights_is_a_503_for_itself_alone() {
    let (bench, _) = Bench::with(|window| {
        Answer::each(window, |message| match message.topic.as_str() {
            "bad" => failed(Reason::Rights),
            _ => Outcome::CONFIRMED,
        })
    })
    .await;
    let (bad, good) = tokio::join!(bench.take("bad 1"), bench.take("good 2"));
    assert_eq!((why(bad), good), ("sink main: rights: scripted".to_owned(), Ok(Taken::Stored)));
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_its_way_when_nobody_waits() {
    let (bench, sink) = Bench::with(Answer::confirm).await;
    drop(bench.direct.take(verified("t 1"), bench.clock.now()));
    bench.direct.stop(Duration::from_secs(5)).await;
    assert_eq!(lock(&sink.0).confirmed, ["1"]);
    assert_eq!(lock(&sink.0).closed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_sink_loses_and_refuses_nothing() {
    let (bench, old) =
        Bench::with(|window| Answer::After(Duration::from_secs(1), vec![Outcome::CONFIRMED; window.len()])).await;
    let before = old.clone();
    let new = ScriptedSink::new(move |window| {
        assert_eq!(lock(&before.0).closed, 1, "two sinks of one name never run at once");
        Answer::confirm(window)
    });
    let direct = Arc::clone(&bench.direct);
    let now = bench.clock.now();
    let first = tokio::spawn(async move { direct.take(verified("t 1"), now).await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    let (second, ()) = tokio::join!(
        async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            bench.take("t 2").await
        },
        bench.set("main", new.clone())
    );
    assert_eq!((first.await.expect("runs"), second), (Ok(Taken::Stored), Ok(Taken::Stored)));
    assert_eq!((lock(&old.0).confirmed.clone(), lock(&new.0).confirmed.clone()), (vec!["1".into()], vec!["2".into()]));
}

#[tokio::test(start_paused = true)]
async fn no_event_is_unwanted_while_a_sink_is_missing() {
    let (bench, _) = Bench::with(Answer::confirm).await;
    let other: SinkName = "other".parse().expect("a name");
    // Its start failed.
    bench.direct.apply(Vec::new(), BTreeSet::from([other]), Duration::from_secs(1)).await;
    assert!(bench.direct.handles().all().is_empty());
    let missing = "sink other: it is configured and does not run";
    assert_eq!(why(bench.take("t 1").await), missing);
    assert_eq!(why(bench.direct.ready().map(|()| Taken::Stored)), missing);
    bench.sink("other", Answer::confirm).await;
    assert_eq!(bench.take("t 1").await, Ok(Taken::Stored));
    bench.direct.stop(Duration::from_secs(1)).await;
    assert_eq!(why(bench.take("t 2").await), missing, "a request that comes too late is not taken either");
}

#[tokio::test(start_paused = true)]
async fn a_renamed_sink_loses_and_refuses_nothing() {
    let slow = |window: &[Message]| Answer::After(Duration::from_secs(1), vec![Outcome::CONFIRMED; window.len()]);
    let (bench, old) = Bench::with(slow).await;
    let new = ScriptedSink::new(Answer::confirm);
    lock(&new.0).connect_takes = Duration::from_secs(1);
    let (direct, now) = (Arc::clone(&bench.direct), bench.clock.now());
    let load = tokio::spawn(async move {
        let mut taken = Vec::new();
        for id in 0..60 {
            taken.push(direct.take(verified(&format!("t {id}")), now));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        futures_util::future::join_all(taken).await
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let setup = SinkSetup { config: sink_config("other"), sink: Box::new(new.clone()), make: Arc::new(make) };
    let all = BTreeSet::from([setup.config.name.clone()]);
    bench.direct.apply(vec![setup], all, Duration::from_secs(10)).await;
    let taken = load.await.expect("runs");
    assert_eq!(taken, vec![Ok(Taken::Stored); 60]);
    let [old, new] = [&old, &new].map(|sink| lock(&sink.0).confirmed.len());
    assert!(old > 0 && new > 0 && old + new == 60, "{old} and {new}");
}

#[tokio::test(start_paused = true)]
async fn more_than_may_wait_is_refused() {
    let (bench, _) = Bench::with(|_| Answer::Hang).await;
    let waiting: Vec<_> =
        (0..3_000).map(|id| bench.direct.take(verified(&format!("t {id}")), bench.clock.now())).collect();
    let outcomes = futures_util::future::join_all(waiting).await;
    let full = outcomes.into_iter().filter(|taken| why(taken.clone()) == "sink main: too many events wait").count();
    assert_eq!(full, 3_000 - 1_024);
}
