//! `--raw`, of every command that shows text from outside: bodies, topics, what brokers and servers say.

use std::borrow::Cow;

use crate::printable::{Printable, Style};

/// How such text is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Outside {
    /// Print text from outside byte for byte; else control characters are escaped, as \u001b
    #[arg(long)]
    raw: bool,
}

impl Outside {
    /// As without `--raw`.
    #[cfg(test)]
    pub(super) const fn escaped() -> Self {
        Self { raw: false }
    }

    /// Text within a line of ours.
    pub(super) const fn line(self, text: &str) -> Printable<'_> {
        self.styled(text, Style::Line)
    }

    /// A JSON document of ours, on one line.
    pub(super) const fn json(self, text: &str) -> Printable<'_> {
        self.styled(text, Style::Document)
    }

    /// A JSON document as it came, on one line.
    pub(super) fn document(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        self.bytes(bytes, Style::Document)
    }

    /// A body of several lines.
    pub(super) fn body(self, bytes: &[u8]) -> Cow<'_, [u8]> {
        self.bytes(bytes, Style::Lines)
    }

    fn bytes(self, bytes: &[u8], style: Style) -> Cow<'_, [u8]> {
        if self.raw {
            return Cow::Borrowed(bytes);
        }
        // What is not UTF-8 could be control characters to a terminal of another encoding.
        let text = String::from_utf8_lossy(bytes);
        Cow::Owned(self.styled(&text, style).to_string().into_bytes())
    }

    const fn styled(self, text: &str, style: Style) -> Printable<'_> {
        Printable::new(text, if self.raw { Style::Raw } else { style })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_get_through_only_raw() {
        let body = b"a\x9bb\xff\n";
        assert_eq!(Outside { raw: true }.body(body), &body[..]);
        assert_eq!(Outside { raw: false }.body(body), "a\u{fffd}b\u{fffd}\n".as_bytes());
    }
}
