//! Waiting for a condition, with a deadline.

use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For what should take a moment; a slow machine may take longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` gives something, or fails saying what was waited for.
pub(crate) fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_up_to(PATIENCE, what, look)
}

/// As [`wait_for`], for what takes its time.
pub(crate) fn wait_up_to<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Runs a command to its end, which must come by itself.
pub(crate) fn ended(command: &mut Command) -> Output {
    let child = command.spawn().expect("starts");
    let id = Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    if let Ok(output) = told.recv_timeout(PATIENCE) {
        return output.expect("waited for");
    }
    // It still runs, so that the number is still its own.
    let _ = kill_process(id, Signal::KILL);
    panic!("did not end within {PATIENCE:?}: {command:?}");
}
