//! Finds out why a signature does not match, by trying the usual mistakes with every secret of the source.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::alma::rewritten::{compact, stringified};
use crate::alma::signature::{SignatureFailure, SignatureHeader};
use crate::commands::counted;
use crate::config::{NamedSecret, SecretFrom, Source};

/// Larger bodies are tried with one change at a time, because each try hashes the whole body.
const MAX_COMBINED: usize = 1 << 20;

/// What the bridge would do with a request that has this signature.
pub(super) struct Judged {
    pub(super) fits: bool,
    /// The verdict on one line, with the remedy if the signature does not match.
    pub(super) words: String,
}

pub(super) fn judge(source: &Source, body: &[u8], signature: &str) -> Judged {
    let refused = |words| Judged { fits: false, words };
    let (header, oddities) = match read(signature) {
        Ok(read) => read,
        Err(why) => return refused(why),
    };
    let keys = keys(source);
    if keys.is_empty() {
        return refused(format!("refused: source {} has no secret yet", source.name));
    }
    let bodies = bodies(body);
    let found = find(&keys, &bodies, header);
    if !oddities.is_empty() {
        let fitting = found.map_or(format!("no secret of source {} either", source.name), |found| found.words(source));
        let oddities = oddities.join(" and ");
        return refused(format!("{EXPECTED}; it {oddities}. Written as Alma writes it, it would match {fitting}"));
    }
    match found {
        Some(found) if found.changes() == 0 => Judged { fits: true, words: format!("matches {}", found.words(source)) },
        Some(found) => refused(format!("refused: it matches {}", found.words(source))),
        None => refused(format!(
            "refused: no secret of source {} matches, and no usual mistake explains it: Alma's profile has another secret \
             (alma-bridge secret shows this one), or something on the way changed the body",
            source.name
        )),
    }
}

const EXPECTED: &str = "not an Alma signature: expected 44 characters of Base64";

/// The signature, and how its form differs from Alma's; or what is wrong with it.
fn read(signature: &str) -> Result<(SignatureHeader, Vec<&'static str>), String> {
    let mut oddities = Vec::new();
    let mut text = Cow::Borrowed(signature.trim());
    if text != signature {
        oddities.push("begins or ends with blanks");
    }
    if let Some(without) = text.strip_prefix("sha256=") {
        oddities.push("begins with sha256=");
        text = without.to_owned().into();
    }
    if let Some(header) = from_hex(&text) {
        oddities.push("is hex, not Base64");
        return Ok((header, oddities));
    }
    if text.contains(['-', '_']) {
        oddities.push("is URL-safe Base64 (with - and _ instead of + and /)");
        text = text.replace('-', "+").replace('_', "/").into();
        // URL-safe Base64 usually has no padding.
        if text.len() == LENGTH - 1 {
            text.to_mut().push('=');
        }
    }
    match SignatureHeader::parse([text.as_bytes()]) {
        Ok(header) => Ok((header, oddities)),
        Err(failure) => Err(malformed(signature.trim(), failure)),
    }
}

/// Characters of a signature.
const LENGTH: usize = 44;

/// What is wrong with a malformed signature. `failure` is the reason in the log.
fn malformed(signature: &str, failure: SignatureFailure) -> String {
    let characters = signature.chars().count();
    if characters == LENGTH {
        return format!("{EXPECTED}, found characters that are not Base64 of 32 bytes ({failure})");
    }
    let found = counted(characters as u64, "character");
    let cut = SignatureHeader::parse([format!("{signature}=").as_bytes()]).is_ok();
    let cut = if cut { "; the = at its end is missing" } else { "" };
    format!("{EXPECTED}, found {found} ({failure}){cut}")
}

/// Reads 64 hex digits, the form in which most other senders of webhooks write a signature.
fn from_hex(digits: &str) -> Option<SignatureHeader> {
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
    let bytes: Vec<u8> = (0..64).step_by(2).map(byte).collect::<Option<_>>()?;
    SignatureHeader::parse([STANDARD.encode(bytes).as_bytes()]).ok()
}

/// A change to a secret or a body, and what to do if the signature matches with it.
struct Change {
    what: Cow<'static, str>,
    means: Cow<'static, str>,
}

impl Change {
    fn new(what: impl Into<Cow<'static, str>>, means: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), means: means.into() }
    }
}

/// A secret to try.
struct Key<'a> {
    named: &'a NamedSecret,
    change: Option<Change>,
    bytes: Vec<u8>,
}

/// What may have been pasted into Alma with a secret: its description, and the text before and after the secret.
const PASTED: [(&str, &str, &str); 17] = [
    ("a blank added at the secret's end", "", " "),
    ("a blank added at the secret's beginning", " ", ""),
    ("a blank added at both ends of the secret", " ", " "),
    ("two blanks added at the secret's end", "", "  "),
    ("two blanks added at the secret's beginning", "  ", ""),
    ("two blanks added at both ends of the secret", "  ", "  "),
    ("a tab added at the secret's end", "", "\t"),
    ("a tab added at the secret's beginning", "\t", ""),
    ("a tab added at both ends of the secret", "\t", "\t"),
    ("a line end added at the secret's end", "", "\n"),
    ("a line end added at the secret's beginning", "\n", ""),
    ("a line end added at both ends of the secret", "\n", "\n"),
    ("a CR LF line end added at the secret's end", "", "\r\n"),
    ("a CR LF line end added at the secret's beginning", "\r\n", ""),
    ("a CR LF line end added at both ends of the secret", "\r\n", "\r\n"),
    ("double quotes around the secret", "\"", "\""),
    ("single quotes around the secret", "'", "'"),
];

/// Each secret unchanged, without blanks at its ends, and with what may have been pasted into Alma with it.
fn keys(source: &Source) -> Vec<Key<'_>> {
    let mut keys = Vec::new();
    for named in &source.secrets {
        let Some(secret) = named.secret.as_ref().map(crate::config::Secret::expose) else { continue };
        keys.push(Key { named, change: None, bytes: secret.to_vec() });
        let mut add = |change, bytes| keys.push(Key { named, change: Some(change), bytes });
        let trimmed = secret.trim_ascii();
        if trimmed != secret {
            let place = match &named.from {
                SecretFrom::File(path) | SecretFrom::Generated(path) => path.display().to_string(),
                SecretFrom::Env(name) => format!("environment variable {name}"),
            };
            let means = format!("remove them from {place}: Alma's profile has the secret without them");
            add(Change::new("without the blanks at the secret's ends", means), trimmed.to_vec());
        }
        for (what, before, after) in PASTED {
            let means = "paste the secret into Alma's profile again, without anything around it";
            add(Change::new(format!("with {what}"), means), [before.as_bytes(), secret, after.as_bytes()].concat());
        }
    }
    keys
}

/// A body to try.
struct Body<'a> {
    change: Option<Change>,
    bytes: Cow<'a, [u8]>,
}

const ON_THE_WAY: &str = "a proxy, or the program that saved the body,";
const PROXY: &str = "a proxy or gateway re-formatted the body; configure it to pass the body on unchanged";
const SAMPLE: &str = "the signature was made over JSON.stringify(body), a bug in Ex Libris's sample listener; \
                      sign the raw body";

/// The body unchanged, and the forms that it may have had before it was changed in transit, each only once.
fn bodies(body: &[u8]) -> Vec<Body<'_>> {
    let mut bodies: Vec<Body<'_>> = vec![Body { change: None, bytes: body.into() }];
    let mut add = |change, bytes: Cow<'_, [u8]>| {
        if bodies.iter().all(|known| known.bytes != bytes) {
            bodies.push(Body { change: Some(change), bytes: bytes.into_owned().into() });
        }
    };
    if let Some(without) = body.strip_suffix(b"\r\n").or_else(|| body.strip_suffix(b"\n")) {
        add(Change::new("without the body's last line end", format!("{ON_THE_WAY} added it")), without.into());
    }
    for (what, line_end) in [("a line end", "\n"), ("a CR LF line end", "\r\n")] {
        let change = Change::new(format!("with {what} added to the body"), format!("{ON_THE_WAY} removed it"));
        add(change, [body, line_end.as_bytes()].concat().into());
    }
    match (compact(body), stringified(body)) {
        (Some(compact), Some(stringified)) if compact == stringified => {
            let means = format!("either {PROXY}. Or {SAMPLE}");
            add(Change::new("with the body made compact", means), compact.into());
        }
        (compact, stringified) => {
            if let Some(compact) = compact {
                add(Change::new("with the body made compact", PROXY), compact.into());
            }
            if let Some(stringified) = stringified {
                add(Change::new("with JSON.stringify(body) instead of the raw body", SAMPLE), stringified.into());
            }
        }
    }
    bodies
}

/// A secret and a body that the signature fits.
struct KeyAndBody<'a> {
    key: &'a Key<'a>,
    body: &'a Body<'a>,
}

impl KeyAndBody<'_> {
    fn changes(&self) -> usize {
        usize::from(self.key.change.is_some()) + usize::from(self.body.change.is_some())
    }

    fn words(&self, source: &Source) -> String {
        let changes: Vec<&Change> = self.key.change.iter().chain(&self.body.change).collect();
        let join =
            |part: fn(&Change) -> &str, by| changes.iter().map(|change| part(change)).collect::<Vec<_>>().join(by);
        let secret = format!("secret {:?} of source {}", self.key.named.name, source.name);
        if changes.is_empty() {
            return secret;
        }
        format!("{secret} only {}: {}", join(|change| &change.what, " and "), join(|change| &change.means, "; and "))
    }
}

/// The one with the fewest changes.
fn find<'a>(keys: &'a [Key<'a>], bodies: &'a [Body<'a>], header: SignatureHeader) -> Option<KeyAndBody<'a>> {
    let size = bodies.first().map_or(0, |body| body.bytes.len());
    let most = if size > MAX_COMBINED { 1 } else { 2 };
    (0..=most).find_map(|changes| {
        let mut all = keys.iter().flat_map(|key| bodies.iter().map(move |body| KeyAndBody { key, body }));
        all.find(|tried| {
            tried.changes() == changes && SignatureHeader::sign(&tried.key.bytes, &tried.body.bytes) == header
        })
    })
}
