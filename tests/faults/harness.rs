//! Calls the fault harness.

use std::process::Command;
use std::sync::Mutex;

/// A run has its brokers alone: it kills them.
static BROKERS: Mutex<()> = Mutex::new(());

/// Runs the harness; fails with what it printed.
pub(crate) fn run(arguments: &[&str]) {
    // One test's failure says nothing of the next one's brokers.
    let _alone = BROKERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let harness = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/run");
    let mut command = Command::new(harness);
    command.args(["--bridge", env!("CARGO_BIN_EXE_alma-bridge")]).args(arguments);
    succeeds(command);
}

/// Runs the harness's own tests.
#[allow(dead_code, reason = "each suite uses its part")]
pub(crate) fn verdicts() {
    let python = std::env::var_os("ALMA_BRIDGE_TEST_PYTHON").expect("run me within `tests/brokers run`");
    let mut command = Command::new(python);
    command.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/verdicts.py")]);
    succeeds(command);
}

fn succeeds(mut command: Command) {
    let output = command.output().expect("runs within `tests/brokers run`");
    let (told, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}\n{said}", output.status);
    println!("{told}");
}
