//! Makes folders and their entries durable, by fsyncing the folder that contains a new entry.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Creates a folder and its missing parents with mode 0700, and fsyncs every folder that got an entry.
pub(super) fn create_dirs(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    if dir.is_dir() {
        // A process that was killed may have created it without syncing it.
        return match sync_dir(parent) {
            // Without the right to read the parent, the bridge did not create the folder.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    create_dirs(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        // Another thread was faster. Its entry may not be durable yet, so the fsync is still needed.
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
    fn creates_missing_folders_only_for_the_owner() {
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
