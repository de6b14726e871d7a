//! The checklist of `check --connect` for files.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::config::FileSink;
use crate::sinks::tools::Check;

/// Looks whether files can be made in the folder.
pub async fn probe(sink: &FileSink) -> Vec<Check> {
    let dir = sink.dir.clone();
    let looked = tokio::task::spawn_blocking(move || look(&dir)).await;
    looked.unwrap_or_else(|_| vec![Check::bad("folder", "a panic, see the log", "report it")])
}

fn look(dir: &Path) -> Vec<Check> {
    let what = format!("folder {}", dir.display());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    // Made and gone again: the right to write shows in no other way that holds on every file system.
    vec![match made.and_then(|()| tempfile::tempfile_in(dir)) {
        Ok(_) => Check::good(what, "files can be made in it"),
        Err(error) => Check::bad(what, error.to_string(), "let the bridge's user write there"),
    }]
}
