//! What a pump claims from its feed, so that no event counts both as given up and as settled.

use super::batch::Batch;
use super::in_flight::{InFlight, SlotId};
use super::reader::Reader;
use crate::journal::{Feed, Offset};

impl InFlight {
    /// Claims what is about to be sent, and drops what the journal has given up.
    pub(super) fn claim<F: Feed>(&mut self, batch: &mut Batch<SlotId>, reader: &mut Reader<F>) {
        let offsets = self.offsets(&batch.keys);
        let cursor = reader.claim(&offsets);
        if offsets.iter().all(|offset| *offset >= cursor) {
            return;
        }
        let all = std::mem::replace(batch, Batch::new());
        for ((slot, message), offset) in all.into_iter().zip(offsets) {
            if offset < cursor { self.settle(slot) } else { batch.push(slot, message) }
        }
    }

    /// Ends the claim on what is not sent after all.
    pub(super) fn unclaim<F: Feed>(&self, batch: &Batch<SlotId>, reader: &mut Reader<F>) {
        reader.release(&[], &self.offsets(&batch.keys));
    }

    /// Ends the claim on what was sent. `confirmed` are some of `sent`, in the same order.
    pub(super) fn release<F: Feed>(
        &self,
        sent: &[SlotId],
        confirmed: impl Iterator<Item = SlotId>,
        reader: &mut Reader<F>,
    ) {
        let mut confirmed = confirmed.peekable();
        let (settled, waiting): (Vec<_>, Vec<_>) = sent.iter().partition(|slot| confirmed.next_if_eq(*slot).is_some());
        reader.release(&self.offsets(&settled), &self.offsets(&waiting));
    }

    /// Claims what is about to become dead letters, and drops what the journal has given up.
    pub(super) fn claim_burials<F: Feed>(&mut self, reader: &mut Reader<F>) -> Vec<Offset> {
        let cursor = reader.claim(&self.burial_offsets());
        self.give_up_burials(cursor);
        self.burial_offsets()
    }

    /// Queues the window that was begun, now that it is no longer on its way.
    pub(super) fn recall<F: Feed>(&mut self, reader: &mut Reader<F>) {
        if let Some(begun) = self.begun.take() {
            self.unclaim(&begun, reader);
            self.queue.push_back(begun);
        }
    }
}
