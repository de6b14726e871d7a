//! What the commands need from a sink besides publishing: `check --connect` and `tail`.
//!
//! Each type of sink has a `probe` and a `tail`, in files of these names. Both use the sink's credentials.

use std::io::{self, Write as _};
use std::path::Path;

use tokio::sync::mpsc;

use crate::config::TopicTemplate;
use crate::message::{ContentType, structured};

/// One line of the checklist of `check --connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked: `broker reached`, `topic alma.job_end`, `message.max.bytes`.
    pub what: String,
    /// What was found.
    pub verdict: Verdict,
}

/// What a [`Check`] found. The texts name the broker's own setting or command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Good: the value that was found.
    Good(String),
    /// It works, but could be safer: what was found, and what to do.
    Warning(String, String),
    /// It does not work: what was found, and what to do.
    Bad(String, String),
}

impl Check {
    /// A check with [`Verdict::Good`].
    pub fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Good(found.into()) }
    }

    /// A check with [`Verdict::Warning`].
    pub fn warning(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warning(found.into(), mend.into()) }
    }

    /// A check with [`Verdict::Bad`].
    pub fn bad(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Bad(found.into(), mend.into()) }
    }
}

/// Placeholder for the topic's name in a [`Check`] until [`about_topics`] fills it in.
pub const TOPIC: &str = "TOPIC";

impl Check {
    /// Fills in the names of these topics. Findings and remedies keep the placeholder if there are several topics.
    fn filled_in(self, topics: &[String]) -> Self {
        let name = |text: String| match topics {
            [only] => text.replace(TOPIC, only),
            _ => text,
        };
        let verdict = match self.verdict {
            Verdict::Good(found) => Verdict::Good(name(found)),
            Verdict::Warning(found, mend) => Verdict::Warning(name(found), name(mend)),
            Verdict::Bad(found, mend) => Verdict::Bad(name(found), name(mend)),
        };
        Self { what: self.what.replace(TOPIC, &topics.join(", ")), verdict }
    }
}

/// One line for all topics with the same finding, so that a cause is reported once.
pub fn about_topics(found: impl IntoIterator<Item = (String, Check)>) -> Vec<Check> {
    let mut lines: Vec<(Check, Vec<String>)> = Vec::new();
    for (topic, check) in found {
        match lines.iter_mut().find(|(known, _)| *known == check) {
            Some((_, topics)) => topics.push(topic),
            None => lines.push((check, vec![topic])),
        }
    }
    lines.into_iter().map(|(check, topics)| check.filled_in(&topics)).collect()
}

/// Writes and syncs a file in a folder, or in its nearest parent that exists, and removes it again.
pub fn try_to_write(dir: &Path) -> io::Result<()> {
    let there = nearest(dir);
    let mut file = tempfile::Builder::new().prefix(".alma-bridge-check-").tempfile_in(there)?;
    file.write_all(b"alma-bridge check --connect\n")?;
    file.as_file().sync_all()?;
    file.close()
}

/// The folder itself, or its nearest parent that exists.
pub fn nearest(dir: &Path) -> &Path {
    // The last parent of a relative path is empty and denotes the working directory, but `exists` is false for it.
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."))
}

/// What to do about an error of rustls with a broker at `place`. `None` if the text is not about TLS.
#[cfg(any(feature = "nats", feature = "rabbitmq"))]
pub(super) fn mend_tls(said: &str, place: &str) -> Option<String> {
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["not valid for name", "NotValidForName"]) {
        return Some(format!("connect by a name in the certificate, or get a certificate for {place}"));
    }
    if any(&["certificate expired", "not valid yet", "Expired", "NotValidYet"]) {
        return Some("renew the broker's certificate, or correct the clocks".to_owned());
    }
    if any(&["invalid peer certificate"]) {
        let mend = "tls.ca_file must hold the authority that signed the broker's certificate";
        return Some(format!("{mend}; without tls.ca_file, the system's authorities count"));
    }
    if any(&["InvalidContentType"]) {
        return Some(format!("{place} does not speak TLS: use the port that does, or remove TLS"));
    }
    if any(&["received fatal alert"]) {
        return Some("the broker refuses the client's certificate: check tls.cert_file and tls.key_file".to_owned());
    }
    None
}

/// The topics that a reader asks for. If empty, all topics under the sink's prefix.
#[derive(Clone, Debug, Default)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Whether the topic is asked for. A `*` at the end of a pattern matches any ending.
    pub fn ask_for(&self, topic: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| fits(pattern, topic))
    }
}

impl Patterns {
    /// The patterns that match none of these topics.
    pub fn without_a_topic<'a>(&'a self, topics: &'a [String]) -> impl Iterator<Item = &'a str> {
        let fits = |pattern: &str| topics.iter().any(|topic| fits(pattern, topic));
        self.0.iter().map(String::as_str).filter(move |pattern| !fits(pattern))
    }
}

fn fits(pattern: &str, topic: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => topic.starts_with(beginning),
        None => topic == pattern,
    }
}

/// Whether a topic of this template can match the pattern. With `alma.{action}`, none can match `job_end`.
pub fn can_fit(pattern: &str, template: &TopicTemplate) -> bool {
    let (beginning, open) = pattern.strip_suffix('*').map_or((pattern, false), |beginning| (beginning, true));
    let asked: Vec<&str> = beginning.split('.').collect();
    let is_filled = |segment: &str| segment.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
    let whole =
        |shape: &str, asked: &str| if shape == "*" { is_filled(asked) && !asked.is_empty() } else { shape == asked };
    let begun = |shape: &str, asked: &str| if shape == "*" { is_filled(asked) } else { shape.starts_with(asked) };
    template.shapes().iter().any(|shape| {
        let shape: Vec<&str> = shape.split('.').collect();
        if !open {
            return shape.len() == asked.len() && shape.iter().zip(&asked).all(|(shape, asked)| whole(shape, asked));
        }
        let last = asked.len() - 1;
        shape.len() > last
            && shape.iter().zip(&asked[..last]).all(|(shape, asked)| whole(shape, asked))
            && begun(shape[last], asked[last])
    })
}

/// What `tail` reads.
#[derive(Debug)]
pub struct TailOptions {
    /// The topics to read.
    pub topics: Patterns,
    /// Whether to start with the oldest event that is there, or with the next one.
    pub from_start: bool,
    /// Where events go. Closed once the reader wants no more.
    pub into: mpsc::Sender<Landed>,
    /// Signalled once reading has begun: every event that is published afterwards is read. Gets the topics that exist
    /// by then, or `None` if the sink can't list them.
    pub ready: tokio::sync::oneshot::Sender<Option<Vec<String>>>,
}

/// An event read back from where it was published.
#[derive(Clone, Debug)]
pub struct Landed {
    /// Topic, routing key or subject.
    pub topic: String,
    /// The CloudEvents document in JSON. Made from headers and body if the event is in binary mode.
    pub document: Vec<u8>,
}

/// Makes the CloudEvents document of an event in binary mode: JSON is embedded byte for byte, XML and other text is a
/// string, and anything else is in Base64.
///
/// `attributes` are written in their order. They don't include `datacontenttype`, which is `content_type` and comes
/// last.
pub fn structured_from(attributes: &[(String, String)], content_type: Option<&str>, data: &[u8]) -> Vec<u8> {
    let given = attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let is = |kind: &str| content_type.is_some_and(|content_type| content_type.to_ascii_lowercase().contains(kind));
    let written_as = match std::str::from_utf8(data) {
        Ok(text) if is("json") && serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() => {
            ContentType::Json
        }
        Ok(_) if is("xml") || is("text/") => ContentType::Xml,
        _ => ContentType::Opaque,
    };
    structured(given.chain(content_type.map(|value| ("datacontenttype", value))), written_as, data)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn a_document_is_made_from_headers_and_body() {
        let attributes = [("specversion".to_owned(), "1.0".to_owned()), ("subject".to_owned(), "a\"b".to_owned())];
        let built = |content_type, data: &[u8]| {
            String::from_utf8(structured_from(&attributes, content_type, data)).expect("JSON is UTF-8")
        };
        let head = r#"{"specversion":"1.0","subject":"a\"b","datacontenttype":"#;
        assert_eq!(
            built(Some("application/json"), b"{ \"fine\" : 209.0 }"),
            format!(r#"{head}"application/json","data":{{ "fine" : 209.0 }}}}"#)
        );
        assert_eq!(
            built(Some("application/xml"), "<a b=\"ä\"/>".as_bytes()),
            format!(r#"{head}"application/xml","data":"<a b=\"ä\"/>"}}"#)
        );
        for (content_type, data) in [("application/json", &b"{\"cut"[..]), ("application/octet-stream", b"\xff\xfe")] {
            let document: serde_json::Value =
                serde_json::from_str(&built(Some(content_type), data)).expect("a document");
            let encoded = document["data_base64"].as_str().expect("Base64");
            assert_eq!(base64::engine::general_purpose::STANDARD.decode(encoded).expect("Base64"), data);
        }
        assert_eq!(structured_from(&[], None, b"x"), br#"{"data_base64":"eA=="}"#);
    }

    #[test]
    fn topics_with_the_same_finding_share_a_line() {
        let found = ["alma.bib", "alma.item", "alma.loan"].map(|topic| {
            let check = match topic {
                "alma.item" => Check::good("topic TOPIC", "3 partitions"),
                _ => Check::bad("topic TOPIC", "missing", "create TOPIC"),
            };
            (topic.to_owned(), check)
        });
        let lines = about_topics(found);
        assert_eq!(
            lines,
            [
                Check::bad("topic alma.bib, alma.loan", "missing", "create TOPIC"),
                Check::good("topic alma.item", "3 partitions"),
            ]
        );
        let alone = about_topics([("alma.bib".to_owned(), Check::bad("topic TOPIC", "missing", "create TOPIC"))]);
        assert_eq!(alone, [Check::bad("topic alma.bib", "missing", "create alma.bib")]);
    }

    #[test]
    fn trying_a_folder_leaves_no_trace() {
        let folder = tempfile::tempdir().expect("a folder");
        try_to_write(&folder.path().join("not/there/yet")).expect("its parent can be written");
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
        std::fs::write(folder.path().join("file"), "").expect("written");
        assert!(try_to_write(&folder.path().join("file/data")).is_err());
        assert_eq!(nearest(Path::new("no-such-folder/data")), Path::new("."));
    }

    #[test]
    fn a_star_matches_any_ending() {
        assert!(Patterns::default().ask_for("alma.loan"));
        let some = Patterns(vec!["alma.loan*".into(), "alma.job_end".into()]);
        assert!(some.ask_for("alma.loan.loan_created") && some.ask_for("alma.loan") && some.ask_for("alma.job_end"));
        assert!(!some.ask_for("alma.job_end.x") && !some.ask_for("alma.bib"));
        let there = ["alma.loan".to_owned()];
        assert_eq!(some.without_a_topic(&there).collect::<Vec<_>>(), ["alma.job_end"]);
    }

    #[test]
    fn a_pattern_can_match_only_topics_of_the_template() {
        use crate::config::TopicPart::{Action, Event, Literal};
        let by_action = TopicTemplate { parts: vec![Literal("alma.".into()), Action] };
        for pattern in ["alma.job_end", "alma.fee", "alma.*", "alma.lo*", "al*", "*"] {
            assert!(can_fit(pattern, &by_action), "{pattern}");
        }
        for pattern in
            ["job_end", "alma", "alma.", "alma.JOB_END", "alma.loan.x", "alma.loan.*", "alma.>", "alma.#", "job*", "b*"]
        {
            assert!(!can_fit(pattern, &by_action), "{pattern}");
        }
        let with_event = TopicTemplate { parts: vec![Literal("alma.".into()), Action, Literal(".".into()), Event] };
        assert!(["alma.loan", "alma.loan.x", "alma.loan.*"].iter().all(|pattern| can_fit(pattern, &with_event)));
    }
}
