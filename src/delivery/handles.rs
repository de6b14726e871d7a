//! The running sinks, seen from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::metrics::DeliveryMetrics;
use super::status::{PumpHandle, SinkStatus};
use crate::clock::Timestamp;
use crate::config::SinkName;

/// The sinks that run now, for the admin listener. Cheap to clone; follows every reload.
#[derive(Clone, Debug, Default)]
pub struct Handles(Arc<RwLock<BTreeMap<SinkName, PumpHandle>>>);

impl Handles {
    pub(super) fn set(&self, name: &SinkName, handle: PumpHandle) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), handle);
    }

    pub(super) fn unset(&self, name: &SinkName) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// A sink by its name.
    pub fn get(&self, name: &SinkName) -> Option<PumpHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All sinks in order of their names.
    pub fn all(&self) -> Vec<PumpHandle> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What all sinks are doing, in order of their names.
    pub fn statuses(&self) -> Vec<SinkStatus> {
        self.all().iter().map(PumpHandle::status).collect()
    }

    /// Has all parked topics, and all connections that are down, tried now: after a reload.
    pub fn retry_parked(&self) {
        self.all().iter().for_each(PumpHandle::retry_parked);
    }

    /// Sets the gauges that are taken from snapshots, before a scrape is answered.
    pub fn set_gauges(&self, metrics: &DeliveryMetrics, now: Timestamp) {
        for status in self.statuses() {
            let age = status.backlog.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
            metrics.sink_backlog(&status.name, status.backlog.events, age, status.parked.len());
        }
    }
}
