//! The program's own log: JSON or text on stderr, by tracing. Logging never waits for stderr.
//!
//! Dependencies are capped at warn whatever is configured, because some print bodies at debug and trace. lapin is
//! capped at error, because at warn it prints each message that RabbitMQ returns. A panic is logged with its place
//! only, because its message can quote the text that caused it.

use std::fmt::{Debug, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::panic;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt, reload};

use super::stderr::{self, Lines};
use crate::config::{Log, LogFormat};
use crate::printable::{Escape, Printable, Style};

/// The target of everything that this crate logs.
const OURS: &str = "alma_bridge";

/// This client prints whole messages at warn, and logs an error when a passive declaration finds nothing. The sink
/// itself reports what matters, so lapin is off unless a directive raises it to error.
const LAPIN: &str = "lapin";

/// How long the process waits at its end for the last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// The log of this process.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` has a directive that does not parse.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// The thread that writes the lines did not start.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// Changes the level of the running log.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<Targets, tracing_subscriber::Registry>);

impl LevelHandle {
    /// Puts other directives into effect. Invalid directives change nothing.
    pub fn set(&self, directives: &str) -> Result<(), ParseError> {
        let filter = filter(directives)?;
        // Fails only if the subscriber is gone, but it lives as long as the process.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Starts the process's log. A second call leaves the first log in place.
pub fn init(log: &Log) -> Result<LevelHandle, LogError> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let format = log.format.unwrap_or(if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json });
    let lines = if let Some(lines) = LINES.get() {
        lines
    } else {
        let started = Lines::start(io::stderr(), stderr::dropped())?;
        LINES.get_or_init(|| started)
    };
    let into = move || lines.clone();
    let _ = tracing_subscriber::registry().with(writer(format, into).with_filter(filter)).try_init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    Ok(LevelHandle(handle))
}

/// Prints a line on stderr after the lines that were logged before. Does not wait for stderr.
pub fn print(line: &str) {
    match LINES.get() {
        Some(lines) => lines.add(format!("{line}\n").as_bytes()),
        // If stderr is closed, nobody wants to read the line.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Counts the log lines that were dropped because nobody read stderr.
pub fn dropped_lines() -> Counter {
    stderr::dropped()
}

/// When dropped at the end of the process, waits briefly for the last lines to be written.
#[derive(Debug)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        if let Some(lines) = LINES.get() {
            lines.flush(FLUSH_PATIENCE);
        }
    }
}

/// Formats lines and writes them to what `into` returns.
fn writer<S, W>(format: LogFormat, into: impl Fn() -> W + Send + Sync + 'static) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + 'static,
{
    match format {
        LogFormat::Json => {
            let layer = fmt::layer().with_writer(move || Escaping(into()));
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Text => {
            let layer = fmt::layer().with_writer(into);
            let fields = fmt::format::debug_fn(write_field).delimited(" ");
            layer.with_target(false).with_ansi(has_colours(io::stderr().is_terminal())).fmt_fields(fields).boxed()
        }
    }
}

/// Follows <https://no-color.org>: the variable counts unless it is empty.
fn has_colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a field of a line for people. tracing's own writer escapes only the message, but what brokers say is in
/// fields.
fn write_field(writer: &mut fmt::format::Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escape { into: writer, style: Style::Line }, "{value:?}")
}

/// Escapes the characters that JSON allows and a terminal obeys: DEL, C1, and those that reorder text.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    /// `line` is always a whole line, because tracing writes no other way.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(Printable::lines(&text).to_string().as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The operator's directives for our own targets. Everything else logs at warn or quieter, and lapin not at all.
///
/// A directive without a target (`debug`) applies to all of our targets.
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
    use std::sync::{Arc, Mutex};

    use tracing::Level;

    use super::*;

    #[test]
    fn a_bare_level_applies_only_to_our_own_targets() {
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

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("whole").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn control_characters_from_a_broker_are_escaped() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = Lines::default();
            let into = lines.clone();
            let subscriber = tracing_subscriber::registry().with(writer(format, move || into.clone()));
            let said = "refused\x1b]0;title\x07\u{9b}2J\x7f\u{202e}\nready";
            tracing::subscriber::with_default(subscriber, || {
                let error = io::Error::other(said);
                tracing::warn!(why = %error, debug = ?said, text = said, error = &error as &dyn std::error::Error, "{said}");
            });
            let log = String::from_utf8(lines.0.lock().expect("whole").clone()).expect("UTF-8");
            assert!(log.matches("title").count() >= 4, "{log}");
            assert_eq!(log.lines().count(), 1, "{log}");
            let left: Vec<char> = log.trim_end().chars().filter(|c| c.is_control() || *c == '\u{202e}').collect();
            assert!(left.is_empty(), "{left:?} in {log}");
        }
    }

    #[test]
    fn refuses_invalid_directives() {
        assert!(filter("info,alma_bridge=loud").is_err());
    }
}
