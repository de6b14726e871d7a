//! From what the operator wrote to the [`Config`]: one walk that knows every key.
//!
//! Built-in defaults, then the file, then environment variables, merged by the `config` crate. The walk reads each key
//! once, with its default written as in a file, and notes what it finds: the value in effect and where it comes from,
//! and everything that is wrong. Unknown keys, the list for `check --show` and the reference all come from it.

mod environment;
mod properties;
mod salvage;
mod sections;
mod sinks;
mod sources;
mod table;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Map, Value};

use super::Config;
pub use salvage::salvage;
use table::Table;
pub use values::action as parse_action;

/// What our environment variables begin with. Others that begin `ALMA_BRIDGE_` are Kubernetes's.
pub const ENV_PREFIX: &str = "ALMA_BRIDGE__";

/// The file that is read where none is named and it exists.
const DEFAULT_FILE: &str = "config/alma-bridge.toml";

/// A configuration, and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// Complete and valid.
    pub config: Config,
    /// Every value in effect, in order of the keys.
    pub values: Vec<Effective>,
    /// What is allowed and better changed; one sentence each.
    pub warnings: Vec<String>,
}

/// One value in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Such as `sinks.main.topic`.
    pub key: String,
    /// As it would be written; never a secret.
    pub shown: String,
    /// `default`, the file, or the environment variable.
    pub origin: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigErrors {
    /// What is wrong.
    pub errors: Vec<ConfigError>,
    /// What is allowed and better changed; often it is the cause of an error.
    pub warnings: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, where it is about one.
    pub key: Option<String>,
    /// The file or the environment variable.
    pub origin: String,
    /// What was found and what was expected; never a secret.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}: {key}: {}", self.origin, self.problem),
            None => write!(f, "{}: {}", self.origin, self.problem),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.errors.len() == 1 { "" } else { "s" };
        writeln!(f, "error: {} problem{s} with the configuration", self.errors.len())?;
        self.errors.iter().try_for_each(|error| writeln!(f, "  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// The configuration of a file (without one, the default file where it exists) and these environment variables.
pub fn load(file: Option<&Path>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let Some(path) = file.or_else(default_file) else { return load_defaults(env) };
    from_text(Some((path, &read_file(path)?)), env)
}

/// The built-in defaults and these environment variables, no file.
pub fn load_defaults(env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    from_text(None, env)
}

/// The configuration that is to follow `running`, read from the same file and these environment variables.
///
/// A file that is emptied or cut is valid TOML. Nothing built in therefore replaces something configured here: if
/// `running` names its sources or sinks, so must its successor, and a file that `running` was read from must still be
/// there. `{data_dir}` keeps its meaning, because a new `data_dir` takes effect only at the next start.
pub fn reload(running: &Config, file: Option<&Path>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let file = file.or(running.file.as_deref()).or_else(default_file);
    let text = file.map(read_file).transpose()?;
    let loaded = read(file.zip(text.as_deref()), env, Some(&running.data_dir))?;
    let errors = running.not_replaced_by(&loaded.config);
    if errors.is_empty() { Ok(loaded) } else { Err(ConfigErrors { errors, warnings: loaded.warnings }) }
}

fn default_file<'a>() -> Option<&'a Path> {
    let default = Path::new(DEFAULT_FILE);
    default.exists().then_some(default)
}

fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &format!("can't be read: {error}")))
}

fn unreadable(path: &Path, problem: &str) -> ConfigErrors {
    let error = ConfigError { key: None, origin: path.display().to_string(), problem: problem.to_owned() };
    ConfigErrors { errors: vec![error], warnings: Vec::new() }
}

fn from_text(file: Option<(&Path, &str)>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    read(file, env, None)
}

/// `data_dir`: what `{data_dir}` stands for, if not for the value that is written.
fn read(
    file: Option<(&Path, &str)>,
    env: &[(String, String)],
    data_dir: Option<&Path>,
) -> Result<Loaded, ConfigErrors> {
    let root = merge(file, env)?;
    let mut walk = Walk::new(file.map(|(path, _)| path), env, data_dir);
    walk.named_in_file = named_in(file.map(|(_, text)| text));
    let mut config = sections::read(Table::new("", root), &mut walk);
    environment::judge(&mut walk);
    if walk.errors.is_empty() {
        config.built_in.keys = walk.defaults;
        config.files = walk.files;
        let values = walk.values.into_values().collect();
        return Ok(Loaded { config, values, warnings: walk.warnings });
    }
    walk.errors.sort_by(|a, b| a.key.cmp(&b.key));
    Err(ConfigErrors { errors: walk.errors, warnings: walk.warnings })
}

/// The sources and sinks that a file names, such as `sinks.main`.
fn named_in(text: Option<&str>) -> BTreeSet<String> {
    let file = File::from_str(text.unwrap_or_default(), FileFormat::Toml);
    let root =
        config::Config::builder().add_source(file).build().ok().and_then(|config| config.cache.into_table().ok());
    let mut root = root.unwrap_or_default();
    let mut names = |section: &str| -> Vec<String> {
        let table = root.remove(section).and_then(|value| value.into_table().ok()).unwrap_or_default();
        table.into_keys().map(|name| format!("{section}.{name}")).collect()
    };
    NAMED.into_iter().flat_map(&mut names).collect()
}

/// What is written, merged; the later wins key by key.
fn merge(file: Option<(&Path, &str)>, env: &[(String, String)]) -> Result<Map<String, Value>, ConfigErrors> {
    let ours = env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).cloned();
    let environment = Environment::with_prefix(ENV_PREFIX.trim_end_matches('_'))
        .prefix_separator("__")
        .separator("__")
        .source(Some(ours.collect::<HashMap<String, String>>()));
    let mut builder = config::Config::builder();
    if let Some((_, text)) = file {
        builder = builder.add_source(File::from_str(text, FileFormat::Toml));
    }
    let origin = file.map_or(Path::new("the environment"), |(path, _)| path);
    let merged = builder.add_source(environment).build();
    let merged = merged.map_err(|error| unreadable(origin, &syntax_problem(&error)))?;
    merged.cache.into_table().map_err(|_| unreadable(origin, "expected a table at the top"))
}

/// What is wrong with the text as TOML: line, column and reason, without the line itself, which may hold a secret.
fn syntax_problem(error: &config::ConfigError) -> String {
    let config::ConfigError::FileParse { cause, .. } = error else {
        // Other errors show values.
        return "file and environment variables do not fit together: one of them has a table where the other has a value"
            .to_owned();
    };
    let text = cause.to_string();
    // The parser's error is: place, margin, the line, a mark under it, reason.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    match lines.as_slice() {
        [place, margin, _, mark, reason @ ..] if margin.starts_with('|') && mark.starts_with('|') => {
            let place = place.trim_start_matches("TOML parse error ");
            format!("not valid TOML {place}: {}", reason.join("; "))
        }
        [reason] => format!("not valid TOML: {reason}"),
        _ => "not valid TOML".to_owned(),
    }
}

/// Tables of tables that have names of their own.
const NAMED: [&str; 2] = ["sinks", "sources"];

/// What the walk carries along.
pub(in crate::config) struct Walk {
    file: Option<PathBuf>,
    env: HashMap<String, String>,
    errors: Vec<ConfigError>,
    warnings: Vec<String>,
    values: BTreeMap<String, Effective>,
    /// Keys that have their default.
    defaults: BTreeSet<String>,
    /// For `{data_dir}` in paths.
    data_dir: Option<PathBuf>,
    /// Every file that is named and read.
    files: Vec<PathBuf>,
    /// Every key that may be written in the tables that are there.
    known: BTreeSet<String>,
    /// Sources and sinks that the file names.
    named_in_file: BTreeSet<String>,
    /// Unknown keys of environment variables.
    unknown: Vec<environment::Unknown>,
}

impl Walk {
    fn new(file: Option<&Path>, env: &[(String, String)], data_dir: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
            env: env.iter().cloned().collect(),
            errors: Vec::new(),
            warnings: Vec::new(),
            values: BTreeMap::new(),
            defaults: BTreeSet::new(),
            data_dir: data_dir.map(Path::to_owned),
            files: Vec::new(),
            known: BTreeSet::new(),
            named_in_file: BTreeSet::new(),
            unknown: Vec::new(),
        }
    }

    /// What `{data_dir}` stands for.
    fn data_dir(&self) -> &Path {
        self.data_dir.as_deref().unwrap_or(Path::new(""))
    }

    /// The environment variable of a key.
    fn variable(key: &str) -> String {
        format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
    }

    /// The environment variable that a key is written in, or one that goes deeper where there should be a value.
    fn written_variable(&self, key: &str) -> Option<&String> {
        let wanted = Self::variable(key);
        let exact = self.env.keys().find(|name| name.eq_ignore_ascii_case(&wanted));
        // The same one each time.
        exact.or_else(|| self.variables_in(key).min())
    }

    /// The environment variables that write something in a table.
    fn variables_in(&self, key: &str) -> impl Iterator<Item = &String> {
        let beginning = format!("{}__", Self::variable(key));
        self.env.keys().filter(move |name| name.to_uppercase().starts_with(&beginning))
    }

    /// Whether a key is written in an environment variable.
    fn is_variable(&self, key: &str) -> bool {
        self.written_variable(key).is_some()
    }

    /// Where a key that is written is written.
    fn origin(&self, key: &str) -> String {
        // A key that is missing in a table of variables is missing there, and not in the file.
        let variable = self.written_variable(key).or_else(|| self.variables_in(self.only_in_variables(key)?).min());
        match (variable, &self.file) {
            (Some(variable), _) => variable.clone(),
            (None, Some(file)) => file.display().to_string(),
            (None, None) => "the environment".to_owned(),
        }
    }

    /// The source or sink of a key, such as `sinks.main`, if the file does not name it.
    fn only_in_variables<'a>(&self, key: &'a str) -> Option<&'a str> {
        let (section, rest) = key.split_once('.')?;
        let table = &key[..section.len() + 1 + rest.find('.').unwrap_or(rest.len())];
        (NAMED.contains(&section) && !self.named_in_file.contains(table)).then_some(table)
    }

    /// Something is wrong with a key.
    fn error(&mut self, key: &str, problem: impl Into<String>) {
        let origin = self.origin(key);
        self.errors.push(ConfigError { key: Some(key.to_owned()), origin, problem: problem.into() });
    }

    fn warn(&mut self, key: &str, warning: impl fmt::Display) {
        self.warnings.push(format!("{key}: {warning}"));
    }

    /// A value in effect; `written` tells whether it is other than the default.
    fn note(&mut self, key: &str, shown: impl Into<String>, written: bool) {
        let origin = if written { self.origin(key) } else { "default".to_owned() };
        if !written {
            self.defaults.insert(key.to_owned());
        }
        self.note_from(key, shown, origin);
    }

    /// A value in effect that is written there.
    fn note_from(&mut self, key: &str, shown: impl Into<String>, origin: String) {
        let effective = Effective { key: key.to_owned(), shown: shown.into(), origin };
        self.values.insert(key.to_owned(), effective);
    }
}

#[cfg(test)]
mod tests;
