//! Turns librdkafka's error codes into a [`Reason`], by the table in [`super`].

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::sinks::{Failure, Reason};

/// The reason for a code.
pub(super) const fn reason(code: Code) -> Reason {
    match code {
        Code::Authentication
        | Code::SSL
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::PrincipalDeserializationFailure => Reason::Login,

        Code::MessageTimedOut
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::RequestTimedOut
        | Code::PurgeQueue
        | Code::PurgeInflight
        | Code::WaitCache
        | Code::OutOfOrderSequenceNumber
        | Code::DuplicateSequenceNumber
        | Code::UnknownProducerId
        | Code::InvalidProducerEpoch
        | Code::InvalidProducerIdMapping => Reason::Timeout,

        Code::QueueFull
        | Code::ISRInsufficient
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::KafkaStorageError
        | Code::LogDirNotFound
        | Code::ThrottlingQuotaExceeded
        | Code::ReassignmentInProgress => Reason::Busy,

        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Reason::TooLarge,

        Code::BadMessage
        | Code::BadCompression
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord
        // Another record of the batch is invalid. Sent alone, this one is accepted.
        | Code::InvalidDifferentRecord
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType => Reason::Malformed,

        Code::InvalidTimestamp => Reason::Clock,

        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => Reason::Rights,

        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidReplicaAssignment
        | Code::InvalidConfig
        | Code::PolicyViolation => Reason::Missing,

        // If the cause is not known to be the message or the operator, the pump retries for ever, and `/status` says
        // why. No good message becomes a dead letter because of a code that is missing here.
        _ => Reason::Unreachable,
    }
}

/// librdkafka's text for a code, such as `Broker: Topic authorization failed`.
pub(super) fn words(code: Code) -> String {
    // Display gives "Name (Text)". Operators search for the text.
    let text = code.to_string();
    match text.split_once(" (") {
        Some((_, words)) => words.trim_end_matches(')').to_owned(),
        None => text,
    }
}

/// librdkafka's message, with our keys instead of the properties that they set.
pub(super) fn with_our_keys(said: &str) -> String {
    const KEYS: [(&str, &str); 4] = [
        ("ssl.ca.location", "tls.ca_file"),
        ("ssl.certificate.location", "tls.cert_file"),
        ("ssl.key.location", "tls.key_file"),
        ("security.protocol", "tls"),
    ];
    KEYS.iter().fold(said.to_owned(), |said, (property, key)| said.replace(property, key))
}

/// A code as a failure.
pub(super) fn failure(code: Code) -> Failure {
    Failure::new(reason(code), words(code))
}

/// An error of the client as a failure.
///
/// If a client can't be created (a missing certificate file, an unknown property), that is [`Reason::Login`] if the
/// text is about TLS or SASL, and otherwise [`Reason::Unreachable`]. The pump retries both.
pub(super) fn client_failure(error: &KafkaError) -> Failure {
    match error {
        KafkaError::ClientConfig(_, words, key, _) => {
            // Never the value: it may be a password.
            Failure::new(configured(key), format!("property {key}: {words}"))
        }
        KafkaError::ClientCreation(words) => Failure::new(configured(words), with_our_keys(words)),
        other => match other.rdkafka_error_code() {
            Some(code) => failure(code),
            None => Failure::new(Reason::Unreachable, other.to_string()),
        },
    }
}

fn configured(text: &str) -> Reason {
    if text.contains("ssl") || text.contains("sasl") { Reason::Login } else { Reason::Unreachable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Class;

    #[test]
    fn each_code_has_its_reason() {
        for (code, expected) in [
            (Code::BrokerTransportFailure, Reason::Unreachable),
            (Code::AllBrokersDown, Reason::Unreachable),
            (Code::Resolve, Reason::Unreachable),
            (Code::NotLeaderForPartition, Reason::Unreachable),
            (Code::Authentication, Reason::Login),
            (Code::SSL, Reason::Login),
            (Code::MessageTimedOut, Reason::Timeout),
            (Code::PurgeInflight, Reason::Timeout),
            (Code::QueueFull, Reason::Busy),
            (Code::NotEnoughReplicas, Reason::Busy),
            (Code::MessageSizeTooLarge, Reason::TooLarge),
            (Code::InvalidRecord, Reason::Malformed),
            (Code::InvalidDifferentRecord, Reason::Malformed),
            (Code::InvalidTimestamp, Reason::Clock),
            (Code::TopicAuthorizationFailed, Reason::Rights),
            (Code::ClusterAuthorizationFailed, Reason::Rights),
            (Code::UnknownTopic, Reason::Missing),
            (Code::UnknownTopicOrPartition, Reason::Missing),
        ] {
            assert_eq!(reason(code), expected, "{code:?}");
        }
    }

    #[test]
    fn an_unknown_code_is_retried() {
        for code in [Code::Unknown, Code::InvalidRequiredAcks, Code::InvalidRequest, Code::EndAll] {
            assert_eq!(reason(code).class(), Class::Retry, "{code:?}");
        }
    }

    #[test]
    fn a_failure_has_the_text_of_librdkafka_but_no_value() {
        assert_eq!(failure(Code::TopicAuthorizationFailed).detail, "Broker: Topic authorization failed");
        let error = rdkafka::ClientConfig::new().set("sasl.mechanism.typo", "hunter2").create_native_config().err();
        let failure = client_failure(&error.expect("no such property"));
        assert_eq!(failure.reason, Reason::Login);
        assert!(failure.detail.contains("sasl.mechanism.typo") && !failure.detail.contains("hunter2"), "{failure}");
    }
}
