//! Writes the log to stderr. No thread that logs ever waits for stderr.
//!
//! Lines go into a buffer of bounded size, and a thread writes them. If nobody reads stderr (a full pipe, a stopped
//! terminal), the buffer fills up, and further lines are dropped and counted. The usual crate for this,
//! tracing-appender, bounds lines instead of bytes, sends each line through a channel, and depends on four more crates.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

/// Maximum bytes that wait to be written: about 4,000 lines.
const MAX_WAITING: usize = 1 << 20;

/// Capacity that the buffer keeps after a burst.
const KEPT: usize = 64 * 1024;

/// Counts for the whole process, because it has one stderr, and because lines may be dropped before any registry
/// exists.
static DROPPED: LazyLock<Counter> = LazyLock::new(Counter::default);

/// Counts the log lines that were dropped because stderr was not read or failed.
pub(super) fn dropped() -> Counter {
    DROPPED.clone()
}

/// The buffer of log lines. Cheap to clone; all clones share one buffer.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    came: Condvar,
    written: Condvar,
    dropped: Counter,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The thread is writing what it took from `waiting`.
    writing: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static, dropped: Counter) -> io::Result<Self> {
        let shared = Shared { state: Mutex::default(), came: Condvar::new(), written: Condvar::new(), dropped };
        let lines = Self(Arc::new(shared));
        let writer = lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_all_that_come(out))?;
        Ok(lines)
    }

    /// Adds whole lines; never waits.
    pub(super) fn add(&self, lines: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + lines.len() > MAX_WAITING {
            drop(state);
            self.0.dropped.inc_by(count(lines));
            return;
        }
        let thread_may_sleep = state.waiting.is_empty();
        state.waiting.extend_from_slice(lines);
        drop(state);
        if thread_may_sleep {
            self.0.came.notify_one();
        }
    }

    /// Waits until everything is written, but no longer than `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.0.written.wait_timeout_while(self.0.lock(), patience, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn write_all_that_come(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        let mut told = self.0.dropped.get();
        loop {
            let some = self.0.came.wait_while(self.0.lock(), |state| state.waiting.is_empty());
            let mut state = some.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut batch, &mut state.waiting);
            state.writing = true;
            drop(state);
            let result = out.write_all(&batch).and_then(|()| out.flush());
            if result.is_err() {
                self.0.dropped.inc_by(count(&batch));
            }
            batch.clear();
            batch.shrink_to(KEPT);
            self.0.lock().writing = false;
            self.0.written.notify_all();
            // Only after a success. A warning that can't be written would cause the next one.
            let dropped = self.0.dropped.get();
            if result.is_ok() && dropped > told {
                tracing::warn!(lines = dropped - told, "log lines were dropped: nobody read stderr");
                told = dropped;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many lines these bytes are.
fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

impl Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.add(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Blocks each write until the test allows it, and passes on what is written.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        wrote: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_go.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.wrote.send(bytes.to_vec()).expect("the test listens");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let (go, let_go) = mpsc::channel();
        let (wrote, written) = mpsc::channel();
        let dropped = Counter::default();
        let lines = Lines::start(Slow { let_go, wrote }, dropped.clone()).expect("a thread");
        let line = [vec![b'x'; 1_023], b"\n".to_vec()].concat();
        for _ in 0..3 * 1_024 {
            lines.add(&line);
        }
        // The buffer holds 1,024 lines, and the thread may have taken as many before.
        let kept = 3 * 1_024 - dropped.get();
        assert!((1_024..=2_048).contains(&kept), "{kept}");
        lines.flush(Duration::from_millis(10));
        assert!(written.try_recv().is_err(), "nothing is written, and flush gives up");
        go.send(()).expect("it waits");
        go.send(()).expect("it waits");
        lines.flush(Duration::from_secs(30));
        let bytes: usize = written.try_iter().map(|batch| batch.len()).sum();
        assert_eq!(bytes as u64, kept * 1_024, "what was not dropped is written");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (go, let_go) = mpsc::channel::<()>();
        let (wrote, _written) = mpsc::channel();
        drop(go);
        let dropped = Counter::default();
        let lines = Lines::start(Slow { let_go, wrote }, dropped.clone()).expect("a thread");
        lines.add(b"one\ntwo\n");
        lines.flush(Duration::from_secs(30));
        assert_eq!(dropped.get(), 2);
    }
}
