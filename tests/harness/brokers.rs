//! The real brokers that `tests/brokers` has started: where they are, and what is done to them.

use std::process::Command;

use base64::Engine as _;
use serde_json::Value;

use super::Client;

/// One of the variables of `tests/brokers`.
pub(crate) fn var(name: &str) -> String {
    std::env::var(format!("ALMA_BRIDGE_TEST_{name}")).unwrap_or_else(|_| {
        panic!("ALMA_BRIDGE_TEST_{name} is not set: this test wants real brokers, start it with tests/brokers run")
    })
}

/// `tests/brokers` with these arguments; fails with what it wrote.
pub(crate) fn brokers(arguments: &[&str]) {
    output(Command::new(var("BROKERS")).args(arguments));
}

/// What a command writes to stdout; fails with what it wrote to stderr.
pub(crate) fn output(command: &mut Command) -> String {
    let done = command.output().expect("it starts");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// Changes something by RabbitMQ's management API; the path is such as `queues/%2f/NAME`.
pub(crate) fn rabbitmq_api(method: &str, path: &str, body: &Value) {
    let address = var("RABBITMQ_API").trim_start_matches("http://").parse().expect("an address");
    let login = format!("{}:{}", var("RABBITMQ_ADMIN_USER"), var("RABBITMQ_ADMIN_PASSWORD"));
    let login = base64::engine::general_purpose::STANDARD.encode(login);
    let body = body.to_string();
    let answer = Client::connect(address).send(
        format!(
            "{method} /api/{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Basic {login}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
}
