//! The topics of a sink that are known before the first event.

use std::collections::BTreeSet;

use super::Topic;
use super::make::{MISDIRECTED, UNPARSED};
use super::topic::Fill;
use crate::alma::ACTIONS;
use crate::config::{Sink, Source, TopicPart};

/// The topics of the actions that the sink asks for, or of all known actions. These include `unparsed` and, if a source
/// expects an institution, `misdirected`.
///
/// Empty if the template has a placeholder other than `{action}`, whose values are known only from events.
pub fn known_topics(sink: &Sink, sources: &[Source]) -> BTreeSet<Topic> {
    let by_action_alone = |part: &TopicPart| matches!(part, TopicPart::Literal(_) | TopicPart::Action);
    if !sink.topic.parts.iter().all(by_action_alone) {
        return BTreeSet::new();
    }
    let can_misdirect = sources.iter().any(|source| source.institution.is_some());
    let known = ACTIONS.iter().copied().chain([UNPARSED, MISDIRECTED]).chain(sink.actions.named());
    let actions = known.filter(|action| sink.actions.may_want(action));
    let topic = |action: &str| {
        let special = [UNPARSED, MISDIRECTED].contains(&action);
        Fill { action, special, ..Fill::default() }.topic(&sink.topic)
    };
    actions.filter(|action| *action != MISDIRECTED || can_misdirect).map(topic).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ActionFilter, TopicTemplate};

    fn known(actions: &[&str], parts: Vec<TopicPart>, institution: Option<&str>) -> Vec<String> {
        let mut sink = Sink::sample("main".parse().expect("a name"));
        sink.actions = ActionFilter::new(actions).expect("patterns");
        sink.topic = TopicTemplate { parts };
        let source = Source {
            name: "alma".parse().expect("a name"),
            path: "/webhooks".into(),
            secrets: Vec::new(),
            institution: institution.map(str::to_owned),
            silence: None,
        };
        known_topics(&sink, &[source]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn follow_from_the_actions_if_nothing_else_is_in_the_template() {
        let by_action = || vec![TopicPart::Literal("alma.".into()), TopicPart::Action];
        let all = known(&["*"], by_action(), None);
        assert!(all.contains(&"alma.job_end".to_owned()) && all.contains(&"alma.unparsed".to_owned()), "{all:?}");
        assert_eq!(all.len(), ACTIONS.len() + 1);
        assert!(known(&["*"], by_action(), Some("01TEST_INST")).contains(&"alma.misdirected".to_owned()));
        assert_eq!(known(&["fee", "loan.loan_returned"], by_action(), None), ["alma.fee", "alma.loan"]);
        assert_eq!(known(&["lo*", "!fee", "fee"], by_action(), None), ["alma.loan"]);
        let by_event = [by_action(), vec![TopicPart::Literal(".".into()), TopicPart::Event]].concat();
        assert_eq!(known(&["*"], by_event, None), Vec::<String>::new());
    }
}
