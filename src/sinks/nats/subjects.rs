//! The subjects that a stream must accept for the topics of a template.

use crate::config::TopicTemplate;

/// The subjects of one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// The subjects of a stream that the bridge creates. They are as narrow as the literal segments at the template's
    /// beginning allow, because a stream stores whatever anybody publishes on its subjects.
    pub(super) created: Vec<String>,
    /// Each topic that can occur, with `*` in place of a segment that depends on the event.
    topics: Vec<String>,
}

impl Subjects {
    /// The subjects for the topics of a template.
    pub fn of(template: &TopicTemplate) -> Self {
        let topics = template.shapes();
        let prefix = template.literal_prefix();
        let mut created = vec![format!("{prefix}.>")];
        // `prefix.>` does not match the prefix itself.
        created.extend(topics.contains(&prefix).then_some(prefix));
        Self { created, topics }
    }

    /// Whether a stream on the subjects `found` accepts every topic.
    pub(super) fn are_taken_by(&self, found: &[String]) -> bool {
        self.topics.iter().all(|topic| is_covered(topic, found))
    }

    /// The filter for a consumer of a stream on the subjects `found`. Empty if one filter is not enough, or if the
    /// server would refuse it because it is wider than the stream. [`Subjects::have`] then filters.
    pub(super) fn filter(&self, found: &[String]) -> String {
        match self.created.as_slice() {
            [subject] if is_covered(subject, found) => subject.clone(),
            _ => String::new(),
        }
    }

    /// Whether this subject can be one of our topics.
    pub(super) fn have(&self, subject: &str) -> bool {
        is_covered(subject, &self.created)
    }
}

fn is_covered(narrow: &str, by: &[String]) -> bool {
    by.iter().any(|wide| covers(wide, narrow))
}

/// Whether `wide` matches every subject that `narrow` matches. Both may have wildcards.
fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", next) => return next.is_some(),
            ("*", Some(next)) if next != ">" => {}
            (token, Some(next)) if token == next => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TopicPart::{self, Action, Event, Literal, Source};

    fn of(parts: &[TopicPart]) -> Subjects {
        Subjects::of(&TopicTemplate { parts: parts.to_vec() })
    }

    fn literal(text: &str) -> TopicPart {
        Literal(text.to_owned())
    }

    fn found(subjects: &[&str]) -> Vec<String> {
        subjects.iter().map(|&subject| subject.to_owned()).collect()
    }

    #[test]
    fn a_stream_is_created_on_the_longest_literal_prefix() {
        let created = |parts: &[TopicPart]| of(parts).created;
        assert_eq!(created(&[literal("campus.library.alma."), Action]), ["campus.library.alma.>"]);
        assert_eq!(created(&[literal("campus.alma-"), Action]), ["campus.>"]);
        assert_eq!(created(&[literal("alma."), Action, literal("."), Event]), ["alma.>"]);
        assert_eq!(created(&[literal("alma.x."), Event]), ["alma.x.>", "alma.x"], "an event without a sub-event");
        assert_eq!(created(&[literal("alma.all")]), ["alma.all.>", "alma.all"], "and alma.all.unparsed");
        assert_eq!(created(&[literal("alma."), Source]), ["alma.>"]);
    }

    #[test]
    fn a_created_stream_accepts_every_topic() {
        for parts in [
            &[literal("a.b."), Action][..],
            &[literal("a."), Action, literal("."), Event],
            &[literal("a.b."), Event],
            &[literal("a.b")],
            &[literal("a.x-"), Source, literal(".y")],
        ] {
            let subjects = of(parts);
            assert!(subjects.are_taken_by(&subjects.created), "{subjects:?}");
        }
    }

    #[test]
    fn narrow_subjects_are_enough_if_they_accept_every_topic() {
        let by_action = of(&[literal("alma."), Action]);
        for enough in [&["alma.*"][..], &["*.*"], &[">"], &["alma.>"], &["other", "alma.*"]] {
            assert!(by_action.are_taken_by(&found(enough)), "{enough:?}");
        }
        for not_enough in [&["alma.loan"][..], &["alma"], &["alma.*.*"], &["campus.>"], &[]] {
            assert!(!by_action.are_taken_by(&found(not_enough)), "{not_enough:?}");
        }
        let with_event = of(&[literal("alma."), Action, literal("."), Event]);
        assert!(!with_event.are_taken_by(&found(&["alma.*"])));
        assert!(!with_event.are_taken_by(&found(&["alma.*.*"])), "a job has no event");
        assert!(with_event.are_taken_by(&found(&["alma.*.*", "alma.*"])));
        // `alma.{source}` appends `unparsed` to the source.
        let by_source = of(&[literal("alma."), Source]);
        assert!(
            !by_source.are_taken_by(&found(&["alma.*"])) && by_source.are_taken_by(&found(&["alma.*", "alma.*.*"]))
        );
    }

    #[test]
    fn a_filter_is_used_only_if_the_stream_allows_it() {
        let subjects = of(&[literal("alma."), Action]);
        assert_eq!(subjects.filter(&found(&[">"])), "alma.>");
        assert_eq!(subjects.filter(&found(&["alma.*", "others.>"])), "");
        assert!(subjects.have("alma.loan") && !subjects.have("others.loan") && !subjects.have("alma"));
    }
}
