//! From librdkafka's error codes to a [`Reason`]; the table is in the head of [`super`].

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::sinks::{Failure, Reason};

/// What a code says about a message, a topic or the connection.
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
        // Another record of its batch is invalid: sent apart, it is taken.
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

        // What is not known to be the message's or the operator's fault is tried again for ever, and `/status` says
        // why: a message that was good is never set aside for a code that this table does not have.
        _ => Reason::Unreachable,
    }
}

/// A code in the words of librdkafka: `Broker: Topic authorization failed`.
pub(super) fn words(code: Code) -> String {
    // Display gives "Name (Words)" and Debug the name alone; the words are what an operator searches for.
    let text = code.to_string();
    match text.split_once(" (") {
        Some((_, words)) => words.trim_end_matches(')').to_owned(),
        None => text,
    }
}

/// What librdkafka says, with our keys in the place of the properties that they set.
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

/// Any error of the client as a failure.
///
/// What can't be created (a certificate file that is not there, a property that does not exist) counts as a refused
/// log-in where its text speaks of TLS or SASL, else as unreachable: both are tried again, and both say why.
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
    fn sorts_codes_by_who_can_mend_them() {
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
    fn an_unknown_code_never_sets_a_message_aside() {
        for code in [Code::Unknown, Code::InvalidRequiredAcks, Code::InvalidRequest, Code::EndAll] {
            assert_eq!(reason(code).class(), Class::Retry, "{code:?}");
        }
    }

    #[test]
    fn a_failure_has_the_words_of_librdkafka_and_no_value() {
        assert_eq!(failure(Code::TopicAuthorizationFailed).detail, "Broker: Topic authorization failed");
        let error = rdkafka::ClientConfig::new().set("sasl.mechanism.typo", "hunter2").create_native_config().err();
        let failure = client_failure(&error.expect("no such property"));
        assert_eq!(failure.reason, Reason::Login);
        assert!(failure.detail.contains("sasl.mechanism.typo") && !failure.detail.contains("hunter2"), "{failure}");
    }
}
