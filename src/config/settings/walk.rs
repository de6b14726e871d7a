//! What reading the tree finds out: errors, warnings, and each value in effect with its origin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::ConfigError;

/// Prefix of our environment variables. Kubernetes sets others that begin with `ALMA_BRIDGE_`.
pub const ENV_PREFIX: &str = "ALMA_BRIDGE__";

/// Sections whose tables are named by the operator.
pub(crate) const NAMED: [&str; 2] = ["sinks", "sources"];

/// One value in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Such as `sinks.main.topic`.
    pub key: String,
    /// As it would be written in the file. Never shows a secret.
    pub shown: String,
    /// `default`, the file, or the environment variable.
    pub origin: String,
}

/// An unknown key of an environment variable.
#[derive(Debug)]
pub(crate) struct Unknown {
    pub(crate) key: String,
    pub(crate) variable: String,
    /// What its table suggests.
    pub(crate) hint: String,
}

/// Notes of one walk through the tree: the values in effect, and everything that is wrong.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) file: Option<PathBuf>,
    pub(crate) env: HashMap<String, String>,
    pub(crate) errors: Vec<ConfigError>,
    pub(crate) warnings: Vec<String>,
    pub(crate) values: BTreeMap<String, Effective>,
    /// Keys that have their default.
    pub(crate) defaults: BTreeSet<String>,
    /// What `{data_dir}` in a path stands for.
    pub(crate) data_dir: Option<PathBuf>,
    /// Files that a key names, such as secrets and certificates. A reload watches them.
    pub(crate) files: Vec<PathBuf>,
    /// Every key that the tables in the configuration may have.
    pub(crate) known: BTreeSet<String>,
    /// Sources and sinks that the file names.
    pub(crate) named_in_file: BTreeSet<String>,
    /// Unknown keys of environment variables.
    pub(crate) unknown: Vec<Unknown>,
}

impl Walk {
    pub(crate) fn new(file: Option<&Path>, env: &[(String, String)], data_dir: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
            env: env.iter().cloned().collect(),
            data_dir: data_dir.map(Path::to_owned),
            ..Self::default()
        }
    }

    /// What `{data_dir}` in a path stands for.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(Path::new(""))
    }

    /// The environment variable of a key.
    pub(crate) fn variable(key: &str) -> String {
        format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
    }

    /// The environment variable that sets a key, or else one that sets something below it.
    pub(crate) fn written_variable(&self, key: &str) -> Option<&String> {
        let wanted = Self::variable(key);
        let exact = self.env.keys().find(|name| name.eq_ignore_ascii_case(&wanted));
        // The first by name, so that the error is the same each time.
        exact.or_else(|| self.variables_in(key).min())
    }

    /// The environment variables that set something in a table.
    pub(crate) fn variables_in(&self, key: &str) -> impl Iterator<Item = &String> {
        let beginning = format!("{}__", Self::variable(key));
        self.env.keys().filter(move |name| name.to_uppercase().starts_with(&beginning))
    }

    /// Whether an environment variable sets a key.
    pub(crate) fn is_variable(&self, key: &str) -> bool {
        self.written_variable(key).is_some()
    }

    /// The file or the environment variable that sets a key.
    pub(crate) fn origin(&self, key: &str) -> String {
        // If only variables make up the table, a missing key is missing there and not in the file.
        let variable = self.written_variable(key).or_else(|| self.variables_in(self.only_in_variables(key)?).min());
        match (variable, &self.file) {
            (Some(variable), _) => variable.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => "the environment".to_owned(),
        }
    }

    /// The source or sink of a key, such as `sinks.main`, if the file does not name it.
    pub(crate) fn only_in_variables<'a>(&self, key: &'a str) -> Option<&'a str> {
        let (section, rest) = key.split_once('.')?;
        let table = &key[..section.len() + 1 + rest.find('.').unwrap_or(rest.len())];
        (NAMED.contains(&section) && !self.named_in_file.contains(table)).then_some(table)
    }

    /// Notes an error about a key.
    pub(crate) fn error(&mut self, key: &str, problem: impl Into<String>) {
        let origin = self.origin(key);
        self.errors.push(ConfigError { key: Some(key.to_owned()), origin, problem: problem.into() });
    }

    pub(crate) fn warn(&mut self, key: &str, warning: impl fmt::Display) {
        self.warnings.push(format!("{key}: {warning}"));
    }

    /// Notes the value in effect. `written` is false if it is the default.
    pub(crate) fn note(&mut self, key: &str, shown: impl Into<String>, written: bool) {
        let origin = if written { self.origin(key) } else { "default".to_owned() };
        if !written {
            self.defaults.insert(key.to_owned());
        }
        self.note_from(key, shown, origin);
    }

    /// Notes the value in effect, and where it was set.
    pub(crate) fn note_from(&mut self, key: &str, shown: impl Into<String>, origin: String) {
        let effective = Effective { key: key.to_owned(), shown: shown.into(), origin };
        self.values.insert(key.to_owned(), effective);
    }

    /// Notes a key that its table does not know. If a variable sets it, the error waits until all keys are known,
    /// because the key that was meant may be in another table: `ALMA_BRIDGE__JOURNAL_MAX_SIZE` is a key at the top.
    pub(crate) fn unknown_key(&mut self, key: &str, hint: &str) {
        let exact = Self::variable(key);
        let exact = self.env.keys().filter(|name| name.eq_ignore_ascii_case(&exact));
        let variables: Vec<String> = exact.chain(self.variables_in(key)).cloned().collect();
        if variables.is_empty() {
            self.error(key, format!("unknown key{hint}"));
        }
        self.unknown.extend(variables.into_iter().map(|variable| {
            let key = variable[ENV_PREFIX.len()..].to_lowercase().replace("__", ".");
            Unknown { key, variable, hint: hint.to_owned() }
        }));
    }
}
