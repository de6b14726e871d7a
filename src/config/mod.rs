//! The configuration as the program uses it: complete, validated, typed.
//!
//! Two stages: what the operator wrote (built-in defaults, then the file, then `ALMA_BRIDGE__…` variables) is read
//! in `settings` and becomes a [`Config`], or a list of everything that is wrong with it. Nothing behind this
//! module asks whether a value is set. Config is read by all other modules and reads none of them.

mod changes;
mod folders;
pub mod names;
mod secrets;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use changes::Changes;
pub use names::{SinkName, SourceName};
pub use secrets::{
    MAX_SECRETS, Renewed, built_in_sources, fresh_secret, has_previous, renew_generated, revoke_previous,
};
pub use settings::{
    ConfigError, ConfigErrors, ENV_PREFIX, Effective, Loaded, load, load_defaults, parse_action, reload, salvage,
};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from; none where the built-in defaults stand alone.
    pub file: Option<PathBuf>,
    /// Where the journal, the topic files, the generated secret and the admin token live.
    pub data_dir: PathBuf,
    /// The listener for Alma.
    pub ingress: Ingress,
    /// The listener for operators.
    pub admin: Admin,
    /// Alma's integration profiles, at least one, in order of their names; paths are unique.
    pub sources: Vec<Source>,
    /// The durable log.
    pub journal: Journal,
    /// Where events are published, at least one, in order of their names.
    pub sinks: Vec<Sink>,
    /// What becomes of personal data.
    pub privacy: Privacy,
    /// The program's own log.
    pub log: Log,
    /// Every other file that it was read from: secrets, keys, certificates, credentials.
    pub files: Vec<PathBuf>,
    /// What nobody wrote, so that a reload can tell it from what somebody did.
    pub built_in: BuiltIn,
}

/// What of a configuration is the program's own, because the operator wrote nothing in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuiltIn {
    /// No source was named: the only one is the built-in one.
    pub sources: bool,
    /// No sink was named: the only one is the built-in one.
    pub sinks: bool,
    /// Keys that have their default, such as `sinks.main.topic`.
    pub keys: BTreeSet<String>,
}

impl Config {
    /// The journal's folder.
    pub fn journal_dir(&self) -> PathBuf {
        self.data_dir.join("journal")
    }
}

/// `[ingress]`: the listener for Alma and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Largest body in bytes; a larger one is 503.
    pub max_body: usize,
    /// Bytes of all bodies that are not yet durable; over it 503.
    pub body_memory: usize,
    /// From the connection (or the last answer) to the whole head.
    pub header_timeout: Duration,
    /// From the head to the whole body.
    pub body_timeout: Duration,
    /// From the head to the answer, the body included.
    pub answer_within: Duration,
    /// How long a connection may be silent between requests.
    pub idle_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// HTTPS, where configured.
    pub tls: Option<ServerTls>,
}

/// Certificate and key of a listener, PEM; renewed files are picked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Certificate chain, leaf first.
    pub cert_file: PathBuf,
    /// Private key: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// `[admin]`: the listener for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Bearer token for what changes something; made at the first start, 0600.
    pub token_file: PathBuf,
    /// Who may use `POST /tools`, which can show bodies, besides having the token.
    pub tools: ToolsFrom,
}

/// Where `POST /tools` is accepted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolsFrom {
    /// From this machine.
    Loopback,
    /// From everywhere.
    Network,
}

/// `[sources.NAME]`: one integration profile of Alma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name: the metrics' label and the first part of the CloudEvents `source`.
    pub name: SourceName,
    /// The path of its listener URL, without a trailing slash (`/` alone stays).
    pub path: String,
    /// One to four, all accepted.
    pub secrets: Vec<NamedSecret>,
    /// The institution code that events must name where they name one.
    pub institution: Option<String>,
    /// Warn when no valid event has come for this long.
    pub silence: Option<Duration>,
}

/// A secret under the name that metrics and `explain` use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSecret {
    /// `default` where the source has but one.
    pub name: String,
    /// Where it is read from.
    pub from: SecretFrom,
    /// None only for [`SecretFrom::Generated`] before the first start and for one that is optional and missing.
    pub secret: Option<Secret>,
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file; one trailing line end is not part of the secret.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// Generated into this file at the first start, 0600.
    Generated(PathBuf),
}

impl SecretFrom {
    /// The file, where it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Generated(path) => Some(path),
            Self::Env(_) => None,
        }
    }
}

/// Bytes that never show: not in a log, an error, `/status` or a Debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps the bytes as they are.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for an HMAC or a log-in.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// `[journal]`: the durable log and its bounds, in bytes of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// On disk, or not at all.
    pub storage: Storage,
    /// Of undelivered events; what would pass it is 503.
    pub max_size: u64,
    /// Free bytes of the disk under which it is 503.
    pub min_free: u64,
    /// How long delivered events stay for replay.
    pub retain: Duration,
    /// How many bytes of delivered events stay.
    pub retain_size: u64,
    /// How long a repeat is recognised.
    pub dedupe_window: Duration,
    /// How many newest events are recognised.
    pub dedupe_max: usize,
    /// Dead letters of one sink; over it the sink waits.
    pub dead_max_size: u64,
}

/// Where events are kept until they are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// The journal.
    Disk,
    /// Nowhere: the 2xx waits for every sink that wants the event.
    None,
}

/// `[sinks.NAME]`: one place where events are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Its name, which keeps its place in the journal whatever its type.
    pub name: SinkName,
    /// What it is and how it is reached.
    pub kind: SinkKind,
    /// The topic's template, such as `alma.{action}`.
    pub topic: TopicTemplate,
    /// How an event is written.
    pub format: Format,
    /// Actions (`job_end`), actions with event (`loan.loan_returned`), or `*`.
    pub actions: Vec<String>,
    /// Names of sources, or `*`.
    pub sources: Vec<String>,
    /// Where a new name begins.
    pub start: Start,
    /// The sink whose place this one takes over.
    pub continues: Option<SinkName>,
    /// How long a topic that needs an operator is retried before it is parked.
    pub setup_grace: Duration,
    /// When the journal is full its oldest waiting events are given up instead of a 503.
    pub best_effort: bool,
    /// Topics beyond this many become dead letters.
    pub max_topics: usize,
}

#[cfg(test)]
impl Sink {
    /// With the defaults; its files are never written.
    pub(crate) fn sample(name: SinkName) -> Self {
        Self {
            name,
            kind: SinkKind::File(FileSink { dir: "unused".into(), rotate: 1, keep: 1 }),
            topic: TopicTemplate { parts: vec![TopicPart::Literal("alma.".into()), TopicPart::Action] },
            format: Format::CloudEvents,
            actions: vec!["*".into()],
            sources: vec!["*".into()],
            start: Start::Next,
            continues: None,
            setup_grace: Duration::from_mins(1),
            best_effort: false,
            max_topics: 200,
        }
    }
}

/// Where a sink that the journal does not know begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    Next,
    /// With the oldest that is retained.
    Oldest,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The whole event as one JSON document (CloudEvents structured mode).
    CloudEvents,
    /// Attributes as headers, the body as it came (CloudEvents binary mode).
    CloudEventsBinary,
}

/// A topic's template, validated: the first segment is literal, placeholders are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    /// In order; dots between segments are part of the literals.
    pub parts: Vec<TopicPart>,
}

impl TopicTemplate {
    /// The first segment, which is literal: `alma` of `alma.{action}`.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(TopicPart::Literal(text)) => text.split('.').next().unwrap_or(text),
            _ => "",
        }
    }

    /// The literal segments at the beginning: `campus.alma` of `campus.alma.{action}`.
    pub fn literal_prefix(&self) -> String {
        let segments = self.segments();
        let literal: Vec<_> = segments.iter().map(String::as_str).take_while(|segment| *segment != "*").collect();
        literal.join(".")
    }

    /// The forms that a topic can take, with `*` in place of each segment that depends on the event: `alma.*` of
    /// `alma.{action}`; also `alma` of `alma.{event}`, because an empty placeholder at the end is dropped, and
    /// `alma.unparsed`, which is appended if the template has no action.
    pub fn shapes(&self) -> Vec<String> {
        let segments = self.segments();
        let mut shapes = vec![segments.join(".")];
        let can_be_empty = matches!(self.parts.last(), Some(TopicPart::Event | TopicPart::Institution));
        let ends_with_a_dot =
            matches!(self.parts.iter().nth_back(1), Some(TopicPart::Literal(text)) if text.ends_with('.'));
        if can_be_empty && ends_with_a_dot {
            shapes.push(segments[..segments.len() - 1].join("."));
        }
        if !self.parts.contains(&TopicPart::Action) {
            for plain in shapes.clone() {
                shapes.extend(["unparsed", "misdirected"].map(|special| format!("{plain}.{special}")));
            }
        }
        shapes
    }

    /// The segments, with `*` for each that has a placeholder: none holds a dot.
    fn segments(&self) -> Vec<String> {
        let text: String =
            self.parts.iter().map(|part| if let TopicPart::Literal(text) = part { text } else { "*" }).collect();
        text.split('.').map(|segment| if segment.contains('*') { "*" } else { segment }.to_owned()).collect()
    }
}

/// One piece of a [`TopicTemplate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicPart {
    /// Text as it stands.
    Literal(String),
    /// `{action}`
    Action,
    /// `{event}`
    Event,
    /// `{institution}`
    Institution,
    /// `{source}`
    Source,
}

/// What a sink is; the keys of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// JSON lines in a folder.
    File(FileSink),
    /// Apache Kafka.
    Kafka(KafkaSink),
    /// RabbitMQ.
    RabbitMq(RabbitMqSink),
    /// NATS JetStream.
    Nats(NatsSink),
}

impl SinkKind {
    /// The word of the configuration and of the metrics' `type` label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Kafka(_) => "kafka",
            Self::RabbitMq(_) => "rabbitmq",
            Self::Nats(_) => "nats",
        }
    }
}

/// `type = "file"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSink {
    /// Folder of the topic files.
    pub dir: PathBuf,
    /// A file is rotated when it would pass this many bytes.
    pub rotate: u64,
    /// Rotated files that stay per topic.
    pub keep: usize,
}

/// `type = "kafka"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSink {
    /// `host:port`, at least one.
    pub brokers: Vec<String>,
    /// Whether a missing topic is created.
    pub create_topics: bool,
    /// Of a topic that is created; -1 is the broker's own default.
    pub partitions: i32,
    /// Of a topic that is created; -1 is the broker's own default.
    pub replication: i32,
    /// librdkafka's own properties, those that are known to be harmless.
    pub properties: BTreeMap<String, String>,
    /// SASL, where given.
    pub login: Option<Login>,
    /// TLS, where given.
    pub tls: Option<ClientTls>,
}

/// `type = "rabbitmq"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RabbitMqSink {
    /// `amqp://` or `amqps://` with host, port and vhost; secret because it may come with a password from `url_file`.
    pub url: Secret,
    /// The topic exchange.
    pub exchange: String,
    /// Whether a missing exchange is declared.
    pub declare: bool,
    /// What becomes of an event that no queue is bound for.
    pub unroutable: Unroutable,
    /// User and password, where not in the URL.
    pub login: Option<Login>,
    /// TLS, where given or where the URL says `amqps`.
    pub tls: Option<ClientTls>,
}

/// What becomes of an event that RabbitMQ returns as unroutable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// The alternate exchange keeps it; where there is none, its topic is parked.
    Keep,
    /// Dead letter.
    Dead,
    /// Counted as delivered.
    Drop,
}

/// `type = "nats"`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsSink {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub servers: Vec<String>,
    /// The JetStream stream.
    pub stream: String,
    /// Whether a missing stream is created.
    pub create_stream: bool,
    /// Of a stream that is created: 1 to 5.
    pub replicas: usize,
    /// Of a stream that is created: how long messages stay.
    pub max_age: Duration,
    /// Of a stream that is created: how long message ids are remembered.
    pub duplicate_window: Duration,
    /// How to log in.
    pub auth: NatsAuth,
    /// TLS, where given.
    pub tls: Option<ClientTls>,
}

/// How to log in to NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsAuth {
    /// Not at all.
    None,
    /// User and password.
    Login(Login),
    /// A token.
    Token(Secret),
    /// An nkey seed.
    Nkey(Secret),
    /// A credentials file (JWT and seed).
    Creds {
        /// Where it was read from.
        file: PathBuf,
        /// What was in it.
        secret: Secret,
    },
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// `username`
    pub username: String,
    /// `password_file` or `password_env`
    pub password: Secret,
}

/// TLS of a client, PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Trusted authorities; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}

/// `[privacy]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privacy {
    /// Key of the pseudonyms; without one a user event has no subject.
    pub key: Option<Secret>,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// None: text on a terminal, JSON elsewhere.
    pub format: Option<LogFormat>,
    /// tracing directives for our own targets.
    pub level: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
