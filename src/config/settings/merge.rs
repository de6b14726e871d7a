//! The file and the environment variables, merged into one tree by the `config` crate.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use config::{Environment, File, FileFormat, Map, Value};

use super::error::ConfigErrors;
use super::walk::{ENV_PREFIX, NAMED};

/// The first of these that exists is read if no other file was named. The second is that of the Debian package.
const DEFAULT_FILES: [&str; 2] = ["config/alma-bridge.toml", "/etc/alma-bridge/alma-bridge.toml"];

pub(crate) fn default_file<'a>() -> Option<&'a Path> {
    DEFAULT_FILES.map(Path::new).into_iter().find(|file| file.exists())
}

pub(crate) fn read_file(path: &Path) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| ConfigErrors::of_file(path, &format!("cannot be read: {error}")))
}

/// Merges the file and the environment variables. A variable overrides the file key by key.
pub(crate) fn merge(file: Option<(&Path, &str)>, env: &[(String, String)]) -> Result<Map<String, Value>, ConfigErrors> {
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
    let merged = merged.map_err(|error| ConfigErrors::of_file(origin, &syntax_problem(&error)))?;
    merged.cache.into_table().map_err(|_| ConfigErrors::of_file(origin, "expected a table at the top"))
}

/// Line, column and reason of a syntax error, without the line itself, which may hold a secret.
fn syntax_problem(error: &config::ConfigError) -> String {
    let config::ConfigError::FileParse { cause, .. } = error else {
        // Other errors show values.
        return "the file and the environment variables conflict: one has a table where the other has a value"
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

/// The sources and sinks that a file names, such as `sinks.main`.
pub(crate) fn named_in(text: &str) -> BTreeSet<String> {
    let file = File::from_str(text, FileFormat::Toml);
    let root =
        config::Config::builder().add_source(file).build().ok().and_then(|config| config.cache.into_table().ok());
    let mut root = root.unwrap_or_default();
    let mut names = |section: &str| -> Vec<String> {
        let table = root.remove(section).and_then(|value| value.into_table().ok()).unwrap_or_default();
        table.into_keys().map(|name| format!("{section}.{name}")).collect()
    };
    NAMED.into_iter().flat_map(&mut names).collect()
}
