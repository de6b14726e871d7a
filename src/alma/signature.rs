//! `X-Exl-Signature`: standard padded Base64 of HMAC-SHA256(secret, raw body).
//!
//! Source: Ex Libris developer network, "Webhooks". Only [`Unverified::verify`] creates a [`Verified`], so a body that
//! was not proven to come from Alma cannot be stored.

use std::any::Any;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::config::{NamedSecret, SourceName};

/// The header's name. Header names are case-insensitive, whatever Alma's spelling.
pub const SIGNATURE_HEADER: &str = "x-exl-signature";

/// Why a request is not proven to come from Alma. The text is the `reason` in logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum SignatureFailure {
    /// No header.
    Missing,
    /// More than one header.
    Repeated,
    /// Not standard padded Base64.
    NotBase64,
    /// Base64 of something other than 32 bytes.
    WrongLength,
    /// No secret of the source matches.
    Mismatch,
}

impl SignatureFailure {
    /// All reasons, so that metrics have every label from the start.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Repeated, Self::NotBase64, Self::WrongLength, Self::Mismatch];

    /// The label of metrics, and the `reason` in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Repeated => "repeated",
            Self::NotBase64 => "not_base64",
            Self::WrongLength => "wrong_length",
            Self::Mismatch => "mismatch",
        }
    }
}

/// A well-formed signature: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignatureHeader([u8; 32]);

impl SignatureHeader {
    /// Parses the values of all headers of that name, as received.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, SignatureFailure> {
        let mut values = values.into_iter();
        let value = values.next().ok_or(SignatureFailure::Missing)?;
        if values.next().is_some() {
            return Err(SignatureFailure::Repeated);
        }
        let decoded = STANDARD.decode(value).map_err(|_| SignatureFailure::NotBase64)?;
        decoded.try_into().map(Self).map_err(|_| SignatureFailure::WrongLength)
    }

    /// Signs a body as Alma does, for `send`, `demo`, `explain` and tests.
    pub fn sign(secret: &[u8], body: &[u8]) -> Self {
        Self(hmac_of(secret, body).finalize().into_bytes().into())
    }

    /// The value of the header.
    pub fn to_base64(self) -> String {
        STANDARD.encode(self.0)
    }
}

impl fmt::Debug for SignatureHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignatureHeader(…)")
    }
}

fn hmac_of(secret: &[u8], body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(body);
    mac
}

/// SHA-256 of a raw body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BodyDigest([u8; 32]);

impl BodyDigest {
    /// The digest of these bytes.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first `digits` hex digits, at most 64. The first 16 end an event's id and appear in the log.
    pub fn hex(&self, digits: usize) -> String {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|b| [HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]])
            .take(digits)
            .map(char::from)
            .collect()
    }
}

/// A body whose signature is well-formed but not yet checked.
#[derive(Debug)]
pub struct Unverified {
    signature: SignatureHeader,
    body: Bytes,
    budget: Option<Budget>,
}

/// The share of `body_memory` that a body holds. Dropping it returns the share.
type Budget = Box<dyn Any + Send + Sync>;

impl Unverified {
    /// A complete body, with the signature that came with it.
    pub fn new(signature: SignatureHeader, body: Bytes) -> Self {
        Self { signature, body, budget: None }
    }

    /// Keeps `budget` (a semaphore's permit) for as long as the body is in memory.
    #[must_use]
    pub fn holding(mut self, budget: impl Any + Send + Sync) -> Self {
        self.budget = Some(Box::new(budget));
        self
    }

    /// Checks the signature in constant time against every secret of the source.
    ///
    /// Returns the proven body with the index of the secret that matches. The error holds what the log line of a 401
    /// shows: the body's length in bytes and its digest.
    pub fn verify(self, source: &SourceName, secrets: &[NamedSecret]) -> Result<Verified, Mismatch> {
        let fits = secrets.iter().position(|named| {
            named
                .secret
                .as_ref()
                .is_some_and(|secret| hmac_of(secret.expose(), &self.body).verify_slice(&self.signature.0).is_ok())
        });
        let digest = BodyDigest::of(&self.body);
        match fits {
            Some(secret) => {
                Ok(Verified { source: source.clone(), body: self.body, digest, secret, _budget: self.budget })
            }
            None => Err(Mismatch { bytes: self.body.len(), digest }),
        }
    }
}

/// No secret of the source matches.
#[derive(Debug)]
pub struct Mismatch {
    /// Length of the body in bytes.
    pub bytes: usize,
    /// SHA-256 of the body.
    pub digest: BodyDigest,
}

/// A body that Alma signed.
#[derive(Debug)]
pub struct Verified {
    source: SourceName,
    body: Bytes,
    digest: BodyDigest,
    secret: usize,
    _budget: Option<Budget>,
}

impl Verified {
    /// The source whose secret matches.
    pub fn source(&self) -> &SourceName {
        &self.source
    }

    /// The bytes that Alma signed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// SHA-256 of the body.
    pub fn digest(&self) -> &BodyDigest {
        &self.digest
    }

    /// Index of the secret that matches, among those of the source.
    pub fn secret(&self) -> usize {
        self.secret
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, SecretFrom};

    const LOAN: &str = r#"{"id":"1000000000000000001","action":"LOAN","institution":{"value":"01TEST_INST","desc":"Universität Musterstadt"},"time":"2024-01-02T03:04:05.678Z","event":{"value":"LOAN_CREATED","desc":"Loan created"}}"#;
    const JOB: &str = r#"{"id":"900000000001234","action":"JOB_END","institution":{"value":"01TEST_INST","desc":"Test University"},"time":"2024-01-02T03:04:05.678Z","job_instance":{"id":"900000000001234","progress":209.0}}"#;

    fn secrets(all: &[&str]) -> Vec<NamedSecret> {
        let named = |secret: &&str| NamedSecret {
            name: "default".into(),
            from: SecretFrom::Env("X".into()),
            secret: Some(Secret::new(secret.as_bytes())),
        };
        all.iter().map(named).collect()
    }

    fn verify(secret: &[&str], body: &str, header: &str) -> Result<Verified, Mismatch> {
        let header = SignatureHeader::parse([header.as_bytes()]).expect("well-formed");
        let source = "alma".parse().expect("a name");
        Unverified::new(header, Bytes::copy_from_slice(body.as_bytes())).verify(&source, &secrets(secret))
    }

    /// Vectors like those of Alma's documentation, with invented bodies and secrets.
    #[test]
    fn accepts_known_vectors() {
        for (secret, body, header) in [
            ("made-up-secret", LOAN, "8+UzOnrucsAuj09Sb5liIZBeYY5FwAsjfb2ZTcnXHR4="),
            ("made-up-secret", JOB, "5QB+ebx1ZByKyVGy+yAZ7AZUG59Qpm6zL7h7kzcoWO8="),
            (
                "made-up-secret",
                "<webhook><action>JOB_END</action></webhook>",
                "ZO7whZoO+f1syMDf50Wl0VF5CNXv3mO9jb1WPItXF0g=",
            ),
            ("clé-secrète", r#"{"action":"BIB"}"#, "xVFBUE8eh4ib9DeVkCcxoRwPkVM8aCaYEHmsKZ2GY4s="),
        ] {
            let verified = verify(&["other", secret], body, header).expect("signed");
            assert_eq!(verified.secret(), 1);
            assert_eq!(verified.body(), body.as_bytes());
            assert_eq!(SignatureHeader::sign(secret.as_bytes(), body.as_bytes()).to_base64(), header);
        }
    }

    #[test]
    fn refuses_another_secret_and_another_body() {
        let header = "8+UzOnrucsAuj09Sb5liIZBeYY5FwAsjfb2ZTcnXHR4=";
        let failure = verify(&["made-up-secret2", ""], LOAN, header).expect_err("another secret");
        assert_eq!((failure.bytes, failure.digest), (LOAN.len(), BodyDigest::of(LOAN.as_bytes())));
        verify(&["made-up-secret"], &LOAN.replace("678Z", "679Z"), header).expect_err("another body");
        verify(&[], LOAN, header).expect_err("no secret at all");
    }

    #[test]
    fn tells_what_is_wrong_with_a_header() {
        let good = SignatureHeader::sign(b"s", b"b").to_base64();
        let parse = |values: &[&str]| {
            SignatureHeader::parse(values.iter().map(|v| v.as_bytes())).map(SignatureHeader::to_base64)
        };
        assert_eq!(parse(&[&good]), Ok(good.clone()));
        assert_eq!(parse(&[]), Err(SignatureFailure::Missing));
        assert_eq!(parse(&[&good, &good]), Err(SignatureFailure::Repeated));
        assert_eq!(parse(&["AAAA"]), Err(SignatureFailure::WrongLength));
        assert_eq!(parse(&[""]), Err(SignatureFailure::WrongLength));
        for bad in [
            good.trim_end_matches('='),
            &format!("{good} "),
            "!",
            &good.replace(|c: char| c.is_ascii_alphabetic(), "-"),
        ] {
            assert_eq!(parse(&[bad]), Err(SignatureFailure::NotBase64), "{bad:?}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let shown = format!("{:?}{:?}", secrets(&["hush"]), SignatureHeader::sign(b"hush", b""));
        assert!(!shown.contains("hush") && !shown.contains("104, 117"), "{shown}");
    }

    #[test]
    fn digest_in_hex() {
        let digest = BodyDigest::of(b"");
        assert_eq!(digest.hex(16), "e3b0c44298fc1c14");
        assert_eq!(digest.hex(64).len(), 64);
    }
}
