//! What one run found: tables by section, then goals beside figures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use super::harness::report::mib;

/// Of one run.
pub(crate) struct Report {
    /// Whether it is written beside the benches, or printed only.
    kept: bool,
    text: String,
    goals: String,
}

impl Report {
    /// `arguments`: those of this run.
    pub(crate) fn new(kept: bool, arguments: &[String]) -> Self {
        let text = format!(
            "# Growth\n\nWritten by `tests/brokers run cargo bench --bench growth -- {}`; what is measured and how is \
             said in the head of `growth/main.rs`.\nOne run on one machine of 2 cores, which load, bridge and brokers \
             share: compare within it, not with others.\n",
            arguments.join(" "),
        );
        Self { kept, text, goals: String::new() }
    }

    /// Begins a section: its title, what it is, the heads of its columns.
    pub(crate) fn section(&mut self, title: &str, what: &str, columns: &[&str]) {
        println!("{title}: {}", columns.join(" | "));
        let _ = write!(self.text, "\n## {title}\n{what}\n");
        if !columns.is_empty() {
            let _ = write!(self.text, "\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        }
    }

    /// A row of the section's table.
    pub(crate) fn row(&mut self, cells: &[String]) {
        println!("  {}", cells.join(" | "));
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// A goal of the closing table.
    pub(crate) fn goal(&mut self, what: &str, wanted: &str, found: &str, met: bool) {
        let met = if met { "yes" } else { "no" };
        println!("  {what}: {wanted}, found {found}: {met}");
        let _ = writeln!(self.goals, "| {what} | {wanted} | {found} | {met} |");
    }

    /// Where a plot goes: beside the report, or where it harms none.
    pub(crate) fn plot(&self, name: &str) -> PathBuf {
        let folder = if self.kept { Self::folder() } else { PathBuf::from(env!("CARGO_TARGET_TMPDIR")) };
        folder.join(name)
    }

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
    }

    pub(crate) fn finish(self) {
        if self.kept {
            let goals = format!("\n## Goals\n| what | goal | found | met |\n|---|---|---|---|\n{}", self.goals);
            std::fs::write(Self::folder().join("GROWTH.md"), self.text + &goals).expect("written");
        }
    }
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1e3)
}

/// Microseconds of each of so many.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn us_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// The greatest over the least.
pub(crate) fn spread(figures: &[f64]) -> f64 {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    figures.iter().copied().fold(0.0, f64::max) / least
}

/// With separators of thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}
