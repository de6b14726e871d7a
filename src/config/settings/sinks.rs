//! `[sinks.NAME]`: where events are published, and the keys of each type.

use std::path::PathBuf;

use super::Walk;
use super::properties;
use super::sections::client_tls;
use super::table::Table;
use super::values::{self, suggestion};
use crate::config::folders;
use crate::config::names::NotAName;
use crate::config::{
    BuiltIn, FileSink, Format, KafkaSink, Login, NatsAuth, NatsSink, RabbitMqSink, Secret, Sink, SinkKind, SinkName,
    Source, Start, Unroutable,
};

/// The types, and whether this binary has them.
const TYPES: [(&str, bool); 4] = [
    ("file", cfg!(feature = "file")),
    ("kafka", cfg!(feature = "kafka")),
    ("rabbitmq", cfg!(feature = "rabbitmq")),
    ("nats", cfg!(feature = "nats")),
];

/// Keys that only some types have, for the error where one stands under another.
const KEYS_OF_TYPES: [(&str, &[&str]); 4] = [
    ("file", &["dir", "rotate", "keep"]),
    ("kafka", &["brokers", "create_topics", "partitions", "replication", "properties"]),
    ("rabbitmq", &["url", "url_file", "url_env", "exchange", "declare", "unroutable"]),
    (
        "nats",
        &[
            "servers",
            "stream",
            "create_stream",
            "replicas",
            "max_age",
            "duplicate_window",
            "token_file",
            "token_env",
            "nkey_file",
            "nkey_env",
            "creds_file",
        ],
    ),
];

/// All sinks; the built-in `file` sink `main` where none is named.
pub(super) fn read(root: &mut Table, sources: &[Source], built_in: &mut BuiltIn, walk: &mut Walk) -> Vec<Sink> {
    let mut tables = root.named_tables("sinks", walk);
    built_in.sinks = tables.is_empty();
    if built_in.sinks {
        tables = vec![("main".to_owned(), Table::new("sinks.main", config::Map::new()))];
    }
    let sinks: Vec<Sink> =
        tables.into_iter().filter_map(|(name, table)| sink(&name, table, built_in.sinks, sources, walk)).collect();
    check_continues(&sinks, walk);
    check_folders(&sinks, walk);
    sinks
}

/// The sink that is continued must be gone, and only one can take its place.
fn check_continues(sinks: &[Sink], walk: &mut Walk) {
    for (index, sink) in sinks.iter().enumerate() {
        if sink.continues.as_ref().is_some_and(|continued| sinks.iter().any(|other| other.name == *continued)) {
            let problem = "names a sink that is configured itself, expected one that was taken out, or nothing";
            walk.error(&format!("sinks.{}.continues", sink.name), problem);
        }
        let other = sinks[..index].iter().find(|other| other.continues.is_some() && other.continues == sink.continues);
        if let (Some(other), Some(continued)) = (other, &sink.continues) {
            let problem = format!(
                "found \"{continued}\", which sink {} continues too; only one sink can take its place, expected \
                 start = \"oldest\" or nothing for the others",
                other.name
            );
            walk.error(&format!("sinks.{}.continues", sink.name), problem);
        }
    }
}

/// A folder belongs to one sink: two would cut off each other's half-written lines.
fn check_folders(sinks: &[Sink], walk: &mut Walk) {
    let mut seen: Vec<(PathBuf, &SinkName)> = Vec::new();
    for sink in sinks {
        let SinkKind::File(FileSink { dir, .. }) = &sink.kind else { continue };
        let folder = folders::resolve(dir);
        if let Some((_, other)) = seen.iter().find(|(known, _)| *known == folder) {
            let problem = format!(
                "found {}, which is the folder of sink {other} too; a folder belongs to one sink, expected another dir",
                dir.display()
            );
            walk.error(&format!("sinks.{}.dir", sink.name), problem);
        }
        seen.push((folder, &sink.name));
    }
}

fn sink(name: &str, mut table: Table, built_in: bool, sources: &[Source], walk: &mut Walk) -> Option<Sink> {
    let key = table.key("").trim_end_matches('.').to_owned();
    let parsed =
        name.parse().map_err(|expected: NotAName| walk.error(&key, format!("found the name {name:?}, {expected}")));
    let kind_name = kind_name(&mut table, built_in, walk);
    let topic = table.value("topic", "alma.{action}", walk, values::template);
    let formats = [("cloudevents", Format::CloudEvents), ("cloudevents-binary", Format::CloudEventsBinary)];
    let format = table.choice("format", "cloudevents", &formats, walk);
    let actions = table.list("actions", &["*"], walk, values::action);
    let asked_sources = asked_sources(&mut table, sources, walk);
    let start = table.choice("start", "next", &[("next", Start::Next), ("oldest", Start::Oldest)], walk);
    let continues =
        table.optional("continues", walk, |text| text.parse::<SinkName>().map_err(|expected| expected.to_string()));
    let setup_grace = table.duration("setup_grace", "1m", walk);
    let best_effort = table.boolean("best_effort", false, walk);
    let max_topics = table.count("max_topics", "200", 1, walk);
    let kind = match kind_name.as_deref()? {
        "kafka" => SinkKind::Kafka(kafka(&mut table, walk)),
        "rabbitmq" => SinkKind::RabbitMq(rabbitmq(&mut table, walk)),
        "nats" => SinkKind::Nats(nats(&mut table, walk)),
        _ => SinkKind::File(file(&mut table, walk)),
    };
    if format == Format::CloudEventsBinary && matches!(kind, SinkKind::File(_)) {
        walk.error(
            &table.key("format"),
            "found \"cloudevents-binary\", but a file has no headers, expected \"cloudevents\"",
        );
    }
    let this = kind.as_str();
    table.finish(walk, |name| {
        let owner = KEYS_OF_TYPES.iter().find(|(kind, keys)| *kind != this && keys.contains(&name));
        let secret = match name {
            "password" => Some(": a secret never stands in the configuration, use password_file or password_env"),
            "token" => Some(": a secret never stands in the configuration, use token_file or token_env"),
            _ => None,
        };
        let login =
            matches!(name, "username" | "password_file" | "password_env" | "tls").then_some(": not for type file");
        secret
            .or(login)
            .map(str::to_owned)
            .or_else(|| owner.map(|(kind, _)| format!(": it is for type {kind}, this is {this}")))
    });
    Some(Sink {
        name: parsed.ok()?,
        kind,
        topic,
        format,
        actions,
        sources: asked_sources,
        start,
        continues,
        setup_grace,
        best_effort,
        max_topics,
    })
}

fn kind_name(table: &mut Table, built_in: bool, walk: &mut Walk) -> Option<String> {
    let words = || TYPES.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let parse = |text: &str| match TYPES.iter().find(|(name, _)| *name == text) {
        Some((_, true)) => Ok(text.to_owned()),
        Some((_, false)) => {
            Err(format!("but this binary was built without it, expected another or a build with --features {text}"))
        }
        None => Err(format!("expected one of {}{}", words().join(", "), suggestion(text, words()))),
    };
    if built_in {
        return Some(table.value("type", "file", walk, |text| Ok(text.to_owned())));
    }
    if !table.has("type") {
        walk.error(&table.key("type"), format!("missing, expected one of {}", words().join(", ")));
        return None;
    }
    table.optional("type", walk, parse)
}

fn asked_sources(table: &mut Table, sources: &[Source], walk: &mut Walk) -> Vec<String> {
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    table.list("sources", &["*"], walk, |text| {
        if text == "*" || names.contains(&text) {
            return Ok(text.to_owned());
        }
        Err(format!("expected \"*\" or a source ({}){}", names.join(", "), suggestion(text, names.iter().copied())))
    })
}

fn file(table: &mut Table, walk: &mut Walk) -> FileSink {
    FileSink {
        dir: table.path("dir", "{data_dir}/topics", walk),
        rotate: table.size("rotate", "64MiB", walk).max(1),
        keep: table.count("keep", "16", 0, walk),
    }
}

/// `username` with `password_file` or `password_env`; both or none.
fn login(table: &mut Table, walk: &mut Walk) -> Option<Login> {
    let username = table.optional_text("username", walk);
    let password = table.secret_and_place("password", walk);
    match (username, password) {
        (Some(username), Some((password, _))) => Some(Login { username, password: password? }),
        (Some(_), None) => {
            walk.error(&table.key("password_file"), "missing beside username, expected password_file or password_env");
            None
        }
        (None, Some(_)) => {
            walk.error(&table.key("username"), "missing beside the password");
            None
        }
        (None, None) => None,
    }
}

fn kafka(table: &mut Table, walk: &mut Walk) -> KafkaSink {
    let brokers = table.list("brokers", &["127.0.0.1:9092"], walk, |text| {
        let fits = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if fits && !text.contains("://") { Ok(text.to_owned()) } else { Err("expected host:port".to_owned()) }
    });
    let properties = properties::read(table, walk);
    let broker_count = |name, table: &mut Table, walk: &mut Walk| {
        i32::try_from(table.number(name, "-1", (-1, 10_000), walk)).expect("within its bounds")
    };
    KafkaSink {
        brokers,
        create_topics: table.boolean("create_topics", true, walk),
        partitions: broker_count("partitions", table, walk),
        replication: broker_count("replication", table, walk),
        properties,
        login: login(table, walk),
        tls: client_tls(table, walk),
    }
}

fn rabbitmq(table: &mut Table, walk: &mut Walk) -> RabbitMqSink {
    const DEFAULT_URL: &str = "amqp://127.0.0.1:5672/%2f";
    let secret_url = table.secret_and_place("url", walk);
    let url = match secret_url {
        Some((secret, _)) => {
            if table.has("url") {
                walk.error(&table.key("url"), "found beside url_file or url_env, expected one of them");
            }
            table.optional("url", walk, |_| Ok(()));
            let url = secret.unwrap_or_else(|| Secret::new(DEFAULT_URL.as_bytes()));
            if !std::str::from_utf8(url.expose()).is_ok_and(|url| amqp_url(url).is_ok()) {
                walk.error(&table.key("url_file"), "expected amqp://host:port/vhost or amqps://…");
            }
            url
        }
        None => Secret::new(url_without_password(table, DEFAULT_URL, walk).into_bytes()),
    };
    let unroutable = [("keep", Unroutable::Keep), ("dead", Unroutable::Dead), ("drop", Unroutable::Drop)];
    RabbitMqSink {
        url,
        exchange: table.value("exchange", "alma", walk, |text| {
            let fits = (1..=100).contains(&text.len()) && !text.starts_with("amq.");
            if fits {
                Ok(text.to_owned())
            } else {
                Err("expected 1 to 100 bytes that do not begin with amq.".to_owned())
            }
        }),
        declare: table.boolean("declare", true, walk),
        unroutable: table.choice("unroutable", "keep", &unroutable, walk),
        login: login(table, walk),
        tls: client_tls(table, walk),
    }
}

/// The URL; where it has a password it is neither taken nor shown.
fn url_without_password(table: &mut Table, default: &str, walk: &mut Walk) -> String {
    let key = table.key("url");
    let mut password = false;
    let url = table.value("url", default, walk, |text| {
        amqp_url(text)?;
        Ok(text.to_owned())
    });
    if let Some((user, _)) = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')) {
        password = user.contains(':');
    }
    if password {
        walk.note(&key, "…", true);
        walk.error(&key, "holds a password, expected none: use url_file or url_env, or username and password_file");
        return default.to_owned();
    }
    url
}

fn amqp_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("amqp://").or_else(|| text.strip_prefix("amqps://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err("expected such as \"amqp://127.0.0.1:5672/%2f\" or \"amqps://…\"".to_owned()),
    }
}

fn nats(table: &mut Table, walk: &mut Walk) -> NatsSink {
    let servers_key = table.key("servers");
    let mut credentials = false;
    let servers = table.list("servers", &["nats://127.0.0.1:4222"], walk, |text| {
        let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
        rest.filter(|rest| !rest.is_empty())
            .map(|_| text.to_owned())
            .ok_or_else(|| "expected such as \"nats://127.0.0.1:4222\"".to_owned())
    });
    credentials |= servers.iter().any(|server| server.contains('@'));
    if credentials {
        walk.note(&servers_key, "…", true);
        walk.error(
            &servers_key,
            "holds a log-in, expected none: use username and password_file, token_file, nkey_file or creds_file",
        );
    }
    let max_age = table.duration("max_age", "7d", walk);
    let duplicate_window = table.duration("duplicate_window", "2h", walk);
    if duplicate_window > max_age && !max_age.is_zero() {
        walk.error(
            &table.key("duplicate_window"),
            "longer than max_age, which a server refuses, expected at most that",
        );
    }
    NatsSink {
        servers,
        stream: table.value("stream", "ALMA", walk, |text| {
            let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
            if fits { Ok(text.to_owned()) } else { Err("expected only A-Z, a-z, 0-9, _ and -".to_owned()) }
        }),
        create_stream: table.boolean("create_stream", true, walk),
        replicas: usize::try_from(table.number("replicas", "1", (1, 5), walk)).expect("within its bounds"),
        max_age,
        duplicate_window,
        auth: nats_auth(table, walk),
        tls: client_tls(table, walk),
    }
}

fn nats_auth(table: &mut Table, walk: &mut Walk) -> NatsAuth {
    let login = login(table, walk).map(NatsAuth::Login);
    let token = table.secret("token", walk).map(NatsAuth::Token);
    let nkey = table.secret("nkey", walk).map(NatsAuth::Nkey);
    let creds = table.private_file("creds_file", walk).map(|(file, secret)| NatsAuth::Creds { file, secret });
    let mut ways = [login, token, nkey, creds].into_iter().flatten();
    let auth = ways.next().unwrap_or(NatsAuth::None);
    if ways.next().is_some() {
        walk.error(
            &table.key("username"),
            "found several ways to log in, expected one of username, token, nkey, creds_file",
        );
    }
    auth
}
