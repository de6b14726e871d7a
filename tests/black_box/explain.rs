//! `explain`: how a body is read, and why a signature does not match.

use std::time::Instant;

use alma_bridge::alma::SignatureHeader;

use crate::harness::{PATIENCE, SECRET, Setup, loan, signature, text};

/// A raw body with details that a parser does not keep: the decimal point of a number, an escape.
const RAW: &str = r#"{"id":"7","action":"JOB_END","job_instance":{"id":"7","progress":209.0,"name":"\u00e4\/"}}"#;

/// The same as Node.js writes it with `JSON.stringify(JSON.parse(body))`.
const STRINGIFIED: &str = r#"{"id":"7","action":"JOB_END","job_instance":{"id":"7","progress":209,"name":"ä/"}}"#;

fn sign(secret: &str, body: &str) -> String {
    SignatureHeader::sign(secret.as_bytes(), body.as_bytes()).to_base64()
}

/// The line about the signature, which is the first, and whether the signature matches.
fn verdict(setup: &Setup, body: &str, signature: &str) -> (String, bool) {
    std::fs::write(setup.path("body"), body).expect("written");
    let output = setup.command(&["explain", "body", "--signature", signature]);
    let shown = text(&output.stdout);
    let (first, rest) = shown.split_once('\n').expect("lines");
    assert!(first.starts_with("signature  ") && rest.starts_with("verdict  "), "verdicts first: {shown}");
    assert!(rest.contains("\n  topic "), "attributes after them: {shown}");
    assert!([Some(0), Some(1)].contains(&output.status.code()), "{output:?}");
    (first.to_owned(), output.status.success())
}

/// The line about a signature that does not match.
fn why(setup: &Setup, body: &str, signature: &str) -> String {
    let (line, fits) = verdict(setup, body, signature);
    assert!(!fits, "{line}");
    line
}

#[test]
fn a_body_is_shown_as_it_would_be_published() {
    let setup = Setup::new("");
    let body = loan(5);
    std::fs::write(setup.path("body.json"), &body).expect("written");
    let shown = setup.done(&["explain", "body.json", "--signature", &signature(&body)]);
    for part in ["alma.loan", "com.exlibrisgroup.alma.loan.loan_created", "/alma/01TEST_INST", "matches secret"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    std::fs::write(setup.path("other"), "not an event").expect("written");
    assert!(setup.done(&["explain", "other"]).contains("alma.unparsed"));
    std::fs::write(setup.path("short"), "x").expect("written");
    assert!(setup.done(&["explain", "short"]).contains("body       1 byte, "));
}

#[test]
fn a_signature_of_the_raw_body_matches() {
    let setup = Setup::new("");
    let (line, fits) = verdict(&setup, RAW, &sign(SECRET, RAW));
    assert_eq!((line.as_str(), fits), ("signature  matches secret \"default\" of source alma", true));
    let other = why(&setup, RAW, &sign("another", RAW));
    assert!(other.contains("refused: no secret of source alma matches, and no usual mistake explains it"), "{other}");
}

#[test]
fn a_secret_with_extra_characters_in_alma_is_found() {
    let setup = Setup::new("");
    for (name, added) in [("a blank", " "), ("a tab", "\t"), ("a line end", "\n"), ("a CR LF line end", "\r\n")] {
        for (end, secret) in [("end", format!("{SECRET}{added}")), ("beginning", format!("{added}{SECRET}"))] {
            let line = why(&setup, RAW, &sign(&secret, RAW));
            let expected =
                format!("with {name} added at the secret's {end}: paste the secret into Alma's profile again");
            assert!(line.contains(&expected), "{line}");
        }
    }
    for (what, before, after) in [
        ("two blanks added at the secret's end", "", "  "),
        ("a blank added at both ends of the secret", " ", " "),
        ("a line end added at both ends of the secret", "\n", "\n"),
        ("double quotes around the secret", "\"", "\""),
        ("single quotes around the secret", "'", "'"),
    ] {
        let line = why(&setup, RAW, &sign(&format!("{before}{SECRET}{after}"), RAW));
        assert!(line.contains(&format!("with {what}: paste the secret into Alma's profile again")), "{line}");
    }
}

#[test]
fn an_empty_body_is_reported() {
    let setup = Setup::new("");
    std::fs::write(setup.path("empty"), "").expect("written");
    assert!(setup.done(&["explain", "empty"]).starts_with("verdict    the body is empty\n"));
}

#[test]
fn a_secret_with_blanks_in_our_file_is_found() {
    let setup = Setup::new("");
    setup.write_secret("secret", &format!(" {SECRET}\t\n"));
    let line = why(&setup, RAW, &sign(SECRET, RAW));
    let file = setup.path("secret");
    let expected = format!("without the blanks at the secret's ends: remove them from {}", file.display());
    assert!(line.contains(&expected), "{line}");
    // Together with a change of the body.
    let line = why(&setup, &format!("{RAW}\n"), &sign(SECRET, RAW));
    assert!(line.contains("blanks at the secret's ends and without the body's last line end"), "{line}");
}

#[test]
fn a_body_that_was_changed_in_transit_is_found() {
    let setup = Setup::new("");
    let added = why(&setup, RAW, &sign(SECRET, &format!("{RAW}\n")));
    assert!(added.contains("with a line end added to the body"), "{added}");
    for line_end in ["\n", "\r\n"] {
        let taken = why(&setup, &format!("{RAW}{line_end}"), &sign(SECRET, RAW));
        assert!(taken.contains("without the body's last line end"), "{taken}");
    }
    let pretty = RAW.replace(',', ",\n  ").replace(':', " : ").replace('}', "\n}");
    let line = why(&setup, &pretty, &sign(SECRET, RAW));
    assert!(line.contains("with the body made compact: a proxy or gateway re-formatted the body"), "{line}");
    assert!(!line.contains("stringify"), "what JSON.stringify makes of it is something else: {line}");
}

#[test]
fn the_bug_of_the_official_sample_is_found() {
    let setup = Setup::new("");
    let line = why(&setup, RAW, &sign(SECRET, STRINGIFIED));
    assert!(line.contains("with JSON.stringify(body) instead of the raw body"), "{line}");
    assert!(line.contains("a bug in Ex Libris's sample listener"), "{line}");
    // Both mistakes give this signature.
    let line = why(&setup, r#"{ "action" : "BIB" }"#, &sign(SECRET, r#"{"action":"BIB"}"#));
    assert!(line.contains("proxy or gateway") && line.contains("Ex Libris's sample"), "{line}");
}

#[test]
fn a_malformed_signature_is_explained() {
    let setup = Setup::new("");
    let expected = "signature  not an Alma signature: expected 44 characters of Base64";
    let line = why(&setup, RAW, "AAAA");
    assert_eq!(line, format!("{expected}, found 4 characters (wrong_length)"));
    let whole = sign(SECRET, RAW);
    let line = why(&setup, RAW, whole.trim_end_matches('='));
    assert_eq!(line, format!("{expected}, found 43 characters (not_base64); the = at its end is missing"));
    let hex = |base64: &str| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(base64).expect("Base64");
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
    };
    let expected = format!("{expected}; it is hex, not Base64. Written as Alma writes it, it would match ");
    for digits in [hex(&whole), hex(&whole).to_uppercase()] {
        let line = why(&setup, RAW, &digits);
        assert_eq!(line, format!("{expected}secret \"default\" of source alma"));
    }
    let url_safe = whole.replace('+', "-").replace('/', "_");
    assert_ne!(url_safe, whole, "the sample has such a character");
    for (written, oddity) in [
        (format!(" {whole}\n"), "begins or ends with blanks"),
        (format!("sha256={whole}"), "begins with sha256="),
        (format!("sha256={}", hex(&whole)), "begins with sha256= and is hex, not Base64"),
        (url_safe.clone(), "is URL-safe Base64 (with - and _ instead of + and /)"),
        (url_safe.trim_end_matches('=').to_owned(), "is URL-safe Base64 (with - and _ instead of + and /)"),
    ] {
        let line = why(&setup, RAW, &written);
        let told = format!("it {oddity}. Written as Alma writes it, it would match secret \"default\" of source alma");
        assert!(line.ends_with(&told), "{line}");
    }
    let line = why(&setup, RAW, &format!("!{}", &whole[1..]));
    assert!(line.ends_with("found characters that are not Base64 of 32 bytes (not_base64)"), "{line}");
    let line = why(&setup, RAW, &hex(&sign(SECRET, STRINGIFIED)));
    assert!(line.starts_with(&expected) && line.contains("JSON.stringify"), "{line}");
    let line = why(&setup, RAW, &hex(&sign("another", RAW)));
    assert_eq!(line, format!("{expected}no secret of source alma either"));
}

#[test]
fn the_largest_body_is_explained_in_time() {
    let setup = Setup::new("");
    let body = format!(r#"{{"action":"BIB","x":[{}1]}}"#, "\"abcdefgh\", 1.0, ".repeat(480_000));
    assert!(body.len() > 8_000_000);
    let begun = Instant::now();
    why(&setup, &body, &sign("another", &body));
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
