//! A sink with what makes its messages.

use std::sync::Arc;

use super::reader::MakeMessage;
use crate::config::{self, Config};
use crate::message::Messages;
use crate::sinks::{self, NotBuiltIn, Sink};

/// A sink, ready to be started.
pub struct SinkSetup {
    /// The sink as configured.
    pub config: config::Sink,
    /// The sink itself, not yet connected.
    pub sink: Box<dyn Sink>,
    /// Makes events into the sink's messages.
    pub make: Arc<dyn MakeMessage>,
}

impl SinkSetup {
    /// A sink of the configuration.
    pub fn of(sink: &config::Sink, config: &Config) -> Result<Self, NotBuiltIn> {
        let make = Arc::new(Messages::new(sink, &config.sources, &config.privacy));
        Ok(Self { config: sink.clone(), sink: sinks::build(sink, config.ingress.max_body)?, make })
    }
}
