//! What to do if no broker is reached, by the words of librdkafka, which name neither our keys nor the one cause.

use crate::config::KafkaSink;
use crate::sinks::tools::Check;
use crate::sinks::{Failure, Reason};

/// The line of a broker that is not reached, or not trusted, or does not let the bridge in.
pub(super) fn not_reached(settings: &KafkaSink, failure: &Failure) -> Check {
    let detail = &failure.detail;
    let place = broker(detail).map_or_else(|| settings.brokers.join(", "), str::to_owned);
    let said = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    let (what, mend) = if said(&["certificate verify failed", "verify broker certificate"]) {
        // OpenSSL has one word for both.
        let ca = match settings.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            Some(file) => format!("tls.ca_file ({})", file.display()),
            None => "tls.ca_file, which is not set, or the system's authorities".to_owned(),
        };
        let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host);
        ("TLS", format!("{ca} must hold the authority that signed the broker's certificate, which must name {host}"))
    } else if said(&["SSL alert", "alert number", "client SSL authentication"]) {
        let mend = "the broker refuses the client's certificate: look at tls.cert_file and tls.key_file";
        ("TLS", mend.to_owned())
    } else if said(&["PLAINTEXT broker listener", "wrong version number", "packet length too long", "SSL handshake"]) {
        ("TLS", format!("{place} does not speak TLS: name the port that does in brokers, or leave tls out"))
    } else if said(&["connecting to a SSL listener"]) {
        ("TLS", format!("{place} may want TLS: set tls = {{ ca_file = \"…\" }}"))
    } else if said(&["require SASL authentication"]) {
        ("log-in", format!("{place} wants a log-in: set username and password_file"))
    } else if failure.reason == Reason::Login && said(&["tls."]) {
        ("TLS", "look at the files of tls: PEM, and readable by the bridge's user".to_owned())
    } else if failure.reason == Reason::Login {
        ("log-in", "look at username, password_file and the property sasl.mechanism".to_owned())
    } else if settings.tls.is_none() && said(&["no broker answered"]) {
        // It waits for the rest of a TLS record.
        let mend = "look at the network between, and at tls: a listener with TLS is silent to a client without";
        ("broker reached", format!("{mend}, so set tls = {{ ca_file = \"…\" }} if {place} is one"))
    } else if settings.login.is_none() && said(&["no broker answered"]) {
        // It may end the connection without a word, and the client tries again.
        let mend = "a listener that wants a log-in is silent to a client without one";
        (
            "log-in",
            format!("{mend}: set username and password_file if {place} is one, else look at the network between"),
        )
    } else {
        ("broker reached", "look at brokers, at the network between, and that the broker runs".to_owned())
    };
    Check::bad(what, detail, mend)
}

/// `host:port` in `ssl://host:port/bootstrap: …`.
fn broker(said: &str) -> Option<&str> {
    let (_, rest) = said.split_once("://")?;
    rest.split_once('/').map(|(place, _)| place)
}
