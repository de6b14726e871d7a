//! Turns errors into a [`Reason`], by the table in [`super`].

use std::io;

use lapin::ErrorKind;

use crate::sinks::{Failure, Reason};

/// The failure for an error of the client, with the broker's own text if there is one.
pub(super) fn sort(error: &lapin::Error) -> Failure {
    match error.kind() {
        ErrorKind::ProtocolError(said) => {
            let text = said.get_message().as_str();
            Failure::new(reason_of(said.get_id(), text), format!("{} {text}", said.get_id()))
        }
        ErrorKind::IOError(error) => Failure::new(reason_of_io(error), error.to_string()),
        ErrorKind::AuthProviderError(text) => Failure::new(Reason::Login, text.clone()),
        ErrorKind::SerialisationError(_) => Failure::new(Reason::Malformed, "its headers cannot be written as a frame"),
        ErrorKind::ChannelsLimitReached => Failure::new(Reason::Busy, "the broker allows no more channels"),
        ErrorKind::MissingHeartbeatError => Failure::new(Reason::Unreachable, "the broker sends no heartbeat"),
        _ => Failure::new(Reason::Unreachable, error.to_string()),
    }
}

fn reason_of_io(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::TimedOut => Reason::Timeout,
        // A TLS 1.3 server refuses a certificate after the client's handshake is complete.
        _ if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) => Reason::Login,
        _ => Reason::Unreachable,
    }
}

/// The reason of a reply code (AMQP 0-9-1, constants) in a `channel.close` or `connection.close`.
pub(super) fn reason_of(code: u16, text: &str) -> Reason {
    match code {
        311 => Reason::TooLarge,
        312 | 313 => Reason::Unroutable,
        403 if text.contains("Login was refused") || text.contains("to vhost") => Reason::Login,
        403 => Reason::Rights,
        404 => Reason::Missing,
        406 if max_message_size(text).is_some() => Reason::TooLarge,
        406 | 501 | 502 | 505 | 540 => Reason::Malformed,
        530 if text.contains(" limit (") => Reason::Busy,
        530 if text.contains("not found") => Reason::Missing,
        530 => Reason::Login,
        405 | 506 | 541 => Reason::Busy,
        _ => Reason::Unreachable,
    }
}

/// The broker's limit in `message size 20 is larger than configured max size 10`.
pub(super) fn max_message_size(text: &str) -> Option<usize> {
    let (before, limit) = text.split_once("max size ")?;
    before
        .contains("message size ")
        .then(|| limit.chars().take_while(char::is_ascii_digit).collect::<String>())?
        .parse()
        .ok()
}

/// The routing key in `write access to topic 'alma.loan' in exchange 'alma' …`.
pub(super) fn refused_topic(text: &str) -> Option<&str> {
    text.split_once("access to topic '")?.1.split_once('\'').map(|(topic, _)| topic)
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    const TOO_LARGE: &str = "PRECONDITION_FAILED - message size 17000000 is larger than configured max size 16777216";
    const NO_TOPIC: &str = "ACCESS_REFUSED - write access to topic 'alma.loan' in exchange 'alma' in vhost '/' refused \
                            for user 'limited'";

    #[test]
    fn the_reason_follows_from_code_and_text() {
        for (code, text, reason) in [
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", Reason::Unreachable),
            (403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", Reason::Login),
            (403, NO_TOPIC, Reason::Rights),
            (404, "NOT_FOUND - no exchange 'alma' in vhost '/'", Reason::Missing),
            (406, TOO_LARGE, Reason::TooLarge),
            (406, "PRECONDITION_FAILED - invalid expiration 'x'", Reason::Malformed),
            (530, "NOT_ALLOWED - vhost gone not found", Reason::Missing),
            (530, "NOT_ALLOWED - access to vhost '/' refused for user 'limited'", Reason::Login),
            (530, "NOT_ALLOWED - access to vhost '/' refused: connection limit (1) is reached", Reason::Busy),
            (541, "INTERNAL_ERROR", Reason::Busy),
            (502, "SYNTAX_ERROR", Reason::Malformed),
        ] {
            assert_eq!(reason_of(code, text), reason, "{code} {text}");
            if let Some(error) = AMQPError::from_id(code, text.into()) {
                let failure = sort(&ErrorKind::ProtocolError(error).into());
                assert_eq!(failure, Failure::new(reason, format!("{code} {text}")));
            }
        }
    }

    #[test]
    fn errors_of_the_network_have_their_reasons() {
        let of = |error: io::Error| sort(&lapin::Error::from(error)).reason;
        assert_eq!(of(io::ErrorKind::ConnectionReset.into()), Reason::Unreachable);
        assert_eq!(of(io::ErrorKind::TimedOut.into()), Reason::Timeout);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::BadCertificate);
        assert_eq!(of(io::Error::new(io::ErrorKind::InvalidData, alert)), Reason::Login);
    }

    #[test]
    fn limit_and_topic_are_found_in_the_text() {
        assert_eq!(max_message_size(TOO_LARGE), Some(16_777_216));
        assert_eq!(max_message_size(NO_TOPIC), None);
        assert_eq!(refused_topic(NO_TOPIC), Some("alma.loan"));
        assert_eq!(refused_topic(TOO_LARGE), None);
    }
}
