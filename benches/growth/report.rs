//! What one run found: a table a section, and its goals beside the figures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::harness::provenance::provenance;
pub(crate) use super::harness::report::mib;

/// Of one run.
pub(crate) struct Report {
    /// Whether its sections go to the report beside the benches, or are printed only.
    kept: bool,
    /// What a section was run by.
    command: String,
    sections: Vec<Section>,
}

/// A section of the report.
struct Section {
    title: String,
    text: String,
    goals: String,
}

impl Report {
    /// `arguments`: those of this run.
    pub(crate) fn new(kept: bool, arguments: &[String]) -> Self {
        let command = format!("tests/brokers run cargo bench --bench growth -- {}", arguments.join(" "));
        Self { kept, command, sections: Vec::new() }
    }

    /// Begins a section: its title, what it is, the heads of its columns.
    pub(crate) fn section(&mut self, title: &str, what: &str, columns: &[&str]) {
        println!("{title}: {}", columns.join(" | "));
        let mut text = format!("{what}\n");
        if !columns.is_empty() {
            let _ = write!(text, "\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        }
        self.sections.push(Section { title: title.to_owned(), text, goals: String::new() });
    }

    /// The section that was begun last.
    fn last(&mut self) -> &mut Section {
        self.sections.last_mut().expect("a section was begun")
    }

    /// A row of the section's table.
    pub(crate) fn row(&mut self, cells: &[String]) {
        println!("  {}", cells.join(" | "));
        let _ = writeln!(self.last().text, "| {} |", cells.join(" | "));
    }

    /// A goal, below the section's table.
    pub(crate) fn goal(&mut self, what: &str, wanted: &str, found: &str, met: bool) {
        let met = if met { "yes" } else { "no" };
        println!("  {what}: {wanted}, found {found}: {met}");
        let _ = writeln!(self.last().goals, "| {what} | {wanted} | {found} | {met} |");
    }

    /// Where a plot goes: beside the report, or where it harms none.
    pub(crate) fn plot(&self, name: &str) -> PathBuf {
        let folder = if self.kept { Self::folder() } else { PathBuf::from(env!("CARGO_TARGET_TMPDIR")) };
        folder.join(name)
    }

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches")
    }

    /// Puts the sections into the report, in the place of those of the same title.
    pub(crate) fn finish(self) {
        if !self.kept {
            return;
        }
        let file = Self::folder().join("GROWTH.md");
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        let mut parts: Vec<(String, String)> = Vec::new();
        for part in written.split("\n## ").skip(1) {
            let (title, text) = part.split_once('\n').unwrap_or((part, ""));
            parts.push((title.to_owned(), text.to_owned()));
        }
        for Section { title, text, goals } in self.sections {
            let head = if goals.is_empty() { "" } else { "\n| what | goal | found | met |\n|---|---|---|---|\n" };
            let text = format!("{text}{head}{goals}\nRun by `{}`. {}\n", self.command, provenance());
            match parts.iter_mut().find(|(known, _)| *known == title) {
                Some(part) => part.1 = text,
                None => parts.push((title, text)),
            }
        }
        let mut report = HEAD.to_owned();
        for (title, text) in parts {
            let _ = write!(report, "\n## {title}\n{text}");
        }
        std::fs::write(file, report).expect("written");
    }
}

const HEAD: &str = "# Growth\n
`cargo bench --bench growth` writes this page. The head of `growth/main.rs` says what is measured and how. Each section comes from
one run on one machine of 2 cores, which load, bridge and brokers share. Compare figures within a section, not with those of
another machine. A section that does not name its binary names the commit that published it, and was not measured again since.\n";

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
