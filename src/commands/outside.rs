//! The option `--raw` of every command that shows text from outside: bodies, topics, messages of brokers and servers.

use std::borrow::Cow;

use crate::printable::{Printable, Style};

/// How text from outside is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Outside {
    /// Print text from outside byte for byte; default: control characters are escaped, as \u001b
    #[arg(long)]
    raw: bool,
}

impl Outside {
    /// The default, without `--raw`.
    #[cfg(test)]
    pub(super) const fn escaped() -> Self {
        Self { raw: false }
    }

    /// Text that is part of a line.
    pub(super) const fn line(self, text: &str) -> Printable<'_> {
        self.styled(text, Style::Line)
    }

    /// A JSON document that the bridge made, on one line.
    pub(super) const fn json(self, text: &str) -> Printable<'_> {
        self.styled(text, Style::Document)
    }

    /// A JSON document as received, on one line.
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
        // Bytes that are not UTF-8 may be control characters to a terminal with another encoding.
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
    fn bytes_that_are_not_text_are_printed_only_with_raw() {
        let body = b"a\x9bb\xff\n";
        assert_eq!(Outside { raw: true }.body(body), &body[..]);
        assert_eq!(Outside { raw: false }.body(body), "a\u{fffd}b\u{fffd}\n".as_bytes());
    }
}
