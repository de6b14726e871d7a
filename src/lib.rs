//! alma-bridge receives the webhooks of Ex Libris Alma, verifies that they come from Alma, makes them durable, and
//! publishes them to Kafka, RabbitMQ, NATS JetStream or files, on one topic per action.
//!
//! # Layout: the path of an event
//!
//! - [`ingress`]: the hyper server for Alma: bounded read, signature, journal, answer.
//! - [`alma`]: Alma's signature and the envelope of its events. No I/O.
//! - [`journal`]: the durable log: append, fsync, one cursor per sink.
//! - [`delivery`]: one pump per sink: windows, deadlines, back-off, parked topics.
//! - [`dead_letters`]: the events that a sink could not take.
//! - [`message`]: an event in the form in which it is published: topic, CloudEvents attributes, data.
//! - [`sinks`]: the contract of a sink, and a folder for each type.
//!
//! Besides:
//!
//! - [`config`]: turns the settings as written into the configuration as used. Every module imports it, and it imports
//!   none.
//! - [`bridge`]: the running bridge: started from a configuration, reloaded, shut down gracefully.
//! - [`admin`]: the listener for operators: health, metrics, status page.
//! - [`operator`]: operators' requests about sinks, dead letters and replays, and their execution.
//! - [`connections`]: the limit of a listener's connections, and which one is evicted for a new one.
//! - [`commands`]: one file per command.
//! - [`telemetry`]: the log and the registry of metrics. Each module owns its metrics.
//! - [`storage`]: the file system, and the threads for blocking work.
//! - [`clock`]: the wall clock, passed in from outside.
//! - `printable`: escapes text from outside. `units`: sizes, durations and ages for people. `ownership`: explains why a
//!   file of another user cannot be opened.
//!
//! Imports run downwards only: commands → bridge → admin, ingress → operator → delivery → `dead_letters` → sinks,
//! journal → message, storage → alma.

// `println!` panics if stdout is closed. See `commands::output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod alma;
pub mod bridge;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connections;
pub mod dead_letters;
pub mod delivery;
pub mod ingress;
pub mod journal;
pub mod message;
pub mod operator;
mod ownership;
mod printable;
pub mod sinks;
pub mod storage;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod units;
