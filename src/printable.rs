//! Text from outside, made safe to print.
//!
//! Bodies, topics and messages of brokers may contain control characters. A terminal obeys them: it moves the cursor,
//! sets its title or the clipboard, or hides a line. [`Printable`] and [`Escape`] write each as `\u001b`. In JSON that
//! denotes the same character, so the document keeps its meaning.

use std::fmt::{self, Write};

/// Text that escapes itself when it is displayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printable<'a> {
    text: &'a str,
    style: Style,
}

/// How line ends and tabs are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// They are escaped too, because the text is part of a line.
    Line,
    /// Line ends become blanks. A JSON document has them only between tokens, where a blank means the same.
    Document,
    /// They stay.
    Lines,
    /// Nothing is escaped at all.
    Raw,
}

impl<'a> Printable<'a> {
    /// Text that is part of a line.
    pub(crate) const fn line(text: &'a str) -> Self {
        Self::new(text, Style::Line)
    }

    /// Text of several lines.
    pub(crate) const fn lines(text: &'a str) -> Self {
        Self::new(text, Style::Lines)
    }

    /// Text in this style.
    pub(crate) const fn new(text: &'a str, style: Style) -> Self {
        Self { text, style }
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() {
            return Escape { into: f, style: self.style }.write_str(self.text);
        }
        let mut escaped = Escape { into: String::new(), style: self.style };
        escaped.write_str(self.text)?;
        f.pad(&escaped.into)
    }
}

/// Escapes what is written through it.
#[derive(Debug)]
pub(crate) struct Escape<W> {
    pub(crate) into: W,
    pub(crate) style: Style,
}

impl<W: Write> Write for Escape<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let style = self.style;
        let mut rest = text;
        while let Some(at) = rest.find(|c| style.changes(c)) {
            let (safe, changed) = rest.split_at(at);
            self.into.write_str(safe)?;
            let mut chars = changed.chars();
            match (chars.next(), style) {
                (Some('\r' | '\n'), Style::Document) => self.into.write_char(' ')?,
                (Some(c), _) => write!(self.into, "\\u{:04x}", u32::from(c))?,
                (None, _) => {}
            }
            rest = chars.as_str();
        }
        self.into.write_str(rest)
    }
}

impl Style {
    fn changes(self, c: char) -> bool {
        match (c, self) {
            (_, Self::Raw) | ('\t', Self::Document) | ('\t' | '\n', Self::Lines) => false,
            _ => is_unsafe(c),
        }
    }
}

/// Control characters (C0, DEL, C1), and invisible characters that reorder or break a line. None is beyond U+FFFF, so
/// four digits are enough.
const fn is_unsafe(c: char) -> bool {
    matches!(
        c,
        '\0'..='\x1f'
            | '\x7f'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_and_no_reordering_gets_through() {
        let outside = "a\x1b[31m\u{9b}2J\x07\x7f\u{202e}\r\nü\tz\0";
        assert_eq!(
            Printable::line(outside).to_string(),
            "a\\u001b[31m\\u009b2J\\u0007\\u007f\\u202e\\u000d\\u000aü\\u0009z\\u0000"
        );
        assert_eq!(
            Printable::lines(outside).to_string(),
            "a\\u001b[31m\\u009b2J\\u0007\\u007f\\u202e\\u000d\nü\tz\\u0000"
        );
        assert_eq!(Printable::new(outside, Style::Raw).to_string(), outside);
        for c in (0..=0xffff_u32).filter_map(char::from_u32).filter(|c| c.is_control()) {
            assert!(is_unsafe(c), "{c:?}");
        }
    }

    #[test]
    fn an_escaped_document_means_the_same() {
        let document = "{\n \"a\":\r\n\"\u{7f}\u{9b}\u{202e}ü\",\t\"b\":1}";
        let printed = Printable::new(document, Style::Document).to_string();
        assert!(!printed.contains(is_unsafe_but_tab), "{printed}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&printed), read(document));
    }

    fn is_unsafe_but_tab(c: char) -> bool {
        is_unsafe(c) && c != '\t'
    }

    #[test]
    fn it_is_padded_to_a_column() {
        assert_eq!(format!("{:<8}|", Printable::line("a\x1b")), "a\\u001b |");
    }
}
