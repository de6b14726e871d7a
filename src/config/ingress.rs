//! `[ingress]`: the listener for Alma and its limits.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::settings::{Table, Walk};

/// How long Alma waits for an answer.
const ALMA_WAITS: Duration = Duration::from_secs(5);

/// The listener for Alma and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// In bytes. A larger body gets 503.
    pub max_body: usize,
    /// Bytes of all bodies that are not yet durable. A body that would exceed it gets 503.
    pub body_memory: usize,
    /// From the connection (or the previous answer) to the end of the head.
    pub header_timeout: Duration,
    /// From the head to the end of the body.
    pub body_timeout: Duration,
    /// From the head to the answer, including the body.
    pub answer_within: Duration,
    /// How long a connection may be silent between requests.
    pub idle_timeout: Duration,
    /// If this many are open, one of them gives way to a new one.
    pub max_connections: usize,
    /// `None` for plain HTTP.
    pub tls: Option<ServerTls>,
}

/// Certificate and key of a listener, in PEM. The bridge picks up renewed files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate chain, leaf first.
    pub cert_file: PathBuf,
    /// Private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

impl Ingress {
    pub(super) fn read(mut table: Table, walk: &mut Walk) -> Self {
        let ingress = Self {
            listen: table.address("listen", "0.0.0.0:2562", walk),
            max_body: table.memory("max_body", "8MiB", walk),
            body_memory: table.memory("body_memory", "64MiB", walk),
            header_timeout: table.some_time("header_timeout", "2s", walk),
            body_timeout: table.some_time("body_timeout", "3s", walk),
            answer_within: table.some_time("answer_within", "4s", walk),
            idle_timeout: table.some_time("idle_timeout", "75s", walk),
            max_connections: table.count("max_connections", "1024", 1, walk),
            tls: table.table_if_written("tls", walk).and_then(|tls| ServerTls::read(tls, walk)),
        };
        if ingress.max_body == 0 {
            walk.error(&table.key("max_body"), "found 0, expected at least 1 byte");
        }
        if ingress.body_memory < ingress.max_body {
            walk.error(&table.key("body_memory"), "less than ingress.max_body, expected at least as much");
        }
        if ingress.answer_within >= ALMA_WAITS {
            walk.error(&table.key("answer_within"), "expected less than the 5 s that Alma waits");
        }
        table.finish(walk, |_| None);
        ingress
    }
}

impl ServerTls {
    fn read(mut table: Table, walk: &mut Walk) -> Option<Self> {
        let cert_file = table.readable_file("cert_file", walk);
        let key_file = table.private_file("key_file", walk).map(|(file, _)| file);
        for (name, file) in [("cert_file", &cert_file), ("key_file", &key_file)] {
            if file.is_none() {
                walk.error(&table.key(name), "missing, expected a PEM file");
            }
        }
        table.finish(walk, |_| None);
        Some(Self { cert_file: cert_file?, key_file: key_file? })
    }
}
