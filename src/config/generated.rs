//! Secrets that the bridge generates: the built-in source's and the admin token.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::secrets::{BadSecret, Secret, from_file};

/// Appended to the name of a generated secret's file for the secret that it replaced.
const PREVIOUS: &str = ".previous";

/// Where the secret that a generated one replaced is kept.
pub(super) fn previous_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PREVIOUS);
    name.into()
}

/// A new strong secret: 256 random bits in hexadecimal, which survive every copy and paste.
pub fn fresh_secret() -> io::Result<Secret> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(io::Error::from)?;
    let digit = |half: u8| char::from_digit(u32::from(half), 16).expect("half a byte is below 16");
    let hex: String = random.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    Ok(Secret::new(hex.into_bytes()))
}

/// What [`renew_generated`] did. The bridge accepts the replaced secret until the next renewal.
#[derive(Debug)]
pub struct Renewed {
    /// The new secret.
    pub secret: Secret,
    path: PathBuf,
    old: Secret,
    older: Option<Secret>,
}

impl Renewed {
    /// Restores the files as they were before.
    pub fn undo(self) -> io::Result<()> {
        // In this order, the old secret is always in one of the two files.
        write(&self.path, &self.old)?;
        match &self.older {
            Some(older) => write(&previous_of(&self.path), older),
            None => revoke_previous(&self.path).map(drop),
        }
    }
}

/// Replaces a generated secret with a new one.
pub fn renew_generated(path: &Path) -> io::Result<Renewed> {
    let previous = previous_of(path);
    let (old, older) = (read(path)?, previous.exists().then(|| read(&previous)).transpose()?);
    let secret = fresh_secret()?;
    // Alma still uses the old secret, so it must be durable before the new one takes its place.
    write(&previous, &old)?;
    write(path, &secret)?;
    Ok(Renewed { secret, path: path.to_owned(), old, older })
}

/// Whether the bridge still accepts the secret that was replaced by the one in `path`.
pub fn has_previous(path: &Path) -> bool {
    previous_of(path).exists()
}

/// Removes the secret that was replaced by the one in `path`. Returns whether there was one.
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

/// Writes a secret atomically and durably, readable only by its owner.
fn write(path: &Path, secret: &Secret) -> io::Result<()> {
    let dir = folder_of(path);
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // A file that a crash left behind may have other permissions.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(secret.expose())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(dir)?.sync_all()
}

/// Reads a file that the bridge itself makes. Its path is no secret, and the caller adds it to the error.
pub(super) fn read(path: &Path) -> io::Result<Secret> {
    from_file(path).map(|found| found.secret).map_err(|problem| match problem {
        BadSecret::Unreadable { error, .. } => error,
        other => io::Error::other(other),
    })
}

/// Reads the secret, or generates it if the file does not exist. A path that it made is added to `made`.
pub(super) fn made_or_read(path: &Path, made: &mut Vec<PathBuf>) -> io::Result<Secret> {
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::built_in_sources;

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
}
