//! Loading: from a file and environment variables to a [`Config`], or to everything that is wrong.

use std::path::Path;

use super::root::Config;
use super::settings::{
    ConfigErrors, Effective, Table, Walk, default_file, judge_variables, merge, named_in, read_file, salvaged,
};

/// A configuration, and how it came about.
#[derive(Debug)]
pub struct Loaded {
    /// What the program uses.
    pub config: Config,
    /// Every value in effect, ordered by key.
    pub values: Vec<Effective>,
    /// What is allowed, but should be changed.
    pub warnings: Vec<String>,
}

/// Loads the file and these environment variables. Without a file, loads the default one if it exists.
pub fn load(file: Option<&Path>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let Some(path) = file.or_else(default_file) else { return load_defaults(env) };
    from_text(Some((path, &read_file(path)?)), env)
}

/// Loads the built-in defaults and these environment variables.
pub fn load_defaults(env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    from_text(None, env)
}

/// Loads the successor of `running`, from the same file and these environment variables.
///
/// An empty or truncated file is valid TOML, so nothing built in replaces anything configured: if `running` names its
/// sources or sinks, its successor must too, and the file that `running` was read from must still exist. `{data_dir}`
/// keeps its meaning, because a new `data_dir` takes effect only at the next start.
pub fn reload(running: &Config, file: Option<&Path>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    let file = file.or(running.file.as_deref()).or_else(default_file);
    let text = file.map(read_file).transpose()?;
    let loaded = read(file.zip(text.as_deref()), env, Some(&running.data_dir))?;
    let errors = running.not_replaced_by(&loaded.config);
    if errors.is_empty() { Ok(loaded) } else { Err(ConfigErrors { errors, warnings: loaded.warnings }) }
}

/// What can still be read of a configuration that [`load`] refuses, with defaults for the rest.
///
/// Use only what leads to a running bridge: `data_dir`, `[admin]`, and `storage` of `[journal]`.
pub fn salvage(file: Option<&Path>, env: &[(String, String)]) -> Config {
    let file = file.or_else(default_file);
    Config::read(Table::new("", salvaged(file, env)), &mut Walk::new(file, env, None))
}

pub(super) fn from_text(file: Option<(&Path, &str)>, env: &[(String, String)]) -> Result<Loaded, ConfigErrors> {
    read(file, env, None)
}

/// `data_dir` overrides what `{data_dir}` in paths stands for.
fn read(
    file: Option<(&Path, &str)>,
    env: &[(String, String)],
    data_dir: Option<&Path>,
) -> Result<Loaded, ConfigErrors> {
    let root = merge(file, env)?;
    let mut walk = Walk::new(file.map(|(path, _)| path), env, data_dir);
    walk.named_in_file = named_in(file.map_or("", |(_, text)| text));
    let config = Config::read(Table::new("", root), &mut walk);
    judge_variables(&mut walk);
    if walk.errors.is_empty() {
        let values = walk.values.into_values().collect();
        return Ok(Loaded { config, values, warnings: walk.warnings });
    }
    walk.errors.sort_by(|a, b| a.key.cmp(&b.key));
    Err(ConfigErrors { errors: walk.errors, warnings: walk.warnings })
}
