//! Runs blocking work off the runtime's threads.

use tokio::task::JoinHandle;

/// Runs work that blocks. It runs to its end even if nobody awaits it.
pub(crate) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if in_line::is_on() {
        return tokio::spawn(async move {
            // Other tasks go first, as they may while a thread does the work.
            tokio::task::yield_now().await;
            work()
        });
    }
    tokio::task::spawn_blocking(work)
}

/// Runs the work on the caller's thread. A simulation needs that to be the same every time.
#[cfg(test)]
pub(crate) mod in_line {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn is_on() -> bool {
        ON.get()
    }

    /// From now on, this thread runs blocking work as a task of its runtime.
    pub(crate) fn turn_on() {
        ON.set(true);
    }
}
