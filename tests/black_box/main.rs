//! Black-box tests: the real binary on port 0, raw sockets, real files.
//!
//! - `http`: every row of the table of answers, and hostile HTTP
//! - `durability`: every event that got 204 arrives, whatever happens to the process
//! - `disk`: faults of the disk: full, stalled, read-only, truncated, flipped, files and folders gone
//! - `journal`: lock, version, damage, the journal's size limit
//! - `operators`: the admin listener, metrics, logs, stop
//! - `reload`: the configuration changes while events arrive
//! - `health`: what needs a person, and what does not
//! - `secret`: a new secret, and the one that Alma uses
//! - `system_calls`: what is synced before each 204
//! - `half_written`: a truncated configuration; reloads that are refused or apply in part
//! - `finding`: commands find the running bridge, even with a second bridge or a broken file on disk
//! - `folders`: a folder of topic files belongs to one sink
//! - `strangers`, `siege`, `tls`: clients without the secret; many of them at once; HTTPS
//! - `log`: the lines that strangers can cause, and a stderr that nobody reads
//! - `bad_day`, `replay`: the tools for it, at a running bridge and on a stopped one's journal
//! - `absent_sinks`: dead letters of sinks that were taken out, forgotten or renamed
//! - `commands`: what a person types and reads; `columns`: of long names; `explain`: why a signature does not fit
//! - `filters`: which events a sink gets
//! - `pipes`: commands whose output nobody reads to its end
//! - `outside`: what comes from outside reaches no terminal with control characters
//! - `configuration`: errors and exit codes
//! - `service_manager`: what systemd is told, and the sockets that it hands over
//! - `unreadable`: files of the journal that can't be read, and whose they are

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each suite uses its part")]
mod harness;

mod absent_sinks;
mod bad_day;
mod columns;
mod commands;
mod configuration;
mod disk;
mod durability;
mod explain;
mod filters;
mod finding;
mod folders;
mod half_written;
mod health;
mod http;
mod journal;
mod log;
mod operators;
mod outside;
mod pipes;
mod reload;
mod replay;
mod secret;
mod service_manager;
mod siege;
mod strangers;
mod system_calls;
mod tls;
mod unreadable;
