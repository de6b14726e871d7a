//! Secrets: read from files and the environment, generated where a source is built in.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Config, NamedSecret, Secret, SecretFrom, Source, Storage};
use crate::ownership::explain;

/// What is added to the name of a generated secret's file for the one before it.
const PREVIOUS: &str = ".previous";

/// Of one source. Each costs one HMAC for every stranger.
pub const MAX_SECRETS: usize = 4;

/// The 112 bits that NIST SP 800-131A asks of an HMAC key. Whoever sees one signed request can try shorter ones offline.
const STRONG: usize = 14;

/// A secret that was read, and what would better be changed about where it is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) secret: Secret,
    pub(super) warnings: Vec<String>,
}

/// Why a secret can't be used. Never shows it.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadSecret {
    /// Not there, or not readable.
    #[error("{path} can't be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's word.
        error: io::Error,
    },
    /// Anybody could put their own secret there.
    #[error("{path} can be written by everybody (mode {mode:04o}), expected by its owner alone: chmod go-w")]
    Writable {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Nothing in it.
    #[error("{0} is empty, expected a secret")]
    Empty(String),
    /// Not the name of a variable; what was found may be the secret itself, and is not shown.
    #[error("expected the name of an environment variable (A-Z, 0-9 and _)")]
    NoVariableName,
    /// No such variable; its name may be the secret itself, and is not shown.
    #[error("the environment variable that it names is not set")]
    NotSet,
}

impl BadSecret {
    /// Whether there is nothing at all, which an optional secret may be.
    pub(super) fn is_absent(&self) -> bool {
        match self {
            Self::Unreadable { error, .. } => error.kind() == io::ErrorKind::NotFound,
            Self::NotSet => true,
            _ => false,
        }
    }
}

/// From a file. One trailing line end is not part of the secret, all else is.
pub(super) fn from_file(path: &Path) -> Result<Found, BadSecret> {
    let (mut bytes, warnings) = bytes_of(path)?;
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    }
    let mut found = checked(bytes, &path.display().to_string())?;
    found.warnings.extend(warnings);
    Ok(found)
}

/// What is in a file that others must not write, and what would better be changed about its mode.
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
        warnings
            .push(format!("{shown} can be written by its group (mode {mode:04o}); chmod g-w where nothing needs it"));
    }
    if mode & 0o004 != 0 {
        warnings.push(format!("{shown} can be read by everybody (mode {mode:04o}); chmod o-r where nothing needs it"));
    }
    Ok((bytes, warnings))
}

/// The path of a file that is there. Where there is none, the path may be a secret that somebody pasted.
fn shown(path: &Path) -> String {
    if path.exists() { path.display().to_string() } else { "the file that it names".to_owned() }
}

/// From a variable of this environment.
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

/// The warning about a secret that can be guessed. How long it is would tell too much.
pub(super) fn too_short(secret: &Secret) -> Option<String> {
    (secret.expose().len() < STRONG).then(|| {
        format!(
            "the secret is shorter than {STRONG} bytes, so that it can be guessed from one signed request; \
             \"alma-bridge secret --new\" makes a strong one"
        )
    })
}

/// The source where none is named: `alma` on `/webhooks`, its secret generated at the first start.
pub fn built_in_sources(data_dir: &Path) -> Vec<Source> {
    let path = data_dir.join("webhook.secret");
    let previous = previous_of(&path);
    let read = |path: &Path| from_file(path).ok().map(|found| found.secret);
    let secret = |name: &str, secret, from| NamedSecret { name: name.to_owned(), from, secret };
    vec![Source {
        name: "alma".parse().expect("keeps to the alphabet of names"),
        path: "/webhooks".to_owned(),
        secrets: vec![
            secret("default", read(&path), SecretFrom::Generated(path)),
            secret("previous", read(&previous), SecretFrom::File(previous)),
        ],
        institution: None,
        silence: None,
    }]
}

fn previous_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PREVIOUS);
    name.into()
}

/// A fresh strong secret: 256 random bits in hex, so that it survives every copy and paste.
pub fn fresh_secret() -> io::Result<Secret> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    let digit = |half: u8| char::from_digit(u32::from(half), 16).expect("half a byte is below 16");
    let hex: String = random.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    Ok(Secret::new(hex.into_bytes()))
}

/// A generated secret that was replaced by a fresh one. The one before stays accepted until the next time.
#[derive(Debug)]
pub struct Renewed {
    /// The fresh one.
    pub secret: Secret,
    path: PathBuf,
    old: Secret,
    older: Option<Secret>,
}

impl Renewed {
    /// As if it had not been replaced.
    pub fn undo(self) -> io::Result<()> {
        // In this order the old one is in one of the two files at any moment.
        write(&self.path, &self.old)?;
        match &self.older {
            Some(older) => write(&previous_of(&self.path), older),
            None => revoke_previous(&self.path).map(drop),
        }
    }
}

/// Replaces a generated secret by a fresh one.
pub fn renew_generated(path: &Path) -> io::Result<Renewed> {
    let previous = previous_of(path);
    let (old, older) = (read(path)?, previous.exists().then(|| read(&previous)).transpose()?);
    let secret = fresh_secret()?;
    // Durable before the fresh one takes its place: it is the one that Alma uses.
    write(&previous, &old)?;
    write(path, &secret)?;
    Ok(Renewed { secret, path: path.to_owned(), old, older })
}

/// Whether a generated secret before this one is still accepted.
pub fn has_previous(path: &Path) -> bool {
    previous_of(path).exists()
}

/// Ends the generated secret before this one; whether there was one.
pub fn revoke_previous(path: &Path) -> io::Result<bool> {
    match fs::remove_file(previous_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        removed => removed?,
    }
    fs::File::open(folder_of(path))?.sync_all()?;
    Ok(true)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a secret for the owner alone, at once and durably.
fn write(path: &Path, secret: &Secret) -> io::Result<()> {
    let dir = folder_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // One that a crash left behind may have other rights.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(secret.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(dir)?.sync_all()
}

impl Config {
    /// Makes the secret of the built-in source and the admin token where they are not there yet; gives their paths.
    ///
    /// With `storage = "none"` the bridge can do without a token, so that one that can't be made is no error.
    pub fn generate_missing(&mut self) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for named in self.sources.iter_mut().flat_map(|source| &mut source.secrets) {
            if let (SecretFrom::Generated(path), None) = (&named.from, &named.secret) {
                named.secret = Some(made_or_read(path, &mut made)?);
            }
        }
        match made_or_read(&self.admin.token_file, &mut made) {
            Err(_) if self.does_without_token() => {}
            other => drop(other?),
        }
        Ok(made)
    }

    /// Whether there is no admin token, and none is needed: `storage = "none"` runs with a read-only `data_dir`.
    pub fn does_without_token(&self) -> bool {
        self.journal.storage == Storage::None && !self.admin.token_file.exists()
    }

    /// The bearer token of the admin listener.
    pub fn admin_token(&self) -> io::Result<Secret> {
        read(&self.admin.token_file)
    }
}

/// A file that the bridge itself makes. Its path is no secret, and is left to whoever tells of the error.
fn read(path: &Path) -> io::Result<Secret> {
    from_file(path).map(|found| found.secret).map_err(|problem| match problem {
        BadSecret::Unreadable { error, .. } => error,
        other => io::Error::other(other),
    })
}

fn made_or_read(path: &Path, made: &mut Vec<PathBuf>) -> io::Result<Secret> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if path.exists() {
        return read(path).map_err(named);
    }
    let secret = fresh_secret()?;
    write(path, &secret).map_err(named)?;
    made.push(path.to_owned());
    Ok(secret)
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
    fn one_line_end_is_not_part_of_a_secret_and_blanks_are_warned_of() {
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
    fn what_others_can_write_is_refused_and_what_all_can_read_warned_of() {
        for mode in [0o602, 0o666] {
            assert!(matches!(from_file(file(b"s", mode).path()), Err(BadSecret::Writable { .. })), "{mode:o}");
        }
        assert_eq!(from_file(file(b"s", 0o644).path()).expect("Kubernetes mounts so").warnings.len(), 1);
        assert_eq!(from_file(file(b"s", 0o660).path()).expect("as fsGroup makes it").warnings.len(), 1);
        assert_eq!(from_file(file(b"s", 0o640).path()).expect("a group may read").warnings.len(), 0);
    }

    #[test]
    fn a_variable_that_is_none_may_be_the_secret_and_is_not_shown() {
        let env = HashMap::from([("A".to_owned(), "s".to_owned())]);
        assert_eq!(from_variable("A", &env).expect("set").secret.expose(), b"s");
        assert!(from_variable("B", &env).expect_err("not set").is_absent());
        for pasted in ["my secret!", "mysecret"] {
            let shown = from_variable(pasted, &env).expect_err("no name").to_string();
            assert!(!shown.contains(pasted), "{shown}");
        }
    }

    #[test]
    fn a_generated_secret_is_strong_kept_and_renewed_without_a_gap() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data/webhook.secret");
        let mut made = Vec::new();
        let first = made_or_read(&path, &mut made).expect("made");
        assert_eq!((first.expose().len(), made.len()), (64, 1));
        assert_eq!(made_or_read(&path, &mut made).expect("read"), first);
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        let accepted = || -> Vec<Secret> {
            let sources = built_in_sources(&folder.path().join("data"));
            sources[0].secrets.iter().filter_map(|named| named.secret.clone()).collect()
        };
        let renewed = renew_generated(&path).expect("renewed");
        assert_eq!(accepted(), [renewed.secret.clone(), first.clone()]);
        renewed.undo().expect("undone");
        assert!(!has_previous(&path));
        assert_eq!(accepted(), std::slice::from_ref(&first));
        let second = renew_generated(&path).expect("renewed").secret;
        assert_eq!(accepted(), [second.clone(), first.clone()]);
        renew_generated(&path).expect("renewed").undo().expect("undone");
        assert_eq!(accepted(), [second.clone(), first]);
        assert!(revoke_previous(&path).expect("revoked"));
        assert!(!revoke_previous(&path).expect("nothing to do"));
        assert_eq!(accepted(), [second]);
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_warned_of_without_its_length() {
        let warning = too_short(&Secret::new(*b"12345")).expect("a warning");
        assert!(!warning.contains('5'), "{warning}");
        assert!(too_short(&Secret::new([b'x'; STRONG - 1])).is_some());
        assert!(too_short(&Secret::new([b'x'; STRONG])).is_none());
    }
}
