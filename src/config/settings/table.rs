//! Typed access to the keys of one table.

mod secrets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::values::{self, Expected, suggestion};
use super::walk::Walk;

/// A table of the configuration. Keys that nobody asks for are unknown.
pub(crate) struct Table {
    path: String,
    map: Map<String, Value>,
    known: Vec<String>,
}

impl Table {
    pub(crate) fn new(path: &str, map: Map<String, Value>) -> Self {
        Self { path: path.to_owned(), map, known: Vec::new() }
    }

    /// The full key, such as `sinks.main.topic`.
    pub(crate) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether the key is written at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| value.kind != ValueKind::Nil)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.known.push(name.to_owned());
        self.map.remove(name).filter(|value| value.kind != ValueKind::Nil)
    }

    /// A table in this one, empty if it is not written.
    pub(crate) fn table(&mut self, name: &str, walk: &mut Walk) -> Self {
        self.table_if_written(name, walk).unwrap_or_else(|| Self::new(&self.key(name), Map::new()))
    }

    /// A table in this one, if it is written.
    pub(crate) fn table_if_written(&mut self, name: &str, walk: &mut Walk) -> Option<Self> {
        let value = self.take(name)?;
        Self::of(&self.key(name), value, walk)
    }

    /// The tables in a section whose tables are named by the operator, ordered by name.
    pub(crate) fn named_tables(&mut self, name: &str, walk: &mut Walk) -> Vec<(String, Self)> {
        let Self { path, map, .. } = self.table(name, walk);
        let tables = map.into_iter().map(|(name, value)| (Self::of(&format!("{path}.{name}"), value, walk), name));
        let mut tables: Vec<_> = tables.filter_map(|(table, name)| Some((name, table?))).collect();
        tables.sort_by(|(a, _), (b, _)| a.cmp(b));
        tables
    }

    /// A list of tables, such as `secrets`.
    pub(crate) fn list_of_tables(&mut self, name: &str, walk: &mut Walk) -> Option<Vec<Self>> {
        let value = self.take(name)?;
        let key = self.key(name);
        let ValueKind::Array(items) = value.kind else {
            walk.error(&key, format!("found {}, expected a list of tables", kind(&value)));
            return None;
        };
        let items = items.into_iter().enumerate();
        Some(items.filter_map(|(index, item)| Self::of(&format!("{key}[{index}]"), item, walk)).collect())
    }

    fn of(key: &str, value: Value, walk: &mut Walk) -> Option<Self> {
        if let ValueKind::Table(map) = value.kind {
            return Some(Self::new(key, map));
        }
        walk.error(key, format!("found {}, expected a table", kind(&value)));
        None
    }

    /// A value with a default, both written as in the file.
    pub(crate) fn value<T>(
        &mut self,
        name: &str,
        default: &str,
        walk: &mut Walk,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> T {
        if let Some(value) = self.optional(name, walk, &parse) {
            return value;
        }
        let key = self.key(name);
        if !walk.values.contains_key(&key) {
            walk.note(&key, default, false);
        }
        // Every default is read by each test of the configuration.
        parse(default).unwrap_or_else(|expected| panic!("the default of {key} is {default:?}, {expected}"))
    }

    /// A value without a default.
    pub(crate) fn optional<T>(
        &mut self,
        name: &str,
        walk: &mut Walk,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Option<T> {
        let value = self.take(name)?;
        let key = self.key(name);
        let Some(text) = scalar(&value) else {
            let expected = parse("").err().unwrap_or_else(|| "expected a single value".to_owned());
            walk.error(&key, format!("found {}, {expected}", found(&value)));
            return None;
        };
        match parse(&text) {
            Ok(parsed) => {
                walk.note(&key, text, true);
                Some(parsed)
            }
            Err(expected) => {
                walk.error(&key, format!("found {}, {expected}", found(&value)));
                None
            }
        }
    }

    pub(crate) fn size(&mut self, name: &str, default: &str, walk: &mut Walk) -> u64 {
        self.value(name, default, walk, values::size)
    }

    pub(crate) fn memory(&mut self, name: &str, default: &str, walk: &mut Walk) -> usize {
        usize::try_from(self.size(name, default, walk)).unwrap_or(usize::MAX)
    }

    pub(crate) fn duration(&mut self, name: &str, default: &str, walk: &mut Walk) -> Duration {
        self.value(name, default, walk, values::duration)
    }

    /// A duration above 0.
    pub(crate) fn some_time(&mut self, name: &str, default: &str, walk: &mut Walk) -> Duration {
        self.value(name, default, walk, |text| match values::duration(text)? {
            Duration::ZERO => Err("expected a time above 0".to_owned()),
            time => Ok(time),
        })
    }

    pub(crate) fn boolean(&mut self, name: &str, default: bool, walk: &mut Walk) -> bool {
        self.value(name, if default { "true" } else { "false" }, walk, values::boolean)
    }

    pub(crate) fn address(&mut self, name: &str, default: &str, walk: &mut Walk) -> SocketAddr {
        self.value(name, default, walk, values::address)
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, name: &str, default: &str, bounds: (i64, i64), walk: &mut Walk) -> i64 {
        let (low, high) = bounds;
        self.value(name, default, walk, |text| {
            let number = text.replace('_', "").parse().ok().filter(|number| (low..=high).contains(number));
            number.ok_or_else(|| match high {
                i64::MAX => format!("expected a whole number of at least {low}"),
                _ => format!("expected a whole number from {low} to {high}"),
            })
        })
    }

    pub(crate) fn count(&mut self, name: &str, default: &str, low: i64, walk: &mut Walk) -> usize {
        usize::try_from(self.number(name, default, (low, i64::MAX), walk)).unwrap_or(usize::MAX)
    }

    /// A text that is not empty.
    pub(crate) fn text(&mut self, name: &str, default: &str, walk: &mut Walk) -> String {
        self.value(name, default, walk, not_empty)
    }

    pub(crate) fn optional_text(&mut self, name: &str, walk: &mut Walk) -> Option<String> {
        self.optional(name, walk, not_empty)
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&mut self, name: &str, default: &str, words: &[(&str, T)], walk: &mut Walk) -> T {
        self.value(name, default, walk, |text| word(text, words))
    }

    pub(crate) fn optional_choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)], walk: &mut Walk) -> Option<T> {
        self.optional(name, walk, |text| word(text, words))
    }

    /// A list of texts. In an environment variable, commas separate them.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        default: &[&str],
        walk: &mut Walk,
        parse: impl Fn(&str) -> Result<T, Expected>,
    ) -> Vec<T> {
        let key = self.key(name);
        let (texts, written) = match self.take(name) {
            None => (default.iter().map(ToString::to_string).collect(), false),
            Some(value) => {
                let Some(texts) = texts(&value) else {
                    walk.error(&key, format!("found {}, expected a list of texts", found(&value)));
                    return Vec::new();
                };
                (texts, true)
            }
        };
        walk.note(&key, format!("{texts:?}"), written);
        if texts.is_empty() {
            walk.error(&key, "found an empty list, expected at least one");
        }
        let mut parsed = Vec::new();
        for text in texts {
            match parse(&text) {
                Ok(value) => parsed.push(value),
                Err(expected) => walk.error(&key, format!("found {}, {expected}", quoted(&text))),
            }
        }
        parsed
    }

    /// A table with free keys, such as `properties`.
    pub(crate) fn texts(&mut self, name: &str, walk: &mut Walk) -> Vec<(String, String)> {
        let Some(table) = self.table_if_written(name, walk) else { return Vec::new() };
        let mut all = Vec::new();
        for (name, value) in table.map {
            let key = format!("{}.{name}", table.path);
            match scalar(&value) {
                Some(text) => all.push((name, text)),
                None => walk.error(&key, format!("found {}, expected a text or a number", kind(&value))),
            }
        }
        all.sort();
        all
    }

    /// A path, with `{data_dir}` replaced.
    pub(crate) fn path(&mut self, name: &str, default: &str, walk: &mut Walk) -> PathBuf {
        let text = self.text(name, default, walk);
        fill_data_dir(&text, walk.data_dir())
    }

    pub(crate) fn optional_path(&mut self, name: &str, walk: &mut Walk) -> Option<PathBuf> {
        let text = self.optional_text(name, walk)?;
        Some(fill_data_dir(&text, walk.data_dir()))
    }

    /// Whether somebody asked for the key.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.iter().any(|known| known == name)
    }

    /// Notes an error for each key that is written but was not asked for. `elsewhere` returns a hint for keys that belong
    /// elsewhere.
    pub(crate) fn finish(self, walk: &mut Walk, elsewhere: impl Fn(&str) -> Option<String>) {
        let mut left: Vec<&String> = self.map.keys().collect();
        left.sort();
        for name in left {
            let key = self.key(name);
            match elsewhere(name) {
                Some(hint) => walk.error(&key, format!("unknown key{hint}")),
                None => walk.unknown_key(&key, &suggestion(name, self.known.iter().map(String::as_str))),
            }
        }
        walk.known.extend(self.known.iter().map(|name| self.key(name)));
    }
}

fn not_empty(text: &str) -> Result<String, Expected> {
    if text.is_empty() { Err("expected a text that is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn word<T: Copy>(found: &str, words: &[(&str, T)]) -> Result<T, Expected> {
    words.iter().find(|(word, _)| *word == found).map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("expected one of {}{}", all.join(", "), suggestion(found, all.iter().copied()))
    })
}

fn fill_data_dir(text: &str, data_dir: &Path) -> PathBuf {
    match text.strip_prefix("{data_dir}") {
        Some(rest) => data_dir.join(rest.trim_start_matches('/')),
        None => PathBuf::from(text),
    }
}

/// A value as text. `None` for a table or a list.
fn scalar(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => None,
        _ => value.clone().into_string().ok(),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match &value.kind {
        ValueKind::Array(items) => items.iter().map(scalar).collect(),
        ValueKind::String(text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => None,
    }
}

/// What kind of value was found. For errors about keys whose value may be a secret.
const fn kind(value: &Value) -> &'static str {
    match &value.kind {
        ValueKind::Nil => "nothing",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
        ValueKind::String(_) => "a text",
        ValueKind::Boolean(_) => "true or false",
        _ => "a number",
    }
}

/// What was found, for an error.
fn found(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        ValueKind::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A text in quotes. What precedes an @ may be a login, and is hidden.
fn quoted(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, after)) => format!("\"…@{after}\""),
        None => format!("{text:?}"),
    }
}
