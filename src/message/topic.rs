//! Makes the name of a topic from what Alma wrote.

use super::Topic;
use crate::config::{TopicPart, TopicTemplate};

/// Maximum characters of one placeholder.
const MAX_SEGMENT: usize = 64;

/// Maximum characters of a topic: Kafka's limit.
const MAX_TOPIC: usize = 249;

/// Replaces an empty placeholder that is not at the end.
const NONE: &str = "none";

/// The text of a placeholder: at most 64 characters in lower case, with `_` in place of each outside `[a-z0-9_-]`.
pub(super) fn segment(text: &str) -> String {
    let keep = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '_' | '-') => c,
        _ => '_',
    };
    text.chars().take(MAX_SEGMENT).map(keep).collect()
}

/// What fills a template; each a [`segment`], an empty one where there is nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Fill<'a> {
    pub(super) action: &'a str,
    pub(super) event: &'a str,
    pub(super) institution: &'a str,
    pub(super) source: &'a str,
    pub(super) job: &'a str,
    pub(super) status: &'a str,
    /// `action` is not Alma's but `unparsed` or `misdirected`, which must show.
    pub(super) special: bool,
}

impl Fill<'_> {
    /// The topic of a template.
    pub(super) fn topic(&self, template: &TopicTemplate) -> Topic {
        let mut name = String::with_capacity(MAX_TOPIC);
        let last = template.parts.len().saturating_sub(1);
        for (index, part) in template.parts.iter().enumerate() {
            let text = match part {
                TopicPart::Literal(text) => text,
                TopicPart::Action => self.action,
                TopicPart::Event => self.event,
                TopicPart::Institution => self.institution,
                TopicPart::Source => self.source,
                TopicPart::Job => self.job,
                TopicPart::Status => self.status,
            };
            match (text, index) {
                // The dot before it is dropped too.
                ("", index) if index == last => name.truncate(name.trim_end_matches('.').len()),
                ("", _) => name.push_str(NONE),
                (text, _) => name.push_str(text),
            }
        }
        if self.special && !template.parts.contains(&TopicPart::Action) {
            // The topic must end with the whole word even if it has to be cut.
            name.truncate(MAX_TOPIC - 1 - self.action.len());
            name.push('.');
            name.push_str(self.action);
        }
        // All characters are ASCII: the configuration checks literals, and `segment` makes placeholders.
        name.truncate(MAX_TOPIC);
        name.truncate(name.trim_end_matches('.').len());
        Topic(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> TopicPart {
        TopicPart::Literal(text.into())
    }

    fn topic(parts: &[TopicPart], fill: &Fill<'_>) -> String {
        fill.topic(&TopicTemplate { parts: parts.to_vec() }).to_string()
    }

    const JOB: Fill<'_> = Fill {
        action: "job_end",
        event: "",
        institution: "01test_inst",
        source: "alma",
        job: "export_bibs",
        status: "completed_success",
        special: false,
    };

    #[test]
    fn an_empty_placeholder_is_dropped_at_the_end_and_none_elsewhere() {
        let (a, dot) = (literal("alma."), literal("."));
        assert_eq!(topic(&[a.clone(), TopicPart::Action, dot.clone(), TopicPart::Event], &JOB), "alma.job_end");
        assert_eq!(topic(&[a.clone(), TopicPart::Event, dot.clone(), TopicPart::Action], &JOB), "alma.none.job_end");
        assert_eq!(topic(&[a.clone(), TopicPart::Event], &JOB), "alma");
        let shapes = |parts: &[TopicPart]| TopicTemplate { parts: parts.to_vec() }.shapes();
        assert_eq!(shapes(&[a.clone(), TopicPart::Action, dot.clone(), TopicPart::Event]), ["alma.*.*", "alma.*"]);
        assert_eq!(shapes(&[literal("alma.x-"), TopicPart::Event])[0], "alma.*");
        let of_event = shapes(&[a.clone(), TopicPart::Event]);
        assert!(["alma", "alma.*", "alma.unparsed"].iter().all(|shape| of_event.contains(&(*shape).to_owned())));
        let of_job = [a.clone(), TopicPart::Action, dot.clone(), TopicPart::Job, dot.clone(), TopicPart::Status];
        assert_eq!(topic(&of_job, &JOB), "alma.job_end.export_bibs.completed_success");
        assert_eq!(shapes(&of_job), ["alma.*.*.*", "alma.*.*"]);
        let loan = Fill { action: "loan", event: "loan_created", job: "", status: "", ..JOB };
        assert_eq!(topic(&of_job, &loan), "alma.loan.none");
        assert_eq!(topic(&[a, TopicPart::Action, dot, TopicPart::Event], &loan), "alma.loan.loan_created");
    }

    #[test]
    fn unparsed_and_misdirected_show_in_any_template() {
        let unparsed = Fill { action: "unparsed", source: "alma", special: true, ..Fill::default() };
        let a = literal("alma.");
        assert_eq!(topic(&[a.clone(), TopicPart::Action], &unparsed), "alma.unparsed");
        assert_eq!(topic(&[a.clone(), TopicPart::Source], &unparsed), "alma.alma.unparsed");
        assert_eq!(topic(&[a, TopicPart::Institution], &unparsed), "alma.unparsed");
        let long = literal(&"x".repeat(249));
        assert_eq!(topic(&[long], &unparsed), format!("{}.unparsed", "x".repeat(240)));
    }

    #[test]
    fn hostile_text_becomes_a_plain_segment() {
        assert_eq!(segment("JOB_END"), "job_end");
        assert_eq!(segment("../*>#. \u{0}\n"), "__________");
        assert_eq!(segment("Größe😀"), "gr__e_");
        assert_eq!(segment(&"A".repeat(5_000)), "a".repeat(64));
    }
}
