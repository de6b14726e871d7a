//! `[sinks.NAME]`: where events are published. This file has the table of types and the keys that every sink has; the
//! keys of a type are in the file of its name.

mod file;
mod kafka;
mod login;
mod nats;
mod rabbitmq;
mod tls;

use std::time::Duration;

use config::Map;

use super::filter::{ActionFilter, Filter, action_pattern, text_pattern};
use super::names::{NotAName, SinkName};
use super::settings::values::suggestion;
use super::settings::{Table, Walk};
use super::sources::Source;
use super::template::TopicTemplate;
pub use login::Login;
pub use tls::ClientTls;

/// The types of sinks, one per line: `Variant(module::Settings) = "name"`.
///
/// - `Variant` is the type's variant in [`SinkKind`].
/// - `module` is its file in this folder, and `Settings` are its keys, with a function `read`.
/// - `name` is what the operator writes after `type =`, the cargo feature, and the label of metrics.
///
/// [`crate::sinks`] uses the same table to find the implementation of each type.
macro_rules! sink_types {
    ($with_each:ident) => {
        $with_each! {
            File(file::FileSink) = "file",
            Kafka(kafka::KafkaSink) = "kafka",
            RabbitMq(rabbitmq::RabbitMqSink) = "rabbitmq",
            Nats(nats::NatsSink) = "nats",
        }
    };
}
pub(crate) use sink_types;

macro_rules! sink_kind {
    ($($variant:ident($module:ident::$settings:ident) = $name:literal,)*) => {
        $(pub use $module::*;)*

        /// The type of a sink, with the keys of that type.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum SinkKind {
            $(
                #[doc = concat!("`type = \"", $name, "\"`")]
                $variant($settings),
            )*
        }

        impl SinkKind {
            /// The names of all types, including those that this binary was built without.
            pub const NAMES: &[&str] = &[$($name),*];

            /// The name of the type: in the configuration, and as the label `type` of metrics.
            pub const fn as_str(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }
        }

        const READERS: &[Reader] = &[
            $(Reader {
                name: $name,
                built_in: cfg!(feature = $name),
                read: |table, walk| SinkKind::$variant($settings::read(table, walk)),
            },)*
        ];
    };
}
sink_types!(sink_kind);

/// Reads the keys of one type.
struct Reader {
    name: &'static str,
    /// Whether this binary has it.
    built_in: bool,
    read: fn(&mut Table, &mut Walk) -> SinkKind,
}

impl Reader {
    /// Whether a sink of this type can have a key.
    fn has_key(&self, name: &str) -> bool {
        // The reader asks for each key, even in an empty table.
        let mut table = Table::new("", Map::new());
        (self.read)(&mut table, &mut Walk::default());
        table.knows(name)
    }
}

/// One place where events are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sink {
    /// Identifies the sink in the journal, even if its type changes.
    pub name: SinkName,
    /// The type, with its own keys.
    pub kind: SinkKind,
    /// The topic of each event, such as `alma.{action}`.
    pub topic: TopicTemplate,
    /// How events are written.
    pub format: Format,
    /// The actions that it asks for, `unparsed` and `misdirected` among them.
    pub actions: ActionFilter,
    /// The sources that it asks for.
    pub sources: Filter,
    /// Of the events that have a job, the names of the jobs that it asks for.
    pub jobs: Filter,
    /// Of the events that have a job, the statuses that it asks for.
    pub statuses: Filter,
    /// The codes of the institutions that it asks for. An event that names none has an empty code.
    pub institutions: Filter,
    /// Where a new sink starts.
    pub start: Start,
    /// The removed sink whose place and dead letters this one takes over.
    pub continues: Option<SinkName>,
    /// How long the bridge retries a topic that needs an operator before it parks the topic.
    pub setup_grace: Duration,
    /// If the journal is full, the bridge gives up the oldest waiting events of this sink instead of answering 503.
    pub best_effort: bool,
    /// Events on further topics become dead letters.
    pub max_topics: usize,
}

#[cfg(test)]
impl Sink {
    /// A sink with the defaults. Its folder is never written to.
    pub(crate) fn sample(name: SinkName) -> Self {
        Self {
            name,
            kind: SinkKind::File(FileSink { dir: "unused".into(), rotate: 1, keep: 1 }),
            topic: TopicTemplate::parse("alma.{action}").expect("a template"),
            format: Format::CloudEvents,
            actions: ActionFilter::default(),
            sources: Filter::default(),
            jobs: Filter::default(),
            statuses: Filter::default(),
            institutions: Filter::default(),
            start: Start::Next,
            continues: None,
            setup_grace: Duration::from_mins(1),
            best_effort: false,
            max_topics: 200,
        }
    }
}

/// Where a sink starts that the journal does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event.
    Next,
    /// With the oldest event that the journal retains.
    Oldest,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The whole event as one JSON document (CloudEvents structured mode).
    CloudEvents,
    /// Attributes as headers, and the body as Alma sent it (CloudEvents binary mode).
    CloudEventsBinary,
}

/// All sinks, and whether they are the built-in one, because the configuration names none.
pub(super) fn read(root: &mut Table, sources: &[Source], walk: &mut Walk) -> (Vec<Sink>, bool) {
    let mut tables = root.named_tables("sinks", walk);
    let built_in = tables.is_empty();
    if built_in {
        tables = vec![("main".to_owned(), Table::new("sinks.main", Map::new()))];
    }
    let sinks: Vec<Sink> =
        tables.into_iter().filter_map(|(name, table)| sink(&name, table, built_in, sources, walk)).collect();
    check_continues(&sinks, walk);
    let folders = sinks.iter().filter_map(|sink| match &sink.kind {
        SinkKind::File(file) => Some((&sink.name, &*file.dir)),
        _ => None,
    });
    file::check_folders(folders, walk);
    (sinks, built_in)
}

/// A sink can only continue one that was removed, and no two sinks can continue the same one.
fn check_continues(sinks: &[Sink], walk: &mut Walk) {
    for (index, sink) in sinks.iter().enumerate() {
        if sink.continues.as_ref().is_some_and(|continued| sinks.iter().any(|other| other.name == *continued)) {
            let problem = "names a configured sink, expected one that was removed from the configuration, or nothing";
            walk.error(&format!("sinks.{}.continues", sink.name), problem);
        }
        let other = sinks[..index].iter().find(|other| other.continues.is_some() && other.continues == sink.continues);
        if let (Some(other), Some(continued)) = (other, &sink.continues) {
            let problem = format!(
                "found \"{continued}\", which sink {} continues too; only one sink can take its place, expected \
                 start = \"oldest\" or nothing for the others",
                other.name
            );
            walk.error(&format!("sinks.{}.continues", sink.name), problem);
        }
    }
}

fn sink(name: &str, mut table: Table, built_in: bool, sources: &[Source], walk: &mut Walk) -> Option<Sink> {
    let key = table.key("").trim_end_matches('.').to_owned();
    let parsed =
        name.parse().map_err(|expected: NotAName| walk.error(&key, format!("found the name {name:?}, {expected}")));
    let reader = reader(&mut table, built_in, walk);
    let topic = table.value("topic", "alma.{action}", walk, TopicTemplate::parse);
    let formats = [("cloudevents", Format::CloudEvents), ("cloudevents-binary", Format::CloudEventsBinary)];
    let format = table.choice("format", "cloudevents", &formats, walk);
    let actions = ActionFilter::of(table.list("actions", &["*"], walk, action_pattern));
    let asked_sources = asked_sources(&mut table, sources, walk);
    let [jobs, statuses, institutions] =
        ["jobs", "statuses", "institutions"].map(|name| Filter::of(table.list(name, &["*"], walk, text_pattern)));
    let start = table.choice("start", "next", &[("next", Start::Next), ("oldest", Start::Oldest)], walk);
    let continues =
        table.optional("continues", walk, |text| text.parse::<SinkName>().map_err(|expected| expected.to_string()));
    let setup_grace = table.duration("setup_grace", "1m", walk);
    let best_effort = table.boolean("best_effort", false, walk);
    let max_topics = table.count("max_topics", "200", 1, walk);
    let reader = reader?;
    let kind = (reader.read)(&mut table, walk);
    if format == Format::CloudEventsBinary && matches!(kind, SinkKind::File(_)) {
        let problem = "found \"cloudevents-binary\", but a file has no headers, expected \"cloudevents\"";
        walk.error(&table.key("format"), problem);
    }
    table.finish(walk, |name| hint(reader.name, name));
    Some(Sink {
        name: parsed.ok()?,
        kind,
        topic,
        format,
        actions,
        sources: asked_sources,
        jobs,
        statuses,
        institutions,
        start,
        continues,
        setup_grace,
        best_effort,
        max_topics,
    })
}

/// What to say about a key that a type does not have.
fn hint(this: &str, key: &str) -> Option<String> {
    match key {
        "password" | "token" => {
            Some(format!(": a secret does not belong in the configuration, use {key}_file or {key}_env"))
        }
        "username" | "password_file" | "password_env" | "tls" => Some(format!(": type {this} does not have it")),
        _ => {
            let owner = READERS.iter().find(|other| other.has_key(key))?;
            Some(format!(": it belongs to type {}, but this sink has type {this}", owner.name))
        }
    }
}

fn reader(table: &mut Table, built_in: bool, walk: &mut Walk) -> Option<&'static Reader> {
    let expected = || format!("expected one of {}", SinkKind::NAMES.join(", "));
    let find = |text: &str| {
        let found = READERS.iter().find(|reader| reader.name == text);
        found.ok_or_else(|| format!("{}{}", expected(), suggestion(text, SinkKind::NAMES.iter().copied())))
    };
    if built_in {
        return Some(table.value("type", "file", walk, find));
    }
    if !table.has("type") {
        walk.error(&table.key("type"), format!("missing, {}", expected()));
        return None;
    }
    table.optional("type", walk, |text| match find(text)? {
        reader if reader.built_in => Ok(reader),
        _ => Err(format!("but this binary was built without it, expected another or a build with --features {text}")),
    })
}

fn asked_sources(table: &mut Table, sources: &[Source], walk: &mut Walk) -> Filter {
    let names: Vec<&str> = sources.iter().map(|source| source.name.as_str()).collect();
    let patterns = table.list("sources", &["*"], walk, |text| {
        let pattern = text_pattern(text)?;
        let bare = text.strip_prefix('!').unwrap_or(text);
        // A name that no source has would be a mistyped one.
        if bare == "*" || names.iter().any(|name| pattern.matches(name)) {
            return Ok(pattern);
        }
        let near = suggestion(bare, names.iter().copied());
        Err(format!("expected \"*\", a source ({}), or a pattern that matches one{near}", names.join(", ")))
    });
    Filter::of(patterns)
}
