//! One connection to NATS, and its events: that it was lost, and which subjects are denied.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{ACK_TIMEOUT, WINDOW_DEADLINE};
use crate::config::{ClientTls, NatsAuth, NatsSink as Settings, Secret, SinkName};
use crate::sinks::{Failure, Reason};

/// Time limit for a connection, TLS and login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for one request to JetStream's API.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for what is in flight at a graceful shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// More than a window, so that sending one never waits.
const MAX_ACKS_PENDING: usize = 1_024;

/// How often to ping the server. Two missing pongs end the connection.
const PING_EVERY: Duration = Duration::from_secs(5);

/// The events of a connection so far.
#[derive(Clone, Debug, Default)]
struct Told {
    lost: Option<String>,
    denied: HashSet<String>,
}

impl Told {
    fn hopeless(&self, subject: &str) -> Option<Failure> {
        if let Some(why) = &self.lost {
            return Some(Failure::new(Reason::Unreachable, why.clone()));
        }
        let denied = || Failure::new(Reason::Rights, format!("the server denies this user to publish to {subject}"));
        self.denied.contains(subject).then(denied)
    }
}

/// Waits for events of a connection.
pub(super) struct Watch(watch::Receiver<Told>);

impl Watch {
    /// Returns when there has been an event since the last call.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One connection. Dropping it ends the client.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    told: watch::Sender<Told>,
}

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(name: &SinkName, settings: &Settings) -> Result<Self, Failure> {
        let told = watch::Sender::new(Told::default());
        let options = options(settings)?;
        let sender = told.clone();
        let options = options
            .name(format!("alma-bridge/{name}"))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(API_TIMEOUT))
            .ping_interval(PING_EVERY)
            .reconnect_delay_callback(|_| Duration::ZERO)
            // Tries each server once. After that, the pump backs off and starts a new client.
            .max_reconnects(settings.servers.len().max(1) * 2)
            .event_callback(move |event| {
                hear(&sender, &event);
                std::future::ready(())
            });
        let connecting = options.connect(settings.servers.as_slice());
        let client = match timeout(CONNECT_TIMEOUT * 2, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(sort(&error)),
            Err(_) => return Err(Failure::new(Reason::Unreachable, "no connection in time")),
        };
        // Events from trying other servers are not about this connection.
        told.send_modify(|told| *told = Told::default());
        let jetstream = jetstream::ContextBuilder::new()
            // Longer than a window, because whoever awaits the acknowledgements has a deadline.
            .timeout(WINDOW_DEADLINE * 2)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(MAX_ACKS_PENDING)
            .build(client.clone());
        Ok(Self { client, jetstream, told })
    }

    pub(super) fn is_up(&self) -> bool {
        self.told.borrow().lost.is_none() && self.client.connection_state() == State::Connected
    }

    /// A watch on the connection's events.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.told.subscribe())
    }

    /// Forgets denials. The server repeats them for each message, so those of the last window say nothing about the
    /// next.
    pub(super) fn forget_denials(&self) {
        self.told.send_modify(|told| told.denied.clear());
    }

    /// Why no acknowledgement for this subject will arrive, if that is known.
    pub(super) fn hopeless(&self, subject: &str) -> Option<Failure> {
        self.told.borrow().hopeless(subject)
    }

    /// Resolves when no acknowledgement for this subject will arrive any more.
    pub(super) async fn gave_up_on(&self, subject: &str) -> Failure {
        let mut told = self.told.subscribe();
        let known = told.wait_for(|told| told.hopeless(subject).is_some()).await;
        known
            .ok()
            .and_then(|told| told.hopeless(subject))
            .unwrap_or_else(|| Failure::new(Reason::Unreachable, "connection ended"))
    }

    /// Awaits an answer of JetStream's API within [`API_TIMEOUT`]. A denial of `subject` ends the wait at once.
    pub(super) async fn ask<T>(&self, subject: &str, question: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            answer = timeout(API_TIMEOUT, question) => {
                answer.map_err(|_| Failure::new(Reason::Timeout, "no answer in time"))
            }
            failure = self.gave_up_on(subject) => Err(failure),
        }
    }

    /// Closes the connection, after it has sent what is in flight.
    pub(super) async fn close(self) {
        // Everything is already confirmed, so a failure loses nothing.
        let _ = timeout(CLOSE_TIMEOUT, self.client.drain()).await;
    }
}

fn hear(told: &watch::Sender<Told>, event: &Event) {
    match event {
        Event::Disconnected => told.send_modify(|told| told.lost = Some("connection lost".to_owned())),
        Event::Closed => told.send_modify(|told| {
            told.lost.get_or_insert_with(|| "connection closed".to_owned());
        }),
        Event::ServerError(ServerError::Other(text)) => {
            if let Some(subject) = denied_subject(text) {
                told.send_modify(|told| {
                    told.denied.insert(subject.to_owned());
                });
            }
        }
        _ => {}
    }
}

/// The subject of `Permissions Violation for Publish to "alma.loan"`.
fn denied_subject(text: &str) -> Option<&str> {
    const SAID: &[u8] = b"permissions violation for publish to";
    let at = text.get(..SAID.len()).filter(|start| start.as_bytes().eq_ignore_ascii_case(SAID))?.len();
    text[at..].trim().strip_prefix('"')?.split('"').next()
}

fn options(settings: &Settings) -> Result<ConnectOptions, Failure> {
    let options = match &settings.auth {
        NatsAuth::None => ConnectOptions::new(),
        NatsAuth::Login(login) => {
            ConnectOptions::new().user_and_password(login.username.clone(), text(&login.password)?)
        }
        NatsAuth::Token(token) => ConnectOptions::new().token(text(token)?),
        NatsAuth::Nkey(seed) => ConnectOptions::new().nkey(text(seed)?.trim().to_owned()),
        // The client's own message may quote the file.
        NatsAuth::Creds { file, secret } => ConnectOptions::new().credentials(&text(secret)?).map_err(|_| {
            Failure::new(Reason::Login, format!("{} contains no credentials (a JWT and a seed)", file.display()))
        })?,
    };
    Ok(match &settings.tls {
        Some(tls) => with_tls(options, tls),
        None => options,
    })
}

fn with_tls(mut options: ConnectOptions, tls: &ClientTls) -> ConnectOptions {
    options = options.require_tls(true);
    if let Some(ca) = &tls.ca_file {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options
}

fn text(secret: &Secret) -> Result<String, Failure> {
    String::from_utf8(secret.expose().to_vec()).map_err(|_| Failure::new(Reason::Login, "the secret is not UTF-8"))
}

/// The failure for an attempt to connect. The client reports problems with the server's certificate as I/O errors, and
/// likewise refused logins other than "authorization violation" (expired, revoked, too slow).
pub(super) fn sort(error: &ConnectError) -> Failure {
    use std::error::Error as _;
    let source = error.source();
    let of_tls = || {
        let error = source.and_then(|source| source.downcast_ref::<std::io::Error>()).and_then(std::io::Error::get_ref);
        error.and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
    };
    let of_log_in = || {
        let said = source.and_then(|source| source.downcast_ref::<ServerError>());
        matches!(said, Some(ServerError::Other(text)) if text.to_ascii_lowercase().contains("authentication"))
    };
    let reason = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Tls => {
            Reason::Login
        }
        ConnectErrorKind::Io if of_tls() || of_log_in() => Reason::Login,
        _ => Reason::Unreachable,
    };
    Failure::new(reason, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_denied_subject_is_found() {
        let said = r#"Permissions Violation for Publish to "alma.loan""#;
        assert_eq!(denied_subject(said), Some("alma.loan"));
        assert_eq!(denied_subject(&said.to_lowercase()), Some("alma.loan"));
        assert_eq!(denied_subject(r#"Permissions Violation for Subscription to "alma.loan""#), None);
        assert_eq!(denied_subject("é"), None);
    }
}
