//! Nothing that was acknowledged is lost: a short run of the fault harness at each broker, each fault at least once.
//!
//! One fault alone is in `by_name`, the long run in `docs/faults.md`.

mod harness;

use harness::run;

/// Each fault comes once at least, which may take longer.
const ALL_FAULTS: &str = "40s";

#[test]
fn kafka_short_run() {
    run(&["--broker", "kafka", "--duration", ALL_FAULTS]);
}

#[test]
fn rabbitmq_short_run() {
    run(&["--broker", "rabbitmq", "--duration", ALL_FAULTS]);
}

#[test]
fn nats_short_run() {
    run(&["--broker", "nats", "--duration", ALL_FAULTS]);
}
