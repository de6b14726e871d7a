//! Arguments to command to exit code, nothing else.

use std::process::ExitCode;

/// glibc's keeps for good what a burst took; this one gives it back, and costs less CPU.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    alma_bridge::commands::main()
}
