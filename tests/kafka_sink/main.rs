//! The Kafka sink against a real broker: `tests/brokers run cargo test`.
#![allow(missing_docs)]

mod access;
mod outage;
mod publish;
mod support;
mod tools;
