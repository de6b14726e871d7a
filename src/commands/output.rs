//! What the commands print: results on stdout, all that explains on stderr. Nothing else in this crate prints.
//!
//! Rust ignores SIGPIPE, and `println!` panics once nobody reads stdout (`check --show | head -1`). Here that is a
//! [`Failure::Unread`], which ends the command like any other failure, so that temporary folders are removed and bridges
//! stopped, but says nothing and exits with 0. Lines for stderr are dropped if nobody reads them.

use std::fmt;
use std::io::{self, Write as _};

use super::Failure;

/// Prints a line on stdout: `outln!("{count} events")?`.
macro_rules! outln {
    ($($text:tt)*) => { $crate::commands::output::line(format_args!($($text)*)) };
}

/// Prints a line on stderr.
macro_rules! errln {
    ($($text:tt)*) => { $crate::commands::output::note(format_args!($($text)*)) };
}

/// See [`outln`].
pub(super) fn line(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    // One write for the whole line: lines of several threads do not mix, and a block of lines costs one call.
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to stdout as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::failed(format!("can't write to stdout: {error}")),
    })
}

/// See [`errln`].
pub(super) fn note(text: fmt::Arguments<'_>) {
    // There is no better place to say that it failed.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// How a command ends that has shown its verdict: a bad one is not forgotten because nobody read it to its end.
pub(super) fn ended(shown: Result<(), Failure>, verdict: Result<(), Failure>) -> Result<(), Failure> {
    match shown {
        Ok(()) | Err(Failure::Unread) if verdict.is_err() => verdict,
        shown => shown,
    }
}
