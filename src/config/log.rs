//! `[log]`: the program's own log.

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::settings::{Expected, Table, Walk};

/// The program's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `None` for text on a terminal and JSON elsewhere.
    pub format: Option<LogFormat>,
    /// tracing's directives, for the bridge's own targets.
    pub level: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl Log {
    pub(super) fn read(mut table: Table, walk: &mut Walk) -> Self {
        let format = table.optional_choice("format", &[("json", LogFormat::Json), ("text", LogFormat::Text)], walk);
        if format.is_none() && !walk.values.contains_key("log.format") {
            walk.note("log.format", "text on a terminal, json elsewhere", false);
        }
        let level = table.value("level", "info", walk, directives);
        table.finish(walk, |_| None);
        Self { format, level }
    }
}

/// Parses a level, or `target=level` directives. tracing alone would take any other word for a target.
fn directives(text: &str) -> Result<String, Expected> {
    let level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let fits = text.split(',').map(str::trim).all(|directive| match directive.split_once('=') {
        Some((target, word)) => !target.is_empty() && level(word),
        None => level(directive),
    });
    if fits && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a level (error, warn, info, debug, trace), or directives such as \"info,alma_bridge::journal=debug\""
        .to_owned())
}
