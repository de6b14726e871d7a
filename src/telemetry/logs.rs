//! The program's own log: lines on stderr by tracing, JSON or text.
//!
//! Dependencies are capped at warn whatever is configured: at debug and trace some print the bodies they carry. lapin
//! does so at warn, with each message that RabbitMQ returns, and is capped at error. A panic is logged
//! with its place only, since its message can quote the text that caused it.

use std::io::{self, IsTerminal as _};
use std::panic;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, reload};

use crate::config::{Log, LogFormat};

/// The target of everything that this crate logs.
const OURS: &str = "alma_bridge";

/// A client that prints whole messages, bodies and all, at warn, and calls a question that is answered "no" an error.
/// What matters of it the sink says itself; a directive can raise it to error.
const LAPIN: &str = "lapin";

/// Changes the level of the running log.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<Targets, tracing_subscriber::Registry>);

impl LevelHandle {
    /// Puts other directives in effect; directives that do not parse change nothing.
    pub fn set(&self, directives: &str) -> Result<(), ParseError> {
        let filter = filter(directives)?;
        // Fails only where the subscriber is gone, which lives as long as the process.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Starts the process's log. To be called once; a second call leaves the first in place.
pub fn init(log: &Log) -> Result<LevelHandle, ParseError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let format = log.format.unwrap_or(if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let _ = tracing_subscriber::registry().with(writer(format).with_filter(filter)).try_init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    Ok(LevelHandle(handle))
}

fn writer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        LogFormat::Text => layer.with_target(false).with_ansi(io::stderr().is_terminal()).boxed(),
    }
}

/// The operator's directives for our own targets, everything else at warn or quieter, lapin not at all.
///
/// A directive without a target (`debug`) is for all of ours.
fn filter(directives: &str) -> Result<Targets, ParseError> {
    let asked: Targets = directives.parse()?;
    let mut targets = Targets::new().with_default(LevelFilter::WARN).with_target(LAPIN, LevelFilter::OFF);
    if let Some(level) = asked.default_level() {
        targets = targets.with_target(OURS, level);
    }
    for (target, level) in &asked {
        let ours = target == OURS || target.strip_prefix(OURS).is_some_and(|rest| rest.starts_with("::"));
        let cap = if target.starts_with(LAPIN) { LevelFilter::ERROR } else { LevelFilter::WARN };
        targets = targets.with_target(target, if ours { level } else { level.min(cap) });
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_bare_level_is_for_our_own_targets_alone() {
        let filter = filter("debug").expect("parses");
        assert!(filter.would_enable("alma_bridge::ingress", &Level::DEBUG));
        assert!(!filter.would_enable("alma_bridge::ingress", &Level::TRACE));
        assert!(filter.would_enable("hyper::proto", &Level::WARN));
        assert!(!filter.would_enable("hyper::proto", &Level::INFO));
        assert!(!filter.would_enable("lapin::returned_messages", &Level::WARN));
    }

    #[test]
    fn dependencies_stay_capped_when_they_are_named() {
        let filter = filter("info,lapin=trace,async_nats=error,alma_bridge::journal=trace").expect("parses");
        assert!(!filter.would_enable("lapin::returned_messages", &Level::WARN));
        assert!(filter.would_enable("lapin::channel", &Level::ERROR));
        assert!(!filter.would_enable("async_nats", &Level::WARN));
        assert!(filter.would_enable("alma_bridge::journal::writer", &Level::TRACE));
        assert!(!filter.would_enable("alma_bridge::delivery", &Level::DEBUG));
        assert!(filter.would_enable("alma_bridge", &Level::INFO));
    }

    #[test]
    fn refuses_what_is_no_directive() {
        assert!(filter("info,alma_bridge=loud").is_err());
    }
}
