//! The NATS sink against a real server: `tests/brokers run cargo test`.
#![allow(missing_docs)]

mod access;
mod bad_day;
mod outage;
mod publish;
mod refusals;
mod support;
mod tools;
