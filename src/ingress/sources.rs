//! The sources by path, with their secrets. A reload replaces them while requests run.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use super::health::{Health, SourceHealth};
use super::turned_away::{TurnedAway, TurnedAwayRecord};
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::config::{self, SourceName};

/// All sources. Cheap to clone; all clones share the same sources.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    by_path: RwLock<Arc<HashMap<String, Arc<LiveSource>>>>,
    changed: Notify,
    wrong_paths: TurnedAwayRecord,
}

/// One source and its health.
#[derive(Debug)]
pub(super) struct LiveSource {
    pub(super) settings: config::Source,
    pub(super) health: Arc<Health>,
    pub(super) too_large: Arc<TurnedAwayRecord>,
}

impl Sources {
    /// The sources of a configuration.
    pub fn new(sources: &[config::Source]) -> Self {
        let this = Self(Arc::new(Inner {
            by_path: RwLock::default(),
            changed: Notify::new(),
            wrong_paths: TurnedAwayRecord::default(),
        }));
        this.replace(sources);
        this
    }

    /// Puts other sources into effect, for requests whose head arrives from now on.
    pub fn replace(&self, sources: &[config::Source]) {
        let old = self.all();
        let mut by_path = HashMap::new();
        for settings in sources {
            let known = old.values().find(|source| source.settings.name == settings.name);
            // Shared, because requests that have begun still use the old source.
            let health = known.map_or_else(|| Arc::new(Health::new()), |known| Arc::clone(&known.health));
            let too_large = known.map(|known| Arc::clone(&known.too_large)).unwrap_or_default();
            let source = LiveSource { settings: settings.clone(), health, too_large };
            by_path.insert(settings.path.clone(), Arc::new(source));
        }
        *self.0.by_path.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_path);
        self.0.changed.notify_one();
    }

    fn all(&self) -> Arc<HashMap<String, Arc<LiveSource>>> {
        Arc::clone(&self.0.by_path.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn by_name(&self, name: &SourceName) -> Option<Arc<LiveSource>> {
        self.all().values().find(|source| source.settings.name == *name).cloned()
    }

    /// The health of a source. Empty if there is no such source.
    pub fn health(&self, name: &SourceName) -> SourceHealth {
        self.by_name(name).map(|source| source.health.seen(&source.settings)).unwrap_or_default()
    }

    /// Recent requests that may be events and were larger than `max_body`.
    pub fn too_large(&self, name: &SourceName, now: Timestamp) -> Option<TurnedAway> {
        self.by_name(name)?.too_large.seen(now)
    }

    /// Notes a request that may be an event and whose path no source has.
    pub(super) fn wrong_path(&self, shown: String, at: Timestamp) {
        self.0.wrong_paths.count(shown, at);
    }

    /// Recent requests that may be events and whose paths no source has. `None` once a source has the last of these
    /// paths, because then the error is corrected.
    pub fn wrong_paths(&self, now: Timestamp) -> Option<TurnedAway> {
        self.0.wrong_paths.seen(now).filter(|seen| self.find(&seen.path).is_none())
    }

    /// Notes when a source's last event from before the start became durable. Returns whether it is still the newest.
    pub fn remember(&self, name: &SourceName, recorded: Timestamp) -> bool {
        let Some(source) = self.by_name(name) else { return false };
        let is_newest = source.health.remember(recorded, SystemClock.now().since(recorded));
        // The source's silence limit may have passed.
        self.0.changed.notify_one();
        is_newest
    }

    /// The source of a path; one trailing slash is the same path.
    pub(super) fn find(&self, path: &str) -> Option<Arc<LiveSource>> {
        let sources = self.all();
        let found = sources.get(path).or_else(|| {
            let trimmed = path.strip_suffix('/')?;
            sources.get(trimmed)
        });
        found.cloned()
    }

    /// Warns once about each source when no valid event has arrived for its `silence`. Never returns.
    pub(super) async fn watch_silence(&self) {
        loop {
            let next = self.all().values().filter_map(|source| source.health.warn_if_silent(&source.settings)).min();
            let wait = async {
                match next {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = self.0.changed.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(name: &str, path: &str, silence: Option<Duration>) -> config::Source {
        let name = name.parse().expect("a name");
        config::Source { name, path: path.into(), secrets: Vec::new(), institution: None, silence }
    }

    #[test]
    fn one_trailing_slash_makes_no_difference() {
        let sources = Sources::new(&[settings("a", "/x", None), settings("root", "/", None)]);
        let name = |path: &str| sources.find(path).map(|source| source.settings.name.to_string());
        assert_eq!(name("/x").as_deref(), Some("a"));
        assert_eq!(name("/x/").as_deref(), Some("a"));
        assert_eq!(name("/").as_deref(), Some("root"));
        for other in ["/x//", "/y", "/X", "/x/y", ""] {
            assert_eq!(name(other), None, "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_warned_about_once_until_events_arrive_again() {
        let sources = Sources::new(&[settings("a", "/x", Some(Duration::from_hours(24)))]);
        let source = sources.find("/x").expect("there");
        let name = &source.settings.name;
        let watching = tokio::spawn({
            let sources = sources.clone();
            async move { sources.watch_silence().await }
        });
        tokio::time::sleep(Duration::from_hours(23)).await;
        assert!(!sources.health(name).silent);
        tokio::time::sleep(Duration::from_hours(2)).await;
        assert!(sources.health(name).silent && source.health.has_warned());
        source.health.proven(&source.settings, Timestamp::from_micros(1));
        assert!(!sources.health(name).silent && !source.health.has_warned());
        // A reload keeps the health, and so does a request that began before it.
        sources.replace(&[settings("a", "/y", Some(Duration::from_hours(24)))]);
        source.health.refused(crate::alma::SignatureFailure::Mismatch, Timestamp::from_micros(2));
        let health = sources.health(name);
        assert_eq!(health.last_event, Some(Timestamp::from_micros(1)));
        assert_eq!(health.refused.map(|refused| refused.events()), Some(1));
        tokio::time::sleep(Duration::from_hours(25)).await;
        assert!(source.health.has_warned());
        watching.abort();
    }
}
