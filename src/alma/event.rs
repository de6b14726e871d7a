//! The envelope of an event: only what topics and attributes are made from.
//!
//! Sources: the Ex Libris developer network's page on webhooks, and bodies seen from live systems. Alma may add actions
//! and objects at any time, so this module ignores whatever it does not know.

mod json;
mod xml;

use std::borrow::Cow;
use std::fmt;

/// Levels of nesting, in JSON and XML. Alma's own documents have about ten. A CloudEvents document adds one, and
/// subscribers' parsers commonly stop at 128.
const MAX_DEPTH: usize = 100;

/// What could be read of a verified body. Borrows from the body if possible.
#[derive(Clone, Debug, Default)]
pub struct Event<'a> {
    syntax: Option<Syntax>,
    unparsed: Option<Unparsed>,
    fields: Fields<'a>,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// The first byte that is not blank is `{`.
    Json,
    /// The first byte that is not blank is `<`.
    Xml,
}

/// Why a body could not be parsed. `explain` prints the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unparsed {
    /// Begins with a byte order mark.
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// Not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
    /// Begins with neither `{` nor `<`.
    #[error("begins with neither {{ nor <")]
    NeitherJsonNorXml,
    /// Begins like a JSON object, but is malformed, followed by something else, or nested too deeply.
    #[error("not a JSON object, or followed by something else, or nested too deeply")]
    NotJson,
    /// Begins like XML, but is not well-formed, has a document type, or is nested too deeply.
    #[error("not well-formed XML, or with a document type, or nested too deeply")]
    NotXml,
    /// `action` is missing.
    #[error("action is missing")]
    ActionMissing,
    /// `action` occurs more than once.
    #[error("action occurs twice")]
    ActionTwice,
    /// `action` is empty or not a string.
    #[error("action is empty or not a string")]
    ActionNotText,
}

/// The fields that are read. A field that occurs more than once, or is not a string, counts as absent.
#[derive(Clone, Debug, Default)]
struct Fields<'a> {
    id: Option<Cow<'a, str>>,
    action: Cow<'a, str>,
    event: Option<Cow<'a, str>>,
    institution: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    object: Option<ObjectId<'a>>,
    job: Option<Job<'a>>,
}

/// The job that an event reports. Either field is `None` if it is absent, empty or not a string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job<'a> {
    name: Option<Cow<'a, str>>,
    status: Option<Cow<'a, str>>,
}

impl Job<'_> {
    /// `job_instance.name`.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| !name.is_empty())
    }

    /// `job_instance.status.value`, or `job_instance.status` if it is a string.
    pub fn status(&self) -> Option<&str> {
        self.status.as_deref().filter(|status| !status.is_empty())
    }
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectId<'a> {
    /// A job instance, loan, request, bibliographic record or item: its id in Alma.
    Thing(Cow<'a, str>),
    /// A user, by primary id: personal data.
    User(Cow<'a, str>),
}

/// Where the id of each object is. The first match counts. Source: samples of each action.
const OBJECT_IDS: [&[&str]; 7] = [
    &["job_instance", "id"],
    &["item_loan", "loan_id"],
    &["user_request", "request_id"],
    &["bib", "mms_id"],
    &["item", "item_data", "pid"],
    &["item", "item_data", "barcode"],
    &["webhook_user", "user", "primary_id"],
];

impl<'a> ObjectId<'a> {
    /// The id found at one of [`OBJECT_IDS`]. Returns `None` if it is empty.
    fn at(path: &[&str], id: Cow<'a, str>) -> Option<Self> {
        match path {
            _ if id.is_empty() => None,
            ["webhook_user", ..] => Some(Self::User(id)),
            _ => Some(Self::Thing(id)),
        }
    }
}

impl<'a> Event<'a> {
    /// Reads a body. Never fails: a body that can't be parsed is still an event.
    pub fn parse(body: &'a [u8]) -> Self {
        match read(body) {
            Ok((syntax, fields)) => Self { syntax: Some(syntax), unparsed: None, fields },
            Err(unparsed) => Self { unparsed: Some(unparsed), ..Self::default() },
        }
    }

    /// How the body is written. `None` if it is unparsed.
    pub fn syntax(&self) -> Option<Syntax> {
        self.syntax
    }

    /// Why the body is unparsed. `None` if it was parsed.
    pub fn unparsed(&self) -> Option<Unparsed> {
        self.unparsed
    }

    /// Alma's id of the event: 1 to 64 characters of `[A-Za-z0-9_.-]`. `None` if it is anything else.
    pub fn id(&self) -> Option<&str> {
        let fits = |id: &&str| {
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        self.fields.id.as_deref().filter(fits)
    }

    /// `action` as Alma wrote it. Empty if the body is unparsed.
    pub fn action(&self) -> &str {
        &self.fields.action
    }

    /// `event.value`, or `event` if that is a string.
    pub fn event(&self) -> Option<&str> {
        self.fields.event.as_deref().filter(|event| !event.is_empty())
    }

    /// `institution.value`.
    pub fn institution(&self) -> Option<&str> {
        self.fields.institution.as_deref().filter(|institution| !institution.is_empty())
    }

    /// `time` as Alma wrote it. It need not be a valid time.
    pub fn time(&self) -> Option<&str> {
        self.fields.time.as_deref()
    }

    /// The object that the event is about, if its id is known.
    pub fn object(&self) -> Option<&ObjectId<'a>> {
        self.fields.object.as_ref()
    }

    /// The job, if the event has a `job_instance`.
    pub fn job(&self) -> Option<&Job<'a>> {
        self.fields.job.as_ref()
    }

    /// One line for a person: what it was read as, or why not.
    pub fn verdict(&self) -> impl fmt::Display {
        match (self.unparsed, self.syntax) {
            (Some(why), _) => format!("unparsed: {why}"),
            (None, Some(Syntax::Xml)) => "an event, in XML".to_owned(),
            (None, _) => "an event, in JSON".to_owned(),
        }
    }
}

fn read(body: &[u8]) -> Result<(Syntax, Fields<'_>), Unparsed> {
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(Unparsed::ByteOrderMark);
    }
    let text = std::str::from_utf8(body).map_err(|_| Unparsed::NotUtf8)?;
    let (syntax, fields) = match text.bytes().find(|byte| !b" \t\r\n".contains(byte)) {
        Some(b'{') => (Syntax::Json, json::read(text)?),
        Some(b'<') => (Syntax::Xml, xml::read(text)?),
        _ => return Err(Unparsed::NeitherJsonNorXml),
    };
    if fields.action.is_empty() { Err(Unparsed::ActionNotText) } else { Ok((syntax, fields)) }
}

#[cfg(test)]
mod tests;
