//! What stands behind the ingress: the journal and its pumps, or with `storage = "none"` the pumps alone.

use std::collections::BTreeMap;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::time::Instant;

use super::error::OpenError;
use super::listeners::{Listeners, Published};
use super::metrics::Metrics;
use super::pumps::{self, Pumps};
use crate::alma::Verified;
use crate::clock::{SystemClock, Timestamp};
use crate::config::{Config, SinkName, Storage};
use crate::dead_letters::{DeadLetterStores, LetterSummary};
use crate::delivery::{Direct, SinkSetup};
use crate::journal::{Intake, Journal, JournalLock, JournalMetrics, JournalOptions, NotTaken, Registration, Taken};
use crate::operator::Operator;
use crate::ownership::explain;

/// How long a second process waits for the journal's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts at the lock.
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
    intake: Way,
    pub(super) pumps: Pumps,
    /// None without a journal.
    pub(super) operator: Option<Operator>,
    published: Mutex<Option<Published>>,
}

/// Where a verified event goes.
enum Way {
    Journal(Journal),
    Direct(Arc<Direct>),
}

impl Open {
    /// The journal, where there is one.
    pub(super) fn journal(&self) -> Option<&Journal> {
        match &self.intake {
            Way::Journal(journal) => Some(journal),
            Way::Direct(_) => None,
        }
    }

    /// How many dead letters each sink has, those that are not configured included.
    pub(super) fn letters(&self) -> BTreeMap<SinkName, LetterSummary> {
        self.operator.as_ref().map(Operator::letters).unwrap_or_default()
    }
}

impl Engine {
    /// Opens the journal once no other process holds it, and starts the sinks. `config` is asked after the wait for the
    /// journal's lock, because it may be newer by then. Whoever holds the lock writes `listeners` down for the commands.
    pub(super) async fn prepare(
        &self,
        config: impl Fn() -> Arc<Config>,
        metrics: &Metrics,
        listeners: Option<Listeners>,
    ) -> Result<Open, OpenError> {
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
        let (intake, way) = if let Some(lock) = lock {
            let journal = open_journal(config, &metrics.journal, lock).await?;
            (Way::Journal(journal.clone()), pumps::Way::journal(journal, letters.clone(), &metrics.delivery))
        } else {
            let deadline = config.ingress.answer_within;
            let direct = Arc::new(Direct::new(deadline, metrics.delivery.clone(), SystemClock::shared()));
            (Way::Direct(Arc::clone(&direct)), pumps::Way::Direct(direct))
        };
        let pumps = Pumps::start(way, Arc::new(SinkSetup::of), config).await?;
        let operator = match &intake {
            Way::Journal(journal) => {
                // Those of sinks that are not configured: `/status` and the gauges show them.
                let all = letters.clone();
                blocking(move || all.open_all()).await?;
                Some(Operator::new(journal.clone(), pumps.handles().clone(), letters, metrics.delivery.clone()))
            }
            Way::Direct(_) => None,
        };
        Ok(Open { intake, pumps, operator, published: Mutex::new(published) })
    }

    /// From now on events are taken. To be called once: a second call changes nothing.
    pub(super) fn set(&self, open: Open) {
        let _ = self.open.set(open);
    }

    /// Where it is open.
    pub(super) fn get(&self) -> Option<&Open> {
        self.open.get()
    }

    async fn lock(&self, dir: PathBuf) -> Result<JournalLock, OpenError> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let attempt = dir.clone();
            if let Some(lock) = blocking(move || JournalLock::acquire(&attempt)).await?? {
                self.is_held.store(false, Ordering::Relaxed);
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                return Err(OpenError::Locked(dir));
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

    /// Lets the sinks settle until `deadline`, then closes the journal in good order.
    pub(super) async fn close(&self, deadline: Instant) {
        let Some(open) = self.get() else { return };
        for sink in open.pumps.stop(deadline).await {
            tracing::warn!(%sink, "did not settle in time; what waits is delivered after the next start");
        }
        // While the journal is still ours: the next process that holds it writes its own.
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
        match self.get().map(|open| &open.intake) {
            Some(Way::Journal(journal)) => journal.take(event, received).await,
            Some(Way::Direct(direct)) => direct.take(event, received).await,
            None => Err(self.why_not_open()),
        }
    }

    fn ready(&self) -> Result<(), NotTaken> {
        match self.get().map(|open| &open.intake) {
            Some(Way::Journal(journal)) => journal.ready(),
            Some(Way::Direct(direct)) => direct.ready(),
            None => Err(self.why_not_open()),
        }
    }
}

async fn open_journal(config: &Config, metrics: &JournalMetrics, lock: JournalLock) -> Result<Journal, OpenError> {
    let sinks = config.sinks.iter().map(Registration::from).collect();
    let options = JournalOptions { sinks, ..JournalOptions::of(config, metrics, lock) };
    Ok(blocking(move || Journal::open(options)).await??)
}

/// Writes the addresses down for the commands, which find fixed ports without it. With `storage = "none"` there is no
/// lock that says which of two bridges the commands are to find: the first one stays, and a folder that can't be written
/// to is no reason not to run.
fn publish(listeners: Listeners, dir: &Path, storage: Storage) -> Result<Option<Published>, OpenError> {
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
        Err(error) => Err(OpenError::Publish { path: path.to_string(), error: explain(dir, error) }),
        Ok(published) => Ok(Some(published)),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, OpenError> {
    crate::storage::blocking(work).await.map_err(|_| OpenError::Panicked)
}
