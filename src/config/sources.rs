//! `[sources.NAME]`: Alma's integration profiles and their secrets.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use super::generated::previous_of;
use super::names::{NotAName, SourceName};
use super::secrets::{self, Secret, SecretFrom};
use super::settings::{Expected, Table, Walk, values};

/// Secrets of one source. Each costs an HMAC for every request from a stranger.
pub const MAX_SECRETS: usize = 4;

/// One integration profile of Alma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The label of metrics, and the first part of the CloudEvents `source`.
    pub name: SourceName,
    /// The path of its listener URL, without a trailing slash (but `/` alone stays).
    pub path: String,
    /// One to [`MAX_SECRETS`]; the source accepts all of them.
    pub secrets: Vec<NamedSecret>,
    /// The institution code. An event that names another one is misdirected.
    pub institution: Option<String>,
    /// A person is needed after this long without a valid event. `None` if the source has no silence limit.
    pub silence: Option<Duration>,
}

/// A secret under the name that metrics and `explain` use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSecret {
    /// `default` if the source has only one.
    pub name: String,
    /// Where the secret is read from.
    pub from: SecretFrom,
    /// `None` only for [`SecretFrom::Generated`] before the first start, and for an optional secret that is missing.
    pub secret: Option<Secret>,
}

/// All sources, and whether they are the built-in one, because the configuration names none.
pub(super) fn read(root: &mut Table, walk: &mut Walk) -> (Vec<Source>, bool) {
    let tables = root.named_tables("sources", walk);
    if tables.is_empty() {
        let sources = built_in_sources(walk.data_dir());
        for source in &sources {
            walk.note(&format!("sources.{}.path", source.name), &source.path, false);
            walk.note(&format!("sources.{}.secret_file", source.name), "{data_dir}/webhook.secret", false);
            walk.files.extend(source.secrets.iter().filter_map(|secret| secret.from.file()).map(Path::to_owned));
            warn_of_short_secrets(source.name.as_str(), &source.secrets, walk);
        }
        return (sources, true);
    }
    let sources: Vec<Source> = tables.into_iter().filter_map(|(name, table)| source(&name, table, walk)).collect();
    let mut paths: HashMap<&str, &Source> = HashMap::new();
    for source in &sources {
        if let Some(other) = paths.insert(&source.path, source) {
            let problem =
                format!("found {:?}, which is also the path of source {}, expected another", source.path, other.name);
            walk.error(&format!("sources.{}.path", source.name), problem);
        }
    }
    (sources, false)
}

/// The source if the configuration names none: `alma` on `/webhooks`, with a secret generated at the first start.
pub fn built_in_sources(data_dir: &Path) -> Vec<Source> {
    let path = data_dir.join("webhook.secret");
    let previous = previous_of(&path);
    let read = |path: &Path| secrets::from_file(path).ok().map(|found| found.secret);
    let secret = |name: &str, secret, from| NamedSecret { name: name.to_owned(), from, secret };
    vec![Source {
        name: "alma".parse().expect("keeps to the alphabet of names"),
        path: "/webhooks".to_owned(),
        secrets: vec![
            secret("default", read(&path), SecretFrom::Generated(path)),
            secret("previous", read(&previous), SecretFrom::File(previous)),
        ],
        institution: None,
        silence: None,
    }]
}

fn warn_of_short_secrets(source: &str, secrets: &[NamedSecret], walk: &mut Walk) {
    for named in secrets {
        if let Some(warning) = named.secret.as_ref().and_then(secrets::too_short) {
            walk.warn(&format!("sources.{source}"), format!("{}: {warning}", named.name));
        }
    }
}

fn source(name: &str, mut table: Table, walk: &mut Walk) -> Option<Source> {
    let key = table.key("").trim_end_matches('.').to_owned();
    let parsed =
        name.parse().map_err(|expected: NotAName| walk.error(&key, format!("found the name {name:?}, {expected}")));
    let path = table.optional("path", walk, url_path);
    if path.is_none() && !walk.errors.iter().any(|error| error.key.as_deref() == Some(&*table.key("path"))) {
        walk.error(&table.key("path"), "missing, expected the path of the listener URL, such as \"/webhooks\"");
    }
    let secrets = named_secrets(&mut table, walk);
    warn_of_short_secrets(name, &secrets, walk);
    let institution = table.optional_text("institution", walk);
    let silence = table.optional("silence", walk, values::duration);
    table.finish(walk, |name| {
        (name == "secret")
            .then(|| ": a secret does not belong in the configuration, use secret_file or secret_env".to_owned())
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
            walk.error(&key, "found in addition to secret_file or secret_env, expected only one of them");
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
            walk.error(&key, format!("found the name {:?} twice, expected a different name for each", secret.name));
        }
    }
    // A source without a secret would refuse everything. No source may accept everything.
    if walk.errors.len() == before && !secrets.iter().any(|named| named.secret.is_some()) {
        walk.error(&table.key("secret_file"), "the source has no secret, expected secret_file, secret_env or secrets");
    }
    secrets
}

/// The path of a URL, without a trailing slash.
fn url_path(text: &str) -> Result<String, Expected> {
    let fits =
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
    if !fits {
        return Err("expected a path that begins with / and has no query, such as \"/webhooks\"".to_owned());
    }
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// `secret_file` or `secret_env`.
fn single(table: &mut Table, walk: &mut Walk) -> Option<NamedSecret> {
    let (secret, from) = table.secret_and_place("secret", walk)?;
    Some(NamedSecret { name: "default".to_owned(), from, secret })
}

/// One of `secrets`: `{ name, file | env, optional }`.
fn listed(mut table: Table, walk: &mut Walk) -> Option<NamedSecret> {
    let name = table.optional_text("name", walk);
    let mut found = table.find_secrets("file", "env", walk);
    let optional = table.boolean("optional", false, walk);
    if name.is_none() {
        walk.error(&table.key("name"), "missing, expected a name for metrics and explain");
    }
    let (Some(found), None) = (found.pop(), found.pop()) else {
        walk.error(&table.key("file"), "expected either file or env");
        return None;
    };
    table.finish(walk, |_| None);
    // `None` if it can't be read, which is an error already unless the secret is optional.
    let (secret, from) = found.read(optional, walk);
    Some(NamedSecret { name: name?, from, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_loses_its_trailing_slash() {
        assert_eq!(url_path("/a/b/").as_deref(), Ok("/a/b"));
        assert_eq!(url_path("/").as_deref(), Ok("/"));
        for bad in ["", "webhooks", "/a?b", "/a b", "/ä", "https://x/"] {
            assert!(url_path(bad).is_err(), "{bad:?}");
        }
    }
}
