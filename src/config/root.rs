//! The whole configuration: `data_dir` at the top, and all sections.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::admin::Admin;
use super::generated;
use super::ingress::Ingress;
use super::journal::{Journal, Storage};
use super::log::Log;
use super::privacy::Privacy;
use super::secrets::{Secret, SecretFrom};
use super::settings::{Table, Walk};
use super::sinks::{self, Sink};
use super::sources::{self, Source};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `None` if there was no file, only the built-in defaults.
    pub file: Option<PathBuf>,
    /// Where the journal, the topic files, the generated secret and the admin token are.
    pub data_dir: PathBuf,
    /// The listener for Alma.
    pub ingress: Ingress,
    /// The listener for operators.
    pub admin: Admin,
    /// Alma's integration profiles, ordered by name: at least one. No two have the same path.
    pub sources: Vec<Source>,
    /// The durable log.
    pub journal: Journal,
    /// Where events are published, ordered by name: at least one.
    pub sinks: Vec<Sink>,
    /// Personal data in what is published.
    pub privacy: Privacy,
    /// The program's own log.
    pub log: Log,
    /// What the configuration was read from besides `file`: secrets, keys, certificates, credentials.
    pub other_files: Vec<PathBuf>,
    /// What the operator left to the program.
    pub built_in: BuiltIn,
}

/// What the operator left to the program. A reload needs it to tell a default from the same value written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltIn {
    /// The configuration names no source, so the only one is the built-in one.
    pub sources: bool,
    /// The configuration names no sink, so the only one is the built-in one.
    pub sinks: bool,
    /// Keys that have their default, such as `sinks.main.topic`.
    pub keys: BTreeSet<String>,
}

impl Config {
    /// Reads the whole tree. The result must not be used if the walk has errors afterwards.
    pub(super) fn read(mut root: Table, walk: &mut Walk) -> Self {
        let state = walk.env.get("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next()).unwrap_or_default();
        let default_dir = if state.is_empty() { "data".to_owned() } else { state.to_owned() };
        let data_dir = PathBuf::from(root.text("data_dir", &default_dir, walk));
        walk.data_dir.get_or_insert_with(|| data_dir.clone());
        let ingress = Ingress::read(root.table("ingress", walk), walk);
        let admin = Admin::read(root.table("admin", walk), walk);
        let (sources, sources_built_in) = sources::read(&mut root, walk);
        let journal = Journal::read(root.table("journal", walk), walk);
        let (sinks, sinks_built_in) = sinks::read(&mut root, &sources, walk);
        let privacy = Privacy::read(root.table("privacy", walk), walk);
        let log = Log::read(root.table("log", walk), walk);
        root.finish(walk, |_| None);
        if ingress.listen == admin.listen && ingress.listen.port() != 0 {
            let problem = format!("found {}, which is ingress.listen too, expected another", admin.listen);
            walk.error("admin.listen", problem);
        }
        let file = walk.file.clone();
        let other_files = std::mem::take(&mut walk.files);
        let keys = std::mem::take(&mut walk.defaults);
        let built_in = BuiltIn { sources: sources_built_in, sinks: sinks_built_in, keys };
        Self { file, data_dir, ingress, admin, sources, journal, sinks, privacy, log, other_files, built_in }
    }

    /// The journal's folder.
    pub fn journal_dir(&self) -> PathBuf {
        self.data_dir.join("journal")
    }

    /// Every file that the configuration was read from: if one of them changes, the configuration may change.
    pub fn files(&self) -> Vec<PathBuf> {
        self.file.iter().chain(&self.other_files).cloned().collect()
    }

    /// Generates the secret of the built-in source and the admin token if they do not exist yet. Returns the paths of
    /// those that it made.
    ///
    /// With `storage = "none"` the bridge can do without a token, so it is no error there if the token can't be made.
    pub fn generate_missing(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for named in self.sources.iter_mut().flat_map(|source| &mut source.secrets) {
            if let (SecretFrom::Generated(path), None) = (&named.from, &named.secret) {
                named.secret = Some(generated::made_or_read(path, &mut made)?);
            }
        }
        match generated::made_or_read(&self.admin.token_file, &mut made) {
            Err(_) if self.does_without_token() => {}
            other => drop(other?),
        }
        Ok(made)
    }

    /// Whether there is no admin token and none is needed: `storage = "none"` works with a read-only `data_dir`.
    pub fn does_without_token(&self) -> bool {
        self.journal.storage == Storage::None && !self.admin.token_file.exists()
    }

    /// The bearer token of the admin listener.
    pub fn admin_token(&self) -> io::Result<Secret> {
        generated::read(&self.admin.token_file)
    }
}
