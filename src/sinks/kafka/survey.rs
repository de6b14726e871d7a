//! What a broker or a topic is set to, beside what the bridge promises: for the log at the first connection and for
//! `check --connect`.

use super::topics::Limits;
use crate::config::KafkaSink;
use crate::sinks::tools::{Check, Verdict};

/// A broker's defaults. `limit` is the largest message in bytes.
pub(super) fn of_broker(settings: &KafkaSink, limits: &Limits, limit: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    let replicas = match settings.replication {
        -1 => limits.replicas,
        given => usize::try_from(given).ok(),
    };
    if let Some(replicas) = replicas.filter(|_| settings.create_topics) {
        checks.push(if replicas > 1 {
            Check::good("replication of created topics", replicas.to_string())
        } else {
            Check::warning(
                "replication of created topics",
                "1",
                "one broker lost is its events lost: set replication = 3, or default.replication.factor on the brokers",
            )
        });
    }
    // With one replica a topic can't ask for two.
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
                format!("{most} bytes, less than the {limit} that an event of max_body may come to"),
                format!(
                    "a topic without max.message.bytes of its own refuses larger events, which become dead letters: \
                     set message.max.bytes={limit} on the brokers"
                ),
            )
        });
    }
    checks
}

/// A topic that exists. Without `limits` (no right to describe it) only its replicas are judged.
pub(super) fn of_topic(topic: &str, replicas: usize, limits: Option<&Limits>, limit: usize) -> Vec<Check> {
    let mut checks = Vec::new();
    let what = format!("replication of {topic}");
    if replicas > 1 {
        checks.push(Check::good(what, replicas.to_string()));
    } else {
        checks.push(Check::warning(
            what,
            replicas.to_string(),
            "one broker lost is its events lost: give it more replicas by kafka-reassign-partitions.sh",
        ));
    }
    let alter = |setting: &str| {
        format!("kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}")
    };
    if let Some(least) = limits.and_then(|limits| limits.min_insync).filter(|_| replicas > 1) {
        checks.push(min_insync(&format!("min.insync.replicas of {topic}"), least, &alter("min.insync.replicas=2")));
    }
    if let Some(most) = limits.and_then(|limits| limits.message_bytes) {
        let what = format!("max.message.bytes of {topic}");
        checks.push(if most >= limit {
            Check::good(what, format!("{most} bytes"))
        } else {
            Check::warning(
                what,
                format!("{most} bytes, less than the {limit} that an event of max_body may come to"),
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

/// What falls short among them, one sentence each.
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

    fn limits(message_bytes: usize, min_insync: usize, replicas: usize) -> Limits {
        Limits { message_bytes: Some(message_bytes), min_insync: Some(min_insync), replicas: Some(replicas) }
    }

    #[test]
    fn warns_of_what_loses_or_refuses_events() {
        let mut settings = super::super::tests::settings();
        let weak = shortcomings(&of_broker(&settings, &limits(1_048_588, 1, 1), 11_250_000));
        assert_eq!(weak.len(), 2, "{weak:?}");
        assert!(weak[0].contains("default.replication.factor") && weak[1].contains("message.max.bytes=11250000"));
        assert_eq!(shortcomings(&of_broker(&settings, &limits(11_250_000, 2, 3), 11_250_000)), Vec::<String>::new());
        // Not our topics, not our replication.
        settings.create_topics = false;
        let weak = shortcomings(&of_broker(&settings, &limits(11_250_000, 1, 3), 11_250_000));
        assert!(weak.len() == 1 && weak[0].starts_with("min.insync.replicas"), "{weak:?}");
    }

    #[test]
    fn names_the_topics_own_setting() {
        let weak = shortcomings(&of_topic("alma.loan", 3, Some(&limits(1_048_588, 1, 3)), 11_250_000));
        assert!(weak[0].contains("--entity-name alma.loan --add-config min.insync.replicas=2"), "{weak:?}");
        assert!(weak[1].contains("max.message.bytes=11250000"), "{weak:?}");
        assert_eq!(of_topic("alma.loan", 1, None, 11_250_000).len(), 1);
    }
}
