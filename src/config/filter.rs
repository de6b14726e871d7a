//! The lists by which a sink chooses its events: `actions`, `sources`, `jobs`, `statuses`, `institutions`.
//!
//! A list holds patterns. `*` stands for any text and `?` for one character, and case does not matter. A pattern with a
//! leading `!` excludes. A list with nothing but exclusions means everything else.

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use super::settings::Expected;

/// One pattern of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    /// As it was written, in lower case and without the `!`.
    text: String,
    excludes: bool,
    glob: WildMatch,
}

// `WildMatch` compares a text and a flag, but does not derive `Eq`.
impl Eq for Pattern {}

impl Pattern {
    /// Whether it is about a text in lower case, be it to include or to exclude it.
    pub(super) fn matches(&self, lower: &str) -> bool {
        self.glob.matches(lower)
    }

    /// `glob` is what the text stands for, as a pattern of its own.
    fn new(written: &str, glob: impl Fn(&str) -> String) -> Self {
        let lower = written.to_lowercase();
        let (excludes, text) = match lower.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, lower.as_str()),
        };
        Self { text: text.to_owned(), excludes, glob: WildMatch::new(&glob(text)) }
    }
}

/// A list of patterns that texts are matched against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Pattern>);

impl Filter {
    /// Reads the patterns of a list. The error is what was expected.
    pub fn new<S: AsRef<str>>(written: &[S]) -> Result<Self, Expected> {
        written.iter().map(|text| text_pattern(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// A list of patterns that were read one by one.
    pub(super) fn of(patterns: Vec<Pattern>) -> Self {
        Self(patterns)
    }

    /// Whether a text is wanted. A missing value is the empty text, which only `*` and exclusions of other texts let pass.
    pub fn wants(&self, text: &str) -> bool {
        // Most sinks take everything, and then there is nothing to lower or to compare.
        self.is_everything() || self.decides(&text.to_lowercase())
    }

    fn is_everything(&self) -> bool {
        self.0.iter().all(|pattern| !pattern.excludes && pattern.text == "*")
    }

    fn decides(&self, lower: &str) -> bool {
        let (excluded, included): (Vec<_>, Vec<_>) = self.0.iter().partition(|pattern| pattern.excludes);
        let fits = |patterns: &[&Pattern]| patterns.iter().any(|pattern| pattern.matches(lower));
        (included.is_empty() || fits(&included)) && !fits(&excluded)
    }
}

/// A list of actions (`job_end`), or of actions with their event (`loan.loan_returned`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct ActionFilter(Filter);

impl ActionFilter {
    /// Reads the patterns of a list. The error is what was expected.
    pub fn new<S: AsRef<str>>(written: &[S]) -> Result<Self, Expected> {
        written.iter().map(|text| action_pattern(text.as_ref())).collect::<Result<_, _>>().map(Self::of)
    }

    /// A list of patterns that were read one by one.
    pub(super) fn of(patterns: Vec<Pattern>) -> Self {
        Self(Filter(patterns))
    }

    /// Whether the list has no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// Whether an event is wanted. Both are as they stand in a topic; `event` is empty if Alma named none.
    pub fn wants(&self, action: &str, event: &str) -> bool {
        self.0.is_everything() || self.0.decides(&format!("{action}.{event}"))
    }

    /// Whether at least some events of an action are wanted.
    pub fn may_want(&self, action: &str) -> bool {
        let of_action = |pattern: &&Pattern| WildMatch::new(action_of(&pattern.text)).matches(action);
        let (excluded, included): (Vec<_>, Vec<_>) = self.0.0.iter().partition(|pattern| pattern.excludes);
        (included.is_empty() || included.iter().any(of_action))
            && !excluded.iter().any(|pattern| !pattern.text.contains('.') && of_action(pattern))
    }

    /// The actions that the list names in full.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let included = self.0.0.iter().filter(|pattern| !pattern.excludes);
        included.map(|pattern| action_of(&pattern.text)).filter(|action| !action.contains(['*', '?']))
    }
}

impl TryFrom<Vec<String>> for ActionFilter {
    type Error = Expected;

    fn try_from(written: Vec<String>) -> Result<Self, Expected> {
        Self::new(&written)
    }
}

impl From<ActionFilter> for Vec<String> {
    fn from(filter: ActionFilter) -> Self {
        let written = |pattern: Pattern| format!("{}{}", if pattern.excludes { "!" } else { "" }, pattern.text);
        filter.0.0.into_iter().map(written).collect()
    }
}

fn action_of(pattern: &str) -> &str {
    pattern.split_once('.').map_or(pattern, |(action, _)| action)
}

/// Reads `job_end`, `loan.loan_returned`, `loan.*`, `!bib` or `*`, in any case.
pub(super) fn action_pattern(written: &str) -> Result<Pattern, Expected> {
    let segment = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-*?".contains(&b));
    let parts: Vec<&str> = written.strip_prefix('!').unwrap_or(written).split('.').collect();
    if parts.len() > 2 || !parts.iter().all(|part| segment(part)) {
        return Err(
            "expected an action such as \"job_end\", an action and event such as \"loan.loan_returned\", or a \
                    pattern such as \"*\", \"loan.*\" or \"!bib\""
                .to_owned(),
        );
    }
    // An action with its event is one text with exactly one dot, so neither half of a pattern can match across it.
    Ok(Pattern::new(written, |text| if text.contains('.') { text.to_owned() } else { format!("{text}.*") }))
}

/// Checks one pattern of an [`ActionFilter`], and returns it as it was written.
pub fn parse_action(written: &str) -> Result<String, Expected> {
    action_pattern(written).map(|_| written.to_owned())
}

/// Reads one pattern of a [`Filter`].
pub(super) fn text_pattern(written: &str) -> Result<Pattern, Expected> {
    match written.strip_prefix('!').unwrap_or(written) {
        "" => Err("expected a text, or a pattern such as \"Export*\" or \"!Export*\"".to_owned()),
        _ => Ok(Pattern::new(written, str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(written: &[&str]) -> Filter {
        Filter::new(written).expect("patterns")
    }

    #[test]
    fn wildcards_match_in_any_case() {
        let jobs = filter(&["Export*", "publishing ?latform job", "ÜBER*"]);
        for wanted in ["export", "EXPORT Bibs", "Publishing Platform Job", "über alles"] {
            assert!(jobs.wants(wanted), "{wanted}");
        }
        for unwanted in ["", "an export", "Publishing Platform Job 2", "Publishing latform Job"] {
            assert!(!jobs.wants(unwanted), "{unwanted}");
        }
    }

    #[test]
    fn exclusions_win_and_alone_mean_everything_else() {
        let all_but = filter(&["!export*"]);
        assert!(all_but.wants("Import") && all_but.wants("") && !all_but.wants("Export Bibs"));
        let some = filter(&["export*", "!*test*"]);
        assert!(some.wants("Export Bibs") && !some.wants("Export Test set") && !some.wants("Import"));
        assert!(filter(&["*"]).wants("") && !filter(&["*", "!a"]).wants("A"));
    }

    #[test]
    fn actions_match_with_and_without_their_event() {
        let actions = ActionFilter::new(&["JOB_END", "loan.LOAN_RET*", "b?b", "!bib.bib_deleted"]).expect("patterns");
        for (action, event, wanted) in [
            ("job_end", "", true),
            ("loan", "loan_returned", true),
            ("loan", "loan_created", false),
            ("bib", "bib_updated", true),
            ("bib", "bib_deleted", false),
            ("item", "item_updated", false),
            ("unparsed", "", false),
        ] {
            assert_eq!(actions.wants(action, event), wanted, "{action}.{event}");
        }
        assert!(actions.may_want("loan") && actions.may_want("bib") && !actions.may_want("item"));
        assert_eq!(actions.named().collect::<Vec<_>>(), ["job_end", "loan"]);
        let all_but = ActionFilter::new(&["!user", "!loan.loan_renewed"]).expect("patterns");
        assert!(all_but.wants("unparsed", "") && !all_but.wants("user", "user_created"));
        assert!(all_but.may_want("loan") && !all_but.may_want("user"));
    }

    #[test]
    fn what_can_be_no_action_is_refused() {
        for bad in ["", "!", "a.b.c", "a.", "job end", "!.x", "böb"] {
            assert!(parse_action(bad).is_err(), "{bad:?}");
        }
        assert!(text_pattern("!").is_err() && text_pattern("").is_err());
    }
}
