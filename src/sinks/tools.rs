//! What the commands want of a sink beside publishing: `check --connect` and `tail`.
//!
//! Each sink has a `probe` and a `tail` of these shapes in a file beside its own; both use the sink's credentials.

use tokio::sync::mpsc;

use crate::message::{ContentType, structured};

/// One line of the checklist of `check --connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: `broker reached`, `topic alma.job_end`, `message.max.bytes`.
    pub what: String,
    /// What was found.
    pub verdict: Verdict,
}

/// What a [`Check`] found; texts name the broker's own setting or command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be; the value that was found.
    Good(String),
    /// It works, but less is promised than could be: what was found, and what to do.
    Warning(String, String),
    /// It does not work: what was found, and what to do.
    Bad(String, String),
}

impl Check {
    /// As it should be.
    pub fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Good(found.into()) }
    }

    /// It works, but less is promised than could be.
    pub fn warning(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warning(found.into(), mend.into()) }
    }

    /// It does not work.
    pub fn bad(what: impl Into<String>, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Bad(found.into(), mend.into()) }
    }
}

/// Which topics a reader asks for; none stands for all under the sink's prefix.
#[derive(Clone, Debug, Default)]
pub struct Patterns(pub Vec<String>);

impl Patterns {
    /// Whether the topic is asked for; a `*` at the end of a pattern stands for any ending.
    pub fn ask_for(&self, topic: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => topic.starts_with(beginning),
                None => topic == pattern,
            })
    }
}

/// What `tail` is to read.
#[derive(Debug)]
pub struct TailOptions {
    /// Which topics.
    pub topics: Patterns,
    /// With the oldest that is there, or from now on.
    pub from_start: bool,
    /// Where what is read goes; closed once the reader has had enough.
    pub into: mpsc::Sender<Landed>,
    /// Told once reading has begun, so that what is published from then on is surely seen.
    pub ready: tokio::sync::oneshot::Sender<()>,
}

/// An event read back from where it was published.
#[derive(Clone, Debug)]
pub struct Landed {
    /// Topic, routing key or subject.
    pub topic: String,
    /// The CloudEvents document in JSON; put together from headers and body where it came in binary mode.
    pub document: Vec<u8>,
}

/// The CloudEvents document of an event that came in binary mode: JSON embedded byte for byte, XML and other text as a
/// string, what is neither in Base64.
///
/// `attributes` are written in their order, without `datacontenttype`, which is `content_type` and comes last.
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
    fn a_document_is_put_together_from_headers_and_body() {
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
    fn a_star_stands_for_any_ending() {
        assert!(Patterns::default().ask_for("alma.loan"));
        let some = Patterns(vec!["alma.loan*".into(), "alma.job_end".into()]);
        assert!(some.ask_for("alma.loan.loan_created") && some.ask_for("alma.loan") && some.ask_for("alma.job_end"));
        assert!(!some.ask_for("alma.job_end.x") && !some.ask_for("alma.bib"));
    }
}
