//! `type = "file"`: JSON lines in a folder.

use std::path::{Path, PathBuf};

use crate::config::folders;
use crate::config::names::SinkName;
use crate::config::settings::{Table, Walk};

/// The keys of `type = "file"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSink {
    /// Folder of the topic files.
    pub dir: PathBuf,
    /// In bytes. A file that would exceed it is rotated.
    pub rotate: u64,
    /// How many rotated files of each topic stay.
    pub keep: usize,
}

impl FileSink {
    pub(super) fn read(table: &mut Table, walk: &mut Walk) -> Self {
        Self {
            dir: table.path("dir", "{data_dir}/topics", walk),
            rotate: table.size("rotate", "64MiB", walk).max(1),
            keep: table.count("keep", "16", 0, walk),
        }
    }
}

/// A folder belongs to one sink: two would truncate each other's half-written lines.
pub(super) fn check_folders<'a>(sinks: impl Iterator<Item = (&'a SinkName, &'a Path)>, walk: &mut Walk) {
    let mut seen: Vec<(PathBuf, &SinkName)> = Vec::new();
    for (name, dir) in sinks {
        let folder = folders::resolve(dir);
        if let Some((_, other)) = seen.iter().find(|(known, _)| *known == folder) {
            let problem = format!(
                "found {}, which is also the folder of sink {other}, expected a folder of its own",
                dir.display()
            );
            walk.error(&format!("sinks.{name}.dir"), problem);
        }
        seen.push((folder, name));
    }
}
