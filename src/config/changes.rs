//! What of a new configuration can take effect while the bridge runs.

use std::path::PathBuf;

use super::{Config, SecretFrom, SinkKind};

/// How a new configuration differs, as far as a reload is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys whose change needs a restart.
    pub need_restart: Vec<&'static str>,
    /// Sources and sinks that are not there any more, as `source alma` or `sink main`.
    pub taken_away: Vec<String>,
}

impl Config {
    /// Compares with a newer one.
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
        let taken_away = taken_away.chain(sinks.map(|sink| format!("sink {}", sink.name))).collect();
        Changes { need_restart, taken_away }
    }

    /// This one, with what can't change without a restart as it is in `running`.
    #[must_use]
    pub fn keeping_fixed(mut self, running: &Self) -> Self {
        self.data_dir.clone_from(&running.data_dir);
        self.ingress = running.ingress.clone();
        self.admin = running.admin.clone();
        self.journal = running.journal.clone();
        self.log.format = running.log.format;
        self
    }

    /// Every file that this configuration was read from: a change of one of them may change it.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.file.iter().cloned().collect();
        for secret in self.sources.iter().flat_map(|source| &source.secrets) {
            if let SecretFrom::File(path) | SecretFrom::Generated(path) = &secret.from {
                files.push(path.clone());
            }
        }
        for sink in &self.sinks {
            let tls = match &sink.kind {
                SinkKind::File(_) => None,
                SinkKind::Kafka(kafka) => kafka.tls.as_ref(),
                SinkKind::RabbitMq(rabbitmq) => rabbitmq.tls.as_ref(),
                SinkKind::Nats(nats) => nats.tls.as_ref(),
            };
            files.extend(
                tls.into_iter().flat_map(|tls| [&tls.ca_file, &tls.cert_file, &tls.key_file]).flatten().cloned(),
            );
        }
        files
    }
}
