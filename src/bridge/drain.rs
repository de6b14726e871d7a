//! Delivers what waits and takes no new event: a bridge without its listeners.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::{Engine, Open};
use super::error::EngineError;
use super::metrics::Metrics;
use crate::config::Config;
use crate::delivery::PumpHandle;
use crate::operator::{ListedSink, OperatorError};

/// How long the sinks may take to settle at the end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The journal and all sinks of a configuration, without the listeners.
pub struct Drain {
    engine: Engine,
    config: Arc<Config>,
}

impl Drain {
    /// Opens the journal, which waits up to 30 s for its lock, and starts the sinks.
    pub async fn start(config: &Config) -> Result<Self, EngineError> {
        let engine = Engine::default();
        let config = Arc::new(config.clone());
        let open = engine.prepare(|| Arc::clone(&config), &Metrics::new(), None).await?;
        engine.set(open);
        Ok(Self { engine, config })
    }

    /// Resolves once no event waits for a configured sink and every parked topic was tried. Cancel-safe.
    pub async fn settled(&self) {
        for pump in self.open().sinks.handles().all() {
            settled(&pump).await;
        }
    }

    /// Stops the sinks and closes the journal. Returns the sinks that have waiting events or dead letters left.
    pub async fn stop(self) -> Result<Vec<ListedSink>, OperatorError> {
        // Counted before the sinks end, while the pumps can be asked. What they settle after that only makes it less.
        let places = match &self.open().operator {
            Some(operator) => operator.sinks(&self.config).await,
            None => Ok(Vec::new()),
        };
        self.engine.close(Instant::now() + STOP_PATIENCE).await;
        Ok(places?.into_iter().filter(|place| place.waiting_events > 0 || place.dead_letters > 0).collect())
    }

    fn open(&self) -> &Open {
        self.engine.get().expect("it was opened at the start")
    }
}

async fn settled(pump: &PumpHandle) {
    // Pumps end only with the drain.
    let Ok(status) = pump.wait_for(|status| status.backlog.events == 0).await else { return };
    if status.parked.is_empty() {
        return;
    }
    // A pump that has ended has nothing left to try.
    let _ = pump.tried_parked().await;
    // A topic that flows again may have gathered more letters meanwhile, but no event waits for it.
}
