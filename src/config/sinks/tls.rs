//! `tls`, for the types of sinks that connect by TCP.

use std::path::PathBuf;

use crate::config::settings::{Table, Walk};

/// TLS of a client, with PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Trusted authorities. `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Private key of the client certificate.
    pub key_file: Option<PathBuf>,
}

impl ClientTls {
    /// `None` if the table is not written. An empty table turns TLS on.
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Option<Self> {
        let mut table = table.table_if_written("tls", walk)?;
        let tls = Self {
            ca_file: table.readable_file("ca_file", walk),
            cert_file: table.readable_file("cert_file", walk),
            key_file: table.private_file("key_file", walk).map(|(file, _)| file),
        };
        if tls.cert_file.is_some() != tls.key_file.is_some() {
            walk.error(&table.key("cert_file"), "expected cert_file and key_file together");
        }
        table.finish(walk, |_| None);
        Some(tls)
    }
}
