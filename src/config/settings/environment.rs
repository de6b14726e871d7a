//! Environment variables that set nothing: unknown keys with our prefix, and names that are close to it.
//!
//! If there is a Kubernetes service named `alma-bridge`, Kubernetes sets variables such as `ALMA_BRIDGE_SERVICE_HOST` in
//! every container. A single underscore is therefore never an error, and for those variables not even a warning.

use super::error::ConfigError;
use super::values;
use super::walk::{ENV_PREFIX, NAMED, Unknown, Walk};

/// Prefix of variables that may have been meant for us.
const NEARLY: &str = "ALMA_BRIDGE_";

/// `ALMA_BRIDGE_CONFIG` names the file. It is not a key.
const FILE: &str = "CONFIG";

/// Turns unknown keys of variables into errors, and adds warnings about ignored variables. Call it after the walk, when
/// every key is known.
pub(crate) fn judge(walk: &mut Walk) {
    for Unknown { key, variable, hint } in std::mem::take(&mut walk.unknown) {
        let meant =
            meant(&key, walk, |length| 1 + length / 4).map(|key| format!(", did you mean {}?", Walk::variable(key)));
        let problem = format!("unknown key{}", meant.unwrap_or(hint));
        walk.errors.push(ConfigError { key: Some(key), origin: variable, problem });
    }
    suggest_names(walk);
    let mut ignored: Vec<String> = walk.env.keys().filter_map(|name| ignored(name, walk)).collect();
    ignored.sort();
    walk.warnings.extend(ignored);
}

/// The warning about a variable whose name suggests that it was meant for us.
fn ignored(name: &str, walk: &Walk) -> Option<String> {
    if name.starts_with(ENV_PREFIX) {
        return None;
    }
    let upper = name.to_uppercase();
    let rest = upper.strip_prefix(NEARLY)?.trim_start_matches('_');
    if rest == FILE || is_of_kubernetes(rest) {
        return None;
    }
    // Other programs may use this prefix, so the name must be closer than a key that can only be ours.
    let meant = match meant(rest, walk, |length| 1 + length / 8) {
        Some(key) => Walk::variable(key),
        None => format!("{ENV_PREFIX}{}__…", section(rest, walk)?.to_uppercase()),
    };
    Some(format!("environment variable {name} is ignored, did you mean {meant}?"))
}

/// Whether Kubernetes sets such a variable for a service whose name begins with ours.
fn is_of_kubernetes(rest: &str) -> bool {
    let has_number = rest.split("PORT_").skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    let is_port = rest == "PORT" || rest.ends_with("_PORT");
    rest.ends_with("SERVICE_HOST") || rest.contains("SERVICE_PORT") || is_port || has_number
}

/// The key that is closest to what was written, whatever separates its parts. `bound` limits how many letters may differ.
fn meant<'a>(written: &str, walk: &'a Walk, bound: impl Fn(usize) -> usize) -> Option<&'a String> {
    let written = joined(written);
    let distance = |key: &String| strsim::damerau_levenshtein(&written, &joined(key));
    let (distance, key) = walk.known.iter().filter(|key| !is_table(key, walk)).map(|key| (distance(key), key)).min()?;
    (distance <= bound(written.len())).then_some(key)
}

fn is_table(key: &str, walk: &Walk) -> bool {
    let beginning = format!("{key}.");
    NAMED.contains(&key) || walk.known.range(beginning.clone()..).next().is_some_and(|key| key.starts_with(&beginning))
}

/// The section that the name of a variable begins with.
fn section<'a>(rest: &str, walk: &'a Walk) -> Option<&'a str> {
    let written = joined(rest);
    let tables = walk.known.iter().filter_map(|key| Some(key.split_once('.')?.0)).chain(NAMED);
    tables
        .into_iter()
        .find(|table| written.strip_prefix(*table).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

/// In lower case, with one underscore between parts and between words.
fn joined(name: &str) -> String {
    let words = name.split(['.', '_', '-']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("_").to_lowercase()
}

/// A source or sink that only variables name is probably a misspelt one of the file.
fn suggest_names(walk: &mut Walk) {
    let mut suggested = Vec::new();
    for (index, error) in walk.errors.iter().enumerate() {
        let Some(table) = error.key.as_deref().and_then(|key| walk.only_in_variables(key)) else { continue };
        let Some((section, name)) = table.split_once('.') else { continue };
        let others = walk.named_in_file.iter().filter_map(|other| other.strip_prefix(section)?.strip_prefix('.'));
        let hint = values::suggestion(name, others);
        if !hint.is_empty() && !suggested.iter().any(|(_, known, _)| *known == table) {
            suggested.push((index, table.to_owned(), format!("; the file has no {table}{hint}")));
        }
    }
    for (index, _, hint) in suggested {
        walk.errors[index].problem.push_str(&hint);
    }
}
