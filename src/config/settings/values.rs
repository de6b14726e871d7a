//! One value from its text: the parsers behind the typed reading of a [`super::table::Table`].
//!
//! An error is what was expected; what was found is said by whoever reads the key.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::config::{TopicPart, TopicTemplate};

/// What was expected instead.
pub(super) type Expected = String;

pub(super) fn address(text: &str) -> Result<SocketAddr, Expected> {
    text.parse().map_err(|_| "expected an address with a port, such as \"0.0.0.0:2562\" or \"[::1]:0\"".to_owned())
}

pub(super) fn size(text: &str) -> Result<u64, Expected> {
    text.parse().map(|ByteSize(bytes)| bytes).map_err(|_| "expected a size, such as \"8MiB\" or \"1GiB\"".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, Expected> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a time, such as \"500ms\", \"4s\", \"24h\" or \"7d\"".to_owned())
}

pub(super) fn boolean(text: &str) -> Result<bool, Expected> {
    text.to_ascii_lowercase().parse().map_err(|_| "expected true or false".to_owned())
}

pub(super) fn path_of_url(text: &str) -> Result<String, Expected> {
    let fits =
        text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte));
    if !fits {
        return Err("expected a path that begins with / and has no query, such as \"/webhooks\"".to_owned());
    }
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

/// `job_end`, `loan.loan_returned` or `*`, as topics are written.
pub fn action(text: &str) -> Result<String, Expected> {
    let lower = text.to_ascii_lowercase();
    let segment = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let parts: Vec<&str> = lower.split('.').collect();
    if lower == "*" || (parts.len() <= 2 && parts.iter().all(|part| segment(part))) {
        Ok(lower)
    } else {
        Err("expected \"*\", an action such as \"job_end\", or action and event such as \"loan.loan_returned\""
            .to_owned())
    }
}

/// A topic's template.
pub(super) fn template(text: &str) -> Result<TopicTemplate, Expected> {
    let expected =
        |what: &str| Err(format!("{what}; expected such as \"alma.{{action}}\" or \"alma.{{action}}.{{event}}\""));
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(open) = rest.strip_prefix('{') {
            let Some((name, behind)) = open.split_once('}') else { return expected("a { without a }") };
            parts.push(match name {
                "action" => TopicPart::Action,
                "event" => TopicPart::Event,
                "institution" => TopicPart::Institution,
                "source" => TopicPart::Source,
                _ => {
                    return expected(&format!("{{{name}}} is none of {{action}} {{event}} {{institution}} {{source}}"));
                }
            });
            rest = behind;
        } else {
            let (literal, behind) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
            parts.push(TopicPart::Literal(literal.to_owned()));
            rest = behind;
        }
    }
    let literal_segments = text.split('.').all(|segment| !segment.is_empty());
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.".contains(c);
    let literals_fit = parts.iter().all(|part| !matches!(part, TopicPart::Literal(l) if !l.chars().all(allowed)));
    if text.split('.').next().is_none_or(|first| first.is_empty() || first.contains('{')) {
        return expected("the first segment has to be literal: it is the prefix");
    }
    if !literal_segments {
        return expected("an empty segment");
    }
    if !literals_fit {
        return expected("outside {…} only a-z, 0-9, _, - and . can stand");
    }
    if text.len() > 200 {
        return expected("longer than 200 characters");
    }
    Ok(TopicTemplate { parts })
}

/// tracing's directives: a level, and `target=level`; a lone word that is no level would silently be taken for a target.
pub(super) fn log_directives(text: &str) -> Result<String, Expected> {
    let level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let fits = text.split(',').map(str::trim).all(|directive| match directive.split_once('=') {
        Some((target, word)) => !target.is_empty() && level(word),
        None => level(directive),
    });
    if fits && text.parse::<Targets>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a level (error, warn, info, debug, trace), or directives such as \"info,alma_bridge::journal=debug\""
        .to_owned())
}

/// `did you mean` for a word that is none of these, where one is near.
pub(super) fn suggestion<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = known.into_iter().map(|word| (strsim::damerau_levenshtein(found, word), word)).min();
    match near {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => format!(", did you mean `{word}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_needs_a_literal_prefix_and_known_placeholders() {
        let parsed = template("alma.{action}.x-{event}").expect("fits");
        assert_eq!(parsed.prefix(), "alma");
        assert_eq!(parsed.parts.len(), 4);
        for bad in
            ["", "{action}", "a{action}.x", "alma..x", "alma.", "alma.{job}", "alma.{action", "Alma.{action}", "alma.*"]
        {
            assert!(template(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_loses_its_trailing_slash() {
        assert_eq!(path_of_url("/a/b/").as_deref(), Ok("/a/b"));
        assert_eq!(path_of_url("/").as_deref(), Ok("/"));
        for bad in ["", "webhooks", "/a?b", "/a b", "/ä", "https://x/"] {
            assert!(path_of_url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn actions_are_taken_in_any_case() {
        assert_eq!(action("JOB_END").as_deref(), Ok("job_end"));
        assert_eq!(action("loan.LOAN_LOST").as_deref(), Ok("loan.loan_lost"));
        for bad in ["", "a.b.c", "a.", "job end", "loan.*"] {
            assert!(action(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let keys = ["max_body", "listen"];
        assert_eq!(suggestion("max_boddy", keys), ", did you mean `max_body`?");
        assert_eq!(suggestion("something", keys), "");
    }
}
