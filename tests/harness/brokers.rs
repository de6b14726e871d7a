//! The real brokers that `tests/brokers` has started: where they are, and what is done to them.

use std::process::Command;

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
