//! The program. Everything is in the library.

use std::process::ExitCode;

/// glibc's allocator never returns what a burst took. jemalloc does, and uses less CPU time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    alma_bridge::commands::main()
}
