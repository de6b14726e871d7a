//! Folders and their entries made durable: what a crash must not take back is fsynced, and so is the folder it is in.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Creates a folder and those above it that are missing, each 0700, and fsyncs every folder that got an entry.
pub(super) fn create_dirs(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    if dir.is_dir() {
        // A process that was killed may have made it and not synced it.
        return match sync_dir(parent) {
            // Where we may not look we have made nothing.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    create_dirs(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another thread was first; its entry may not be durable yet, so that the fsync is due all the same.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        created => created?,
    }
    sync_dir(parent)
}

/// Makes the entries of a folder durable: files created, renamed or removed in it.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn creates_all_that_is_missing_for_the_owner_alone() {
        let top = tempfile::tempdir().expect("a temporary folder");
        let deep = top.path().join("a/b/c");
        create_dirs(&deep).expect("creates");
        create_dirs(&deep).expect("again");
        for dir in [top.path().join("a"), top.path().join("a/b"), deep] {
            let mode = dir.metadata().expect("is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", dir.display());
        }
        std::fs::write(top.path().join("file"), b"").expect("writes");
        assert!(create_dirs(&top.path().join("file/below")).is_err());
    }
}
