//! HTTPS by the bridge itself, with `send` as the client.

use std::fs;

use crate::harness::{Setup, text, wait_for};

/// Writes a self-signed certificate for 127.0.0.1.
pub(crate) fn write_certificate(setup: &Setup) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("made");
    fs::write(setup.path("tls.crt"), made.cert.pem()).expect("written");
    fs::write(setup.path("tls.key"), made.signing_key.serialize_pem()).expect("written");
}

pub(crate) const TLS: &str =
    "[ingress]\nlisten = \"127.0.0.1:0\"\ntls = { cert_file = \"DIR/tls.crt\", key_file = \"DIR/tls.key\" }\n";

fn send(setup: &Setup, authority: &str) -> std::process::Output {
    let mut command = crate::harness::binary();
    command
        .args(["send", "loan", "--config"])
        .arg(setup.path("config.toml"))
        .env("SSL_CERT_FILE", setup.path(authority));
    command.output().expect("runs")
}

#[test]
fn events_arrive_over_tls_and_a_renewed_certificate_is_picked_up() {
    let setup = Setup::unwritten();
    write_certificate(&setup);
    setup.configure(TLS);
    let bridge = setup.start();
    fs::copy(setup.path("tls.crt"), setup.path("old.crt")).expect("copied");
    let sent = send(&setup, "old.crt");
    assert!(sent.status.success() && text(&sent.stdout).contains("204 stored"), "{sent:?}");
    write_certificate(&setup);
    let sent =
        wait_for("the renewed certificate", || Some(send(&setup, "tls.crt")).filter(|sent| sent.status.success()));
    assert!(text(&sent.stdout).contains("204 stored"));
    assert!(!send(&setup, "old.crt").status.success(), "the old one is gone");
    // With half a renewal, the old certificate stays.
    fs::write(setup.path("tls.key"), "no key").expect("written");
    wait_for("the warning", || {
        let sent = send(&setup, "tls.crt");
        assert!(sent.status.success(), "{sent:?}");
        bridge.log().contains("the one before stays").then_some(())
    });
}

/// Writes a certificate for these names, and whether it is that of an authority.
fn write_certificate_for(setup: &Setup, names: &[&str], authority: bool) {
    let mut asked =
        rcgen::CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).expect("names");
    asked.distinguished_name.push(rcgen::DnType::CommonName, "the listener of a test");
    if authority {
        asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    fs::write(setup.path("tls.crt"), asked.self_signed(&key).expect("made").pem()).expect("written");
    fs::write(setup.path("tls.key"), key.serialize_pem()).expect("written");
}

#[test]
fn send_reaches_its_own_listener_whatever_name_the_certificate_has() {
    let setup = Setup::unwritten();
    write_certificate_for(&setup, &["*.library.example.org"], false);
    setup.configure(TLS);
    let bridge = setup.start();
    let sent = send(&setup, "tls.crt");
    assert!(sent.status.success() && text(&sent.stdout).contains("204 stored"), "{sent:?}");
    // The certificate of another address is checked against that address.
    let url = format!("https://{}/webhooks", bridge.ingress);
    let mut other = setup.prepared(&["send", "--url", &url, "loan"]);
    let refused = other.env("SSL_CERT_FILE", setup.path("tls.crt")).output().expect("runs");
    let said = text(&refused.stderr);
    assert!(said.contains("the listener's certificate is not trusted: it is for another host"), "{said}");
}

#[test]
fn send_says_why_a_certificate_is_not_trusted() {
    let setup = Setup::unwritten();
    write_certificate(&setup);
    setup.configure(TLS);
    let _bridge = setup.start();
    fs::copy(setup.path("tls.crt"), setup.path("old.crt")).expect("copied");
    write_certificate_for(&setup, &["localhost"], true);
    let word = "error: the listener's certificate is not trusted: it is a CA certificate";
    wait_for(word, || text(&send(&setup, "tls.crt").stderr).contains(word).then_some(()));
    write_certificate_for(&setup, &["localhost"], false);
    wait_for("the word of an unknown authority", || {
        let said = text(&send(&setup, "old.crt").stderr);
        said.contains("not trusted: this system does not know its authority").then_some(())
    });
}

#[test]
fn send_says_if_the_url_has_the_wrong_scheme() {
    let with_tls = Setup::unwritten();
    write_certificate(&with_tls);
    with_tls.configure(TLS);
    let bridge = with_tls.start();
    let said = with_tls.fails(1, &["send", "--url", &format!("http://{}/webhooks", bridge.ingress), "loan"]);
    assert!(said.contains(&format!("if it expects TLS, use https://{}", bridge.ingress)), "{said}");
    let plain = Setup::new("");
    let bridge = plain.start();
    let said = plain.fails(1, &["send", "--url", &format!("https://{}/webhooks", bridge.ingress), "loan"]);
    assert!(said.contains(&format!("if it expects plain HTTP, use http://{}", bridge.ingress)), "{said}");
}

#[test]
fn an_unusable_certificate_is_a_configuration_error() {
    let setup = Setup::unwritten();
    write_certificate(&setup);
    fs::copy(setup.path("tls.key"), setup.path("other.key")).expect("copied");
    setup.configure(TLS);
    let refused = |words: [&str; 3]| {
        for command in ["check", "run"] {
            let said = setup.fails(78, &[command]);
            assert!(words.iter().all(|word| said.contains(word)), "{command}: {said}");
        }
    };
    write_certificate(&setup);
    setup.done(&["check"]);
    fs::copy(setup.path("other.key"), setup.path("tls.key")).expect("copied");
    refused(["config.toml: ingress.tls.key_file: ", "/tls.key: ", "the key does not belong to the certificate in "]);
    fs::write(setup.path("tls.key"), "no key").expect("written");
    refused(["ingress.tls.key_file: ", "/tls.key: ", "found no private key, expected PEM"]);
    fs::write(setup.path("tls.crt"), "").expect("written");
    refused(["ingress.tls.cert_file: ", "/tls.crt: ", "found no certificate, expected PEM"]);
}

#[test]
fn a_reload_reports_an_unusable_renewed_certificate() {
    let setup = Setup::unwritten();
    write_certificate(&setup);
    setup.configure(TLS);
    let bridge = setup.start();
    fs::copy(setup.path("tls.crt"), setup.path("old.crt")).expect("copied");
    fs::copy(setup.path("tls.key"), setup.path("old.key")).expect("copied");
    write_certificate(&setup);
    fs::copy(setup.path("old.key"), setup.path("tls.key")).expect("copied");
    let word = "the key does not belong to the certificate";
    let said = setup.fails(1, &["reload"]);
    assert!(said.contains("only a part of the configuration is in effect") && said.contains(word), "{said}");
    assert!(bridge.status()["config"]["not_in_effect"][0].as_str().expect("a text").contains(word));
    let sent = send(&setup, "old.crt");
    assert!(sent.status.success(), "the certificate before it stays: {sent:?}");
    // It recovers by itself once the pair is complete.
    write_certificate(&setup);
    wait_for("the renewal", || bridge.status()["config"]["not_in_effect"][0].is_null().then_some(()));
    setup.done(&["reload"]);
}

#[test]
fn a_failed_handshake_is_logged_and_a_port_scan_is_not() {
    let setup = Setup::unwritten();
    write_certificate(&setup);
    setup.configure(TLS);
    let bridge = setup.start();
    drop(bridge.client());
    for _ in 0..50 {
        let mut client = bridge.client();
        client.write(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n");
        // A TLS alert, then the end.
        let _ = client.is_closed();
    }
    let lines = |log: &str| log.lines().filter(|line| line.contains("TLS handshake failed")).count();
    let log = wait_for("the line that sums up", || Some(bridge.log()).filter(|log| log.contains("\"left_out\":")));
    assert!((2..50).contains(&lines(&log)), "{} lines for 50 handshakes", lines(&log));
    assert!(log.contains("InvalidContentType") || log.contains("corrupt"), "why: {log}");
}
