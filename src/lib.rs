//! alma-bridge takes the webhooks that Ex Libris Alma sends, proves that they are Alma's, makes them durable, and
//! publishes them to Kafka, RabbitMQ, NATS JetStream or files on one topic per action.
//!
//! # Layout: the way of an event
//!
//! - [`ingress`]: the hyper server for Alma: a bounded read, the signature, then the journal, then the answer.
//! - [`alma`]: what Alma says: signature, envelope. No I/O.
//! - [`journal`]: the durable log: append, fsync, read from a cursor per sink.
//! - [`delivery`]: a pump per sink: windows, deadlines, back-off, parked topics.
//! - [`dead_letters`]: the events that a sink could not take.
//! - [`message`]: an event as it is published: topic, CloudEvents attributes, data.
//! - [`sinks`]: the contract, and a folder for each type of sink.
//!
//! Beside it:
//!
//! - [`config`]: settings as written become the configuration as used. Read by all, reads nothing.
//! - [`bridge`]: the running whole: built from a configuration, changed by a reload, stopped in good order.
//! - [`admin`]: the listener for operators: health, metrics, status, tools for the bad day.
//! - [`connections`]: how many connections a listener serves at once, and which one gives way.
//! - [`commands`]: one file per command of the program.
//! - [`telemetry`]: logs and metrics.
//! - [`storage`]: the file system, and the threads for work that blocks.
//! - [`clock`]: the wall clock, handed in from outside.
//! - `printable`: text from outside, made safe to print. `units`: sizes, durations and ages, as people write them.
//!
//! Imports run downwards only: commands → bridge → admin, ingress → delivery → `dead_letters` → sinks, journal → message,
//! storage → alma.

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
mod ownership;
mod printable;
pub mod sinks;
pub mod storage;
pub mod telemetry;
#[cfg(test)]
mod testing;
mod units;
