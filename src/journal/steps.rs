//! The journal's threads, whose steps a test takes: everything happens in one order, and in the same one each time.

use std::sync::Arc;

use super::state::Shared;
use super::writer::Writer;

/// Writer and keeper of a journal that was opened without threads.
pub(crate) struct Steps {
    shared: Arc<Shared>,
    writer: Writer,
}

impl Steps {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, writer }
    }

    /// The writer writes and answers what is queued.
    pub(crate) fn write(&mut self) {
        self.writer.obey_all();
    }

    /// Nothing came for a second.
    pub(crate) fn idle(&mut self) {
        self.writer.idle();
    }

    /// The keeper does what is due.
    pub(crate) fn maintain(&self) {
        self.shared.maintain();
    }

    /// Both end in good order, as behind [`super::Journal::close`].
    pub(crate) fn close(mut self) {
        self.writer.obey_all();
        self.writer.name_end();
        self.shared.mark_closed();
        self.shared.maintain();
    }
}
