//! What a pump claims from its feed, so that no event counts as given up and as settled.

use super::chunk::Chunk;
use super::pump::Pump;
use super::work::{SlotId, Work};
use crate::journal::{Feed, Offset};
use crate::sinks::Outcome;

impl<F: Feed> Pump<F> {
    /// Claims what is about to be sent, and drops what the journal gave up while it waited here.
    pub(super) fn claim(&mut self, chunk: &mut Chunk<SlotId>, work: &mut Work) {
        let offsets = work.offsets(&chunk.keys);
        let cursor = self.reader.claim(&offsets);
        if offsets.iter().all(|offset| *offset >= cursor) {
            return;
        }
        let all = std::mem::replace(chunk, Chunk::new());
        for ((slot, message), offset) in all.into_iter().zip(offsets) {
            if offset < cursor { work.settle(slot) } else { chunk.push(slot, message) }
        }
    }

    /// Ends the claim on what is not sent after all.
    pub(super) fn unclaim(&mut self, chunk: &Chunk<SlotId>, work: &Work) {
        self.reader.release(&[], &work.offsets(&chunk.keys));
    }

    /// Ends the claim on what was sent.
    pub(super) fn release(&mut self, sent: &[Offset], outcomes: &[Outcome]) {
        let is_confirmed = |outcome: &Outcome| matches!(outcome, Outcome::Confirmed { .. });
        let (settled, waiting): (Vec<_>, Vec<_>) =
            sent.iter().zip(outcomes).partition(|(_, outcome)| is_confirmed(outcome));
        let offsets = |part: Vec<(&Offset, _)>| part.into_iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
        self.reader.release(&offsets(settled), &offsets(waiting));
    }

    /// Claims what is about to become dead letters, and drops what the journal gave up while it waited here.
    pub(super) fn claim_burials(&mut self, work: &mut Work) -> Vec<Offset> {
        let cursor = self.reader.claim(&work.burial_offsets());
        work.give_up_burials(cursor);
        work.burial_offsets()
    }

    /// Takes back the window that was begun, now that it is no longer in flight.
    pub(super) fn recall(&mut self, work: &mut Work) {
        if let Some(begun) = work.begun.take() {
            self.unclaim(&begun, work);
            work.queue.push_back(begun);
        }
    }
}
