//! Three bridges behind a load balancer, on a JetStream cluster of three nodes, lose nothing that was acknowledged.
//!
//! Two short runs of the fleet harness, and one that shows that its verdict can fail. The long runs at each broker are in
//! `docs/fleet.md`.
#![allow(missing_docs)]

use std::process::{Command, Output};
use std::sync::Mutex;

/// Runs start three brokers and three bridges each.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn run(arguments: &[&str]) -> Output {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/run"))
        .args(["--broker", "nats", "--seed", "7", "--bridge", env!("CARGO_BIN_EXE_alma-bridge")])
        .args(arguments)
        .output()
        .expect("runs within `tests/brokers run`")
}

/// Standard output and standard error of a run, for a message.
fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn loses_nothing(storage: &str) {
    let output = run(&["--duration", "15s", "--storage", storage]);
    assert!(output.status.success(), "{}", told(&output));
}

#[test]
fn bridges_with_a_journal_lose_nothing() {
    loses_nothing("disk");
}

#[test]
fn bridges_without_a_journal_lose_nothing() {
    loses_nothing("none");
}

#[test]
fn the_verdict_notices_a_lost_event() {
    let output = run(&["--duration", "1s", "--overlook-one"]);
    let told = told(&output);
    assert!(!output.status.success() && told.contains("1 acknowledged events lost"), "{told}");
}
