//! Which folder a path leads to, whether or not the folder is there yet.

use std::path::{Component, Path, PathBuf};

/// The folder that a path leads to: absolute, without `.`, `..` and symbolic links.
///
/// What does not exist yet is taken as it is written. Two paths with the same result are the same folder.
pub(super) fn resolve(path: &Path) -> PathBuf {
    // An error leaves the path relative, which still tells equal paths.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::CurDir => {}
            // What is above a link is above its target: links were resolved before.
            Component::ParentDir => drop(resolved.pop()),
            other => resolved.push(other),
        }
        if let Ok(real) = resolved.canonicalize() {
            resolved = real;
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_way_to_a_folder_ends_at_the_same_path() {
        let temp = tempfile::tempdir().expect("a folder");
        let top = temp.path().canonicalize().expect("there");
        fs::create_dir_all(top.join("real/below")).expect("made");
        symlink(top.join("real"), top.join("link")).expect("linked");
        symlink("real/below", top.join("deep")).expect("linked");
        let expected = top.join("real/new/topics");
        for same in [
            "real/new/topics",
            "real/new/topics/",
            "real/./new/topics",
            "link/new/topics",
            "real/x/../new/topics",
            "deep/../new/topics",
        ] {
            assert_eq!(resolve(&top.join(same)), expected, "{same}");
        }
        for other in ["real/new", "real/new/topics2", "new/topics"] {
            assert_ne!(resolve(&top.join(other)), expected, "{other}");
        }
        let here = std::env::current_dir().expect("there").canonicalize().expect("there");
        assert_eq!(resolve(Path::new("no/such")), here.join("no/such"));
    }
}
