//! What a reload changes, and what it may not change.

use std::path::PathBuf;

use super::root::Config;
use super::secrets::{self, Secret, SecretFrom};
use super::settings::ConfigError;

/// How a new configuration differs, as far as a reload is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose change needs a restart.
    pub need_restart: Vec<&'static str>,
    /// What is no longer configured, which may mean that the file was truncated: `source alma`, `sink main`, `the value
    /// of sinks.main.brokers`.
    pub taken_away: Vec<String>,
}

impl Config {
    /// Compares this configuration with a newer one.
    pub fn changes(&self, new: &Self) -> Changes {
        let mut need_restart = Vec::new();
        let mut fixed = |key, same: bool| {
            if !same {
                need_restart.push(key);
            }
        };
        fixed("data_dir", self.data_dir == new.data_dir);
        fixed("ingress", self.ingress == new.ingress);
        fixed("admin", self.admin == new.admin);
        fixed("journal", self.journal == new.journal);
        fixed("log.format", self.log.format == new.log.format);
        let sources = self.sources.iter().filter(|old| !new.sources.iter().any(|source| source.name == old.name));
        let sinks = self.sinks.iter().filter(|old| !new.sinks.iter().any(|sink| sink.name == old.name));
        let taken_away = sources.map(|source| format!("source {}", source.name));
        let taken_away = taken_away.chain(sinks.map(|sink| format!("sink {}", sink.name)));
        let keys = self.keys_back_to_default(new).into_iter().map(|key| format!("the value of {key}"));
        let key_gone = self.privacy.key.is_some() && new.privacy.key.is_none();
        let privacy_key = key_gone.then(|| "the privacy key".to_owned());
        Changes { need_restart, taken_away: taken_away.chain(keys).chain(privacy_key).collect() }
    }

    /// Keys of remaining sinks that were written, and have their default in `new`.
    fn keys_back_to_default<'a>(&'a self, new: &'a Self) -> Vec<&'a str> {
        let stays = |key: &str| {
            let name = key.strip_prefix("sinks.").and_then(|rest| rest.split('.').next());
            let find =
                |config: &Self| Some(config.sinks.iter().find(|sink| Some(sink.name.as_str()) == name)?.kind.as_str());
            find(self).is_some() && find(self) == find(new)
        };
        let back = new.built_in.keys.difference(&self.built_in.keys);
        back.map(String::as_str).filter(|key| stays(key)).collect()
    }

    /// Why `new` can't take effect while this configuration runs: something built in would replace something
    /// configured.
    pub(super) fn not_replaced_by(&self, new: &Self) -> Vec<ConfigError> {
        let origin = new.file.as_ref().map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
        let mut errors = Vec::new();
        let mut check = |key: &str, lost: bool, names: Vec<&str>| {
            if lost {
                let problem = format!(
                    "found none, but the running bridge has {}; the built-in one replaces them only at a start: write \
                     them again, or restart the bridge",
                    names.join(", ")
                );
                errors.push(ConfigError { key: Some(key.to_owned()), origin: origin.clone(), problem });
            }
        };
        let lost = !self.built_in.sources && new.built_in.sources;
        check("sources", lost, self.sources.iter().map(|source| source.name.as_str()).collect());
        let lost = !self.built_in.sinks && new.built_in.sinks;
        check("sinks", lost, self.sinks.iter().map(|sink| sink.name.as_str()).collect());
        if self.built_in.sources {
            errors.extend(self.generated_secrets_gone(new));
        }
        errors
    }

    /// A generated secret that is in use but missing in `new`. A new secret would refuse Alma's events.
    fn generated_secrets_gone<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = ConfigError> + 'a {
        let in_use = self.sources.iter().flat_map(|source| &source.secrets).filter_map(|named| match &named.from {
            SecretFrom::Generated(path) => named.secret.as_ref().map(|_| path),
            _ => None,
        });
        let found = |path: &PathBuf| -> Option<&Secret> {
            let all = new.sources.iter().flat_map(|source| &source.secrets);
            all.filter(|named| matches!(&named.from, SecretFrom::Generated(other) if other == path))
                .find_map(|named| named.secret.as_ref())
        };
        in_use.filter(move |path| new.built_in.sources && found(path).is_none()).map(|path| {
            let why = secrets::from_file(path).err().map_or_else(String::new, |error| format!("{error}; "));
            ConfigError {
                key: None,
                origin: path.display().to_string(),
                problem: format!(
                    "{why}the secret in use stays, and the bridge generates a new one only at a start: write it back, or \
                     restart the bridge"
                ),
            }
        })
    }

    /// Takes over from `running` what can't change without a restart.
    #[must_use]
    pub fn keeping_fixed(mut self, running: &Self) -> Self {
        self.data_dir.clone_from(&running.data_dir);
        self.ingress = running.ingress.clone();
        self.admin = running.admin.clone();
        self.journal = running.journal.clone();
        self.log.format = running.log.format;
        self
    }
}
