//! Compares the settings of brokers and topics with what the bridge promises, for the log at the first connection and
//! for `check --connect`.

use super::topics::TopicLimits;
use crate::config::KafkaSink;
use crate::sinks::tools::{Check, TOPIC, Verdict};

/// The cluster: how many brokers are up, and the defaults of one. `limit` is the largest message in bytes.
pub(super) fn of_cluster(settings: &KafkaSink, limits: &TopicLimits, brokers: usize, limit: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    let replicas = asked_for(settings, limits);
    if let Some(replicas) = replicas.filter(|_| settings.create_topics) {
        checks.push(created(settings, replicas, brokers));
    }
    // With one replica, two in-sync replicas are impossible.
    if let Some(least) = limits.min_insync.filter(|_| replicas != Some(1)) {
        checks.push(min_insync(
            "min.insync.replicas of the brokers",
            least,
            "set min.insync.replicas=2 on the brokers",
        ));
    }
    if let Some(most) = limits.message_bytes {
        let what = "message.max.bytes of the brokers";
        checks.push(if most >= limit {
            Check::good(what, format!("{most} bytes"))
        } else {
            Check::warning(
                what,
                format!("{most} bytes, less than the {limit} that an event of max_body may need"),
                format!(
                    "a topic without its own max.message.bytes refuses larger events, which become dead letters: set \
                     message.max.bytes={limit} on the brokers"
                ),
            )
        });
    }
    checks
}

/// Replicas of a topic that the bridge creates. `None` if the brokers decide and do not tell.
fn asked_for(settings: &KafkaSink, limits: &TopicLimits) -> Option<usize> {
    match settings.replication {
        -1 => limits.replicas,
        given => usize::try_from(given).ok(),
    }
}

/// Whether so many brokers can hold the replicas of a topic that the bridge creates.
pub(super) fn can_replicate(settings: &KafkaSink, limits: &TopicLimits, brokers: usize) -> bool {
    asked_for(settings, limits).is_none_or(|replicas| replicas <= brokers)
}

/// Checks the replication of topics that the bridge creates.
fn created(settings: &KafkaSink, replicas: usize, brokers: usize) -> Check {
    let what = "replication of created topics";
    let key = if settings.replication == -1 { "default.replication.factor on the brokers" } else { "replication" };
    if replicas > brokers {
        let found = format!("{replicas}, but only {brokers} of the cluster's brokers are up");
        return Check::bad(what, found, format!("no topic can be created: start more brokers, or lower {key}"));
    }
    match few(replicas) {
        Some(found) => Check::warning(what, found, "set replication = 3, or default.replication.factor on the brokers"),
        None => Check::good(what, replicas.to_string()),
    }
}

/// What is wrong with fewer than three replicas.
fn few(replicas: usize) -> Option<String> {
    match replicas {
        0 | 1 => Some(format!("{replicas}: the loss of one broker loses its events")),
        2 => Some(
            "2: if one broker is down, min.insync.replicas=2 stops the topic, and with 1 its loss can lose events"
                .into(),
        ),
        _ => None,
    }
}

/// Checks an existing topic. Without `limits` (no right to describe it), only its replicas.
///
/// The texts have [`TOPIC`] where its name goes.
pub(super) fn of_topic(replicas: usize, limits: Option<&TopicLimits>, limit: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    let what = format!("replication of {TOPIC}");
    checks.push(match few(replicas) {
        Some(found) => Check::warning(what, found, "give it three replicas with kafka-reassign-partitions.sh"),
        None => Check::good(what, replicas.to_string()),
    });
    let alter = |setting: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {TOPIC} --add-config {setting}")
    };
    if let Some(least) = limits.and_then(|limits| limits.min_insync).filter(|_| replicas > 1) {
        checks.push(min_insync(&format!("min.insync.replicas of {TOPIC}"), least, &alter("min.insync.replicas=2")));
    }
    if let Some(most) = limits.and_then(|limits| limits.message_bytes) {
        let what = format!("max.message.bytes of {TOPIC}");
        checks.push(if most >= limit {
            Check::good(what, format!("{most} bytes"))
        } else {
            Check::warning(
                what,
                format!("{most} bytes, less than the {limit} that an event of max_body may need"),
                format!("larger events become dead letters: {}", alter(&format!("max.message.bytes={limit}"))),
            )
        });
    }
    checks
}

fn min_insync(what: &str, least: usize, mend: &str) -> Check {
    if least > 1 {
        Check::good(what, least.to_string())
    } else {
        Check::warning(what, "1", format!("an event counts as confirmed when a single broker has it: {mend}"))
    }
}

/// One sentence for each check that is not good.
pub(super) fn shortcomings(checks: &[Check]) -> Vec<String> {
    checks
        .iter()
        .filter_map(|check| match &check.verdict {
            Verdict::Good(_) => None,
            Verdict::Warning(found, mend) | Verdict::Bad(found, mend) => {
                Some(format!("{} is {found}; {mend}", check.what))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(message_bytes: usize, min_insync: usize, replicas: usize) -> TopicLimits {
        TopicLimits { message_bytes: Some(message_bytes), min_insync: Some(min_insync), replicas: Some(replicas) }
    }

    #[test]
    fn settings_that_lose_or_refuse_events_cause_warnings() {
        let mut settings = super::super::tests::settings();
        let weak = shortcomings(&of_cluster(&settings, &limits(1_048_588, 1, 1), 3, 11_250_000));
        assert_eq!(weak.len(), 2, "{weak:?}");
        assert!(weak[0].contains("default.replication.factor") && weak[1].contains("message.max.bytes=11250000"));
        assert_eq!(
            shortcomings(&of_cluster(&settings, &limits(11_250_000, 2, 3), 3, 11_250_000)),
            Vec::<String>::new()
        );
        let weak = shortcomings(&of_cluster(&settings, &limits(11_250_000, 2, 2), 3, 11_250_000));
        assert!(weak.len() == 1 && weak[0].contains("is 2: "), "docs/brokers.md recommends three: {weak:?}");
        // If the bridge creates no topics, their replication is not its concern.
        settings.create_topics = false;
        let weak = shortcomings(&of_cluster(&settings, &limits(11_250_000, 1, 3), 3, 11_250_000));
        assert!(weak.len() == 1 && weak[0].starts_with("min.insync.replicas"), "{weak:?}");
    }

    #[test]
    fn more_replicas_than_brokers_are_an_error() {
        let mut settings = super::super::tests::settings();
        settings.replication = 3;
        let found = of_cluster(&settings, &TopicLimits::default(), 1, 11_250_000);
        assert!(
            matches!(&found[..], [Check { verdict: Verdict::Bad(found, _), .. }] if found.starts_with("3, but only 1"))
        );
        assert!(
            !can_replicate(&settings, &TopicLimits::default(), 1)
                && can_replicate(&settings, &TopicLimits::default(), 3)
        );
        settings.replication = -1;
        let found = of_cluster(&settings, &limits(11_250_000, 2, 3), 1, 11_250_000);
        assert!(matches!(&found[0].verdict, Verdict::Bad(_, mend) if mend.contains("default.replication.factor")));
        assert!(can_replicate(&settings, &TopicLimits::default(), 1), "an unknown default is not judged");
    }

    #[test]
    fn the_remedy_for_a_topic_names_its_own_setting() {
        let weak = shortcomings(&of_topic(3, Some(&limits(1_048_588, 1, 3)), 11_250_000));
        assert!(weak[0].contains("--entity-name TOPIC --add-config min.insync.replicas=2"), "{weak:?}");
        assert!(weak[1].contains("max.message.bytes=11250000"), "{weak:?}");
        assert_eq!(of_topic(1, None, 11_250_000).len(), 1);
    }
}
