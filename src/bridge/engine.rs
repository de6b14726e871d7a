//! What takes the events from the ingress: the journal with its sinks, or the sinks alone with `storage = "none"`.

use std::collections::BTreeMap;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::error::EngineError;
use super::listeners::{Listeners, Published};
use super::metrics::Metrics;
use crate::alma::Verified;
use crate::clock::{SystemClock, Timestamp};
use crate::config::{Config, SinkName, Storage};
use crate::dead_letters::{DeadLetterStores, LetterSummary};
use crate::delivery::{DeliveryOptions, Direct, SinkSetup, Supervisor, Way};
use crate::journal::{Intake, Journal, JournalLock, JournalMetrics, JournalOptions, NotTaken, Registration, Taken};
use crate::operator::Operator;
use crate::ownership::explain;

/// How long a second process waits for the journal's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two attempts to get the lock.
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// Takes events once it is open. Events that come while it opens wait for that, unless another process holds the journal.
#[derive(Default)]
pub struct Engine {
    open: SetOnce<Open>,
    /// Another process holds the journal.
    is_held: AtomicBool,
}

/// An open engine.
pub(super) struct Open {
    way: Way,
    pub(super) sinks: Supervisor,
    /// `None` without a journal.
    pub(super) operator: Option<Operator>,
    published: Mutex<Option<Published>>,
}

impl Open {
    /// Returns the journal, or `None` with `storage = "none"`.
    pub(super) fn journal(&self) -> Option<&Journal> {
        match &self.way {
            Way::Journal(journal) => Some(journal),
            Way::Direct(_) => None,
        }
    }

    /// How many dead letters each sink has, including sinks that are not configured.
    pub(super) fn letters(&self) -> BTreeMap<SinkName, LetterSummary> {
        self.operator.as_ref().map(Operator::letters).unwrap_or_default()
    }
}

impl Engine {
    /// Opens the journal once no other process holds it, and starts the sinks. Calls `config` again after the wait for
    /// the lock, because a reload may have come meanwhile. Only the process that holds the lock publishes `listeners`.
    pub(super) async fn prepare(
        &self,
        config: impl Fn() -> Arc<Config>,
        metrics: &Metrics,
        listeners: Option<Listeners>,
    ) -> Result<Open, EngineError> {
        let before = config();
        let lock = match before.journal.storage {
            Storage::Disk => Some(self.lock(before.journal_dir()).await?),
            Storage::None => None,
        };
        let config = &config();
        let published = match listeners {
            Some(listeners) => publish(listeners, &config.data_dir, config.journal.storage)?,
            None => None,
        };
        let letters = DeadLetterStores::of(config, &metrics.dead_letters);
        let clock = SystemClock::shared();
        let way = match lock {
            Some(lock) => Way::Journal(open_journal(config, &metrics.journal, lock).await?),
            None => Way::Direct(Arc::new(Direct::new(
                config.ingress.answer_within,
                metrics.delivery.clone(),
                Arc::clone(&clock),
            ))),
        };
        let options = DeliveryOptions { letters: letters.clone(), metrics: metrics.delivery.clone(), clock };
        let sinks = Supervisor::new(way.clone(), Arc::new(SinkSetup::of), options);
        if let Some((_, error)) = sinks.apply(config).await.pop_first() {
            return Err(error.into());
        }
        let operator = match &way {
            Way::Journal(journal) => {
                // `/status` and the gauges also show the letters of sinks that are not configured.
                let all = letters.clone();
                blocking(move || all.open_all()).await?;
                Some(Operator::new(journal.clone(), sinks.handles().clone(), letters, metrics.delivery.clone()))
            }
            Way::Direct(_) => None,
        };
        Ok(Open { way, sinks, operator, published: Mutex::new(published) })
    }

    /// Takes events from now on. A second call changes nothing.
    pub(super) fn set(&self, open: Open) {
        let _ = self.open.set(open);
    }

    /// Returns the open engine, or `None` if it is not open yet.
    pub(super) fn get(&self) -> Option<&Open> {
        self.open.get()
    }

    async fn lock(&self, dir: PathBuf) -> Result<JournalLock, EngineError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let attempt = dir.clone();
            if let Some(lock) = blocking(move || JournalLock::acquire(&attempt)).await?? {
                self.is_held.store(false, Ordering::Relaxed);
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(EngineError::Locked(dir));
            }
            if !self.is_held.swap(true, Ordering::Relaxed) {
                tracing::warn!(journal = %dir.display(), "{}", NotTaken::Held);
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    fn why_not_open(&self) -> NotTaken {
        if self.is_held.load(Ordering::Relaxed) { NotTaken::Held } else { NotTaken::NotRunning }
    }

    /// Lets the sinks settle until `deadline`, and then closes the journal.
    pub(super) async fn close(&self, deadline: Instant) {
        let Some(open) = self.get() else { return };
        for sink in open.sinks.stop(deadline).await {
            tracing::warn!(%sink, "did not settle in time; what waits is delivered after the next start");
        }
        // Removed while this process still holds the journal: the next one that holds it writes its own file.
        drop(open.published.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(journal) = open.journal() {
            journal.close().await;
        }
    }
}

impl Intake for Engine {
    async fn take(&self, event: Verified, received: Timestamp) -> Result<Taken, NotTaken> {
        // A 503 during each start would cost Alma's event an hour. The ingress bounds this wait by `answer_within`.
        if !self.is_held.load(Ordering::Relaxed) {
            self.open.wait().await;
        }
        match self.get() {
            Some(open) => open.way.take(event, received).await,
            None => Err(self.why_not_open()),
        }
    }

    fn ready(&self) -> Result<(), NotTaken> {
        match self.get() {
            Some(open) => open.way.ready(),
            None => Err(self.why_not_open()),
        }
    }
}

async fn open_journal(config: &Config, metrics: &JournalMetrics, lock: JournalLock) -> Result<Journal, EngineError> {
    let sinks = config.sinks.iter().map(Registration::from).collect();
    let options = JournalOptions { sinks, ..JournalOptions::of(config, metrics, lock) };
    Ok(blocking(move || Journal::open(options)).await??)
}

/// Publishes the addresses for the commands, which can find fixed ports without them. With `storage = "none"`, no lock
/// decides which of two bridges the commands find, so the first one keeps the file. A folder that can't be written
/// does not keep such a bridge from running.
fn publish(listeners: Listeners, dir: &Path, storage: Storage) -> Result<Option<Published>, EngineError> {
    let path = dir.display();
    if storage == Storage::None && Listeners::are_published(dir) {
        tracing::warn!(%path, "another bridge has written listeners.json: commands find this bridge by fixed ports alone");
        return Ok(None);
    }
    match listeners.publish(dir) {
        Err(error) if storage == Storage::None => {
            tracing::warn!(%path, %error, "can't write listeners.json: commands find this bridge by fixed ports alone");
            Ok(None)
        }
        Err(error) => Err(EngineError::Publish { path: path.to_string(), error: explain(dir, error) }),
        Ok(published) => Ok(Some(published)),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, EngineError> {
    crate::storage::blocking(work).await.map_err(|_| EngineError::Panicked)
}
