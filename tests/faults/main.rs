//! Nothing that was acknowledged is lost: a short run of the fault harness at each broker, each fault at least once.
//!
//! Beside it, at each broker, a half-open network from which the bridge recovers without being restarted, and a test of
//! the harness itself. One fault alone is in `by_name`, the long run in `docs/faults.md`.

mod harness;

use harness::{run, verdicts};

/// The same faults in the same order each time; other seeds are for runs by hand.
const SEED: &str = "7";

/// Each fault comes once at least, which may take longer.
const ALL_FAULTS: &str = "40s";

#[test]
fn every_verdict_can_strike() {
    verdicts();
}

/// Once; the bridge is not killed beside it.
fn half_open(broker: &str) {
    run(&["--broker", broker, "--seed", SEED, "--duration", "1s", "--fault", "half_open"]);
}

#[test]
fn kafka_half_open_without_kills() {
    half_open("kafka");
}

#[test]
fn rabbitmq_half_open_without_kills() {
    half_open("rabbitmq");
}

#[test]
fn nats_half_open_without_kills() {
    half_open("nats");
}

#[test]
fn kafka_short_run() {
    run(&["--broker", "kafka", "--seed", SEED, "--duration", ALL_FAULTS]);
}

#[test]
fn rabbitmq_short_run() {
    run(&["--broker", "rabbitmq", "--seed", SEED, "--duration", ALL_FAULTS]);
}

#[test]
fn nats_short_run() {
    run(&["--broker", "nats", "--seed", SEED, "--duration", ALL_FAULTS]);
}
