//! Where the broker is and how to log in. Combines the URL, `tls`, `username` and the password.

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use crate::config::{ClientTls, RabbitMqSink as Settings};
use crate::sinks::{Failure, Reason};

/// In seconds. A broker that hangs is noticed after two heartbeats. RabbitMQ's guide recommends 5 to 20 s.
const HEARTBEAT: u16 = 10;

/// An eighth of RabbitMQ's own limit. The client keeps room for 64 frames per connection, and most events fit into one.
const FRAME_MAX: u32 = 16 * 1024;

/// The maximum bytes of a vhost, exchange or routing key (AMQP 0-9-1, short string).
pub(super) const MAX_SHORT: usize = 255;

/// A checked address. Has no `Debug`, because the URI contains a password.
pub(super) struct Address {
    pub(super) uri: AMQPUri,
    tls: Option<ClientTls>,
}

impl Address {
    /// The address in these settings. Errors quote nothing of the URL, which may contain a password.
    pub(super) fn of(settings: &Settings) -> Result<Self, Failure> {
        let bad = |problem: &str| Failure::new(Reason::Unreachable, format!("url: {problem}"));
        let text = std::str::from_utf8(settings.url.expose()).map_err(|_| bad("expected UTF-8"))?;
        // With `tls`, the scheme is amqps, and 5671 the default port.
        let text = match (&settings.tls, text.strip_prefix("amqp://")) {
            (Some(_), Some(rest)) => format!("amqps://{rest}"),
            _ => text.to_owned(),
        };
        let expected = "expected amqp://host:port/vhost or amqps://host:port/vhost";
        let mut uri: AMQPUri = text.parse().map_err(|_| bad(expected))?;
        let authority = authority(&text).ok_or_else(|| bad(expected))?;
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        // lapin does not understand an IPv6 address, and takes a missing host for localhost.
        if let Some((inner, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            inner.clone_into(&mut uri.authority.host);
        } else if host.is_empty() || host.starts_with(':') {
            return Err(bad("no host, expected amqp://host:port/vhost"));
        }
        // Strictly, `amqp://host/` means the empty vhost. Nobody has such a vhost, and the secrets that Kubernetes
        // operators generate use it for `/`.
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        if uri.vhost.len() > MAX_SHORT {
            return Err(bad("the vhost has more than 255 bytes"));
        }
        if let Some(login) = &settings.login {
            let password = String::from_utf8(login.password.expose().to_vec());
            uri.authority.userinfo.username.clone_from(&login.username);
            uri.authority.userinfo.password =
                password.map_err(|_| Failure::new(Reason::Login, "the password is not UTF-8"))?;
        }
        let by_certificate = settings.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
        if by_certificate && settings.login.is_none() && user.is_none() {
            uri.query.auth_mechanism.get_or_insert(SASLMechanism::External);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        let tls = (uri.scheme == AMQPScheme::AMQPS).then(|| settings.tls.clone().unwrap_or_default());
        Ok(Self { uri, tls })
    }

    /// The name or address. An IPv6 address has no brackets.
    pub(super) fn host(&self) -> &str {
        &self.uri.authority.host
    }

    pub(super) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// `None` for a plain connection.
    pub(super) const fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// `PLAIN`, `EXTERNAL`, or what the URL asks for.
    pub(super) fn mechanism(&self) -> SASLMechanism {
        self.uri.query.auth_mechanism.unwrap_or_default()
    }

    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }
}

/// The part between `://` and the path.
fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split(['/', '?', '#']).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Login, Secret};
    use crate::sinks::rabbitmq::tests::settings;

    fn with_url(url: &str) -> Settings {
        Settings { url: Secret::new(url.as_bytes()), ..settings() }
    }

    fn of(settings: &Settings) -> Address {
        Address::of(settings).expect("a good address")
    }

    #[test]
    fn reads_host_port_vhost_and_user() {
        let address = of(&with_url("amqp://ann:s%2fcret@broker:5673/my%2fhost"));
        assert_eq!((address.host(), address.port(), address.vhost()), ("broker", 5673, "my/host"));
        assert_eq!((address.user(), address.uri.authority.userinfo.password.as_str()), ("ann", "s/cret"));
        assert_eq!(address.mechanism(), SASLMechanism::Plain);
        assert!(address.tls().is_none());
    }

    #[test]
    fn without_a_path_or_with_an_empty_one_the_vhost_is_the_default() {
        for url in [
            "amqp://broker",
            "amqp://broker/",
            "amqp://broker:5672/?heartbeat=5",
            "amqps://ann:x@broker/",
            "amqp://broker/%2f",
        ] {
            assert_eq!(of(&with_url(url)).vhost(), "/", "{url}");
        }
    }

    #[test]
    fn an_ipv6_address_is_kept() {
        let address = of(&with_url("amqp://[2001:db8::1]:5673/%2f"));
        assert_eq!((address.host(), address.port()), ("2001:db8::1", 5673));
    }

    #[test]
    fn the_scheme_or_the_settings_turn_tls_on() {
        assert_eq!(of(&with_url("amqps://broker")).port(), 5671);
        assert!(of(&with_url("amqps://broker")).tls().is_some());
        let tls = Settings { tls: Some(ClientTls::default()), ..with_url("amqp://broker/%2f") };
        let address = of(&tls);
        assert_eq!((address.port(), address.tls().is_some()), (5671, true));
    }

    #[test]
    fn a_certificate_logs_in_unless_there_is_a_user() {
        let cert = ClientTls { cert_file: Some("a".into()), key_file: Some("b".into()), ca_file: None };
        let by_certificate = Settings { tls: Some(cert), ..with_url("amqps://broker") };
        assert_eq!(of(&by_certificate).mechanism(), SASLMechanism::External);
        let named = Settings { url: Secret::new(&b"amqps://ann:x@broker"[..]), ..by_certificate.clone() };
        assert_eq!(of(&named).mechanism(), SASLMechanism::Plain);
        let login = Login { username: "ann".into(), password: Secret::new(&b"x"[..]) };
        let with_login = Settings { login: Some(login), ..by_certificate };
        assert_eq!((of(&with_login).mechanism(), of(&with_login).user()), (SASLMechanism::Plain, "ann"));
    }

    #[test]
    fn errors_do_not_quote_the_url() {
        let long = format!("amqp://broker/{}", "v".repeat(256));
        for url in ["amqp://ann:secret@", "http://ann:secret@h", "amqp://:5672/secret", long.as_str()] {
            let failure = Address::of(&with_url(url)).err().expect("refused");
            assert!(!failure.detail.contains("secret") && failure.detail.starts_with("url: "), "{failure}");
        }
    }
}
