//! What a broken configuration still tells: where to find a bridge that runs with an older one.

use std::path::Path;

use config::{File, FileFormat, Map, Value};

use super::merge::merge;

/// Tables that lead to a running bridge. `data_dir` stands above them.
const TABLES: [&str; 2] = ["[admin]", "[journal]"];

/// As much of the file and the environment variables as can be read.
pub(crate) fn salvaged(file: Option<&Path>, env: &[(String, String)]) -> Map<String, Value> {
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let origin = file.unwrap_or(Path::new(""));
    // Without the file if its keys and the variables contradict each other, and without both if the variables do.
    merge(Some((origin, &text)), env)
        .or_else(|_| merge(Some((origin, &legible(&text))), env))
        .or_else(|_| merge(None, env))
        .unwrap_or_default()
}

/// The lines above the first table and in [`TABLES`], as far as they are valid TOML.
fn legible(text: &str) -> String {
    let (mut kept, mut wanted) = (String::new(), true);
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            wanted = TABLES.iter().any(|table| line.starts_with(table));
        }
        let more = format!("{kept}{line}\n");
        if wanted && is_toml(&more) {
            kept = more;
        }
    }
    kept
}

fn is_toml(text: &str) -> bool {
    config::Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build().is_ok()
}
