//! Each fault at each broker by name, each a short run of the fault harness.
//!
//!     tests/brokers run cargo test --test faults_by_name                    all: about half an hour
//!     tests/brokers run cargo test --test faults_by_name kafka_             one broker's
//!
//! What a run prints stands in the output of a test that fails; its journal, logs, ledger and seed are in the folder
//! that it names. The long run is in `docs/faults.md`.

mod harness;

use harness::run;

/// For one fault, which comes once at least.
const ONE_FAULT: &str = "6s";

fn one_fault(broker: &str, fault: &str) {
    run(&["--broker", broker, "--duration", ONE_FAULT, "--fault", fault]);
}

macro_rules! faults {
    ($($name:ident: $broker:literal, $fault:literal;)*) => {
        $(
            #[test]
            fn $name() {
                one_fault($broker, $fault);
            }
        )*
    };
}

faults! {
    kafka_bridge_sigkill: "kafka", "bridge_sigkill";
    kafka_broker_sigkill: "kafka", "broker_sigkill";
    kafka_broker_sigstop: "kafka", "broker_sigstop";
    kafka_connection_cut: "kafka", "connection_cut";
    kafka_reset: "kafka", "reset";
    kafka_half_open: "kafka", "half_open";
    kafka_slow: "kafka", "slow";
    kafka_broker_refuses: "kafka", "broker_refuses";
    kafka_place_deleted: "kafka", "place_deleted";
    kafka_credentials_changed: "kafka", "credentials_changed";
    kafka_three_at_once: "kafka", "three_at_once";
    rabbitmq_bridge_sigkill: "rabbitmq", "bridge_sigkill";
    rabbitmq_broker_sigkill: "rabbitmq", "broker_sigkill";
    rabbitmq_broker_sigstop: "rabbitmq", "broker_sigstop";
    rabbitmq_connection_cut: "rabbitmq", "connection_cut";
    rabbitmq_reset: "rabbitmq", "reset";
    rabbitmq_half_open: "rabbitmq", "half_open";
    rabbitmq_slow: "rabbitmq", "slow";
    rabbitmq_broker_refuses: "rabbitmq", "broker_refuses";
    rabbitmq_place_deleted: "rabbitmq", "place_deleted";
    rabbitmq_credentials_changed: "rabbitmq", "credentials_changed";
    rabbitmq_three_at_once: "rabbitmq", "three_at_once";
    nats_bridge_sigkill: "nats", "bridge_sigkill";
    nats_broker_sigkill: "nats", "broker_sigkill";
    nats_broker_sigstop: "nats", "broker_sigstop";
    nats_connection_cut: "nats", "connection_cut";
    nats_reset: "nats", "reset";
    nats_half_open: "nats", "half_open";
    nats_slow: "nats", "slow";
    nats_broker_refuses: "nats", "broker_refuses";
    nats_place_deleted: "nats", "place_deleted";
    nats_credentials_changed: "nats", "credentials_changed";
    nats_three_at_once: "nats", "three_at_once";
}

/// Longer than the grace: all topics are parked, and come back by themselves within their minute.
#[test]
fn kafka_rights_revoked() {
    run(&["--broker", "kafka", "--duration", ONE_FAULT, "--fault", "rights_revoked", "--longest", "12s"]);
}

#[test]
fn kafka_two_sinks_one_down() {
    run(&["--broker", "kafka", "--rate", "80", "--fault", "two_sinks_one_down"]);
}

/// Longer than the grace: all topics are parked, and come back by themselves within their minute.
#[test]
fn rabbitmq_rights_revoked() {
    run(&["--broker", "rabbitmq", "--duration", ONE_FAULT, "--fault", "rights_revoked", "--longest", "12s"]);
}

#[test]
fn rabbitmq_two_sinks_one_down() {
    run(&["--broker", "rabbitmq", "--rate", "80", "--fault", "two_sinks_one_down"]);
}

/// Longer than the grace: all topics are parked, and come back by themselves within their minute.
#[test]
fn nats_rights_revoked() {
    run(&["--broker", "nats", "--duration", ONE_FAULT, "--fault", "rights_revoked", "--longest", "12s"]);
}

#[test]
fn nats_two_sinks_one_down() {
    run(&["--broker", "nats", "--rate", "80", "--fault", "two_sinks_one_down"]);
}
