//! Replays: retained events are read from the journal and published to one sink again.
//!
//! This module reads a window at a time and makes its messages, and the sink's own pump publishes them
//! ([`PumpHandle::replay`] says why). Only one window is in memory, at most 512 events or 4 MiB. Events that still wait for
//! the sink are left out, because the pump delivers them anyway. The cursor does not move, and nothing becomes a dead
//! letter. A run does not survive the process, but it can be started again, because every event keeps its id.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::{OperatorError, blocking};
use super::requests::{Progress, ReplayRequest, RunState, Selected};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{Config, Sink};
use crate::delivery::{PumpHandle, SinkState};
use crate::journal::{Journal, Offset, Retained};
use crate::message::{Message, Messages, Replay, StoredEvent};
use crate::sinks::{Reason, Windows};

/// How many events are read at once even if few of them match. Progress then shows in time, and a run can be ended.
const READ_AT_ONCE: u64 = 4096;

/// How many selected events of a dry run wait to be fetched. At this bound, the run pauses.
const LISTED_AT_ONCE: usize = 4096;

/// How many actions are listed if no event matches.
const ACTIONS_NAMED: usize = 16;

/// A dry run ends if nobody asks about it for this long. Another can then start.
const ASKED_WITHIN: Duration = Duration::from_secs(30);

/// The current run, or the last one.
#[derive(Default)]
pub(super) struct Replays(Mutex<Option<Arc<ReplayRun>>>);

struct ReplayRun {
    name: String,
    cancel: CancellationToken,
    progress: Mutex<Progress>,
    /// `None` for a dry run.
    pump: Option<PumpHandle>,
    /// What a dry run found and nobody has fetched yet.
    listed: Mutex<Vec<Selected>>,
    /// Signalled when somebody asks about the run.
    asked: Notify,
}

impl Replays {
    /// Starts a run unless another one runs. Needs tokio's runtime.
    pub(super) fn begin(
        &self,
        request: ReplayRequest,
        journal: &Journal,
        pump: Option<PumpHandle>,
        config: &Config,
    ) -> Result<Progress, OperatorError> {
        let ReplayRequest { sink, from, to, actions, dry_run, repair } = request;
        let configured = config.sinks.iter().find(|known| known.name == sink);
        let configured = configured.ok_or_else(|| OperatorError::UnknownSink(sink.clone()))?;
        let place = journal.sinks().into_iter().find(|place| place.name == sink);
        let place = place.ok_or_else(|| OperatorError::NoPlace(sink.clone()))?;
        let mut current = lock(&self.0);
        if let Some(run) = current.as_ref().filter(|run| lock(&run.progress).state == RunState::Running) {
            return Err(OperatorError::ReplayRuns(run.name.clone()));
        }
        let asked = SystemClock.now();
        let name = format!("{:x}", asked.as_micros());
        let job = ReplayJob {
            retained: journal.scan(Timestamp::from_micros(from), to.map(Timestamp::from_micros)),
            cursor: place.cursor,
            messages: Messages::new(configured, &config.sources, &config.privacy),
            only: (!actions.is_empty()).then(|| {
                let only = Sink { actions, ..configured.clone() };
                Messages::new(&only, &config.sources, &config.privacy)
            }),
            other_actions: Some(BTreeSet::new()),
            asked,
            replay: if repair { Replay::Repair } else { Replay::Again(name.as_str().into()) },
        };
        let progress = Progress { run: name.clone(), ..Progress::default() };
        let run = Arc::new(ReplayRun {
            name,
            cancel: CancellationToken::new(),
            progress: Mutex::new(progress.clone()),
            pump,
            listed: Mutex::default(),
            asked: Notify::new(),
        });
        tracing::info!(%sink, run = run.name, dry_run, repair, "replay begins");
        *current = Some(Arc::clone(&run));
        tokio::spawn(run.go(job, journal.clone()));
        Ok(progress)
    }

    /// Returns the progress of a run.
    pub(super) fn progress(&self, name: &str) -> Result<Progress, OperatorError> {
        self.find(name).map(|run| run.progress())
    }

    /// Ends a run. What is in flight may still be published.
    pub(super) fn cancel(&self, name: &str) -> Result<Progress, OperatorError> {
        let run = self.find(name)?;
        run.cancel.cancel();
        run.end(RunState::Cancelled);
        Ok(run.progress())
    }

    fn find(&self, name: &str) -> Result<Arc<ReplayRun>, OperatorError> {
        let current = lock(&self.0);
        let run = current.as_ref().filter(|run| run.name == name).cloned();
        run.ok_or_else(|| OperatorError::UnknownReplay(name.to_owned()))
    }
}

impl ReplayRun {
    fn progress(&self) -> Progress {
        let mut progress = lock(&self.progress).clone();
        if progress.state == RunState::Running {
            progress.held = self.pump.as_ref().and_then(held);
        }
        // Taken after the state was read, so that everything found before the end is returned with the end.
        progress.events = std::mem::take(&mut *lock(&self.listed));
        self.asked.notify_one();
        progress
    }

    /// Keeps what a dry run found until somebody fetches it, and waits while [`LISTED_AT_ONCE`] events are kept.
    async fn list(&self, messages: &[Message]) -> Result<(), OperatorError> {
        lock(&self.listed).extend(messages.iter().map(|message| Selected {
            id: message.id.to_string(),
            topic: message.topic.to_string(),
            recorded: message.recorded.to_string(),
        }));
        while lock(&self.listed).len() >= LISTED_AT_ONCE {
            let asked = timeout(ASKED_WITHIN, self.asked.notified()).await;
            asked.map_err(|_| OperatorError::NobodyAsked)?;
        }
        Ok(())
    }

    /// Ends the run, unless it has ended already.
    fn end(&self, state: RunState) {
        let mut progress = lock(&self.progress);
        if progress.state == RunState::Running {
            progress.state = state;
            let Progress { selected, published, failed, state, .. } = &*progress;
            let failed: u64 = failed.values().sum();
            tracing::info!(run = self.name, selected, published, failed, ?state, "replay ended");
        }
    }

    async fn go(self: Arc<Self>, job: ReplayJob, journal: Journal) {
        let end = tokio::select! {
            biased;
            () = self.cancel.cancelled() => RunState::Cancelled,
            end = self.work(job, journal) => match end {
                Ok(()) => RunState::Done,
                Err(error) => RunState::Failed(error.to_string()),
            },
        };
        self.end(end);
    }

    async fn work(&self, mut job: ReplayJob, journal: Journal) -> Result<(), OperatorError> {
        let oldest = blocking(move || journal.scan(Timestamp::default(), None).find_map(Result::ok)).await?;
        lock(&self.progress).retained_since = oldest.map(|(_, event)| event.recorded.to_string());
        loop {
            let (back, mut step) = blocking(move || {
                let step = job.step();
                (job, step)
            })
            .await?;
            job = back;
            self.note(&mut step);
            if self.pump.is_none() {
                self.list(&step.messages).await?;
            } else if let Some(pump) = &self.pump
                && !step.messages.is_empty()
            {
                let replayed = pump.replay(step.messages).await.map_err(|_| OperatorError::SinkEnded)?;
                let mut progress = lock(&self.progress);
                progress.published += replayed.published;
                progress.duplicates += replayed.duplicates;
                for (reason, count) in replayed.failed {
                    *progress.failed.entry(reason.to_string()).or_default() += count;
                }
            }
            match step.end {
                None => {}
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => return Err(OperatorError::Read(error)),
            }
        }
    }

    fn note(&self, step: &mut ReplayStep) {
        let mut progress = lock(&self.progress);
        progress.read += step.read;
        progress.selected += step.messages.len() as u64 + step.panicked;
        progress.waiting += step.waiting;
        progress.other_actions = std::mem::take(&mut step.other_actions);
        progress.damaged = step.damaged;
        progress.gone = step.gone;
        if step.panicked > 0 {
            *progress.failed.entry(Reason::Panic.to_string()).or_default() += step.panicked;
        }
    }
}

/// What a run reads, and what it makes of it.
struct ReplayJob {
    retained: Retained,
    /// The sink's cursor at the start.
    cursor: Offset,
    messages: Messages,
    /// With the `actions` of the request. Only tells whether an event matches; its messages are not sent.
    only: Option<Messages>,
    /// The actions of events that do not match, until one matches.
    other_actions: Option<BTreeSet<String>>,
    /// The time in the attribute `replayed`.
    asked: Timestamp,
    replay: Replay,
}

/// Some events, in order.
#[derive(Default)]
struct ReplayStep {
    messages: Vec<Message>,
    read: u64,
    waiting: u64,
    /// The actions of events that do not match, in the whole run so far.
    other_actions: BTreeSet<String>,
    /// How many events could not be read, in the whole run so far.
    damaged: u64,
    /// How many events were in segments that were deleted, in the whole run so far.
    gone: u64,
    /// How many events could not be made into a message.
    panicked: u64,
    /// `None` if there is more to read.
    end: Option<io::Result<()>>,
}

impl ReplayJob {
    /// Reads up to a window of messages. Blocks.
    fn step(&mut self) -> ReplayStep {
        let mut step = ReplayStep::default();
        let mut bytes = 0;
        // The last body may exceed the bound, because it has already been read.
        while step.messages.len() < Windows::WHOLE.events && bytes < Windows::WHOLE.bytes && step.read < READ_AT_ONCE {
            let (offset, event) = match self.retained.next() {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    step.end = Some(Err(error));
                    break;
                }
                None => {
                    step.end = Some(Ok(()));
                    break;
                }
            };
            step.read += 1;
            let made = catch_unwind(AssertUnwindSafe(|| self.make(&event)));
            if offset >= self.cursor {
                step.waiting += u64::from(!matches!(made, Ok(None)));
                continue;
            }
            match made {
                Ok(Some(message)) => {
                    bytes += message.data.len();
                    step.messages.push(message);
                }
                Ok(None) => {}
                Err(_) => step.panicked += 1,
            }
        }
        step.other_actions = self.other_actions.clone().unwrap_or_default();
        step.damaged = self.retained.damaged();
        step.gone = self.retained.gone();
        step
    }

    fn make(&mut self, event: &StoredEvent) -> Option<Message> {
        if self.only.as_ref().is_some_and(|only| only.make(event, None).is_none()) {
            if let Some(actions) = self.other_actions.as_mut().filter(|actions| actions.len() < ACTIONS_NAMED)
                && self.messages.make(event, None).is_some()
            {
                actions.insert(self.messages.action(event));
            }
            return None;
        }
        let message = self.messages.make(event, Some(self.asked))?;
        self.other_actions = None;
        Some(Message { replay: Some(self.replay.clone()), ..message })
    }
}

/// Returns why a sink takes nothing now, or `None` if it is up.
pub(super) fn held(handle: &PumpHandle) -> Option<String> {
    match handle.status().state {
        SinkState::Up => None,
        SinkState::BackingOff { why, .. } => Some(format!("it waits: {why}")),
        other => Some(format!("it is {}", other.as_str())),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
