//! Turns a stored event into the message for one sink.

use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::topic::{Fill, segment};
use super::{ContentType, EventId, Message, StoredEvent};
use crate::alma::event::{Job, ObjectId, Syntax};
use crate::alma::{BodyDigest, Event};
use crate::clock::Timestamp;
use crate::config::{ActionFilter, Filter, Format, Privacy, Secret, Sink, Source, TopicTemplate};

/// Maximum bytes of an attribute. A longer one is left out.
const MAX_ATTRIBUTE: usize = 256;

/// As many as a message can have.
const MOST_ATTRIBUTES: usize = 15;

/// Hex digits of the body's digest that end an id, and that appear in the log.
const ID_DIGITS: usize = 16;

/// Encodes everything in a path segment of a URI except RFC 3986's unreserved characters.
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The action of an event that reports a job, as it stands in a topic.
const JOB_END: &str = "job_end";

/// In the place of `{action}` for what can't be read.
pub(super) const UNPARSED: &str = "unparsed";

/// Replaces `{action}` if the event names an institution other than its source's.
pub(super) const MISDIRECTED: &str = "misdirected";

/// Makes the messages of one sink.
#[derive(Clone, Debug)]
pub struct Messages {
    template: TopicTemplate,
    format: Format,
    actions: ActionFilter,
    sources: Filter,
    jobs: Filter,
    statuses: Filter,
    institutions: Filter,
    /// The institution that each source expects, if it expects one.
    expected_institutions: Vec<(String, String)>,
    privacy_key: Option<Secret>,
}

impl Messages {
    /// Prepares for the messages of `sink`. `sources` say which institutions are expected.
    pub fn new(sink: &Sink, sources: &[Source], privacy: &Privacy) -> Self {
        let expected = |source: &Source| Some((source.name.to_string(), source.institution.clone()?));
        Self {
            template: sink.topic.clone(),
            format: sink.format,
            actions: sink.actions.clone(),
            sources: sink.sources.clone(),
            jobs: sink.jobs.clone(),
            statuses: sink.statuses.clone(),
            institutions: sink.institutions.clone(),
            expected_institutions: sources.iter().filter_map(expected).collect(),
            privacy_key: privacy.key.clone(),
        }
    }

    /// The message for an event, or `None` if the sink does not ask for it. `replayed` is when a replay was requested.
    pub fn make(&self, stored: &StoredEvent, replayed: Option<Timestamp>) -> Option<Message> {
        if !self.sources.wants(stored.source.as_str()) {
            return None;
        }
        let event = Event::parse(&stored.body);
        let word = self.word(stored, &event);
        let own_action = segment(event.action());
        let action = word.unwrap_or(&own_action);
        let happened = event.event().map(segment).unwrap_or_default();
        if self.filtered_by(&event, word, &own_action, &happened).is_some() {
            return None;
        }
        let (job, status) = (event.job().and_then(Job::name), event.job().and_then(Job::status));
        let is_job_end = own_action == JOB_END;
        let fill = Fill {
            action,
            event: &happened,
            institution: &event.institution().map(segment).unwrap_or_default(),
            source: &segment(stored.source.as_str()),
            job: &job.map(segment).unwrap_or_default(),
            status: &status.map(segment).unwrap_or_default(),
            special: word.is_some(),
        };
        let topic = fill.topic(&self.template);
        let id = event_id(&event, &stored.body);
        let subject = self.subject(&event);
        let partition_key = subject.clone().or_else(|| anonymous_key(&event)).unwrap_or_else(|| id.clone());
        let content_type = match event.syntax() {
            Some(Syntax::Json) => ContentType::Json,
            Some(Syntax::Xml) => ContentType::Xml,
            None => ContentType::Opaque,
        };
        let type_action = if event.unparsed().is_some() { UNPARSED } else { &own_action };
        let attributes = Attributes(Vec::with_capacity(MOST_ATTRIBUTES))
            .always("specversion", "1.0".to_owned())
            .always("id", id.clone())
            .always("source", source(stored, &event))
            .always("type", event_type(type_action, &happened))
            .maybe("subject", subject)
            .always("time", time(&event, stored.received))
            .always("datacontenttype", content_type.as_str().to_owned())
            .maybe("almaaction", Some(event.action().to_owned()).filter(|action| !action.is_empty()))
            .maybe("almaevent", event.event().map(str::to_owned))
            .maybe("almainstitution", event.institution().map(str::to_owned))
            .maybe("almajob", job.filter(|_| is_job_end).map(str::to_owned))
            .maybe("almastatus", status.filter(|_| is_job_end).map(str::to_owned))
            .always("recordedtime", stored.recorded.to_string())
            .maybe("partitionkey", Some(partition_key.clone()))
            .maybe("replayed", replayed.map(|moment| moment.to_string()));
        Some(Message {
            topic,
            id: EventId(id.into()),
            source_name: stored.source.clone(),
            partition_key,
            received: stored.received,
            recorded: stored.recorded,
            content_type,
            attributes: attributes.0,
            data: stored.body.clone(),
            format: self.format,
            replay: None,
        })
    }

    /// The list of the sink that keeps an event out, such as `jobs`; `None` if the sink asks for the event.
    pub fn unwanted_by(&self, stored: &StoredEvent) -> Option<&'static str> {
        if !self.sources.wants(stored.source.as_str()) {
            return Some("sources");
        }
        let event = Event::parse(&stored.body);
        let happened = event.event().map(segment).unwrap_or_default();
        self.filtered_by(&event, self.word(stored, &event), &segment(event.action()), &happened)
    }

    /// `word` stands in the place of the event's own action, and then there is no event to it.
    fn filtered_by(
        &self,
        event: &Event<'_>,
        word: Option<&str>,
        own_action: &str,
        happened: &str,
    ) -> Option<&'static str> {
        let (action, happened) = word.map_or((own_action, happened), |word| (word, ""));
        // Neither list concerns an event without a job.
        let job = event.job();
        let wants_job = |filter: &Filter, text: Option<&str>| job.is_none() || filter.wants(text.unwrap_or_default());
        if !self.actions.wants(action, happened) {
            Some("actions")
        } else if !self.institutions.wants(event.institution().unwrap_or_default()) {
            Some("institutions")
        } else if !wants_job(&self.jobs, job.and_then(Job::name)) {
            Some("jobs")
        } else if !wants_job(&self.statuses, job.and_then(Job::status)) {
            Some("statuses")
        } else {
            None
        }
    }

    /// What `actions` names an event by.
    pub fn action(&self, stored: &StoredEvent) -> String {
        let event = Event::parse(&stored.body);
        self.word(stored, &event).map_or_else(|| segment(event.action()), str::to_owned)
    }

    /// The word that replaces the event's own action, if any.
    fn word(&self, stored: &StoredEvent, event: &Event<'_>) -> Option<&'static str> {
        match event.unparsed() {
            Some(_) => Some(UNPARSED),
            None => self.is_misdirected(stored, event).then_some(MISDIRECTED),
        }
    }

    fn is_misdirected(&self, stored: &StoredEvent, event: &Event<'_>) -> bool {
        let expected = self.expected_institutions.iter().find(|(source, _)| source == stored.source.as_str());
        match (expected, event.institution()) {
            (Some((_, expected)), Some(found)) => expected != found,
            _ => false,
        }
    }

    /// The object's id; of a user a pseudonym, where there is a key for it.
    fn subject(&self, event: &Event<'_>) -> Option<String> {
        let subject = match event.object()? {
            ObjectId::Thing(id) => id.to_string(),
            ObjectId::User(id) => pseudonym(self.privacy_key.as_ref()?, id),
        };
        fits(&subject).then_some(subject)
    }
}

/// The same for every sink and every publication.
fn event_id(event: &Event<'_>, body: &[u8]) -> String {
    let digest = BodyDigest::of(body);
    match event.id() {
        Some(id) => format!("{id}.{}", digest.hex(ID_DIGITS)),
        None => digest.hex(2 * ID_DIGITS),
    }
}

impl StoredEvent {
    /// The event's CloudEvents id. Parses the body.
    pub fn id(&self) -> EventId {
        EventId(event_id(&Event::parse(&self.body), &self.body).into())
    }
}

/// The first 32 hex digits of HMAC-SHA256(key, primary id).
fn pseudonym(key: &Secret, primary_id: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    mac.update(primary_id.as_bytes());
    hex(&mac.finalize().into_bytes(), 32)
}

/// Keeps the events of one user in order without identifying the user: the key is one of 4,096.
fn anonymous_key(event: &Event<'_>) -> Option<String> {
    let Some(ObjectId::User(id)) = event.object() else { return None };
    let digits = hex(&Sha256::digest(id.as_bytes()), 64);
    Some(format!("u{}", &digits[61..]))
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let digit = |half: u8| char::from_digit(u32::from(half), 16).expect("half a byte is below 16");
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).take(digits).collect()
}

/// Whether a text can be an attribute.
fn fits(text: &str) -> bool {
    // Unicode's noncharacters are forbidden in a CloudEvents String.
    let noncharacter = |c: char| u32::from(c) & 0xFFFE == 0xFFFE || ('\u{FDD0}'..='\u{FDEF}').contains(&c);
    text.len() <= MAX_ATTRIBUTE && !text.chars().any(|c| c.is_control() || noncharacter(c))
}

fn source(stored: &StoredEvent, event: &Event<'_>) -> String {
    match event.institution().filter(|institution| fits(institution)) {
        Some(institution) => format!("/{}/{}", stored.source, utf8_percent_encode(institution, PATH_SEGMENT)),
        None => format!("/{}", stored.source),
    }
}

fn event_type(action: &str, happened: &str) -> String {
    let dot = if happened.is_empty() { "" } else { "." };
    format!("com.exlibrisgroup.alma.{action}{dot}{happened}")
}

/// Alma's time in UTC, or the time of receipt if Alma's is not valid.
fn time(event: &Event<'_>, received: Timestamp) -> String {
    let written = event.time().unwrap_or_default();
    let shaped = written.len() <= 64 && written.get(10..11) == Some("T") && !written.contains('[');
    match written.parse::<jiff::Timestamp>() {
        // Already in UTC, so it stays as Alma wrote it.
        Ok(_) if shaped && written.ends_with('Z') => written.to_owned(),
        Ok(moment) if shaped => moment.to_string(),
        _ => received.to_string(),
    }
}

/// The attributes in the order in which they are written.
struct Attributes(Vec<(&'static str, String)>);

impl Attributes {
    /// Adds an attribute that every event has. The bridge makes its value, so it always fits.
    fn always(mut self, name: &'static str, value: String) -> Self {
        self.0.push((name, value));
        self
    }

    /// Adds an attribute unless its value is missing or does not fit.
    fn maybe(mut self, name: &'static str, value: Option<String>) -> Self {
        self.0.extend(value.filter(|value| fits(value)).map(|value| (name, value)));
        self
    }
}

#[cfg(test)]
mod tests;
