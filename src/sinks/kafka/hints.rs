//! What to do if no broker is reached. librdkafka's messages name neither our keys nor always a single cause.

use crate::config::KafkaSink;
use crate::sinks::tools::Check;
use crate::sinks::{Failure, Reason};

/// The check of a broker that is not reached, is not trusted, or refuses the bridge.
pub(super) fn not_reached(settings: &KafkaSink, failure: &Failure) -> Check {
    let detail = &failure.detail;
    let place = broker(detail).map_or_else(|| settings.brokers.join(", "), str::to_owned);
    let said = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    let (what, mend) = if said(&["certificate verify failed", "verify broker certificate"]) {
        // OpenSSL has the same message for both causes.
        let ca = match settings.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            Some(file) => format!("tls.ca_file ({})", file.display()),
            None => "tls.ca_file, which is not set, or the system's authorities".to_owned(),
        };
        let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host);
        ("TLS", format!("{ca} must hold the authority that signed the broker's certificate, which must name {host}"))
    } else if said(&["SSL alert", "alert number", "client SSL authentication"]) {
        let mend = "the broker refuses the client's certificate: check tls.cert_file and tls.key_file";
        ("TLS", mend.to_owned())
    } else if said(&["PLAINTEXT broker listener", "wrong version number", "packet length too long", "SSL handshake"]) {
        ("TLS", format!("{place} does not speak TLS: set brokers to the port that does, or remove tls"))
    } else if said(&["connecting to a SSL listener"]) {
        ("TLS", format!("{place} may require TLS: set tls = {{ ca_file = \"…\" }}"))
    } else if said(&["require SASL authentication"]) {
        ("login", format!("{place} requires a login: set username and password_file"))
    } else if failure.reason == Reason::Login && said(&["tls."]) {
        ("TLS", "check the files of tls: they must be PEM and readable by the bridge's user".to_owned())
    } else if failure.reason == Reason::Login {
        ("login", "check username, password_file and the property sasl.mechanism".to_owned())
    } else if settings.tls.is_none() && said(&["no broker answered"]) {
        // The broker waits for the rest of a TLS record.
        let mend = "check the network, and tls: a TLS listener does not answer a client without TLS";
        ("broker reached", format!("{mend}, so set tls = {{ ca_file = \"…\" }} if {place} is one"))
    } else if settings.login.is_none() && said(&["no broker answered"]) {
        // The broker may close the connection without a message, and the client retries.
        let mend = "a listener that requires a login does not answer a client without one";
        ("login", format!("{mend}: set username and password_file if {place} is one, or else check the network"))
    } else {
        ("broker reached", "check brokers, the network, and that the broker runs".to_owned())
    };
    Check::bad(what, detail, mend)
}

/// `host:port` in `ssl://host:port/bootstrap: …`.
fn broker(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("://")?;
    rest.split_once('/').map(|(place, _)| place)
}
