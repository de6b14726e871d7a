//! Work on a disk, off the runtime's threads.

use tokio::task::JoinHandle;

/// Runs work that blocks. It is done to its end though nobody awaits it.
pub(crate) fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(test)]
    if in_line::is_on() {
        return tokio::spawn(async move {
            // Others go first, as they may where a thread does the work.
            tokio::task::yield_now().await;
            work()
        });
    }
    tokio::task::spawn_blocking(work)
}

/// For a simulation, which is the same each time only where no second thread has a part in it.
#[cfg(test)]
pub(crate) mod in_line {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn is_on() -> bool {
        ON.get()
    }

    /// From now on this thread does such work as a task among the others, on the runtime that it is on.
    pub(crate) fn turn_on() {
        ON.set(true);
    }
}
