//! `check --connect` for NATS JetStream.

use std::future::IntoFuture as _;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;

use super::Subjects;
use super::client::Connection;
use super::stream::falls_short;
use crate::config::{NatsAuth, NatsSink as Settings, SinkName};
use crate::sinks::message_limit;
use crate::sinks::tools::{Check, TOPIC, about_topics, mend_tls};
use crate::sinks::{Failure, Reason};

/// Checks server, login, JetStream, stream, limits, replication, and the right to publish to each of `topics`.
///
/// Nothing is stored: the messages that test the right to publish expect a sequence number that no stream has, so the
/// stream refuses them.
pub async fn probe(
    name: &SinkName,
    settings: &Settings,
    subjects: &Subjects,
    max_body: usize,
    topics: &[String],
) -> Vec<Check> {
    let servers = settings.servers.join(", ");
    let connection = match Connection::open(name, settings).await {
        Ok(connection) => connection,
        Err(failure) => return not_let_in(failure, servers),
    };
    let info = connection.client.server_info();
    let mut checks = vec![Check::good("server reached", format!("{} (nats-server {})", servers, info.version))];
    checks.push(if is_encrypted(settings, info.tls_required) {
        Check::good("TLS", "verified")
    } else {
        Check::warning("TLS", "none", "use tls:// or set tls, unless the whole network is under your control")
    });
    checks.push(Check::good("login", login(&settings.auth)));
    checks.push(payload(connection.client.max_payload(), message_limit(max_body)));
    let found = stream(&connection, settings, subjects, max_body, &mut checks).await;
    let mut rights = Vec::new();
    for topic in topics {
        rights.push((topic.clone(), right_to_publish(&connection, &settings.stream, &found, topic).await));
    }
    checks.extend(about_topics(rights));
    connection.close().await;
    checks
}

/// The checks if the connection failed. If TLS or the login is refused, the server was reached.
fn not_let_in(failure: Failure, servers: String) -> Vec<Check> {
    if failure.reason != Reason::Login {
        let mend = "check servers, the network, and that the server runs";
        return vec![Check::bad("server reached", format!("{servers}: {}", failure.detail), mend)];
    }
    let refused = match mend_tls(&failure.detail, &servers) {
        Some(mend) => Check::bad("TLS", failure.detail, mend),
        None if failure.detail.contains("TLS") => Check::bad(
            "TLS",
            failure.detail,
            "check the files of tls: they must be PEM and readable by the bridge's user",
        ),
        None => Check::bad("login", failure.detail, "check username, password, token, nkey and creds_file"),
    };
    vec![Check::good("server reached", servers), refused]
}

/// Whether the connection is certainly encrypted, because of our settings or because the server requires it.
fn is_encrypted(settings: &Settings, server_requires_it: bool) -> bool {
    settings.tls.is_some() || server_requires_it || settings.servers.iter().all(|server| server.starts_with("tls://"))
}

fn login(auth: &NatsAuth) -> String {
    match auth {
        NatsAuth::None => "none required".to_owned(),
        NatsAuth::Login(login) => format!("user {}", login.username),
        NatsAuth::Token(_) => "token".to_owned(),
        NatsAuth::Nkey(_) => "nkey".to_owned(),
        NatsAuth::Creds { file, .. } => format!("credentials {}", file.display()),
    }
}

fn payload(found: usize, limit: usize) -> Check {
    if found >= limit {
        return Check::good("max_payload", format!("{found} bytes"));
    }
    let mend = format!("set max_payload: {limit} in the server's configuration; larger events become dead letters");
    Check::warning("max_payload", format!("{found} bytes, but events can have {limit}"), mend)
}

/// What there is to publish to.
enum FoundStream {
    /// The stream is there.
    Exists,
    /// It is not, and the bridge makes it when it connects.
    ToBeMade,
    /// It is not, and the bridge can't make it; or nothing is known of it.
    Nothing,
}

async fn stream(
    connection: &Connection,
    settings: &Settings,
    subjects: &Subjects,
    max_body: usize,
    checks: &mut Vec<Check>,
) -> FoundStream {
    let name = &settings.stream;
    let what = format!("stream {name}");
    let subject = format!("$JS.API.STREAM.INFO.{name}");
    let asked = connection.ask(&subject, connection.jetstream.get_stream(name)).await;
    match asked.map(|stream| stream.map_err(|error| error.kind())) {
        Ok(Ok(stream)) => {
            let found = stream.cached_info();
            checks.push(Check::good(
                &*what,
                format!("{} messages on {}", found.state.messages, found.config.subjects.join(", ")),
            ));
            let shortfalls = falls_short(&found.config, settings, subjects, max_body);
            checks.extend(shortfalls.into_iter().map(|short| {
                Check::warning(&*what, short, format!("use nats stream edit {name}; the bridge alters no stream"))
            }));
            checks.push(replicas(name, found.config.num_replicas));
            FoundStream::Exists
        }
        Ok(Err(GetStreamErrorKind::JetStream(error))) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            missing(connection, settings, subjects, checks).await
        }
        Ok(Err(GetStreamErrorKind::JetStream(error))) => {
            checks.push(Check::bad(
                "JetStream",
                error.to_string(),
                "enable JetStream on the server and for the account",
            ));
            FoundStream::Nothing
        }
        Ok(Err(error)) => {
            let mend = "enable JetStream on the server and for the account, and allow the user its _INBOX.>";
            checks.push(Check::bad("JetStream", format!("does not answer ({error})"), mend));
            FoundStream::Nothing
        }
        Err(failure) if failure.reason == Reason::Rights => {
            let mend =
                format!("run needs only the right to publish; with the right to {subject}, this check compares more");
            checks.push(Check::warning(&*what, "this user may not examine it", mend));
            // The bridge tries to create the stream as soon as none accepts an event.
            if settings.create_stream && may_create(connection, name).await.is_ok() {
                FoundStream::ToBeMade
            } else {
                FoundStream::Nothing
            }
        }
        Err(failure) => {
            checks.push(Check::bad("JetStream", failure.detail, "see the server's log"));
            FoundStream::Nothing
        }
    }
}

/// A stream that is not there: whether the bridge can make it.
async fn missing(
    connection: &Connection,
    settings: &Settings,
    subjects: &Subjects,
    checks: &mut Vec<Check>,
) -> FoundStream {
    let name = &settings.stream;
    let what = format!("stream {name}");
    let by_hand = format!("nats stream add {name} --subjects '{}'", subjects.created.join(","));
    if !settings.create_stream {
        let mend = format!("{by_hand}, or set create_stream = true");
        checks.push(Check::bad(what, "does not exist, and create_stream is false", mend));
        return FoundStream::Nothing;
    }
    if let Err(failure) = may_create(connection, name).await {
        let mend = format!("{by_hand}, or allow the user $JS.API.STREAM.CREATE.{name}");
        checks.push(Check::bad(what, format!("does not exist, and cannot be created: {}", failure.detail), mend));
        return FoundStream::Nothing;
    }
    if settings.replicas > 1 && connection.client.server_info().cluster.is_none() {
        let found = format!("{}, but the server is in no cluster: the stream cannot be created", settings.replicas);
        let mend = "set replicas = 1, or run at least as many servers in a cluster";
        checks.push(Check::bad(format!("replicas of {name}"), found, mend));
        // That is the cause; whether there is a right to publish shows once it is mended.
        return FoundStream::ToBeMade;
    }
    checks.push(Check::good(what, "does not exist; the bridge creates it when it connects"));
    checks.push(replicas(name, settings.replicas));
    FoundStream::ToBeMade
}

/// Whether the user may create the stream. The request names none, so the server refuses it only for that if the user
/// may.
async fn may_create(connection: &Connection, stream: &str) -> Result<(), Failure> {
    let subject = format!("$JS.API.STREAM.CREATE.{stream}");
    let answer = connection.ask(&subject, connection.client.request(subject.clone(), "{}".into())).await?;
    answer.map(drop).map_err(|error| Failure::new(Reason::Busy, error.to_string()))
}

async fn right_to_publish(connection: &Connection, stream: &str, found: &FoundStream, topic: &str) -> Check {
    let what = format!("right to publish {TOPIC}");
    let refused_for_its_sequence = PublishMessage::build().expected_stream(stream).expected_last_sequence(u64::MAX);
    let sent = connection.jetstream.send_publish(topic.to_owned(), refused_for_its_sequence).await;
    let answer = match sent {
        Ok(ack) => tokio::select! {
            answer = ack.into_future() => answer,
            failure = connection.gave_up_on(topic) => {
                let detail = failure.detail.replace(topic, TOPIC);
                return Check::bad(what, detail, format!("allow the user to publish to {TOPIC}"));
            }
        },
        Err(error) => Err(error),
    };
    let Err(error) = answer else {
        return Check::bad(what, "the stream ignores the expected sequence", "check the stream's settings");
    };
    match (error.kind(), found) {
        (PublishErrorKind::WrongLastSequence, _) => Check::good(what, "allowed"),
        (PublishErrorKind::StreamNotFound, FoundStream::ToBeMade) => {
            Check::warning(what, "no stream accepts it yet", "publishing shows it once the stream exists")
        }
        (PublishErrorKind::StreamNotFound, FoundStream::Exists) => Check::bad(
            what,
            format!("stream {stream} does not accept it"),
            format!("use nats stream edit {stream} --subjects"),
        ),
        (PublishErrorKind::StreamNotFound, FoundStream::Nothing) => {
            let mend = format!(
                "add {TOPIC} to the subjects of stream {stream}, or grant the rights to examine and to create it"
            );
            Check::bad(what, "no stream accepts it", mend)
        }
        _ => {
            let failure = super::sort(&error);
            let mend = match failure.reason {
                Reason::Missing => {
                    format!("another stream accepts it: remove {TOPIC} from that stream, or set stream to its name")
                }
                _ => "see the server's log".to_owned(),
            };
            Check::bad(what, failure.detail, mend)
        }
    }
}

/// Checks the replicas. By default JetStream syncs only every two minutes, so an acknowledgement alone does not mean
/// that the message is on disk.
fn replicas(stream: &str, found: usize) -> Check {
    let what = format!("replicas of {stream}");
    if found >= 3 {
        return Check::good(what, found.to_string());
    }
    let mend = "use three replicas in a cluster, or sync_interval: always in the server's jetstream block";
    Check::warning(what, format!("{found}: a confirmed event is not on disk yet, unless the server always syncs"), mend)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::ClientTls;

    #[test]
    fn a_connection_counts_as_encrypted_if_all_servers_or_the_settings_ask_for_tls() {
        let settings = |servers: &[&str], tls| Settings {
            servers: servers.iter().map(|&server| server.to_owned()).collect(),
            stream: "ALMA".into(),
            create_stream: true,
            replicas: 1,
            max_age: Duration::ZERO,
            duplicate_window: Duration::ZERO,
            auth: NatsAuth::None,
            tls,
        };
        assert!(is_encrypted(&settings(&["tls://a", "tls://b"], None), false));
        assert!(is_encrypted(&settings(&["nats://a"], Some(ClientTls::default())), false));
        assert!(is_encrypted(&settings(&["nats://a"], None), true));
        assert!(!is_encrypted(&settings(&["tls://a", "nats://b"], None), false));
    }
}
