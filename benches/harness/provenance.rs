//! Of what, when and with which binary something was measured.

use std::path::Path;
use std::process::Command;

use alma_bridge::alma::BodyDigest;
use alma_bridge::clock::{Clock as _, SystemClock};

/// One sentence: the commit, the day (UTC) and the binary.
pub(crate) fn provenance() -> String {
    let (root, binary) = (env!("CARGO_MANIFEST_DIR"), env!("CARGO_BIN_EXE_alma-bridge"));
    let digest = BodyDigest::of(&std::fs::read(binary).expect("the binary")).hex(16);
    let name = Path::new(binary).strip_prefix(root).unwrap_or(Path::new(binary)).display();
    let today = SystemClock.now().to_string();
    let day = today.split('T').next().unwrap_or_default();
    format!("Measured on {day} of commit {}, with `{name}` (SHA-256 {digest}…).", commit())
}

/// The commit that is checked out, and whether files differ from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=7", "HEAD"]) else { return "unknown (no git)".to_owned() };
    // The reports themselves are written by the benches.
    let status = git(&["status", "--porcelain", "--", ".", ":!benches/*.md", ":!benches/*.svg"]);
    let is_clean = status.is_some_and(|status| status.is_empty());
    format!("`{commit}`{}", if is_clean { "" } else { " with uncommitted changes" })
}
