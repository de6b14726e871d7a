//! Which folder a path leads to, whether or not it exists.

use std::path::{Component, Path, PathBuf};

/// The folder that a path leads to, as an absolute path without `.`, `..` and symbolic links.
///
/// Parts that do not exist stay as they are written. Two paths with the same result lead to the same folder.
pub(super) fn resolve(path: &Path) -> PathBuf {
    // On an error the path stays relative. Equal paths still compare as equal.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::CurDir => {}
            // `resolved` has no links any more, so its parent is the right one.
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
