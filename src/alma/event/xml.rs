//! The envelope in XML: the text of a few elements, found by their paths. A document type is refused, so the only
//! entities are XML's own five.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, Event as Xml};

use super::{Fields, Job, MAX_DEPTH, OBJECT_IDS, ObjectId, Unparsed};

/// Paths below the root, each with the place of what it is wanted for.
const PATHS: [&[&str]; 10] = [
    &["action"],
    &["id"],
    &["time"],
    &["event"],
    &["event", "value"],
    &["institution"],
    &["institution", "value"],
    &["job_instance", "name"],
    &["job_instance", "status"],
    &["job_instance", "status", "value"],
];

pub(super) fn read(text: &str) -> Result<Fields<'_>, Unparsed> {
    let mut walk = Walk::default();
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event().map_err(|_| Unparsed::NotXml)? {
            Xml::Start(start) => walk.open(start.local_name().as_ref())?,
            Xml::Empty(start) => {
                walk.open(start.local_name().as_ref())?;
                walk.close();
            }
            Xml::End(_) => walk.close(),
            Xml::Text(text) => walk.text(&text.xml10_content())?,
            Xml::CData(text) => walk.text(&text.xml10_content())?,
            Xml::GeneralRef(reference) => walk.text(&resolve(&reference)?)?,
            Xml::DocType(_) => return Err(Unparsed::NotXml),
            Xml::Comment(_) | Xml::Decl(_) | Xml::PI(_) => {}
            Xml::Eof => break,
        }
    }
    if !walk.stack.is_empty() || walk.roots != 1 {
        return Err(Unparsed::NotXml);
    }
    walk.fields()
}

/// A character reference, or one of the five entities that need no document type.
fn resolve(reference: &BytesRef<'_>) -> Result<Cow<'static, str>, Unparsed> {
    if let Some(c) = reference.resolve_char_ref().map_err(|_| Unparsed::NotXml)? {
        return Ok(c.to_string().into());
    }
    resolve_xml_entity(reference).map(Cow::Borrowed).ok_or(Unparsed::NotXml)
}

/// Where the reader is, and what it has found.
#[derive(Default)]
struct Walk {
    /// The path below the root of each open element. `None` if nothing that is read can be in it.
    stack: Vec<Option<Vec<String>>>,
    roots: usize,
    found: Vec<(Vec<String>, String)>,
}

impl Walk {
    fn open(&mut self, name: &str) -> Result<(), Unparsed> {
        if self.stack.len() == MAX_DEPTH {
            return Err(Unparsed::NotXml);
        }
        let Some(parent) = self.stack.last() else {
            // The root may have any name.
            self.roots += 1;
            self.stack.push(Some(Vec::new()));
            return Ok(());
        };
        let path = parent.as_ref().and_then(|parent| below(parent, name));
        if let Some(path) = path.as_ref().filter(|path| wanted().any(|wanted| *wanted == path.as_slice())) {
            self.found.push((path.clone(), String::new()));
        }
        self.stack.push(path);
        Ok(())
    }

    fn close(&mut self) {
        self.stack.pop();
    }

    fn text(&mut self, text: &str) -> Result<(), Unparsed> {
        let Some(path) = self.stack.last() else {
            // Only blanks are allowed outside the root.
            return if text.trim().is_empty() { Ok(()) } else { Err(Unparsed::NotXml) };
        };
        let found = path.as_ref().and_then(|path| self.found.iter_mut().rev().find(|(found, _)| found == path));
        if let Some((_, content)) = found {
            content.push_str(text);
        }
        Ok(())
    }

    /// The trimmed text of the element at a path. Returns `None` unless it occurs exactly once and is not empty.
    fn once(&self, path: &[&str]) -> Option<Cow<'static, str>> {
        let mut all = self.found.iter().filter(|(found, _)| found == path);
        let (_, text) = all.next().filter(|_| all.next().is_none())?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned().into())
    }

    fn fields<'a>(self) -> Result<Fields<'a>, Unparsed> {
        let actions = self.found.iter().filter(|(path, _)| path == &["action"]).count();
        let action = match actions {
            0 => return Err(Unparsed::ActionMissing),
            1 => self.once(&["action"]).ok_or(Unparsed::ActionNotText)?,
            _ => return Err(Unparsed::ActionTwice),
        };
        let code = |path: &[&str]| self.once(&[path, &["value"]].concat()).or_else(|| self.once(path));
        let object = OBJECT_IDS.iter().find_map(|path| ObjectId::at(path, self.once(path)?));
        let job = Job { name: self.once(&["job_instance", "name"]), status: code(&["job_instance", "status"]) };
        // An unused slot can be an empty element.
        let has_job = job != Job::default() || self.once(&["job_instance", "id"]).is_some();
        Ok(Fields {
            id: self.once(&["id"]),
            action,
            event: code(&["event"]),
            institution: code(&["institution"]),
            time: self.once(&["time"]),
            object,
            job: has_job.then_some(job),
        })
    }
}

/// The path of an element. Returns `None` if it leads to no element that is read.
fn below(parent: &[String], name: &str) -> Option<Vec<String>> {
    let leads = |wanted: &[&str]| {
        wanted.len() > parent.len() && wanted[..parent.len()] == *parent && wanted[parent.len()] == name
    };
    wanted().any(|wanted| leads(wanted)).then(|| [parent, &[name.to_owned()]].concat())
}

fn wanted() -> impl Iterator<Item = &'static &'static [&'static str]> {
    PATHS.iter().chain(&OBJECT_IDS)
}
