//! A table whose columns are as wide as their widest cells.

use std::fmt::Write as _;

use Column::{Left, Right};

/// A column's heading, and how its cells are aligned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Left(&'static str),
    /// For numbers.
    Right(&'static str),
}

/// Rows that are printed together. An unbounded list is printed page by page, and the widths only grow from page to
/// page.
#[derive(Debug)]
pub(super) struct Table<const N: usize> {
    columns: [Column; N],
    widths: [usize; N],
    lines: Vec<Line<N>>,
}

#[derive(Debug)]
enum Line<const N: usize> {
    Row([String; N]),
    /// A line about the row above it.
    Note(String),
}

impl<const N: usize> Table<N> {
    /// A table that starts with a row of headings, unless all headings are empty.
    pub(super) fn new(columns: [Column; N]) -> Self {
        let mut table = Self { columns, widths: [0; N], lines: Vec::new() };
        let headings = columns.map(|(Left(heading) | Right(heading))| heading.to_owned());
        if headings.iter().any(|heading| !heading.is_empty()) {
            table.row(headings);
        }
        table
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.lines.push(Line::Row(cells));
    }

    /// Adds a line that is not part of the columns.
    pub(super) fn note(&mut self, line: String) {
        self.lines.push(Line::Note(line));
    }

    /// Takes the lines so far, without a line end after the last.
    pub(super) fn take(&mut self) -> String {
        let lines: Vec<String> = std::mem::take(&mut self.lines).into_iter().map(|line| self.written(line)).collect();
        lines.join("\n")
    }

    fn written(&self, line: Line<N>) -> String {
        let cells = match line {
            Line::Row(cells) => cells,
            Line::Note(line) => return line,
        };
        let mut text = String::new();
        for ((cell, width), column) in cells.iter().zip(self.widths).zip(self.columns) {
            // Writing to a String can't fail.
            let _ = match column {
                Left(_) => write!(text, "{cell:<width$}  "),
                Right(_) => write!(text, "{cell:>width$}  "),
            };
        }
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_cells_widen_their_column() {
        let mut table = Table::new([Left("SINK"), Right("WAITING"), Left("WHY")]);
        table.row(["main".into(), "7".into(), String::new()]);
        table.row(["a-sink-with-quite-a-long-name".into(), "12345678".into(), "down".into()]);
        table.note("    a line about it".into());
        let page = [
            "SINK                            WAITING  WHY",
            "main                                  7",
            "a-sink-with-quite-a-long-name  12345678  down",
            "    a line about it",
        ];
        assert_eq!(table.take(), page.join("\n"));
        table.row(["b".into(), "1".into(), "up".into()]);
        assert_eq!(table.take(), "b                                     1  up");
    }
}
