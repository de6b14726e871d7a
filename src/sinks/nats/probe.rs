//! The checklist of `check --connect` for NATS JetStream.

use std::future::IntoFuture as _;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{GetStreamErrorKind, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;

use super::client::{Connection, falls_short};
use crate::config::{NatsAuth, NatsSink as Settings, SinkName};
use crate::sinks::Reason;
use crate::sinks::message_limit;
use crate::sinks::tools::Check;

/// Looks at server, log-in, JetStream, stream, limits, replication, and the right to publish to each of `topics`.
///
/// Nothing lands: what is sent to learn of the right expects a sequence that no stream has, and is refused for it.
pub async fn probe(
    name: &SinkName,
    settings: &Settings,
    subjects: &[String],
    max_body: usize,
    topics: &[String],
) -> Vec<Check> {
    let servers = settings.servers.join(", ");
    let connection = match Connection::open(name, settings).await {
        Ok(connection) => connection,
        Err(failure) if failure.reason == Reason::Login => {
            return vec![
                Check::good("server reached", servers),
                Check::bad("log-in", failure.detail, "check username, password, token, nkey, creds_file and tls"),
            ];
        }
        Err(failure) => {
            let mend = "check servers, the network between, and that the server runs";
            return vec![Check::bad("server reached", format!("{servers}: {}", failure.detail), mend)];
        }
    };
    let info = connection.client.server_info();
    let mut checks = vec![Check::good("server reached", format!("{} (nats-server {})", servers, info.version))];
    checks.push(match (&settings.tls, info.tls_required) {
        (Some(_), _) => Check::good("TLS", "verified"),
        (None, _) => Check::warning("TLS", "none", "set tls, unless the network between is yours alone"),
    });
    checks.push(Check::good("log-in", login(&settings.auth)));
    checks.push(payload(connection.client.max_payload(), message_limit(max_body)));
    stream(&connection, settings, subjects, max_body, &mut checks).await;
    for topic in topics {
        checks.push(right_to_publish(&connection, topic).await);
    }
    connection.close().await;
    checks
}

fn login(auth: &NatsAuth) -> String {
    match auth {
        NatsAuth::None => "none wanted".to_owned(),
        NatsAuth::Login(login) => format!("user {}", login.username),
        NatsAuth::Token(_) => "token".to_owned(),
        NatsAuth::Nkey(_) => "nkey".to_owned(),
        NatsAuth::Creds(file) => format!("credentials {}", file.display()),
    }
}

fn payload(found: usize, limit: usize) -> Check {
    if found >= limit {
        return Check::good("max_payload", format!("{found} bytes"));
    }
    let mend = format!("set max_payload: {limit} in the server's configuration; larger events become dead letters");
    Check::warning("max_payload", format!("{found} bytes, events can have {limit}"), mend)
}

async fn stream(
    connection: &Connection,
    settings: &Settings,
    subjects: &[String],
    max_body: usize,
    checks: &mut Vec<Check>,
) {
    let name = &settings.stream;
    let what = format!("stream {name}");
    match connection.jetstream.get_stream(name).await.map_err(|error| error.kind()) {
        Ok(stream) => {
            let found = stream.cached_info();
            checks.push(Check::good(
                &*what,
                format!("{} messages on {}", found.state.messages, found.config.subjects.join(", ")),
            ));
            let shortfalls = falls_short(&found.config, settings, subjects, max_body);
            checks.extend(shortfalls.into_iter().map(|short| {
                Check::warning(&*what, short, format!("nats stream edit {name}; the bridge alters no stream"))
            }));
            checks.push(replicas(name, found.config.num_replicas));
        }
        Err(GetStreamErrorKind::JetStream(error)) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            checks.push(if settings.create_stream {
                Check::good(&*what, "does not exist, is created when the bridge connects")
            } else {
                let mend =
                    format!("nats stream add {name} --subjects '{}', or create_stream = true", subjects.join(","));
                Check::bad(&*what, "does not exist, and create_stream is false", mend)
            });
            checks.push(replicas(name, settings.replicas));
        }
        Err(GetStreamErrorKind::JetStream(error)) => {
            checks.push(Check::bad(
                "JetStream",
                error.to_string(),
                "enable JetStream on the server and for the account",
            ));
        }
        Err(error) => {
            let mend = "enable JetStream, and allow the user $JS.API.STREAM.INFO and its _INBOX.>";
            checks.push(Check::bad("JetStream", format!("does not answer ({error})"), mend));
        }
    }
}

async fn right_to_publish(connection: &Connection, topic: &str) -> Check {
    let what = format!("right to publish {topic}");
    let refused_for_its_sequence = PublishMessage::build().expected_last_sequence(u64::MAX);
    let sent = connection.jetstream.send_publish(topic.to_owned(), refused_for_its_sequence).await;
    let answer = match sent {
        Ok(ack) => tokio::select! {
            answer = ack.into_future() => answer.map_err(|error| error.kind()),
            failure = connection.gave_up_on(topic) => {
                return Check::bad(what, failure.detail, format!("allow the user to publish to {topic}"));
            }
        },
        Err(error) => Err(error.kind()),
    };
    match answer {
        Err(PublishErrorKind::WrongLastSequence) => Check::good(what, "allowed"),
        Err(PublishErrorKind::StreamNotFound) => {
            Check::warning(what, "no stream takes it yet", "it shows once the stream is there")
        }
        Err(error) => Check::bad(what, error.to_string(), "see the server's log"),
        Ok(_) => Check::bad(what, "the stream ignores the expected sequence", "see the stream's settings"),
    }
}

/// JetStream syncs every two minutes unless it is told otherwise; its acknowledgement alone is no word of the disk.
fn replicas(stream: &str, found: usize) -> Check {
    let what = format!("replicas of {stream}");
    if found >= 3 {
        return Check::good(what, found.to_string());
    }
    let mend = "three replicas in a cluster, or sync_interval: always in the server's jetstream block";
    Check::warning(what, format!("{found}: a PubAck is not on disk yet, unless the server syncs always"), mend)
}
