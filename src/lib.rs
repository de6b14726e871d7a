//! alma-bridge takes the webhooks that Ex Libris Alma sends, proves that they are Alma's, makes them durable, and
//! publishes them to Kafka, RabbitMQ, NATS JetStream or files on one topic per action.
//!
//! # Layout: the way of an event
//!
//! - [`ingress`]: the hyper server for Alma: a bounded read, the signature, then the journal, then the answer.
//! - [`alma`]: what Alma says: signature, envelope. No I/O.
//! - [`journal`]: the durable log: append, fsync, read from a cursor per sink.
//! - [`delivery`]: a pump per sink: windows, deadlines, back-off, dead letters.
//! - [`message`]: an event as it is published: topic, CloudEvents attributes, data.
//! - [`sinks`]: the contract, and one file per broker.
//!
//! Beside it:
//!
//! - [`config`]: settings as written become the configuration as used. Read by all, reads nothing.
//! - [`bridge`]: the running whole: built from a configuration, changed by a reload, stopped in good order.
//! - [`admin`]: the listener for operators: health, metrics, status, tools for the bad day.
//! - [`connections`]: how many connections a listener serves at once, and which one gives way.
//! - [`commands`]: one file per command of the program.
//! - [`telemetry`]: logs and metrics.
//! - [`clock`]: the wall clock, handed in from outside.
//! - `printable`: text from outside, made safe to print.
//!
//! Imports run downwards only: commands → bridge → admin, ingress, delivery → sinks, journal → message → alma.

// Nothing panics because nobody reads what it prints: see `commands::output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod alma;
mod blocking;
pub mod bridge;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connections;
pub mod delivery;
pub mod ingress;
pub mod journal;
pub mod message;
mod ownership;
mod printable;
#[cfg(test)]
mod simulation;
pub mod sinks;
pub mod telemetry;
pub mod tls;
