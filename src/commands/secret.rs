//! `secret`: prints a source's secret, to paste into Alma's integration profile.
//!
//! Alma never resends after a 401. A new secret is therefore shown only once the running bridge accepts it, and none is
//! generated that would end the one that Alma uses.

use std::path::{Path, PathBuf};

use super::operator_client::confirmed;
use super::running::RunningBridge;
use super::{Failure, block_on, load, output, pick_source, reload, status};
use crate::admin::status::{ReloadOutcome, SourceStatus, Status};
use crate::config::{self, Config, Secret, SecretFrom, Source, SourceName};

const EXAMPLES: &str = "\
Examples:
  alma-bridge secret                     the secret of the only source
  alma-bridge secret --source alma-prod  the secret of one of several sources
  alma-bridge secret --new               a new one; the bridge accepts it and the previous one
  alma-bridge secret --revoke            end the previous one";

/// Print a source's secret, to paste into Alma's integration profile
///
/// In Alma: Configuration > General > External Systems > Integration Profiles > the webhook's profile > Secret. Only
/// the secret goes to stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The source; required if there are several
    #[arg(long, value_name = "NAME")]
    source: Option<SourceName>,

    /// Generate a new strong secret
    ///
    /// For the built-in source, it is written to the source's file, and the running bridge loads it before it is
    /// printed. The old secret stays valid until the next --new or --revoke. --new is refused as long as Alma may still
    /// use the secret that it would end. For a configured source, the new secret is only printed, with what to do with
    /// it.
    #[arg(long)]
    new: bool,

    /// End the previous secret at once, for instance after a leak
    ///
    /// Only for the built-in source, which accepts the secret from before the last --new until the next --new or
    /// --revoke. If Alma still uses that secret or may use it, --revoke says so and asks first. Prints no secret.
    #[arg(long, conflicts_with = "new")]
    revoke: bool,

    /// With --revoke: do not ask
    #[arg(long, requires = "revoke")]
    yes: bool,
}

pub(super) fn run(file: Option<&Path>, args: &Args) -> Result<(), Failure> {
    let mut config = load(file)?;
    let made =
        config.generate_missing().map_err(|error| Failure::failed(format!("cannot generate the secret: {error}")))?;
    let source = pick_source(&config, args.source.as_ref())?;
    let current = source.secrets.iter().find_map(|named| named.secret.as_ref());
    let generated = source.secrets.iter().find_map(|named| match &named.from {
        SecretFrom::Generated(path) => Some(path),
        _ => None,
    });
    if args.revoke {
        return revoke(&config, source, generated, args.yes);
    }
    let shown = match (args.new, generated, current) {
        // One that was generated just now is new, and there is no other.
        (true, Some(path), _) if !made.contains(path) => renew(&config, source, path)?,
        (true, None, _) => {
            errln!("{}", what_to_do(source)?);
            config::fresh_secret().map_err(Failure::failed)?
        }
        (_, _, Some(secret)) => secret.clone(),
        (_, _, None) => return Err(Failure::failed(format!("source {} has no secret yet", source.name))),
    };
    output::bytes(&[shown.expose(), b"\n"].concat())
}

const NO_BRIDGE: &str = "no bridge runs, and only a running one knows whether Alma still uses the older secret";

/// Replaces the generated secret. Returns the new one only once the running bridge accepts both.
fn renew(config: &Config, source: &Source, path: &Path) -> Result<Secret, Failure> {
    let bridge = RunningBridge::of(config.clone());
    if !bridge.is_listening() {
        if config::has_previous(path) {
            return Err(not_yet(NO_BRIDGE));
        }
        let renewed = config::renew_generated(path).map_err(Failure::failed)?;
        errln!(
            "no bridge runs. Start it with \"alma-bridge run\" before you paste this into Alma: it then accepts this and the \
             old secret, which stays valid until the next --new"
        );
        return Ok(renewed.secret);
    }
    block_on(async {
        // A reload before any change, so that what the bridge says is about these files.
        reloaded(&bridge).await.map_err(|why| unchanged(&why))?;
        let status = status_of(&bridge).await.map_err(|why| unchanged(&why))?;
        if config::has_previous(path)
            && let Some(why) = why_not_yet(&status, source)
        {
            return Err(not_yet(&why));
        }
        let renewed = config::renew_generated(path).map_err(Failure::failed)?;
        if let Err(why) = accepted(&bridge, source).await {
            renewed.undo().map_err(|error| {
                Failure::failed(format!(
                    "{why}; the bridge does not know the new secret yet, and restoring the old one failed: {error}. The old \
                     secret stays valid; do not paste the new one before \"alma-bridge reload\" succeeds"
                ))
            })?;
            return Err(unchanged(&why));
        }
        errln!("now paste this into Alma. The old secret stays valid until the next --new");
        Ok(renewed.secret)
    })
}

/// Has the bridge reload; if its sources are not in effect after that, why.
async fn reloaded(bridge: &RunningBridge) -> Result<(), String> {
    let reloaded = reload::ask(bridge).await.map_err(|failure| failure.lines().join("; "))?;
    match reloaded.outcome {
        // Secrets take effect even if a sink fails.
        ReloadOutcome::Applied | ReloadOutcome::AppliedInPart => Ok(()),
        ReloadOutcome::Refused => Err(format!("{}: {}", reload::verdict(&reloaded), reloaded.errors.join("; "))),
    }
}

async fn status_of(bridge: &RunningBridge) -> Result<Status, String> {
    let fetched = async { status::fetch(&mut bridge.client()?).await };
    fetched.await.map(|(_, status)| status).map_err(|failure| failure.lines().join("; "))
}

/// Whether the running bridge accepts both secrets now; else why not.
async fn accepted(bridge: &RunningBridge, source: &Source) -> Result<(), String> {
    reloaded(bridge).await?;
    let status = status_of(bridge).await?;
    if find(&status, source).is_some_and(|source| source.secrets.iter().any(|name| name == "previous")) {
        return Ok(());
    }
    let file = status.config.file.as_deref().unwrap_or("the built-in defaults");
    Err(format!("the running bridge (configuration: {file}) does not read this source's secrets from data_dir"))
}

fn find<'a>(status: &'a Status, source: &Source) -> Option<&'a SourceStatus> {
    status.sources.iter().find(|other| other.name == source.name.as_str())
}

/// The error if no new secret was generated.
fn unchanged(why: &str) -> Failure {
    Failure::failed(format!(
        "{why}\nno new secret: the bridge would not accept it, so nothing was changed and the old secret stays valid"
    ))
}

/// The error if a new secret would end one that Alma may use.
fn not_yet(why: &str) -> Failure {
    Failure::failed(format!(
        "no new secret: {why}, and a new one would end it\npaste the current secret (\"alma-bridge secret\" shows it) into \
         Alma, and make a new one after its first event; or end the older one yourself: \"alma-bridge secret --revoke\""
    ))
}

/// Why the older of the two secrets that are accepted may be the one that Alma uses; `None` if Alma uses the newer one.
fn why_not_yet(status: &Status, source: &Source) -> Option<String> {
    let used = |name: &str| find(status, source)?.secrets_last_used.get(name);
    let started = &status.started;
    // RFC 3339 of the same form: the order of the texts is that of the times.
    match (used("previous"), used("default")) {
        (None, Some(_)) => None,
        (Some(older), Some(newer)) if older <= newer => None,
        (Some(older), newer) => {
            let newer = newer.map_or_else(
                || format!("has not been used since the bridge started at {started}"),
                |at| format!("at {at}"),
            );
            Some(format!("Alma still uses the older secret (last used at {older}; the current one {newer})"))
        }
        (None, None) => Some(format!(
            "no event has come since the bridge started at {started}, so it cannot tell whether Alma still uses the older \
             secret"
        )),
    }
}

/// What to do with a new secret for a configured source.
fn what_to_do(source: &Source) -> Result<String, Failure> {
    if source.secrets.len() >= config::MAX_SECRETS {
        return Err(Failure::failed(format!(
            "source {} already has {} secrets, which is the maximum: remove one that Alma no longer uses first",
            source.name,
            source.secrets.len()
        )));
    }
    Ok(format!(
        "not stored anywhere: add it to source {}:\n\
         \x20 {}\n\
         run \"alma-bridge reload\" (a new environment variable needs a restart), and only then paste it into Alma.\n\
        Remove the old one once secret_last_used_timestamp_seconds shows that Alma uses the new one",
        source.name,
        secrets_line(source),
    ))
}

/// The line of the configuration with one more secret for the source.
fn secrets_line(source: &Source) -> String {
    let only = source.secrets.len() == 1;
    let mut items: Vec<String> = Vec::new();
    for named in &source.secrets {
        let name = if only { "current" } else { &named.name };
        // A missing secret must be optional. Otherwise the configuration would have been refused.
        items.push(item(name, &named.from, named.secret.is_none()));
    }
    let is_taken = |name: &String| source.secrets.iter().any(|named| named.name == *name);
    let names = std::iter::once("next".to_owned()).chain((2..).map(|number| format!("next{number}")));
    let name = names.into_iter().find(|name| !is_taken(name)).unwrap_or_default();
    let beside = source.secrets.first().map(|named| match &named.from {
        SecretFrom::File(path) | SecretFrom::Generated(path) => {
            let mut path = path.clone().into_os_string();
            path.push(format!(".{name}"));
            SecretFrom::File(path.into())
        }
        SecretFrom::Env(variable) => SecretFrom::Env(format!("{variable}_{}", name.to_uppercase())),
    });
    items.extend(beside.map(|from| item(&name, &from, false)));
    format!("secrets = [{}]", items.join(", "))
}

fn item(name: &str, from: &SecretFrom, is_optional: bool) -> String {
    // A JSON string is also a TOML string.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let place = match from {
        SecretFrom::File(path) | SecretFrom::Generated(path) => format!("file = {}", quoted(&path.to_string_lossy())),
        SecretFrom::Env(variable) => format!("env = {}", quoted(variable)),
    };
    let optional = if is_optional { ", optional = true" } else { "" };
    format!("{{ name = {}, {place}{optional} }}", quoted(name))
}

fn revoke(config: &Config, source: &Source, generated: Option<&PathBuf>, yes: bool) -> Result<(), Failure> {
    let Some(path) = generated else {
        return Err(Failure::Usage(format!(
            "the secrets of source {} are configured: remove the old one from the configuration, and a running bridge no \
             longer accepts it",
            source.name
        )));
    };
    if !config::has_previous(path) {
        errln!("there is no previous secret");
        return Ok(());
    }
    let bridge = RunningBridge::of(config.clone());
    let runs = bridge.is_listening();
    let in_use =
        if runs { block_on(async { Ok(may_be_in_use(&bridge, source).await) })? } else { Some(NO_BRIDGE.to_owned()) };
    if let Some(why) = in_use {
        confirmed(
            &format!(
                "{why}. If Alma's profile has the older secret, Alma gets a 401 for every event from now on, and those \
                 events are lost: paste the current secret (\"alma-bridge secret\" shows it) into Alma first"
            ),
            yes,
        )?;
    }
    config::revoke_previous(path)
        .map_err(|error| Failure::failed(format!("cannot revoke the previous secret: {error}")))?;
    errln!("the previous secret is removed");
    if !runs {
        errln!("no bridge runs; the next one will not accept it");
        return Ok(());
    }
    block_on(async {
        reloaded(&bridge)
            .await
            .map_err(|why| Failure::failed(format!("the running bridge still accepts it: {why}")))?;
        errln!("the running bridge no longer accepts it");
        Ok(())
    })
}

/// Why Alma may still use the older secret, as far as the running bridge can tell.
async fn may_be_in_use(bridge: &RunningBridge, source: &Source) -> Option<String> {
    let asked = async {
        // A reload before any change, so that what the bridge says is about these files.
        reloaded(bridge).await?;
        status_of(bridge).await
    };
    match asked.await {
        Ok(status) => why_not_yet(&status, source),
        Err(why) => Some(format!("the running bridge cannot tell whether Alma still uses the older secret: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamedSecret;

    fn source(secrets: &[(&str, SecretFrom)]) -> Source {
        let named = |(name, from): &(&str, SecretFrom)| NamedSecret {
            name: (*name).to_owned(),
            from: from.clone(),
            secret: Some(Secret::new(*b"made-up-secret")),
        };
        Source {
            name: "prod".parse().expect("a name"),
            path: "/webhooks".to_owned(),
            secrets: secrets.iter().map(named).collect(),
            institution: None,
            silence: None,
        }
    }

    #[test]
    fn the_suggested_line_keeps_the_secrets_and_adds_one() {
        let file = |path: &str| SecretFrom::File(path.into());
        let env = |name: &str| SecretFrom::Env(name.to_owned());
        for (secrets, line) in [
            (
                vec![("default", file("s1"))],
                r#"secrets = [{ name = "current", file = "s1" }, { name = "next", file = "s1.next" }]"#,
            ),
            (
                vec![("default", env("ALMA"))],
                r#"secrets = [{ name = "current", env = "ALMA" }, { name = "next", env = "ALMA_NEXT" }]"#,
            ),
            (
                vec![("current", file("a\"b")), ("next", file("c"))],
                r#"secrets = [{ name = "current", file = "a\"b" }, { name = "next", file = "c" }, { name = "next2", file = "a\"b.next2" }]"#,
            ),
        ] {
            assert_eq!(secrets_line(&source(&secrets)), line);
        }
        let mut optional = source(&[("a", file("a")), ("b", file("b"))]);
        optional.secrets[1].secret = None;
        assert!(secrets_line(&optional).contains(r#"{ name = "b", file = "b", optional = true }"#));
        assert!(what_to_do(&source(&["a", "b", "c", "d"].map(|name| (name, file(name))))).is_err());
    }

    #[test]
    fn a_new_secret_is_refused_until_alma_uses_the_current_one() {
        let source = source(&[]);
        let why = |used: &[(&str, &str)]| {
            let used = used.iter().map(|(name, at)| ((*name).to_owned(), (*at).to_owned())).collect();
            let known = SourceStatus { name: "prod".into(), secrets_last_used: used, ..SourceStatus::default() };
            why_not_yet(&Status { sources: vec![known], ..Status::default() }, &source)
        };
        let (early, late) = ("2024-01-02T03:04:05.678Z", "2024-01-02T03:04:06.000Z");
        assert_eq!(why(&[("default", early)]), None);
        assert_eq!(why(&[("previous", early), ("default", late)]), None);
        assert!(why(&[("previous", late), ("default", early)]).is_some_and(|why| why.contains("still uses")));
        assert!(why(&[("previous", early)]).is_some_and(|why| why.contains("still uses")));
        assert!(why(&[]).is_some_and(|why| why.contains("no event has come")));
    }
}
