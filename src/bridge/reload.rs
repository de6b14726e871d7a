//! Puts a newer configuration in effect: first the sources that exist already, then the sinks, then the new sources.
//!
//! A new source takes events only once every sink is in effect. A sink of the old configuration would not ask for its
//! events, and an event that no sink asks for is lost. The secrets of an existing source change at once, because Alma
//! never resends an event after a 401.
//!
//! If a sink can't be started, for example because its dead letters can't be read, the bridge retries until it runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;

use super::engine::Open;
use super::error::EngineError;
use super::view::View;
use crate::config::{Config, Source};
use crate::ingress::{Sources, tls};
use crate::storage::blocking;

/// How long the bridge waits before it retries the parts of a configuration that have yet to take effect.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// Puts configurations in effect, one at a time.
pub(super) struct Reloads {
    view: Arc<View>,
    sources: Sources,
    /// The sources that take events.
    in_effect: Mutex<Vec<Source>>,
    /// Signalled while something is not in effect yet.
    unfinished: Notify,
}

impl Reloads {
    /// Expects that the sources of the view's configuration are in effect.
    pub(super) fn new(view: Arc<View>, sources: Sources) -> Self {
        let in_effect = Mutex::new(view.config().sources.clone());
        Self { view, sources, in_effect, unfinished: Notify::new() }
    }

    /// Opens the journal and starts the sinks of the configuration that is the newest by then.
    pub(super) async fn open(&self) -> Result<(), EngineError> {
        let listeners = Some(self.view.listeners);
        let open = self.view.engine.prepare(|| self.view.config(), &self.view.metrics, listeners).await?;
        let mut in_effect = self.in_effect.lock().await;
        // A reload may have come while the journal was opened.
        open.sinks.apply(&self.view.config()).await;
        self.view.engine.set(open);
        self.recall_events();
        self.finish(&mut in_effect).await;
        Ok(())
    }

    /// Looks up in the journal when the last event of each source came. Otherwise a restart would restart its `silence`.
    fn recall_events(&self) {
        let Some(journal) = self.view.engine.get().and_then(Open::journal).cloned() else { return };
        let names: Vec<_> = self.view.config().sources.iter().map(|source| source.name.clone()).collect();
        let (sources, metrics) = (self.sources.clone(), self.view.metrics.ingress.clone());
        drop(blocking(move || {
            for (name, recorded) in journal.newest_events(&names) {
                if sources.remember(&name, recorded) {
                    metrics.last_event(&name, recorded);
                }
            }
        }));
    }

    /// Puts a newer configuration in effect, except for keys that need a restart. Returns the parts that have yet to take effect.
    pub(super) async fn apply(&self, new: Config) -> Vec<String> {
        let mut in_effect = self.in_effect.lock().await;
        *in_effect = meanwhile(&in_effect, &new.sources);
        self.sources.replace(&in_effect);
        self.view.loaded(new);
        let problems = self.finish(&mut in_effect).await;
        if let Some(open) = self.view.engine.get() {
            open.sinks.handles().retry_parked();
        }
        problems
    }

    /// Puts the sinks in effect, and then the sources. Returns those that have yet to take effect.
    async fn finish(&self, in_effect: &mut Vec<Source>) -> Vec<String> {
        let config = self.view.config();
        let failed = match self.view.engine.get() {
            Some(open) => open.sinks.apply(&config).await,
            // The engine will open with the newest configuration, and takes no event until then.
            None => BTreeMap::new(),
        };
        let waits = |source: &&Source| !failed.is_empty() && !in_effect.iter().any(|known| known.name == source.name);
        let (waiting, live): (Vec<&Source>, Vec<&Source>) = config.sources.iter().partition(waits);
        let mut problems: Vec<String> = failed.iter().map(|(name, why)| format!("sink {name}: {why}")).collect();
        problems.extend(
            waiting
                .iter()
                .map(|source| format!("source {}: takes no event until every sink is in effect", source.name)),
        );
        // A certificate without its new key may be half of a renewal, so the listener keeps the one that it has.
        if let Some(Err(error)) = config.ingress.tls.as_ref().map(tls::check) {
            problems.push(format!("{error}; the certificate before it stays in effect"));
        }
        *in_effect = live.into_iter().cloned().collect();
        self.sources.replace(in_effect);
        self.view.in_effect(problems.clone());
        if !problems.is_empty() {
            self.unfinished.notify_one();
        }
        problems
    }

    /// Retries the parts that have yet to take effect. Never returns.
    pub(super) async fn keep_trying(&self) {
        loop {
            self.unfinished.notified().await;
            sleep(RETRY_EVERY).await;
            let mut in_effect = self.in_effect.lock().await;
            let before = self.view.not_in_effect();
            if before.is_empty() {
                continue;
            }
            let problems = self.finish(&mut in_effect).await;
            drop(in_effect);
            if problems.is_empty() {
                tracing::info!("all of the configuration is in effect");
            } else if problems != before {
                for problem in &problems {
                    tracing::error!("reload not complete: {problem}");
                }
            }
        }
    }
}

/// Returns the sources to accept until all sinks are in effect: existing sources with their new settings, and sources
/// that are about to go, unless another has their path. If a new name takes over the path of such a source, the source
/// also accepts the new name's secrets, because Alma may use them already.
fn meanwhile(live: &[Source], new: &[Source]) -> Vec<Source> {
    let is_in = |sources: &[Source], source: &Source| sources.iter().any(|other| other.name == source.name);
    let mut all: Vec<Source> = new.iter().filter(|source| is_in(live, source)).cloned().collect();
    let going = live.iter().filter(|source| !is_in(new, source));
    let mut kept: Vec<Source> =
        going.filter(|source| !all.iter().any(|known| known.path == source.path)).cloned().collect();
    for source in &mut kept {
        let successor = new.iter().find(|new| new.path == source.path);
        source.secrets.extend(successor.into_iter().flat_map(|new| new.secrets.iter().cloned()));
    }
    all.extend(kept);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{NamedSecret, Secret, SecretFrom};

    fn source(name: &str, path: &str) -> Source {
        let name = name.parse().expect("a name");
        Source { name, path: path.into(), secrets: Vec::new(), institution: None, silence: None }
    }

    #[test]
    fn a_source_whose_path_a_new_name_takes_over_accepts_the_new_secrets_too() {
        let with = |name: &str, secret: &str| {
            let secret = NamedSecret {
                name: "default".to_owned(),
                from: SecretFrom::Env("X".to_owned()),
                secret: Some(Secret::new(secret.as_bytes())),
            };
            Source { secrets: vec![secret], ..source(name, "/a") }
        };
        let all = meanwhile(&[with("a", "old")], &[with("b", "new")]);
        assert_eq!(all.len(), 1);
        let secrets: Vec<_> = all[0].secrets.iter().filter_map(|named| named.secret.as_ref()).collect();
        assert_eq!(secrets, [&Secret::new(*b"old"), &Secret::new(*b"new")]);
    }

    #[test]
    fn until_the_sinks_are_in_effect_no_source_is_new_and_none_is_missed() {
        let paths = |live: &[(&str, &str)], new: &[(&str, &str)]| -> Vec<(String, String)> {
            let [live, new] =
                [live, new].map(|all| all.iter().map(|(name, path)| source(name, path)).collect::<Vec<_>>());
            meanwhile(&live, &new).into_iter().map(|source| (source.name.to_string(), source.path)).collect()
        };
        let pair = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(paths(&[("a", "/a")], &[("a", "/a"), ("b", "/b")]), [pair("a", "/a")]);
        assert_eq!(paths(&[("a", "/a")], &[("b", "/a")]), [pair("a", "/a")], "a new name takes over without a gap");
        assert_eq!(
            paths(&[("a", "/a"), ("b", "/b")], &[("a", "/b")]),
            [pair("a", "/b")],
            "a path belongs to one source"
        );
    }
}
