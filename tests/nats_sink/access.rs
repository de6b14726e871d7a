//! TLS and log-in.

use std::time::Duration;

use alma_bridge::config::{ClientTls, Login, NatsAuth, NatsSink as Settings, Secret};
use alma_bridge::sinks::{Outcome, Reason, Sink};

use crate::support::{Place, SERVER, timed, var};

fn login(user: &str, password: &str) -> NatsAuth {
    NatsAuth::Login(Login { username: user.into(), password: Secret::new(password.as_bytes().to_vec()) })
}

fn token(token: &str) -> NatsAuth {
    NatsAuth::Token(Secret::new(token.as_bytes().to_vec()))
}

#[allow(clippy::unnecessary_wraps, reason = "as the settings have it")]
fn tls(ca: &str) -> Option<ClientTls> {
    Some(ClientTls { ca_file: Some(var(ca).into()), ..ClientTls::default() })
}

/// One after another, each with a stream of its own.
#[tokio::test]
async fn logs_in_by_every_means() {
    let _shared = SERVER.read().await;
    let (plain, encrypted) = (var("NATS"), var("NATS_TLS"));
    let user = || login(&var("NATS_USER"), &var("NATS_PASSWORD"));
    let seed = std::fs::read(var("NATS_NKEY_FILE")).expect("a seed");
    let nkey = || NatsAuth::Nkey(Secret::new(seed.clone()));
    let creds = NatsAuth::Creds(var("NATS_CREDS_FILE").into());
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
        ("user over TLS", encrypted.clone(), user(), tls("CA")),
        ("nkey over TLS", encrypted.clone(), nkey(), tls("CA")),
        ("TLS by the scheme nats", plain.clone(), user(), tls("CA")),
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
async fn what_is_wrong_with_a_log_in_is_told_as_such() {
    let _shared = SERVER.read().await;
    let encrypted = var("NATS_TLS");
    let good = login(&var("NATS_USER"), &var("NATS_PASSWORD"));
    // A seed of a user whom the server does not know.
    let stranger = std::process::Command::new(var("NK")).args(["-gen", "user"]).output().expect("nk runs").stdout;
    let missing = ClientTls { ca_file: Some("/nonexistent/ca.pem".into()), ..ClientTls::default() };
    for (what, server, auth, tls) in [
        ("wrong password", var("NATS"), login(&var("NATS_USER"), "hunter2"), None),
        ("unknown user", var("NATS"), login("nobody", "hunter2"), None),
        ("wrong token", var("NATS_TOKEN_URL"), token("hunter2"), None),
        ("no token", var("NATS_TOKEN_URL"), NatsAuth::None, None),
        ("unknown nkey", var("NATS"), NatsAuth::Nkey(Secret::new(stranger)), None),
        ("no nkey at all", var("NATS"), NatsAuth::Nkey(Secret::new(*b"hunter2")), None),
        ("no creds", var("NATS_OPERATOR_URL"), NatsAuth::None, None),
        ("missing creds", var("NATS_OPERATOR_URL"), NatsAuth::Creds("/nonexistent/user.creds".into()), None),
        ("other authority", encrypted.clone(), good.clone(), tls("OTHER_CA")),
        ("authority of the system", encrypted.clone(), good.clone(), None),
        ("missing authority", encrypted.clone(), good.clone(), Some(missing)),
        ("TLS where there is none", var("NATS_TOKEN_URL"), token(&var("NATS_TOKEN")), tls("CA")),
    ] {
        let mut place = Place::new();
        place.settings = Settings { servers: vec![server], auth, tls, ..place.settings };
        let (failure, took) = timed(place.sink().connect().into_future()).await;
        let failure = failure.expect_err(what);
        println!("{what}: {failure} ({took:?})");
        assert_eq!(failure.reason, Reason::Login, "{what}: {failure}");
        assert!(!failure.to_string().contains("hunter2"), "{what}: {failure}");
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
    }
}
