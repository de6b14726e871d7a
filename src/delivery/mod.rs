//! From the journal to the sinks: a pump per sink, its parked topics and its dead letters.
//!
//! # A window
//! A pump ([`Pump`]) takes a window from its feed (up to 512 events or 4 MiB, at least one event), makes each event into
//! a message, gives the messages to its sink and awaits all outcomes under the sink's deadline. Then it moves the cursor
//! to the oldest event that is not settled. An event is settled once it is confirmed, not wanted by the sink, or a durable
//! dead letter. The next window is read and made while one is in flight.
//!
//! After a missed deadline, windows are half as large, down to one event. They double again after a full one that was
//! confirmed within a quarter of its deadline. So a slow link makes progress if it can confirm one event in time.
//!
//! A sink may ask for smaller windows and allow two in flight ([`crate::sinks::Windows`]). The second is then begun before
//! the first is awaited; outcomes are still awaited in order. Windows overlap only while nothing fails, nothing waits for
//! a turn, and there is more to read. A message that is sent alone stays alone, so that no other can be to blame for its
//! outcome.
//!
//! # Failures
//! | what | then |
//! |---|---|
//! | not connected, deadline missed, an outcome of class retry, no outcome | what is confirmed counts; the pump ends the attempt ([`crate::sinks::Sink::abandon`]), backs off ([`BackOff`]), connects, and sends the rest again in order and under the same ids, for ever |
//! | refused for what it is, or a panic while sending | what was refused is sent without the others, or in halves if all were refused; what is refused alone becomes a dead letter |
//! | a panic while making the message | dead letter |
//! | needs an operator | each such topic is sent by itself under a back-off of its own, and the others flow up to 8,192 events or 16 MiB past its oldest event; if it still fails after `setup_grace`, it is parked: its events go to the dead letters |
//! | one topic more than `max_topics` (counted since the start) | dead letter; a retry keeps it until `max_topics` is raised |
//! | a dead letter can't be kept (store full, disk) | the sink waits as if unreachable; parked topics and requested letters are tried meanwhile, because they make room |
//!
//! A parked topic is tried every minute, at the start and on [`PumpHandle::retry_parked`]: its oldest letter alone, then
//! the rest in order, in turns with live events. A letter is removed once it is confirmed, and the topic flows again when
//! no letter is left that can be read. If the connection is lost meanwhile, the topic is tried again over the next one.
//! The letters tell at the start which topics are parked.
//!
//! With `unroutable = "dead"`, an unroutable event counts as refused for what it is.
//!
//! # Requests
//! A [`PumpHandle`] takes requests to publish dead letters again and to publish the windows of a replay. Both take turns
//! with live windows, and neither moves the cursor. Letters are tried one by one until a deadline, and may belong to
//! another sink, for example one that was removed from the configuration. What is refused of a replay is reported, but
//! does not become a dead letter.
//!
//! A sink that continues another one takes over its letters before its pump starts.
//!
//! # Without a journal
//! [`Direct`] publishes before Alma gets its answer.
//!
//! # Files
//! `batch`, `guarded_sink`: how anything is sent. `reader`, `publisher`: what a pump sends with. `parking`, `requests`,
//! `pump` with `in_flight`: who sends. `supervisor`: who starts and stops them. `status`, `handles`: what others see and
//! may ask.

mod backoff;
mod batch;
mod direct;
mod guarded_sink;
mod handles;
mod in_flight;
mod metrics;
mod parking;
mod publisher;
mod pump;
mod reader;
mod requests;
mod setup;
mod status;
mod supervisor;
#[cfg(test)]
mod tests;

pub use backoff::{BackOff, Delays, InvalidBackOff};
pub use direct::Direct;
pub use handles::{Handles, PumpEnded, PumpHandle, Replayed, Retried};
pub use metrics::DeliveryMetrics;
pub use pump::{Pump, PumpOptions};
pub use reader::{Filters, MakeMessage};
pub use setup::SinkSetup;
pub use status::{ParkedTopic, SinkSnapshot, SinkState};
pub use supervisor::{Build, DeliveryError, DeliveryOptions, Places, Supervisor, Way};
