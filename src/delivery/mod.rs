//! From the journal to the sinks: a pump per sink, its dead letters, its parked topics.

mod backoff;
mod chunk;
pub mod dead_letters;
mod link;
mod parking;
mod pump;
mod reader;
mod status;
#[cfg(test)]
mod tests;
mod work;

pub use backoff::{BackOff, Delays, InvalidBackOff};
pub use dead_letters::{DeadLetter, DeadLetterError, DeadLetters, LetterId, LetterInfo};
pub use pump::{Pump, PumpOptions};
pub use reader::{Filters, MakeMessage};
pub use status::{ParkedTopic, PumpHandle, Retried, SinkState, SinkStatus, Stopped};
