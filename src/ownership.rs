//! Files that belong to another user, most often because a command was run as root.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Adds the owner and the remedy to an error if this process may not open the file because it belongs to another user.
///
/// Returns every other error unchanged.
pub(crate) fn explain(path: &Path, error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let me = rustix::process::geteuid().as_raw();
    let Some((closed, owner)) = closed_by(path).filter(|(_, owner)| *owner != me) else { return error };
    let whole = closed.ancestors().skip(1).take_while(|dir| owner_of(dir) == Some(me)).last().unwrap_or(closed);
    let (owner, me) = (user(owner), user(me));
    let which = if closed == path { "it".to_owned() } else { closed.display().to_string() };
    let whole = whole.display();
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{error}: {which} belongs to {owner} and alma-bridge runs as {me}, probably because a command was run as \
             {owner}; give the files back with: chown -R {me} {whole}"
        ),
    )
}

/// The file, or the closest folder above it that can be examined, and its owner. Returns `None` if the path does not
/// exist: then its folder is not writable, and `chown` is not the remedy.
fn closed_by(path: &Path) -> Option<(&Path, u32)> {
    for path in path.ancestors() {
        match fs::metadata(path) {
            Ok(metadata) => return Some((path, metadata.uid())),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(_) => return None,
        }
    }
    None
}

fn owner_of(path: &Path) -> Option<u32> {
    Some(fs::metadata(path).ok()?.uid())
}

/// The name of a user, or the number if it has none.
fn user(id: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let has_id = |line: &&str| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(id);
    let name = users.lines().find(has_id).and_then(|line| line.split(':').next());
    name.map_or_else(|| id.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_other_users_are_explained() {
        let temp = tempfile::tempdir().expect("a folder");
        let own = temp.path().join("own");
        fs::write(&own, "").expect("written");
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let plain = denied().to_string();
        assert_eq!(explain(&own, denied()).to_string(), plain, "it is our own");
        assert_eq!(explain(&temp.path().join("missing"), denied()).to_string(), plain, "it does not exist");
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(explain(Path::new("/etc/passwd"), missing).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn users_have_names_or_numbers() {
        assert_eq!(user(0), "root");
        assert_eq!(user(3_999_999_999), "3999999999");
    }
}
