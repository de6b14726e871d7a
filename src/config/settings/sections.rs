//! The sections that are there once.

use std::path::PathBuf;

use super::table::Table;
use super::{Walk, sinks, sources, values};
use crate::config::{
    Admin, BuiltIn, ClientTls, Config, Ingress, Journal, Log, LogFormat, Privacy, ServerTls, Storage, ToolsFrom,
};

/// Alma gives up after this; an answer must be there before.
const ALMA_WAITS: std::time::Duration = std::time::Duration::from_secs(5);

/// The whole configuration. What is wrong is with the walk; then the result is not to be used.
pub(super) fn read(mut root: Table, walk: &mut Walk) -> Config {
    let file = walk.file.clone();
    let state = walk.env.get("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next()).unwrap_or_default();
    let default_dir = if state.is_empty() { "data".to_owned() } else { state.to_owned() };
    let data_dir = PathBuf::from(root.text("data_dir", &default_dir, walk));
    walk.data_dir.get_or_insert_with(|| data_dir.clone());
    let ingress = ingress(root.table("ingress", walk), walk);
    let admin = admin(root.table("admin", walk), walk);
    let mut built_in = BuiltIn::default();
    let sources = sources::read(&mut root, &mut built_in, walk);
    let journal = journal(root.table("journal", walk), walk);
    let sinks = sinks::read(&mut root, &sources, &mut built_in, walk);
    let privacy = privacy(root.table("privacy", walk), walk);
    let log = log(root.table("log", walk), walk);
    root.finish(walk, |_| None);
    if ingress.listen == admin.listen && ingress.listen.port() != 0 {
        walk.error("admin.listen", format!("found {}, which is ingress.listen too, expected another", admin.listen));
    }
    let files = Vec::new();
    Config { file, data_dir, ingress, admin, sources, journal, sinks, privacy, log, files, built_in }
}

fn ingress(mut table: Table, walk: &mut Walk) -> Ingress {
    let listen = table.address("listen", "0.0.0.0:2562", walk);
    let max_body = table.memory("max_body", "8MiB", walk);
    let body_memory = table.memory("body_memory", "64MiB", walk);
    let header_timeout = table.some_time("header_timeout", "2s", walk);
    let body_timeout = table.some_time("body_timeout", "3s", walk);
    let answer_within = table.some_time("answer_within", "4s", walk);
    let idle_timeout = table.some_time("idle_timeout", "75s", walk);
    let max_connections = table.count("max_connections", "1024", 1, walk);
    let tls = table.table_if_written("tls", walk).and_then(|tls| server_tls(tls, walk));
    if max_body == 0 {
        walk.error(&table.key("max_body"), "found 0, expected at least 1 byte");
    }
    if body_memory < max_body {
        walk.error(&table.key("body_memory"), "less than ingress.max_body, expected at least as much");
    }
    if answer_within >= ALMA_WAITS {
        walk.error(&table.key("answer_within"), "Alma waits 5 s, expected less");
    }
    table.finish(walk, |_| None);
    Ingress {
        listen,
        max_body,
        body_memory,
        header_timeout,
        body_timeout,
        answer_within,
        idle_timeout,
        max_connections,
        tls,
    }
}

fn server_tls(mut table: Table, walk: &mut Walk) -> Option<ServerTls> {
    let cert_file = table.readable_file("cert_file", walk);
    let key_file = table.private_file("key_file", walk).map(|(file, _)| file);
    for (name, file) in [("cert_file", &cert_file), ("key_file", &key_file)] {
        if file.is_none() {
            walk.error(&table.key(name), "missing, expected a PEM file");
        }
    }
    table.finish(walk, |_| None);
    Some(ServerTls { cert_file: cert_file?, key_file: key_file? })
}

fn admin(mut table: Table, walk: &mut Walk) -> Admin {
    let listen = table.address("listen", "127.0.0.1:2563", walk);
    let token_file = table.path("token_file", "{data_dir}/admin.token", walk);
    let tools = [("loopback", ToolsFrom::Loopback), ("network", ToolsFrom::Network)];
    let tools = table.choice("tools", "loopback", &tools, walk);
    table.finish(walk, |_| None);
    Admin { listen, token_file, tools }
}

fn journal(mut table: Table, walk: &mut Walk) -> Journal {
    let journal = Journal {
        storage: table.choice("storage", "disk", &[("disk", Storage::Disk), ("none", Storage::None)], walk),
        max_size: table.size("max_size", "8GiB", walk),
        min_free: table.size("min_free", "256MiB", walk),
        retain: table.duration("retain", "24h", walk),
        retain_size: table.size("retain_size", "1GiB", walk),
        dedupe_window: table.duration("dedupe_window", "12h", walk),
        dedupe_max: table.count("dedupe_max", "500000", 0, walk),
        dead_max_size: table.size("dead_max_size", "1GiB", walk),
    };
    table.finish(walk, |_| None);
    journal
}

fn privacy(mut table: Table, walk: &mut Walk) -> Privacy {
    let key = table.secret("key", walk);
    table.finish(walk, |_| None);
    Privacy { key }
}

fn log(mut table: Table, walk: &mut Walk) -> Log {
    let format = table.optional_choice("format", &[("json", LogFormat::Json), ("text", LogFormat::Text)], walk);
    if format.is_none() && !walk.values.contains_key("log.format") {
        walk.note("log.format", "text on a terminal, json elsewhere", false);
    }
    let level = table.value("level", "info", walk, values::log_directives);
    table.finish(walk, |_| None);
    Log { format, level }
}

/// TLS of a client; given at all, even empty, it is on.
pub(super) fn client_tls(table: &mut Table, walk: &mut Walk) -> Option<ClientTls> {
    let mut tls = table.table_if_written("tls", walk)?;
    let settings = ClientTls {
        ca_file: tls.readable_file("ca_file", walk),
        cert_file: tls.readable_file("cert_file", walk),
        key_file: tls.private_file("key_file", walk).map(|(file, _)| file),
    };
    if settings.cert_file.is_some() != settings.key_file.is_some() {
        walk.error(&tls.key("cert_file"), "expected cert_file and key_file together");
    }
    tls.finish(walk, |_| None);
    Some(settings)
}
