//! The sources as requests find them: by path, with their secrets. A reload swaps them while requests run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config;

/// All sources. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    by_path: RwLock<Arc<HashMap<String, Arc<Source>>>>,
    changed: Notify,
}

/// One source, and when it last proved an event.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) settings: config::Source,
    heard: Mutex<Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Instant,
    warned: bool,
}

impl Sources {
    /// Of a configuration.
    pub fn new(sources: &[config::Source]) -> Self {
        let this = Self(Arc::new(Inner { by_path: RwLock::default(), changed: Notify::new() }));
        this.replace(sources);
        this
    }

    /// Puts other sources in effect, for requests whose head comes from now on.
    pub fn replace(&self, sources: &[config::Source]) {
        let old = self.all();
        let mut by_path = HashMap::new();
        for settings in sources {
            let known = old.values().find(|source| source.settings.name == settings.name);
            let heard = known.map_or(Heard { last: Instant::now(), warned: false }, |known| known.heard());
            let source = Source { settings: settings.clone(), heard: Mutex::new(heard) };
            by_path.insert(settings.path.clone(), Arc::new(source));
        }
        *self.0.by_path.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_path);
        self.0.changed.notify_one();
    }

    fn all(&self) -> Arc<HashMap<String, Arc<Source>>> {
        Arc::clone(&self.0.by_path.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The source of a path; one trailing slash is the same path.
    pub(super) fn find(&self, path: &str) -> Option<Arc<Source>> {
        let sources = self.all();
        let found = sources.get(path).or_else(|| {
            let trimmed = path.strip_suffix('/')?;
            sources.get(trimmed)
        });
        found.cloned()
    }

    /// Warns, once each time, of sources from which nothing proven came for as long as they are expected to speak.
    /// Never ends.
    pub(super) async fn watch_silence(&self) {
        loop {
            let next = self.all().values().filter_map(|source| source.warn_if_silent(Instant::now())).min();
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

impl Source {
    fn heard(&self) -> Heard {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event was proven.
    pub(super) fn hear(&self) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.last = Instant::now();
        if std::mem::take(&mut heard.warned) {
            tracing::info!(source = %self.settings.name, "events come again");
        }
    }

    /// When to look again; none where silence is of no account.
    fn warn_if_silent(&self, now: Instant) -> Option<Instant> {
        let silence = self.settings.silence?;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.last + silence > now {
            return Some(heard.last + silence);
        }
        if !std::mem::replace(&mut heard.warned, true) {
            tracing::warn!(
                source = %self.settings.name,
                silence = %humantime::format_duration(silence),
                "nothing proven came for so long: is Alma's profile active?"
            );
        }
        Some(now + silence)
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
    fn one_trailing_slash_is_the_same_path() {
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
    async fn silence_is_warned_of_once_until_events_come_again() {
        let sources = Sources::new(&[settings("a", "/x", Some(Duration::from_hours(24)))]);
        let source = sources.find("/x").expect("there");
        let watching = tokio::spawn({
            let sources = sources.clone();
            async move { sources.watch_silence().await }
        });
        tokio::time::sleep(Duration::from_hours(23)).await;
        assert!(!source.heard().warned);
        tokio::time::sleep(Duration::from_hours(2)).await;
        assert!(source.heard().warned);
        source.hear();
        assert!(!source.heard().warned);
        // A reload keeps what was heard.
        sources.replace(&[settings("a", "/y", Some(Duration::from_hours(24)))]);
        let moved = sources.find("/y").expect("there");
        assert_eq!(moved.heard().last, source.heard().last);
        tokio::time::sleep(Duration::from_hours(25)).await;
        assert!(moved.heard().warned);
        watching.abort();
    }
}
