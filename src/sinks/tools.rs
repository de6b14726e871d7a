//! What the commands want of a sink beside publishing: `check --connect` and `tail`.
//!
//! Each sink has a `probe` and a `tail` of these shapes in a file beside its own; both use the sink's credentials.

use tokio::sync::mpsc;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_ending() {
        assert!(Patterns::default().ask_for("alma.loan"));
        let some = Patterns(vec!["alma.loan*".into(), "alma.job_end".into()]);
        assert!(some.ask_for("alma.loan.loan_created") && some.ask_for("alma.loan") && some.ask_for("alma.job_end"));
        assert!(!some.ask_for("alma.job_end.x") && !some.ask_for("alma.bib"));
    }
}
