//! `check --connect` for files.

use std::path::Path;

use crate::config::FileSink;
use crate::sinks::tools::{Check, try_to_write};

/// Checks whether files can be created in the folder, or else the folder itself.
pub async fn probe(sink: &FileSink) -> Vec<Check> {
    let dir = sink.dir.clone();
    let looked = tokio::task::spawn_blocking(move || look(&dir)).await;
    vec![looked.unwrap_or_else(|_| Check::bad("folder", "the check panicked, see the log", "report this bug"))]
}

fn look(dir: &Path) -> Check {
    let what = format!("folder {}", dir.display());
    match try_to_write(dir) {
        Ok(()) if dir.exists() => Check::good(what, "files can be written in it"),
        Ok(()) => Check::good(what, "does not exist yet and can be created"),
        Err(error) => Check::bad(what, error.to_string(), "let the bridge's user write there"),
    }
}
