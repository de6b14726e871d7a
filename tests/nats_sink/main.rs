//! The NATS sink against a real server: `tests/brokers run cargo test`.
#![allow(missing_docs)]

#[path = "../harness/brokers.rs"]
mod brokers;
#[path = "../harness/events.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod events;
#[path = "../harness/forward.rs"]
mod forward;
#[path = "../harness/wait.rs"]
#[allow(dead_code, reason = "each suite uses its part")]
mod wait;

mod access;
mod bad_day;
mod outage;
mod publish;
mod refusals;
mod slow;
mod support;
mod tools;
