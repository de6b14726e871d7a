//! `[sources.NAME]`: Alma's integration profiles and their secrets.

use std::collections::HashMap;
use std::path::Path;

use super::Walk;
use super::table::Table;
use super::values;
use crate::config::names::NotAName;
use crate::config::secrets::{self, MAX_SECRETS, built_in_sources};
use crate::config::{BuiltIn, NamedSecret, SecretFrom, Source};

/// All sources; the built-in one where none is named.
pub(super) fn read(root: &mut Table, built_in: &mut BuiltIn, walk: &mut Walk) -> Vec<Source> {
    let tables = root.named_tables("sources", walk);
    built_in.sources = tables.is_empty();
    if built_in.sources {
        let sources = built_in_sources(walk.data_dir());
        for source in &sources {
            walk.note(&format!("sources.{}.path", source.name), &source.path, false);
            walk.note(&format!("sources.{}.secret_file", source.name), "{data_dir}/webhook.secret", false);
            walk.files.extend(source.secrets.iter().filter_map(|secret| secret.from.file()).map(Path::to_owned));
            warn_of_short_secrets(source, walk);
        }
        return sources;
    }
    let sources: Vec<Source> = tables.into_iter().filter_map(|(name, table)| source(&name, table, walk)).collect();
    let mut paths: HashMap<&str, &Source> = HashMap::new();
    for source in &sources {
        if let Some(other) = paths.insert(&source.path, source) {
            let problem =
                format!("found {:?}, which source {} has too, expected one of its own", source.path, other.name);
            walk.error(&format!("sources.{}.path", source.name), problem);
        }
        warn_of_short_secrets(source, walk);
    }
    sources
}

fn warn_of_short_secrets(source: &Source, walk: &mut Walk) {
    for named in &source.secrets {
        if let Some(warning) = named.secret.as_ref().and_then(secrets::too_short) {
            walk.warn(&format!("sources.{}", source.name), format!("{}: {warning}", named.name));
        }
    }
}

fn source(name: &str, mut table: Table, walk: &mut Walk) -> Option<Source> {
    let key = table.key("").trim_end_matches('.').to_owned();
    let parsed =
        name.parse().map_err(|expected: NotAName| walk.error(&key, format!("found the name {name:?}, {expected}")));
    let path = table.optional("path", walk, values::path_of_url);
    if path.is_none() && !walk.errors.iter().any(|error| error.key.as_deref() == Some(&*table.key("path"))) {
        walk.error(&table.key("path"), "missing, expected the path of the listener URL, such as \"/webhooks\"");
    }
    let secrets = named_secrets(&mut table, walk);
    let institution = table.optional_text("institution", walk);
    let silence = table.optional("silence", walk, values::duration);
    table.finish(walk, |name| {
        (name == "secret")
            .then(|| ": a secret never stands in the configuration, use secret_file or secret_env".to_owned())
    });
    Some(Source { name: parsed.ok()?, path: path?, secrets, institution, silence })
}

fn named_secrets(table: &mut Table, walk: &mut Walk) -> Vec<NamedSecret> {
    let before = walk.errors.len();
    let single = single(table, walk);
    let list = table.list_of_tables("secrets", walk);
    let key = table.key("secrets");
    let secrets = match (single, list) {
        (Some(_), Some(_)) => {
            walk.error(&key, "found beside secret_file or secret_env, expected one of the two ways");
            return Vec::new();
        }
        (Some(single), None) => vec![single],
        (None, Some(items)) => items.into_iter().filter_map(|item| listed(item, walk)).collect(),
        (None, None) => Vec::new(),
    };
    if secrets.len() > MAX_SECRETS {
        walk.error(&key, format!("found {} secrets, expected at most {MAX_SECRETS}", secrets.len()));
    }
    for (index, secret) in secrets.iter().enumerate() {
        if secrets[..index].iter().any(|other| other.name == secret.name) {
            walk.error(&key, format!("found the name {:?} twice, expected names of their own", secret.name));
        }
    }
    // A source that has none would accept nothing; one that accepts all is not to be had.
    if walk.errors.len() == before && !secrets.iter().any(|named| named.secret.is_some()) {
        walk.error(&table.key("secret_file"), "the source has no secret, expected secret_file, secret_env or secrets");
    }
    secrets
}

/// `secret_file` or `secret_env`.
fn single(table: &mut Table, walk: &mut Walk) -> Option<NamedSecret> {
    let (secret, from) = table.secret_and_place("secret", walk)?;
    Some(NamedSecret { name: "default".to_owned(), from, secret })
}

/// `{ name, file | env, optional }`
fn listed(mut table: Table, walk: &mut Walk) -> Option<NamedSecret> {
    let name = table.optional_text("name", walk);
    let (file, env) = table.secret_place("file", "env", walk);
    let optional = table.boolean("optional", false, walk);
    if name.is_none() {
        walk.error(&table.key("name"), "missing, expected a name for metrics and explain");
    }
    let (key, from, found) = match (file, env) {
        (Some(file), None) => {
            let found = secrets::from_file(&file);
            (table.key("file"), SecretFrom::File(file), found)
        }
        (None, Some(variable)) => {
            let found = secrets::from_variable(&variable, &walk.env);
            (table.key("env"), SecretFrom::Env(variable), found)
        }
        _ => {
            walk.error(&table.key("file"), "expected either file or env");
            return None;
        }
    };
    table.finish(walk, |_| None);
    let secret = match found {
        Ok(found) => {
            found.warnings.iter().for_each(|warning| walk.warn(&key, warning));
            Some(found.secret)
        }
        Err(problem) if optional && problem.is_absent() => None,
        Err(problem) => {
            walk.error(&key, problem.to_string());
            None
        }
    };
    Some(NamedSecret { name: name?, from, secret })
}
