//! Prints the results of commands on stdout and explanations on stderr. Nothing else in this crate prints.
//!
//! Rust ignores SIGPIPE, and `println!` panics if nobody reads stdout any more (`check --show | head -1`). Here that is
//! a
//! [`Failure::Unread`]. It ends the command like any other failure, so that temporary folders are removed and bridges
//! are stopped, but prints nothing and exits with 0. Lines for stderr are dropped if nobody reads them.

use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Failure;

/// How often to check whether somebody still reads stdout.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    // One write for the whole text, so that the lines of several threads do not mix, and a block of lines costs one
    // call.
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to stdout as they are.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::failed(format!("cannot write to stdout: {error}")),
    })
}

/// See [`errln`].
pub(super) fn note(text: fmt::Arguments<'_>) {
    // There is no better place to report a failure.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Returns when nobody reads stdout any more. A command would otherwise notice that only when it prints, and
/// `tail | head -1` would hang until the next event.
pub(super) async fn unread() -> Failure {
    loop {
        if has_no_reader() {
            return Failure::Unread;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Whether stdout is a pipe or socket whose other end is closed. A file never is.
fn has_no_reader() -> bool {
    let stdout = io::stdout();
    // Errors and hang-ups are reported in any case.
    let mut looked = [PollFd::new(&stdout, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut looked, Some(&at_once)).is_ok() && looked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// The result of a command that printed something and reached a verdict. A bad verdict counts even if nobody read it.
pub(super) fn ended(shown: Result<(), Failure>, verdict: Result<(), Failure>) -> Result<(), Failure> {
    match shown {
        Ok(()) | Err(Failure::Unread) if verdict.is_err() => verdict,
        shown => shown,
    }
}
