//! Lets a test take the steps of the journal's threads, so that everything happens in the same order every time.

use std::sync::Arc;

use super::state::Shared;
use super::writer::Writer;

/// The writer and the maintenance of a journal that was opened without threads.
pub(crate) struct Steps {
    shared: Arc<Shared>,
    writer: Writer,
}

impl Steps {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, writer }
    }

    /// The writer writes and answers the queued events.
    pub(crate) fn write(&mut self) {
        self.writer.obey_all();
    }

    /// The writer does what is due after a second without an event.
    pub(crate) fn idle(&mut self) {
        self.writer.idle();
    }

    /// The maintenance thread does what is due.
    pub(crate) fn maintain(&self) {
        self.shared.maintain();
    }

    /// Both stop in good order, as for [`super::Journal::close`].
    pub(crate) fn close(mut self) {
        self.writer.obey_all();
        self.writer.name_end();
        self.shared.mark_closed();
        self.shared.maintain();
    }
}
