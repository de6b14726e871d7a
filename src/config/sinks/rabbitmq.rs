//! `type = "rabbitmq"`: RabbitMQ.

use super::login::Login;
use super::tls::ClientTls;
use crate::config::secrets::Secret;
use crate::config::settings::{Expected, Table, Walk};

/// The keys of `type = "rabbitmq"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RabbitMqSink {
    /// `amqp://` or `amqps://` with host, port and vhost. A secret, because a URL from `url_file` may hold a password.
    pub url: Secret,
    /// The topic exchange.
    pub exchange: String,
    /// Whether the bridge declares a missing exchange.
    pub declare: bool,
    /// What happens to an event that no queue is bound for.
    pub unroutable: Unroutable,
    /// `None` if the URL holds user and password, or for RabbitMQ's guest.
    pub login: Option<Login>,
    /// `None` for a plain connection, unless the URL says `amqps`.
    pub tls: Option<ClientTls>,
}

/// What happens to an event that RabbitMQ returns as unroutable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// The alternate exchange keeps it. Without an alternate exchange, the bridge parks the topic.
    Keep,
    /// It becomes a dead letter.
    Dead,
    /// It counts as delivered.
    Drop,
}

impl RabbitMqSink {
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Self {
        let unroutable = [("keep", Unroutable::Keep), ("dead", Unroutable::Dead), ("drop", Unroutable::Drop)];
        Self {
            url: url(table, walk),
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
            login: Login::read(table, walk),
            tls: ClientTls::read(table, walk),
        }
    }
}

fn url(table: &mut Table, walk: &mut Walk) -> Secret {
    const DEFAULT: &str = "amqp://127.0.0.1:5672/%2f";
    let Some((secret, _)) = table.secret_and_place("url", walk) else {
        return Secret::new(url_without_password(table, DEFAULT, walk).into_bytes());
    };
    if table.has("url") {
        walk.error(&table.key("url"), "found in addition to url_file or url_env, expected only one of them");
    }
    table.optional("url", walk, |_| Ok(()));
    let url = secret.unwrap_or_else(|| Secret::new(DEFAULT.as_bytes()));
    if !std::str::from_utf8(url.expose()).is_ok_and(|url| check_url(url).is_ok()) {
        walk.error(&table.key("url_file"), "expected amqp://host:port/vhost or amqps://…");
    }
    url
}

/// The URL. If it holds a password, that is an error that does not show it.
fn url_without_password(table: &mut Table, default: &str, walk: &mut Walk) -> String {
    let key = table.key("url");
    let url = table.value("url", default, walk, |text| check_url(text).map(|()| text.to_owned()));
    let login = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
    if login.is_some_and(|(login, _)| login.contains(':')) {
        walk.note(&key, "…", true);
        walk.error(&key, "holds a password, expected none: use url_file or url_env, or username and password_file");
        return default.to_owned();
    }
    url
}

fn check_url(text: &str) -> Result<(), Expected> {
    let rest = text.strip_prefix("amqp://").or_else(|| text.strip_prefix("amqps://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
        _ => Err("expected a URL such as \"amqp://127.0.0.1:5672/%2f\" or \"amqps://…\"".to_owned()),
    }
}
