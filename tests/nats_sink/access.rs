//! TLS, login and rights.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alma_bridge::config::{ClientTls, Login, NatsAuth, NatsSink as Settings, Secret};
use alma_bridge::sinks::tools::{Check, Verdict};
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::brokers::output;
use crate::support::{Place, SERVER, reason, timed, var};
use crate::tools::{Tail, look};
use crate::wait::wait_up_to;

fn login(user: &str, password: &str) -> NatsAuth {
    NatsAuth::Login(Login { username: user.into(), password: Secret::new(password.as_bytes().to_vec()) })
}

fn token(token: &str) -> NatsAuth {
    NatsAuth::Token(Secret::new(token.as_bytes().to_vec()))
}

fn tls(ca: &str) -> ClientTls {
    ClientTls { ca_file: Some(var(ca).into()), ..ClientTls::default() }
}

/// One after another, each with a stream of its own.
#[tokio::test]
async fn logs_in_by_every_means() {
    let _shared = SERVER.read().await;
    let (plain, encrypted) = (var("NATS"), var("NATS_TLS"));
    let user = || login(&var("NATS_USER"), &var("NATS_PASSWORD"));
    let seed = std::fs::read(var("NATS_NKEY_FILE")).expect("a seed");
    let nkey = || NatsAuth::Nkey(Secret::new(seed.clone()));
    let creds = std::fs::read(var("NATS_CREDS_FILE")).expect("credentials");
    let creds = NatsAuth::Creds { file: var("NATS_CREDS_FILE").into(), secret: Secret::new(creds) };
    let client = ClientTls {
        ca_file: Some(var("CA").into()),
        cert_file: Some(var("CLIENT_CERT").into()),
        key_file: Some(var("CLIENT_KEY").into()),
    };
    for (what, server, auth, tls) in [
        ("nobody", plain.clone(), NatsAuth::None, None),
        ("user", plain.clone(), user(), None),
        ("nkey", plain.clone(), nkey(), None),
        ("token", var("NATS_TOKEN_URL"), token(&var("NATS_TOKEN")), None),
        ("creds", var("NATS_OPERATOR_URL"), creds, None),
        ("user over TLS", encrypted.clone(), user(), Some(tls("CA"))),
        ("nkey over TLS", encrypted.clone(), nkey(), Some(tls("CA"))),
        ("TLS by the scheme nats", plain.clone(), user(), Some(tls("CA"))),
        ("client certificate", encrypted.clone(), user(), Some(client)),
    ] {
        let mut place = Place::new();
        place.settings = Settings { servers: vec![server], auth, tls, ..place.settings };
        let mut sink = place.sink();
        sink.connect().await.unwrap_or_else(|failure| panic!("{what}: {failure}"));
        assert_eq!(sink.publish(&place.events("loan", 3)).await, vec![Outcome::CONFIRMED; 3], "{what}");
        sink.close().await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_login_is_told_as_such() {
    let _shared = SERVER.read().await;
    let encrypted = var("NATS_TLS");
    let good = login(&var("NATS_USER"), &var("NATS_PASSWORD"));
    // A seed of a user whom the server does not know.
    let stranger = Command::new(var("NK")).args(["-gen", "user"]).output().expect("nk runs").stdout;
    let missing = ClientTls { ca_file: Some("/nonexistent/ca.pem".into()), ..ClientTls::default() };
    let no_creds = NatsAuth::Creds { file: "user.creds".into(), secret: Secret::new(*b"hunter2") };
    for (what, server, auth, tls) in [
        ("wrong password", var("NATS"), login(&var("NATS_USER"), "hunter2"), None),
        ("unknown user", var("NATS"), login("nobody", "hunter2"), None),
        ("wrong token", var("NATS_TOKEN_URL"), token("hunter2"), None),
        ("no token", var("NATS_TOKEN_URL"), NatsAuth::None, None),
        ("unknown nkey", var("NATS"), NatsAuth::Nkey(Secret::new(stranger)), None),
        ("no nkey at all", var("NATS"), NatsAuth::Nkey(Secret::new(*b"hunter2")), None),
        ("no creds", var("NATS_OPERATOR_URL"), NatsAuth::None, None),
        ("no creds in the file", var("NATS_OPERATOR_URL"), no_creds, None),
        ("other authority", encrypted.clone(), good.clone(), Some(tls("OTHER_CA"))),
        ("authority of the system", encrypted.clone(), good.clone(), None),
        ("missing authority", encrypted.clone(), good.clone(), Some(missing)),
        ("TLS where there is none", var("NATS_TOKEN_URL"), token(&var("NATS_TOKEN")), Some(tls("CA"))),
    ] {
        let mut place = Place::new();
        place.settings = Settings { servers: vec![server], auth, tls, ..place.settings };
        let (failure, took) = timed(place.sink().connect()).await;
        let failure = failure.expect_err(what);
        println!("{what}: {failure} ({took:?})");
        assert_eq!(failure.reason, Reason::Login, "{what}: {failure}");
        assert!(!failure.to_string().contains("hunter2"), "{what}: {failure}");
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
    }
}

/// What an operator gives who keeps JetStream's API to himself: the subjects, and the inbox for the acknowledgements.
#[tokio::test]
async fn the_least_rights_are_enough_and_quick() {
    let place = Place::new();
    let server = Server::start(&place);
    let by = |user| Place {
        settings: Settings { servers: vec![server.url.clone()], auth: login(user, "secret"), ..place.settings.clone() },
        ..place.clone()
    };
    by("operator").connected().await.close().await;
    let mut sink = by("bridge").sink();
    let (warnings, took) = timed(sink.connect()).await;
    let warnings = warnings.expect("connects");
    assert!(warnings.iter().any(|warning| warning.contains("cannot examine stream")), "{warnings:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(sink.publish(&place.events("loan", 20)).await, vec![Outcome::CONFIRMED; 20]);
}

/// The rights in docs/brokers.md of a bridge that creates its stream, and of `tail`.
#[tokio::test]
async fn the_least_rights_to_create_and_to_tail_are_enough() {
    let place = Place::new();
    let server = Server::start(&place);
    let by = |user| Place {
        settings: Settings { servers: vec![server.url.clone()], auth: login(user, "secret"), ..place.settings.clone() },
        ..place.clone()
    };
    let mut sink = by("creator").sink();
    assert_eq!(sink.connect().await, Ok(Vec::new()), "nothing to warn of");
    assert_eq!(sink.publish(&place.events("loan", 3)).await, vec![Outcome::CONFIRMED; 3]);
    let mut tail = Tail::start(&by("reader"), &[], true).await;
    for _ in 0..3 {
        assert_eq!(tail.next().await.0, place.topic("loan"));
    }
    tail.end().await;
    let outcomes = by("reader").connected().await.publish(&place.events("loan", 4)).await;
    assert!(outcomes.iter().all(|outcome| reason(outcome) == Some(Reason::Rights)), "{outcomes:?}");
}

/// `check --connect` finds fault with nothing that `run` can do without.
#[tokio::test]
async fn the_least_rights_pass_the_checklist() {
    let place = Place::new();
    let server = Server::start(&place);
    let by = |user| Place {
        settings: Settings { servers: vec![server.url.clone()], auth: login(user, "secret"), ..place.settings.clone() },
        ..place.clone()
    };
    let topics = ["bib", "loan"].map(|action| place.topic(action));
    let bad = |checks: &[Check]| checks.iter().filter(|check| matches!(check.verdict, Verdict::Bad(..))).count();
    // Who publishes only can't make the stream; who may make it is asked for nothing more.
    let checks = look(&by("bridge"), &topics).await;
    assert!(bad(&checks) == 1 && format!("{checks:?}").contains("no stream accepts it"), "{checks:#?}");
    let checks = look(&by("creator"), &topics).await;
    assert_eq!(bad(&checks), 0, "{checks:#?}");
    let checks = look(&by("reader"), &topics).await;
    assert!(format!("{checks:?}").contains("does not exist, and cannot be created"), "{checks:#?}");
    by("operator").connected().await.close().await;
    let checks = look(&by("bridge"), &topics).await;
    assert_eq!(bad(&checks), 0, "{checks:#?}");
    let told = |part: &str| checks.iter().any(|check| format!("{check:?}").contains(part));
    assert!(told("may not examine it") && told("run needs only the right to publish"), "{checks:#?}");
    assert!(told("allowed"), "{checks:#?}");
}

/// The rights in docs/subscribe.md: a durable consumer that is filtered on one subject, made by the subscriber or by an
/// operator.
#[tokio::test]
async fn a_subscriber_reads_one_subject_by_its_own_consumer() {
    let place = Place::new();
    let server = Server::start(&place);
    let stream = place.settings.stream.as_str();
    let (loan, bib) = (place.topic("loan"), place.topic("bib"));
    let auth = login("operator", "secret");
    let settings = Settings { servers: vec![server.url.clone()], auth, ..place.settings.clone() };
    let mut sink = Place { settings, ..place.clone() }.connected().await;
    for action in ["loan", "bib"] {
        assert_eq!(sink.publish(&place.events(action, 3)).await, vec![Outcome::CONFIRMED; 3]);
    }

    assert_eq!(server.subscriber("subscriber", &["add", stream, "my-service", &loan]), "");
    // The second run gets only what the first one has not acknowledged. It is one that can't create a consumer.
    let read = server.subscriber("subscriber", &["next", stream, "my-service", "2"]);
    assert_eq!(read, format!("{loan}\n{loan}\n"));
    assert_eq!(server.subscriber("consumer", &["next", stream, "my-service", "1"]), format!("{loan}\n"));

    for refused in [
        ["add", stream, "my-service", &bib].as_slice(),
        &["add", stream, "another", &loan],
        &["next", stream, "another", "1"],
        &["request", &format!("$JS.API.STREAM.MSG.GET.{stream}")],
        &["request", &format!("$JS.API.CONSUMER.DELETE.{stream}.my-service")],
        &["request", &loan],
        &["listen", &loan],
        &["listen", "_INBOX.>"],
    ] {
        let printed = server.subscriber("subscriber", refused);
        assert!(printed.starts_with("refused: nats: permissions violation for"), "{refused:?}: {printed}");
    }
    let printed = server.subscriber("consumer", &["add", stream, "my-service", &loan]);
    assert!(printed.contains("permissions violation for publish"), "{printed}");
    // The subject of the request is granted, but the server compares it with the filter in the body.
    let printed = server.subscriber("subscriber", &["add", stream, "my-service", &loan, &bib]);
    assert!(printed.contains("did not match filtered subject"), "{printed}");
}

/// The last row of the same table: the `nats` command also looks up the stream.
#[tokio::test]
async fn the_nats_command_needs_one_right_more() {
    let place = Place::new();
    let server = Server::start(&place);
    let (stream, loan) = (place.settings.stream.as_str(), place.topic("loan"));
    let settings =
        Settings { servers: vec![server.url.clone()], auth: login("operator", "secret"), ..place.settings.clone() };
    let mut sink = Place { settings, ..place.clone() }.connected().await;
    assert_eq!(sink.publish(&place.events("loan", 1)).await, vec![Outcome::CONFIRMED]);
    let nats = |user: &str, arguments: &[&str]| {
        let url = server.url_of(user);
        let home = tempfile::tempdir().expect("a folder");
        let done = Command::new(var("NATS_CLI"))
            .args(["--server", &url, "--inbox-prefix", "_INBOX.my-service", "--timeout", "2s", "consumer"])
            .args(arguments)
            .env("XDG_CONFIG_HOME", home.path())
            .output()
            .expect("it starts");
        (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let add = [
        "add",
        stream,
        "my-service",
        "--filter",
        &loan,
        "--deliver",
        "all",
        "--ack",
        "explicit",
        "--pull",
        "--defaults",
    ];
    let (done, told) = nats("subscriber", &add);
    assert!(!done && told.contains("$JS.API.STREAM.INFO"), "{told}");
    let (done, told) = nats("commander", &add);
    assert!(done, "{told}");
    let (done, told) = nats("commander", &["next", stream, "my-service", "--count", "1"]);
    assert!(done && told.contains(&loan), "{told}");
}

/// A server whose users are `operator`, with all rights, and one for each row of the tables of rights in the docs.
struct Server {
    url: String,
    process: Child,
    _home: tempfile::TempDir,
}

impl Server {
    fn start(place: &Place) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let program = Path::new(&var("NATS_CLI")).with_file_name("nats-server");
        let config = format!(
            r#"
            listen: "127.0.0.1:-1", ports_file_dir: "{home}", max_payload: 64MB
            jetstream {{ store_dir: "{home}" }}
            authorization {{ users = [
              {{ user: operator, password: secret }}
              {{ user: bridge, password: secret, permissions: {{ publish: "{prefix}.>", subscribe: "_INBOX.>" }} }}
              {{ user: creator, password: secret, permissions: {{
                publish: ["{prefix}.>", "$JS.API.STREAM.INFO.{stream}", "$JS.API.STREAM.CREATE.{stream}"]
                subscribe: "_INBOX.>" }} }}
              {{ user: reader, password: secret, permissions: {{
                publish: ["$JS.API.STREAM.INFO.{stream}", "$JS.API.CONSUMER.CREATE.{stream}",
                          "$JS.API.CONSUMER.CREATE.{stream}.>",
                          "$JS.API.CONSUMER.MSG.NEXT.{stream}.>"]
                subscribe: "_INBOX.>" }} }}
              {{ user: subscriber, password: secret, permissions: {{
                publish: ["$JS.API.CONSUMER.CREATE.{stream}.my-service.{prefix}.loan",
                          "$JS.API.CONSUMER.INFO.{stream}.my-service", "$JS.API.CONSUMER.MSG.NEXT.{stream}.my-service",
                          "$JS.ACK.{stream}.my-service.>"]
                subscribe: "_INBOX.my-service.>" }} }}
              {{ user: commander, password: secret, permissions: {{
                publish: ["$JS.API.CONSUMER.CREATE.{stream}.my-service.{prefix}.loan", "$JS.API.STREAM.INFO.{stream}",
                          "$JS.API.CONSUMER.INFO.{stream}.my-service", "$JS.API.CONSUMER.MSG.NEXT.{stream}.my-service",
                          "$JS.ACK.{stream}.my-service.>"]
                subscribe: "_INBOX.my-service.>" }} }}
              {{ user: consumer, password: secret, permissions: {{
                publish: ["$JS.API.CONSUMER.INFO.{stream}.my-service", "$JS.API.CONSUMER.MSG.NEXT.{stream}.my-service",
                          "$JS.ACK.{stream}.my-service.>"]
                subscribe: "_INBOX.my-service.>" }} }}
            ] }}"#,
            prefix = place.prefix,
            stream = place.settings.stream,
            home = home.path().display(),
        );
        let file = home.path().join("nats.conf");
        std::fs::write(&file, config).expect("written");
        let log = std::fs::File::create(home.path().join("log")).expect("a log");
        let process =
            Command::new(program).arg("-c").arg(&file).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        let ports = home.path().join(format!("nats-server_{}.ports", process.id()));
        let url = listens(&ports);
        Self { url, process, _home: home }
    }

    fn url_of(&self, user: &str) -> String {
        self.url.replace("nats://", &format!("nats://{user}:secret@"))
    }

    /// Runs a client that shares no code with the bridge as this user, and returns what it printed.
    fn subscriber(&self, user: &str, arguments: &[&str]) -> String {
        let script = ["tests/nats_sink/subscriber.py", &self.url_of(user), "_INBOX.my-service"];
        output(Command::new(var("PYTHON")).args(script).args(arguments))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The URL, once the server has written where it listens.
fn listens(ports: &Path) -> String {
    wait_up_to(Duration::from_secs(10), "where the server listens", || {
        let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
        Some(ports["nats"][0].as_str().expect("a URL").to_owned())
    })
}
