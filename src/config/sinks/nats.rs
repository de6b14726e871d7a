//! `type = "nats"`: NATS JetStream.

use std::path::PathBuf;
use std::time::Duration;

use super::login::Login;
use super::tls::ClientTls;
use crate::config::secrets::Secret;
use crate::config::settings::{Table, Walk};

/// The keys of `type = "nats"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSink {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub servers: Vec<String>,
    /// The JetStream stream.
    pub stream: String,
    /// Whether the bridge creates a missing stream.
    pub create_stream: bool,
    /// For a stream that the bridge creates: 1 to 5.
    pub replicas: usize,
    /// For a stream that the bridge creates: how long messages stay.
    pub max_age: Duration,
    /// For a stream that the bridge creates: how long it remembers message ids.
    pub duplicate_window: Duration,
    /// How to log in.
    pub auth: NatsAuth,
    /// `None` for a plain connection, unless a server's URL says `tls`.
    pub tls: Option<ClientTls>,
}

/// How to log in to NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsAuth {
    /// Without credentials.
    None,
    /// With user and password.
    Login(Login),
    /// With a token.
    Token(Secret),
    /// With an nkey seed.
    Nkey(Secret),
    /// With a credentials file (JWT and seed).
    Creds {
        /// Where the credentials were read from.
        file: PathBuf,
        /// The content of the file.
        secret: Secret,
    },
}

impl NatsSink {
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Self {
        let servers = servers(table, walk);
        let max_age = table.duration("max_age", "7d", walk);
        let duplicate_window = table.duration("duplicate_window", "2h", walk);
        if duplicate_window > max_age && !max_age.is_zero() {
            let problem = "longer than max_age, which servers refuse: expected at most max_age";
            walk.error(&table.key("duplicate_window"), problem);
        }
        Self {
            servers,
            stream: table.value("stream", "ALMA", walk, |text| {
                let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
                if fits { Ok(text.to_owned()) } else { Err("expected only A-Z, a-z, 0-9, _ and -".to_owned()) }
            }),
            create_stream: table.boolean("create_stream", true, walk),
            replicas: usize::try_from(table.number("replicas", "1", (1, 5), walk)).expect("within its bounds"),
            max_age,
            duplicate_window,
            auth: NatsAuth::read(table, walk),
            tls: ClientTls::read(table, walk),
        }
    }
}

fn servers(table: &mut Table, walk: &mut Walk) -> Vec<String> {
    let servers = table.list("servers", &["nats://127.0.0.1:4222"], walk, |text| {
        let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
        rest.filter(|rest| !rest.is_empty())
            .map(|_| text.to_owned())
            .ok_or_else(|| "expected a URL such as \"nats://127.0.0.1:4222\"".to_owned())
    });
    if servers.iter().any(|server| server.contains('@')) {
        let key = table.key("servers");
        walk.note(&key, "…", true);
        walk.error(
            &key,
            "contains a login, expected none: use username and password_file, token_file, nkey_file or creds_file",
        );
    }
    servers
}

impl NatsAuth {
    fn read(table: &mut Table, walk: &mut Walk) -> Self {
        let login = Login::read(table, walk).map(Self::Login);
        let token = table.secret("token", walk).map(Self::Token);
        let nkey = table.secret("nkey", walk).map(Self::Nkey);
        let creds = table.private_file("creds_file", walk).map(|(file, secret)| Self::Creds { file, secret });
        let mut ways = [login, token, nkey, creds].into_iter().flatten();
        let auth = ways.next().unwrap_or(Self::None);
        if ways.next().is_some() {
            let problem = "found several ways to log in, expected one of username, token, nkey, creds_file";
            walk.error(&table.key("username"), problem);
        }
        auth
    }
}
