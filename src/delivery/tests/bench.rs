//! A pump between a feed in memory and a scripted sink.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kit::{Answer, Log, MemoryFeed, Scene, ScriptedSink, lock, make};
use crate::clock::Clock as _;
use crate::config;
use crate::dead_letters::{DeadLetterMetrics, DeadLetters, LetterId};
use crate::delivery::{
    BackOff, DeliveryMetrics, Filters, MakeMessage, Pump, PumpEnded, PumpHandle, PumpOptions, Retried, SinkSnapshot,
};
use crate::message::Message;
use crate::sinks::{Reason, Sink};
use crate::storage::{Disk, RealDisk};
use crate::telemetry::Registry;
use crate::testing::TestClock;

/// What a test may choose before the pump starts.
pub(super) struct Setup {
    pub(super) config: config::Sink,
    pub(super) dead_max_size: u64,
    pub(super) feed: MemoryFeed,
    pub(super) make: Arc<dyn MakeMessage>,
    pub(super) filters: Filters,
    pub(super) registry: Registry,
    pub(super) metrics: DeliveryMetrics,
    pub(super) letter_metrics: DeadLetterMetrics,
    pub(super) dir: Arc<tempfile::TempDir>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<TestClock>,
}

impl Setup {
    pub(super) fn new() -> Self {
        let mut registry = Registry::default();
        Self {
            config: sink_config("main"),
            dead_max_size: 1 << 30,
            feed: MemoryFeed::default(),
            make: Arc::new(make),
            filters: Filters::default(),
            metrics: DeliveryMetrics::register(&mut registry),
            letter_metrics: DeadLetterMetrics::register(&mut registry),
            registry,
            dir: Arc::new(tempfile::tempdir().expect("a temporary folder")),
            disk: RealDisk::shared(),
            clock: TestClock::running(),
        }
    }

    pub(super) fn dead_dir(&self) -> PathBuf {
        self.dir.path().join("dead")
    }

    pub(super) fn start(self, script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Bench {
        self.start_with(ScriptedSink::new(script))
    }

    pub(super) fn start_with(self, sink: ScriptedSink) -> Bench {
        let boxed = Box::new(sink.clone());
        self.start_boxed(sink, boxed)
    }

    /// With another sink around the scripted one.
    pub(super) fn start_boxed(self, sink: ScriptedSink, boxed: Box<dyn Sink>) -> Bench {
        let dead_dir = self.dead_dir();
        let disk = Arc::clone(&self.disk);
        let letters = DeadLetters::open(disk, &dead_dir, &self.config.name, self.dead_max_size, &self.letter_metrics);
        let letters = letters.expect("the dead letters open");
        let mut feed = self.feed.clone();
        feed.letters = Some(letters.clone());
        let (mut pump, handle) = Pump::new(PumpOptions {
            config: self.config.clone(),
            sink: boxed,
            feed,
            make: Arc::clone(&self.make),
            dead_letters: letters.clone(),
            filters: self.filters.clone(),
            metrics: self.metrics.clone(),
            clock: self.clock.clone(),
            back_off: BackOff::SINK,
            rng: fastrand::Rng::with_seed(1),
        });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            pump.run(&stopped).await;
        });
        Bench { setup: self, sink, handle, letters, stop, task }
    }
}

pub(super) fn sink_config(name: &str) -> config::Sink {
    config::Sink::sample(name.parse().expect("a name"))
}

/// A running pump.
pub(super) struct Bench {
    pub(super) setup: Setup,
    pub(super) sink: ScriptedSink,
    pub(super) handle: PumpHandle,
    pub(super) letters: DeadLetters,
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<()>,
}

impl Bench {
    pub(super) fn start(script: impl FnMut(&[Message]) -> Answer + Send + 'static) -> Self {
        Setup::new().start(script)
    }

    /// Appends events in one go, so that they make one window where the pump waits.
    pub(super) fn push(&self, events: &[&str]) {
        for event in events {
            self.setup.feed.push(event, self.setup.clock.now());
        }
    }

    pub(super) fn scene(&self) -> MutexGuard<'_, Scene> {
        lock(&self.sink.0)
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.setup.feed.log)
    }

    pub(super) fn script(&self, script: impl FnMut(&[Message]) -> Answer + Send + 'static) {
        self.scene().script = Box::new(script);
    }

    pub(super) fn status(&self) -> SinkSnapshot {
        self.handle.status()
    }

    /// Waits on tokio's clock, which is paused, until `holds`.
    pub(super) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; {:?}, windows {:?}", self.status(), self.scene().windows);
    }

    /// Waits until the cursor is past all events.
    pub(super) async fn until_settled(&self) {
        self.until("the cursor passes all", |bench| bench.setup.feed.log_is_settled()).await;
    }

    /// The letters: topic, id of the event, reason.
    pub(super) async fn letters(&self) -> Vec<(String, String, Reason)> {
        let mut letters = Vec::new();
        for info in self.letters.list().await.expect("lists") {
            let whole = self.letters.get(info.id).await.expect("reads").expect("is there");
            let body = String::from_utf8(whole.event.body.to_vec()).expect("a text");
            let id = body.split_once(' ').expect("topic and id").1.to_owned();
            letters.push((info.topic.to_string(), id, info.reason));
        }
        letters
    }

    /// Has letters tried again, within a minute.
    pub(super) async fn retry(&self, ids: Vec<LetterId>) -> Result<Vec<(LetterId, Retried)>, PumpEnded> {
        self.handle.retry(&self.letters, ids, Instant::now() + Duration::from_mins(1)).await
    }

    pub(super) fn has_metric(&self, line: &str) {
        let text = self.setup.registry.encode();
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    pub(super) async fn stop(self) -> Setup {
        self.stop.cancel();
        self.task.await.expect("the pump ends");
        self.setup
    }
}

impl MemoryFeed {
    fn log_is_settled(&self) -> bool {
        use crate::journal::Feed as _;
        self.backlog().events == 0
    }
}

pub(super) fn owned(letters: &[(&str, &str, Reason)]) -> Vec<(String, String, Reason)> {
    letters.iter().map(|(topic, id, reason)| ((*topic).to_owned(), (*id).to_owned(), *reason)).collect()
}
