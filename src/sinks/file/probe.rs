//! The checklist of `check --connect` for files.

use std::path::Path;

use crate::config::FileSink;
use crate::sinks::tools::{Check, try_to_write};

/// Looks whether files can be made in the folder, or the folder itself.
pub async fn probe(sink: &FileSink) -> Vec<Check> {
    let dir = sink.dir.clone();
    let looked = tokio::task::spawn_blocking(move || look(&dir)).await;
    vec![looked.unwrap_or_else(|_| Check::bad("folder", "a panic, see the log", "report it"))]
}

fn look(dir: &Path) -> Check {
    let what = format!("folder {}", dir.display());
    match try_to_write(dir) {
        Ok(()) if dir.exists() => Check::good(what, "files can be written in it"),
        Ok(()) => Check::good(what, "does not exist yet and can be made"),
        Err(error) => Check::bad(what, error.to_string(), "let the bridge's user write there"),
    }
}
