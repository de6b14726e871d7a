//! The template of a sink's topics.

use super::settings::Expected;

/// The template of a topic, such as `alma.{action}`. Its first segment is literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicTemplate {
    /// Dots between segments are part of the literals.
    pub parts: Vec<TopicPart>,
}

impl TopicTemplate {
    /// Reads a template. The error is what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, Expected> {
        let expected = |what: &str| {
            Err(format!("{what}; expected a template such as \"alma.{{action}}\" or \"alma.{{action}}.{{event}}\""))
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(open) = rest.strip_prefix('{') {
                let Some((name, after)) = open.split_once('}') else { return expected("a { without a }") };
                parts.push(match name {
                    "action" => TopicPart::Action,
                    "event" => TopicPart::Event,
                    "institution" => TopicPart::Institution,
                    "source" => TopicPart::Source,
                    "job" => TopicPart::Job,
                    "status" => TopicPart::Status,
                    _ => {
                        return expected(&format!(
                            "{{{name}}} is none of {{action}} {{event}} {{institution}} {{source}} {{job}} {{status}}"
                        ));
                    }
                });
                rest = after;
            } else {
                let (literal, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
                parts.push(TopicPart::Literal(literal.to_owned()));
                rest = after;
            }
        }
        let literal_segments = text.split('.').all(|segment| !segment.is_empty());
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
        let literals_fit = parts.iter().all(|part| !matches!(part, TopicPart::Literal(l) if !l.chars().all(allowed)));
        if text.split('.').next().is_none_or(|first| first.is_empty() || first.contains('{')) {
            return expected("the first segment must be literal, because it is the prefix");
        }
        if !literal_segments {
            return expected("an empty segment");
        }
        if !literals_fit {
            return expected("only a-z, 0-9, _, - and . are allowed outside {…}");
        }
        if text.len() > 200 {
            return expected("longer than 200 characters");
        }
        Ok(Self { parts })
    }

    /// The first segment: `alma` of `alma.{action}`.
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(TopicPart::Literal(text)) => text.split('.').next().unwrap_or(text),
            _ => "",
        }
    }

    /// The literal segments at the beginning: `campus.alma` of `campus.alma.{action}`.
    pub fn literal_prefix(&self) -> String {
        let segments = self.segments();
        let literal: Vec<_> = segments.iter().map(String::as_str).take_while(|segment| *segment != "*").collect();
        literal.join(".")
    }

    /// The forms that a topic can take, with `*` in place of each segment that depends on the event: `alma.*` of
    /// `alma.{action}`; also `alma` of `alma.{event}`, because an empty placeholder at the end is dropped, and
    /// `alma.unparsed`, which is appended if the template has no action.
    pub fn shapes(&self) -> Vec<String> {
        let segments = self.segments();
        let mut shapes = vec![segments.join(".")];
        let can_be_empty =
            !matches!(self.parts.last(), None | Some(TopicPart::Literal(_) | TopicPart::Action | TopicPart::Source));
        let ends_with_a_dot =
            matches!(self.parts.iter().nth_back(1), Some(TopicPart::Literal(text)) if text.ends_with('.'));
        if can_be_empty && ends_with_a_dot {
            shapes.push(segments[..segments.len() - 1].join("."));
        }
        if !self.parts.contains(&TopicPart::Action) {
            for plain in shapes.clone() {
                shapes.extend(["unparsed", "misdirected"].map(|special| format!("{plain}.{special}")));
            }
        }
        shapes
    }

    /// The segments, with `*` in place of each that has a placeholder. No placeholder can hold a dot.
    fn segments(&self) -> Vec<String> {
        let text: String =
            self.parts.iter().map(|part| if let TopicPart::Literal(text) = part { text } else { "*" }).collect();
        text.split('.').map(|segment| if segment.contains('*') { "*" } else { segment }.to_owned()).collect()
    }
}

/// One piece of a [`TopicTemplate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicPart {
    /// Text that is used as it is.
    Literal(String),
    /// `{action}`
    Action,
    /// `{event}`
    Event,
    /// `{institution}`
    Institution,
    /// `{source}`
    Source,
    /// `{job}`: the name of the job.
    Job,
    /// `{status}`: the status of the job.
    Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_needs_a_literal_prefix_and_known_placeholders() {
        let parsed = TopicTemplate::parse("alma.{action}.x-{event}").expect("fits");
        assert_eq!(parsed.prefix(), "alma");
        assert_eq!(parsed.parts.len(), 4);
        for bad in [
            "",
            "{action}",
            "a{action}.x",
            "alma..x",
            "alma.",
            "alma.{jobs}",
            "alma.{action",
            "Alma.{action}",
            "alma.*",
        ] {
            assert!(TopicTemplate::parse(bad).is_err(), "{bad:?}");
        }
    }
}
