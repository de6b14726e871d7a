//! The program's own log: lines on stderr by tracing, JSON or text. Logging never waits for whoever reads stderr.
//!
//! Dependencies are capped at warn whatever is configured: at debug and trace some print the bodies they carry. lapin
//! does so at warn, with each message that RabbitMQ returns, and is capped at error. A panic is logged
//! with its place only, since its message can quote the text that caused it.

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

/// A client that prints whole messages, bodies and all, at warn, and calls a question that is answered "no" an error.
/// What matters of it the sink says itself; a directive can raise it to error.
const LAPIN: &str = "lapin";

/// How long the process's end waits for the last lines to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Of this process, which has one log.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Why the log did not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `log.level` has a directive that does not parse.
    #[error("log.level: {0}")]
    Level(#[from] ParseError),
    /// The thread that writes the lines did not start.
    #[error("can't start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

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

/// Prints a line on stderr after the log's lines, without waiting for whoever reads stderr.
pub fn print(line: &str) {
    match LINES.get() {
        Some(lines) => lines.add(format!("{line}\n").as_bytes()),
        // Whoever closed stderr wants to read nothing.
        None => drop(writeln!(io::stderr(), "{line}")),
    }
}

/// Log lines that were dropped because nobody read stderr.
pub fn dropped_lines() -> Counter {
    stderr::dropped()
}

/// When dropped, waits a moment for the last lines to be written. For the end of the process.
#[derive(Debug)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        if let Some(lines) = LINES.get() {
            lines.flush(FLUSH_PATIENCE);
        }
    }
}

/// `into`: where lines go.
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

/// As <https://no-color.org> has it: the variable counts unless it is empty.
fn has_colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A field of a line for people. tracing's own writer escapes the message alone, and brokers' words stand in fields.
fn write_field(writer: &mut fmt::format::Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escape { into: writer, style: Style::Line }, "{value:?}")
}

/// Escapes what JSON lets through and a terminal obeys: DEL, C1 and what reorders text.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    /// Takes a whole line, as tracing writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0.write_all(Printable::lines(&text).to_string().as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
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
    use std::sync::{Arc, Mutex};

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

    /// What the log makes of an event.
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
    fn what_a_broker_says_reaches_no_terminal_with_control_characters() {
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
    fn refuses_what_is_no_directive() {
        assert!(filter("info,alma_bridge=loud").is_err());
    }
}
