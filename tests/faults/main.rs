//! Nothing that was acknowledged is lost: a short run of the fault harness at each broker, each fault at least once.
//!
//! One fault alone is in `by_name`, the long run in `docs/faults.md`.

mod harness;

use harness::run;

/// The same faults in the same order each time; other seeds are for runs by hand.
const SEED: &str = "7";

/// Each fault comes once at least, which may take longer.
const ALL_FAULTS: &str = "40s";

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
