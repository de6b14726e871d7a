//! One connection to NATS, and what it tells beside answers: that it was lost, and which subjects are denied.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config as StreamConfig, DiscardPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{ACK_TIMEOUT, Subjects, WINDOW_DEADLINE};
use crate::config::{ClientTls, NatsAuth, NatsSink as Settings, Secret, SinkName};
use crate::sinks::{Failure, Reason, message_limit};

/// For a connection, its TLS and its log-in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// For one question to JetStream's API.
const API_TIMEOUT: Duration = Duration::from_secs(5);

/// For what is on its way at a clean stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// More than a window, so that its sending never waits for a place.
const MAX_ACKS_PENDING: usize = 1_024;

/// How often the connection is asked for a sign of life; two that stay out end it.
const PING_EVERY: Duration = Duration::from_secs(5);

/// What the connection told beside answers.
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

/// News of a connection.
pub(super) struct Watch(watch::Receiver<Told>);

impl Watch {
    /// Returns once there is news since this was called last.
    pub(super) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One connection. The client ends with it.
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
            // Each server once; then the pump's own back-off takes over with a client of its own.
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
        // What was told while other servers were tried is not about this connection.
        told.send_modify(|told| *told = Told::default());
        let jetstream = jetstream::ContextBuilder::new()
            // Longer than a window: whether acknowledgements still come is for who awaits them.
            .timeout(WINDOW_DEADLINE * 2)
            .ack_timeout(ACK_TIMEOUT)
            .max_ack_inflight(MAX_ACKS_PENDING)
            .build(client.clone());
        Ok(Self { client, jetstream, told })
    }

    pub(super) fn is_up(&self) -> bool {
        self.told.borrow().lost.is_none() && self.client.connection_state() == State::Connected
    }

    /// Wakes when there is news of the connection.
    pub(super) fn watch(&self) -> Watch {
        Watch(self.told.subscribe())
    }

    /// Denials are told once a message; those of the last window say nothing of the next.
    pub(super) fn forget_denials(&self) {
        self.told.send_modify(|told| told.denied.clear());
    }

    /// Why no acknowledgement for this subject will come, where that is known.
    pub(super) fn hopeless(&self, subject: &str) -> Option<Failure> {
        self.told.borrow().hopeless(subject)
    }

    /// Resolves where no acknowledgement for this subject will come any more.
    pub(super) async fn gave_up_on(&self, subject: &str) -> Failure {
        let mut told = self.told.subscribe();
        let known = told.wait_for(|told| told.hopeless(subject).is_some()).await;
        known
            .ok()
            .and_then(|told| told.hopeless(subject))
            .unwrap_or_else(|| Failure::new(Reason::Unreachable, "connection ended"))
    }

    /// The answer of JetStream's API, under its deadline; a denial of `subject` is no answer either, but known at once.
    pub(super) async fn ask<T>(&self, subject: &str, question: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            answer = timeout(API_TIMEOUT, question) => {
                answer.map_err(|_| Failure::new(Reason::Timeout, "no answer in time"))
            }
            failure = self.gave_up_on(subject) => Err(failure),
        }
    }

    /// Sends what is on its way.
    pub(super) async fn close(self) {
        // Everything is confirmed by now; what is lost here is a good-bye.
        let _ = timeout(CLOSE_TIMEOUT, self.client.drain()).await;
    }

    /// Looks at the stream, or creates it where it is missing and may be made; says what falls short.
    pub(super) async fn prepare_stream(
        &self,
        settings: &Settings,
        subjects: &Subjects,
        max_body: usize,
    ) -> Result<Vec<String>, Failure> {
        let mut warnings = Vec::new();
        let subject = format!("$JS.API.STREAM.INFO.{}", settings.stream);
        let stream = self.ask(&subject, self.jetstream.get_stream(&settings.stream)).await;
        match stream.map(|stream| stream.map_err(|error| error.kind())) {
            Ok(Ok(stream)) => warnings.extend(falls_short(&stream.cached_info().config, settings, subjects, max_body)),
            Ok(Err(GetStreamErrorKind::JetStream(error))) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                if settings.create_stream {
                    match self.create_stream(settings, subjects).await {
                        Ok(_) => tracing::info!(stream = settings.stream, "stream created"),
                        Err(failure) => warnings.push(format!("cannot create stream {}: {failure}", settings.stream)),
                    }
                } else {
                    warnings.push(format!("stream {} does not exist and create_stream is false", settings.stream));
                }
            }
            Ok(Err(GetStreamErrorKind::JetStream(error))) => {
                return Err(Failure::new(Reason::Busy, format!("JetStream says: {error}")));
            }
            Err(failure) if failure.reason == Reason::Unreachable => return Err(failure),
            // No answer: no JetStream there yet, or no right to ask. Publishing tells which.
            Ok(Err(error)) => warnings.push(format!("cannot look at stream {}: {error}", settings.stream)),
            Err(failure) => warnings.push(format!("cannot look at stream {}: {failure}", settings.stream)),
        }
        let limit = message_limit(max_body);
        if self.client.max_payload() < limit {
            warnings.push(format!(
                "the server's max_payload is {} bytes, events can have {limit}: set max_payload in its configuration",
                self.client.max_payload()
            ));
        }
        Ok(warnings)
    }

    /// Creates the stream on these subjects. Of one that is there already with other settings: false.
    pub(super) async fn create_stream(&self, settings: &Settings, subjects: &Subjects) -> Result<bool, Failure> {
        let subject = format!("$JS.API.STREAM.CREATE.{}", settings.stream);
        let created = self.jetstream.create_stream(stream_config(settings, subjects));
        match self.ask(&subject, created).await? {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(said) if said.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                    Ok(false)
                }
                CreateStreamErrorKind::JetStream(said) => Err(Failure::new(Reason::Missing, said.to_string())),
                CreateStreamErrorKind::TimedOut => Err(Failure::new(Reason::Timeout, "no answer in time")),
                _ => Err(Failure::new(Reason::Busy, error.to_string())),
            },
        }
    }
}

/// The stream as it is created.
fn stream_config(settings: &Settings, subjects: &Subjects) -> StreamConfig {
    StreamConfig {
        name: settings.stream.clone(),
        subjects: subjects.created.clone(),
        storage: StorageType::File,
        num_replicas: settings.replicas,
        max_age: settings.max_age,
        duplicate_window: settings.duplicate_window,
        description: Some("events of Ex Libris Alma, published by alma-bridge".to_owned()),
        ..StreamConfig::default()
    }
}

/// What an existing stream, which is never altered, promises less than asked for.
pub(super) fn falls_short(
    found: &StreamConfig,
    settings: &Settings,
    subjects: &Subjects,
    max_body: usize,
) -> Vec<String> {
    let stream = &settings.stream;
    let mut warnings = Vec::new();
    if !subjects.are_taken_by(&found.subjects) {
        let (found, asked) = (found.subjects.join(", "), subjects.created.join(", "));
        warnings
            .push(format!("stream {stream} takes {found}: subjects outside it cannot be published, expected {asked}"));
    }
    if found.storage != StorageType::File {
        warnings.push(format!("stream {stream} is kept in memory: a restart of the server loses it, expected file"));
    }
    if found.num_replicas < settings.replicas {
        let (found, asked) = (found.num_replicas, settings.replicas);
        warnings.push(format!("stream {stream} has {found} replicas, expected {asked}"));
    }
    if found.duplicate_window < settings.duplicate_window {
        let (found, asked) = (found.duplicate_window, settings.duplicate_window);
        let (found, asked) = (humantime::format_duration(found), humantime::format_duration(asked));
        warnings.push(format!("stream {stream} remembers ids for {found}, expected {asked}"));
    }
    let limit = message_limit(max_body);
    if usize::try_from(found.max_message_size).is_ok_and(|size| size > 0 && size < limit) {
        let size = found.max_message_size;
        warnings.push(format!("stream {stream} has max_msg_size {size}, events can have {limit} bytes"));
    }
    let bounded = found.max_bytes > 0 || found.max_messages > 0;
    if found.no_ack {
        warnings.push(format!("stream {stream} has no_ack: it confirms nothing, so nothing can be published to it"));
    } else if bounded && found.discard == DiscardPolicy::Old {
        warnings.push(format!("stream {stream} has a bound and discards its oldest messages, read or not, to keep it"));
    }
    warnings
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
        // The client's own words may hold some of what is in the file.
        NatsAuth::Creds { file, secret } => ConnectOptions::new().credentials(&text(secret)?).map_err(|_| {
            Failure::new(Reason::Login, format!("{} holds no credentials (a JWT and a seed)", file.display()))
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

/// Where an attempt to connect goes. The client calls what TLS finds in the server's certificate an IO error, and so
/// what the server says of a log-in beside "authorization violation" (expired, revoked, too slow).
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
    use crate::config::{TopicPart, TopicTemplate};

    fn settings() -> Settings {
        Settings {
            servers: vec!["nats://127.0.0.1:4222".into()],
            stream: "ALMA".into(),
            create_stream: true,
            replicas: 1,
            max_age: Duration::from_hours(7 * 24),
            duplicate_window: Duration::from_hours(2),
            auth: NatsAuth::None,
            tls: None,
        }
    }

    fn subjects() -> Subjects {
        let parts = vec![TopicPart::Literal("alma.".to_owned()), TopicPart::Action];
        Subjects::of(&TopicTemplate { parts })
    }

    #[test]
    fn finds_the_denied_subject() {
        let said = r#"Permissions Violation for Publish to "alma.loan""#;
        assert_eq!(denied_subject(said), Some("alma.loan"));
        assert_eq!(denied_subject(&said.to_lowercase()), Some("alma.loan"));
        assert_eq!(denied_subject(r#"Permissions Violation for Subscription to "alma.loan""#), None);
        assert_eq!(denied_subject("é"), None);
    }

    #[test]
    fn a_stream_as_we_create_it_falls_short_of_nothing() {
        let mut config = stream_config(&settings(), &subjects());
        assert_eq!(falls_short(&config, &settings(), &subjects(), 8 << 20), Vec::<String>::new());
        config.subjects = vec!["alma.*".into()];
        assert_eq!(
            falls_short(&config, &settings(), &subjects(), 8 << 20),
            Vec::<String>::new(),
            "it takes every topic"
        );
    }

    #[test]
    fn says_what_falls_short() {
        let found = StreamConfig {
            subjects: vec!["alma.loan".into()],
            storage: StorageType::Memory,
            num_replicas: 1,
            duplicate_window: Duration::from_mins(2),
            max_message_size: 1_000,
            max_bytes: 1 << 20,
            ..StreamConfig::default()
        };
        let warnings = falls_short(&found, &Settings { replicas: 3, ..settings() }, &subjects(), 8 << 20);
        for (warning, part) in
            warnings.iter().zip(["alma.loan", "memory", "1 replicas", "2m", "max_msg_size 1000", "discards"])
        {
            assert!(warning.contains(part), "{warning:?} should say {part:?}");
        }
        assert_eq!(warnings.len(), 6, "{warnings:?}");
    }
}
