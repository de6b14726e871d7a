//! The checklist of `check --connect`: first the disks, then each sink.

use std::collections::BTreeSet;

use super::disk;
use crate::alma::samples;
use crate::clock::{Clock as _, SystemClock};
use crate::commands::Failure;
use crate::commands::outside::Outside;
use crate::config::{Config, Sink};
use crate::message::{Messages, StoredEvent, known_topics};
use crate::sinks;
use crate::sinks::tools::{Check, Verdict};

/// Prints one line for each check. Fails if one of them is bad.
pub(super) async fn run(config: &Config, outside: Outside) -> Result<(), Failure> {
    let mut all_good = print("data", &[disk::of_data_dir(config), disk::room(config)].concat(), outside)?;
    for sink in &config.sinks {
        let checks = sinks::probe(sink, config.ingress.max_body, &topics(sink, config)).await;
        all_good &= print(&format!("sink {} ({})", sink.name, sink.kind.as_str()), &checks, outside)?;
    }
    if all_good { Ok(()) } else { Err(Failure::Silent) }
}

/// Prints the checks. Returns whether none of them is bad.
fn print(title: &str, checks: &[Check], outside: Outside) -> Result<bool, Failure> {
    outln!("{title}")?;
    for check in checks {
        let (mark, found, mend) = match &check.verdict {
            Verdict::Good(found) => ("ok  ", found, None),
            Verdict::Warning(found, mend) => ("warn", found, Some(mend)),
            Verdict::Bad(found, mend) => ("FAIL", found, Some(mend)),
        };
        outln!("  {mark}  {}: {}", outside.line(&check.what), outside.line(found))?;
        if let Some(mend) = mend {
            outln!("        {}", outside.line(mend))?;
        }
    }
    Ok(!checks.iter().any(|check| matches!(check.verdict, Verdict::Bad(..))))
}

/// The topics of a sink that are known before the first event, or else those of the samples.
fn topics(sink: &Sink, config: &Config) -> Vec<String> {
    let known = known_topics(sink, &config.sources);
    if known.is_empty() {
        return sampled(sink, config);
    }
    known.iter().map(ToString::to_string).collect()
}

fn sampled(sink: &Sink, config: &Config) -> Vec<String> {
    let Some(source) = config.sources.first() else { return Vec::new() };
    let messages = Messages::new(sink, &config.sources, &config.privacy);
    let now = SystemClock.now();
    let real = samples::ALL.iter().filter(|sample| sample.name != "new_action");
    let made = real.filter_map(|sample| {
        let body = sample.render("1", &now.to_string()).into();
        messages.make(&StoredEvent { source: source.name.clone(), received: now, recorded: now, body }, None)
    });
    made.map(|message| message.topic.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
}
