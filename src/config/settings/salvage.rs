//! What a broken configuration still tells: where the bridge is that runs with an older one.

use std::path::Path;

use config::{File, FileFormat};

use super::table::Table;
use super::{Walk, default_file, merge, sections};
use crate::config::Config;

/// Tables that lead to a running bridge. `data_dir` is at the top.
const TABLES: [&str; 2] = ["[admin]", "[journal]"];

/// The configuration that `load` refused, as far as it can be read: for the rest it has defaults.
///
/// Only what leads to a running bridge is to be used: `data_dir`, `[admin]`, and `[journal]` `storage`.
pub fn salvage(file: Option<&Path>, env: &[(String, String)]) -> Config {
    let file = file.or_else(default_file);
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let origin = file.unwrap_or(Path::new(""));
    // Without the file if its keys and the variables contradict each other; without both if the variables do.
    let root = merge(Some((origin, &text)), env)
        .or_else(|_| merge(Some((origin, &legible(&text))), env))
        .or_else(|_| merge(None, env))
        .unwrap_or_default();
    sections::read(Table::new("", root), &mut Walk::new(file, env, None))
}

/// The lines at the top and in [`TABLES`] that are valid TOML.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_dir_and_the_listener_are_found_around_what_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.toml");
        let read = |text: &str, env: &[(&str, &str)]| {
            std::fs::write(&file, text).expect("written");
            let env: Vec<_> = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            let config = salvage(Some(&file), &env);
            (config.data_dir.display().to_string(), config.admin.listen.port())
        };
        let whole = "data_dir = \"here\"\n[admin]\nlisten = \"127.0.0.1:9\"\n";
        for broken in [
            format!("{whole}[sinks.main]\ntype = \"kafak\"\n"),
            format!("{whole}[sinks.main\n"),
            format!("what\n{whole}"),
            format!("{whole}listen = \"127.0.0.1:10\"\n"),
            format!("{whole}[ingress]\nlisten = \"127.0.0.1:\n"),
        ] {
            assert_eq!(read(&broken, &[]), ("here".to_owned(), 9), "{broken}");
        }
        assert_eq!(read("data_dir = \"here\n", &[]), ("data".to_owned(), 2563));
        let variable = [("ALMA_BRIDGE__DATA_DIR", "there")];
        assert_eq!(read("data_dir = \"here\n", &variable), ("there".to_owned(), 2563));
        assert_eq!(read("data_dir = \"here\n", &[("STATE_DIRECTORY", "/state")]).0, "/state");
        let missing = salvage(Some(&folder.path().join("missing")), &[]);
        assert_eq!(missing.data_dir, Path::new("data"));
    }
}
