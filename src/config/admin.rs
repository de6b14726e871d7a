//! `[admin]`: the listener for operators.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::settings::{Table, Walk};

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Holds the bearer token for requests that change something. Generated at the first start, with mode 0600.
    pub token_file: PathBuf,
    /// Where `POST /tools` is accepted from. It needs the token too, because it can show bodies.
    pub tools: ToolsFrom,
}

/// Where `POST /tools` is accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolsFrom {
    /// Only from this machine.
    Loopback,
    /// From anywhere.
    Network,
}

impl Admin {
    pub(super) fn read(mut table: Table, walk: &mut Walk) -> Self {
        let listen = table.address("listen", "127.0.0.1:2563", walk);
        let token_file = table.path("token_file", "{data_dir}/admin.token", walk);
        let tools = [("loopback", ToolsFrom::Loopback), ("network", ToolsFrom::Network)];
        let tools = table.choice("tools", "loopback", &tools, walk);
        table.finish(walk, |_| None);
        Self { listen, token_file, tools }
    }
}
