//! What the tests share: where the server is, events, and a client that shares no code with the sink.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use alma_bridge::clock::Timestamp;
use alma_bridge::config::{
    self, ActionFilter, Filter, Format, Login, NatsAuth, NatsSink as Settings, Privacy, Secret, SinkKind, Start,
    TopicPart, TopicTemplate,
};
use alma_bridge::message::{Message, Messages, StoredEvent};
use alma_bridge::sinks::nats::{NatsSink, Subjects};
use alma_bridge::sinks::{Outcome, Reason, Sink};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::RwLock;

use crate::brokers::output;
pub(crate) use crate::brokers::{brokers, var};
use crate::events::fresh;
pub(crate) use crate::events::{deliver, deliver_though_killed, reason};

/// Tests that stop the server, or change the limited user's rights, hold it alone; all others share it.
pub(crate) static SERVER: RwLock<()> = RwLock::const_new(());

/// The largest body of the sinks under test, in bytes.
pub(crate) const MAX_BODY: usize = 8 << 20;

/// What the server knows a message by for a second sending.
pub(crate) const DUPLICATE: Outcome = Outcome::Confirmed { duplicate: true };

/// Rights of the user `limited`, taken away again at the end, also of a test that fails.
pub(crate) struct Rights;

impl Rights {
    /// To publish to these subjects, and to use JetStream's API.
    pub(crate) fn publish(subjects: &[&str]) -> Self {
        let mut arguments = vec!["nats-rights"];
        arguments.extend(subjects.iter().flat_map(|subject| ["--publish", subject]));
        brokers(&arguments);
        Self
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if let Err(error) = Command::new(var("BROKERS")).arg("nats-rights").output() {
            eprintln!("rights stay: {error}");
        }
    }
}

/// A stream with subjects and a sink of its own.
#[derive(Clone)]
pub(crate) struct Place {
    /// The first segment of its topics.
    pub(crate) prefix: String,
    /// Of its sink.
    pub(crate) settings: Settings,
}

impl Place {
    /// That no other test, and no earlier run, has used; on the main server, anonymous; the stream is created.
    pub(crate) fn new() -> Self {
        alma_bridge::ingress::tls::install_provider();
        let prefix = fresh();
        let settings = Settings {
            servers: vec![var("NATS")],
            stream: prefix.to_uppercase(),
            create_stream: true,
            replicas: 1,
            max_age: Duration::from_hours(24),
            duplicate_window: Duration::from_hours(2),
            auth: NatsAuth::None,
            tls: None,
        };
        Self { prefix, settings }
    }

    /// As the user whose rights [`Rights`] gives.
    pub(crate) fn limited(&self) -> Self {
        let password = Secret::new(var("NATS_LIMITED_PASSWORD").into_bytes());
        let auth = NatsAuth::Login(Login { username: var("NATS_LIMITED_USER"), password });
        Self { prefix: self.prefix.clone(), settings: Settings { auth, ..self.settings.clone() } }
    }

    /// Where this action's events go.
    pub(crate) fn topic(&self, action: &str) -> String {
        format!("{}.{action}", self.prefix)
    }

    /// Its topics by action.
    fn template(&self) -> TopicTemplate {
        TopicTemplate { parts: vec![TopicPart::Literal(format!("{}.", self.prefix)), TopicPart::Action] }
    }

    /// What its stream must take.
    pub(crate) fn subjects(&self) -> Subjects {
        Subjects::of(&self.template())
    }

    /// A sink that is not connected.
    pub(crate) fn sink(&self) -> NatsSink {
        NatsSink::new("main".parse().expect("a name"), self.settings.clone(), self.subjects(), MAX_BODY)
    }

    /// A sink that is connected.
    pub(crate) async fn connected(&self) -> NatsSink {
        let mut sink = self.sink();
        sink.connect().await.expect("the server runs");
        sink
    }

    /// The event that Alma signed as `body`, as the bridge would publish it.
    pub(crate) fn message(&self, body: String, format: Format) -> Message {
        let sink = config::Sink {
            name: "main".parse().expect("a name"),
            kind: SinkKind::Nats(self.settings.clone()),
            topic: self.template(),
            format,
            actions: ActionFilter::default(),
            sources: Filter::default(),
            jobs: Filter::default(),
            statuses: Filter::default(),
            institutions: Filter::default(),
            start: Start::Next,
            continues: None,
            setup_grace: Duration::ZERO,
            best_effort: false,
            max_topics: 200,
        };
        let stored = StoredEvent {
            source: "alma".parse().expect("a name"),
            received: Timestamp::from_micros(1_704_164_645_000_000),
            recorded: Timestamp::from_micros(1_704_164_645_678_901),
            body: body.into(),
        };
        Messages::new(&sink, &[], &Privacy::default()).make(&stored, None).expect("all actions are asked for")
    }

    /// An event of `action` with `number` as Alma's id and `size` bytes of padding.
    pub(crate) fn event(&self, action: &str, number: usize, size: usize) -> Message {
        let body = json!({ "id": number.to_string(), "action": action.to_uppercase(), "pad": "x".repeat(size) });
        self.message(body.to_string(), Format::CloudEvents)
    }

    /// `count` small events of `action`.
    pub(crate) fn events(&self, action: &str, count: usize) -> Vec<Message> {
        (0..count).map(|number| self.event(action, number, 200)).collect()
    }

    /// Makes the stream with these settings beside name and subjects, as an operator would.
    pub(crate) fn add(&self, settings: &Value) {
        let mut config = json!({
            "name": self.settings.stream, "subjects": [format!("{}.>", self.prefix)],
            "retention": "limits", "storage": "file", "num_replicas": 1,
        });
        let settings = settings.as_object().expect("an object").clone();
        config.as_object_mut().expect("an object").extend(settings);
        client("add", &config.to_string());
    }

    /// The stream's configuration.
    pub(crate) fn info(&self) -> Value {
        serde_json::from_str(&client("info", &self.settings.stream)).expect("JSON")
    }

    /// Deletes the stream.
    pub(crate) fn delete(&self) {
        client("delete", &self.settings.stream);
    }

    /// All messages in the stream, in order.
    pub(crate) fn read(&self) -> Vec<Stored> {
        let lines = client("read", &self.settings.stream);
        lines.lines().map(|line| Stored::from(&serde_json::from_str(line).expect("JSON"))).collect()
    }
}

/// `client.py` on the main server.
pub(crate) fn client(verb: &str, argument: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nats_sink/client.py");
    output(Command::new(var("PYTHON")).args([script, &var("NATS"), verb, argument]))
}

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) data: Vec<u8>,
}

impl Stored {
    fn from(line: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let headers = line["headers"].as_object().expect("an object");
        Self {
            subject: text(&line["subject"]),
            headers: headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            data: STANDARD.decode(text(&line["data"])).expect("Base64"),
        }
    }

    /// What the stream knows it by.
    pub(crate) fn id(&self) -> &str {
        &self.headers["Nats-Msg-Id"]
    }
}

/// Fails unless each outcome at one of `places` has this reason, and all others are confirms.
pub(crate) fn assert_alone(outcomes: &[Outcome], places: &[usize], expected: Reason) {
    for (place, outcome) in outcomes.iter().enumerate() {
        assert_eq!(reason(outcome), places.contains(&place).then_some(expected), "{place}: {outcome:?}");
    }
}

/// What a future gives and how long it took.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    (future.await, begun.elapsed())
}
