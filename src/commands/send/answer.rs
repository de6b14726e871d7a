//! What the bridge answered, and the summary of all answers.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::Response;

use crate::commands::counted;
use crate::commands::outside::Outside;

/// The header that says whether the event was stored or is a repeat.
const OUTCOME_HEADER: &str = "alma-bridge-outcome";

/// What an answer says.
pub(in crate::commands) struct Said {
    /// Whether the status is a 2xx.
    pub(in crate::commands) taken: bool,
    /// Status and outcome, such as `204 stored`.
    pub(in crate::commands) outcome: String,
    /// The message of an error. Empty if there is none.
    pub(in crate::commands) message: String,
}

impl Said {
    pub(in crate::commands) fn by(answer: &Response<Bytes>) -> Self {
        let status = answer.status();
        let outcome = answer.headers().get(OUTCOME_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let message = if outcome.is_empty() { error_message(answer.body()).unwrap_or_default() } else { String::new() };
        let outcome = format!("{} {outcome}", status.as_u16()).trim_end().to_owned();
        Self { taken: status.is_success(), outcome, message }
    }

    /// Outcome and message on one line.
    pub(in crate::commands) fn whole(&self) -> String {
        format!("{} {}", self.outcome, self.message).trim_end().to_owned()
    }
}

fn error_message(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ErrorBody {
        error_message: String,
    }
    serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error_message)
}

/// The answer to one event.
pub(super) struct Answer {
    pub(super) took: Duration,
    pub(super) said: Said,
}

impl Answer {
    /// The line for one event. Text of unlimited length is at the end, so that it breaks no column.
    pub(super) fn line(&self, name: &str, widest: usize, id: Option<&str>, outside: Outside) -> String {
        let Said { outcome, message, .. } = &self.said;
        let (outcome, name, message) = (outside.line(outcome), outside.line(name), outside.line(message));
        let (took, id) = (milliseconds(self.took), id.unwrap_or("-"));
        format!("{outcome:<12} {took:>9}  {name:<widest$}  {id:<19}  {message}").trim_end().to_owned()
    }
}

#[derive(Default)]
pub(super) struct Summary {
    outcomes: BTreeMap<String, u64>,
    refused: u64,
    took: Vec<Duration>,
}

impl Summary {
    pub(super) fn add(&mut self, answer: &Answer) {
        self.took.push(answer.took);
        self.refused += u64::from(!answer.said.taken);
        *self.outcomes.entry(answer.said.whole()).or_default() += 1;
    }

    pub(super) fn all_taken(&self) -> bool {
        self.refused == 0
    }

    pub(super) fn print(&self, took: Duration, outside: Outside) {
        if let [only] = self.took.as_slice() {
            errln!("1 event, {}", milliseconds(*only));
            return;
        }
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        let at = |share: usize| {
            sorted.get((sorted.len() * share / 1_000).min(sorted.len() - 1)).copied().unwrap_or_default()
        };
        #[allow(clippy::cast_precision_loss, reason = "a count of events is far below 2^52")]
        let rate = sorted.len() as f64 / took.as_secs_f64().max(1e-9);
        errln!("{}, {}, {rate:.0}/s", counted(sorted.len() as u64, "event"), lasted(took));
        for (said, count) in &self.outcomes {
            errln!("  {count:>7}  {}", outside.line(said));
        }
        errln!(
            "  answered in: median {}, p99 {}, longest {}",
            milliseconds(at(500)),
            milliseconds(at(990)),
            milliseconds(at(1_000))
        );
    }
}

/// For people: `3.2 ms`, or `1.5 s` from a second on.
fn lasted(took: Duration) -> String {
    if took < Duration::from_secs(1) { milliseconds(took) } else { format!("{:.1} s", took.as_secs_f64()) }
}

/// For people: `3.2 ms`.
pub(in crate::commands) fn milliseconds(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1_000.0)
}
