//! Secrets, and how they are read from files and environment variables.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use crate::ownership::explain;

/// The 112 bits that NIST SP 800-131A requires of an HMAC key. Anyone who sees one signed request can try shorter keys
/// offline.
const STRONG: usize = 14;

/// Bytes that are never shown: not in a log, an error, `/status` or a Debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps the bytes as they are.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for an HMAC or a login.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// A file. One trailing line end is not part of the secret.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A file that the bridge generates at the first start, with mode 0600.
    Generated(PathBuf),
}

impl SecretFrom {
    /// The file, unless the secret comes from an environment variable.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Generated(path) => Some(path),
            Self::Env(_) => None,
        }
    }
}

/// A secret that was read, with warnings about the place where it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) secret: Secret,
    pub(super) warnings: Vec<String>,
}

/// Why a secret can't be used. The text never shows the secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadSecret {
    #[error("{path} cannot be read: {error}")]
    Unreadable { path: String, error: io::Error },
    /// Anyone could put their own secret there.
    #[error("{path} can be written by everybody (mode {mode:04o}), expected only its owner: chmod go-w")]
    Writable { path: String, mode: u32 },
    #[error("{0} is empty, expected a secret")]
    Empty(String),
    /// What was found is not the name of a variable. It may be the secret itself, so the text does not show it.
    #[error("expected the name of an environment variable (A-Z, 0-9 and _)")]
    NoVariableName,
    /// There is no such variable. What was found may be the secret itself, so the text does not show it.
    #[error("the environment variable that it names is not set")]
    NotSet,
}

impl BadSecret {
    /// Whether the file or variable does not exist, which is fine for an optional secret.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::Unreadable { error, .. } => error.kind() == io::ErrorKind::NotFound,
            Self::NotSet => true,
            _ => false,
        }
    }
}

/// Reads a secret from a file. One trailing line end is not part of it; everything else is.
pub(super) fn from_file(path: &Path) -> Result<Found, BadSecret> {
    let (mut bytes, warnings) = bytes_of(path)?;
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    }
    let mut found = checked(bytes, &path.display().to_string())?;
    found.warnings.extend(warnings);
    Ok(found)
}

/// Reads a file that others must not be able to write. Returns its content, and warnings about its mode.
pub(super) fn bytes_of(path: &Path) -> Result<(Vec<u8>, Vec<String>), BadSecret> {
    let unreadable = |error| BadSecret::Unreadable { path: shown(path), error: explain(path, error) };
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o7777;
    let shown = path.display();
    if mode & 0o002 != 0 {
        return Err(BadSecret::Writable { path: shown.to_string(), mode });
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let mut warnings = Vec::new();
    if mode & 0o020 != 0 {
        // Not refused: Kubernetes gives a volume's files to the Pod's fsGroup with the right to write.
        warnings.push(format!(
            "{shown} can be written by its group (mode {mode:04o}): chmod g-w unless something needs this"
        ));
    }
    if mode & 0o004 != 0 {
        warnings
            .push(format!("{shown} can be read by everybody (mode {mode:04o}): chmod o-r unless something needs this"));
    }
    Ok((bytes, warnings))
}

/// The path, if the file exists. If it does not, the path may be a secret that somebody pasted.
fn shown(path: &Path) -> String {
    if path.exists() { path.display().to_string() } else { "the file that it names".to_owned() }
}

/// Reads a secret from a variable of `env`.
pub(super) fn from_variable(name: &str, env: &HashMap<String, String>) -> Result<Found, BadSecret> {
    let fits =
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit());
    if !fits || name.is_empty() {
        return Err(BadSecret::NoVariableName);
    }
    let value = env.get(name).ok_or(BadSecret::NotSet)?;
    checked(value.clone().into_bytes(), &format!("environment variable {name}"))
}

fn checked(bytes: Vec<u8>, shown: &str) -> Result<Found, BadSecret> {
    if bytes.is_empty() {
        return Err(BadSecret::Empty(shown.to_owned()));
    }
    let blank = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_whitespace);
    let warnings = if blank(bytes.first()) || blank(bytes.last()) {
        vec![format!("the secret in {shown} begins or ends with a blank, which is kept as part of it")]
    } else {
        Vec::new()
    };
    Ok(Found { secret: Secret::new(bytes), warnings })
}

/// The warning about a secret that can be guessed. It does not say how long the secret is, which would help to guess
/// it.
pub(super) fn too_short(secret: &Secret) -> Option<String> {
    (secret.expose().len() < STRONG).then(|| {
        format!(
            "the secret is shorter than {STRONG} bytes and can be guessed from one signed request; \
             \"alma-bridge secret --new\" makes a strong one"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), content).expect("written");
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("set");
        file
    }

    #[test]
    fn one_line_end_is_not_part_of_a_secret_and_blanks_cause_a_warning() {
        for (content, secret, warnings) in [
            (&b"s"[..], &b"s"[..], 0),
            (b"s\n", b"s", 0),
            (b"s\r\n", b"s", 0),
            (b"s\n\n", b"s\n", 1),
            (b" s", b" s", 1),
            (b"cl\xc3\xa9\n", b"cl\xc3\xa9", 0),
        ] {
            let found = from_file(file(content, 0o600).path()).expect("a secret");
            assert_eq!((found.secret.expose(), found.warnings.len()), (secret, warnings), "{content:?}");
        }
        assert!(matches!(from_file(file(b"\n", 0o600).path()), Err(BadSecret::Empty(_))));
    }

    #[test]
    fn a_file_that_everybody_can_write_is_refused_and_one_that_everybody_can_read_causes_a_warning() {
        for mode in [0o602, 0o666] {
            assert!(matches!(from_file(file(b"s", mode).path()), Err(BadSecret::Writable { .. })), "{mode:o}");
        }
        assert_eq!(
            from_file(file(b"s", 0o644).path()).expect("Kubernetes mounts files with this mode").warnings.len(),
            1
        );
        assert_eq!(from_file(file(b"s", 0o660).path()).expect("fsGroup sets this mode").warnings.len(), 1);
        assert_eq!(from_file(file(b"s", 0o640).path()).expect("a group may read").warnings.len(), 0);
    }

    #[test]
    fn the_name_of_a_missing_variable_may_be_the_secret_and_is_not_shown() {
        let env = HashMap::from([("A".to_owned(), "s".to_owned())]);
        assert_eq!(from_variable("A", &env).expect("set").secret.expose(), b"s");
        assert!(from_variable("B", &env).expect_err("not set").is_absent());
        for pasted in ["my secret!", "mysecret"] {
            let shown = from_variable(pasted, &env).expect_err("no name").to_string();
            assert!(!shown.contains(pasted), "{shown}");
        }
    }

    #[test]
    fn the_warning_about_a_weak_secret_does_not_tell_its_length() {
        let warning = too_short(&Secret::new(*b"12345")).expect("a warning");
        assert!(!warning.contains('5'), "{warning}");
        assert!(too_short(&Secret::new([b'x'; STRONG - 1])).is_some());
        assert!(too_short(&Secret::new([b'x'; STRONG])).is_none());
    }
}
