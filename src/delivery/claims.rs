//! What a pump claims from its feed, so that no event counts as given up and as settled.

use super::batch::Batch;
use super::in_flight::{InFlight, SlotId};
use super::pump::Pump;
use crate::journal::{Feed, Offset};
use crate::sinks::Outcome;

impl<F: Feed> Pump<F> {
    /// Claims what is about to be sent, and drops what the journal gave up while it waited here.
    pub(super) fn claim(&mut self, batch: &mut Batch<SlotId>, in_flight: &mut InFlight) {
        let offsets = in_flight.offsets(&batch.keys);
        let cursor = self.reader.claim(&offsets);
        if offsets.iter().all(|offset| *offset >= cursor) {
            return;
        }
        let all = std::mem::replace(batch, Batch::new());
        for ((slot, message), offset) in all.into_iter().zip(offsets) {
            if offset < cursor { in_flight.settle(slot) } else { batch.push(slot, message) }
        }
    }

    /// Ends the claim on what is not sent after all.
    pub(super) fn unclaim(&mut self, batch: &Batch<SlotId>, in_flight: &InFlight) {
        self.reader.release(&[], &in_flight.offsets(&batch.keys));
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
    pub(super) fn claim_burials(&mut self, in_flight: &mut InFlight) -> Vec<Offset> {
        let cursor = self.reader.claim(&in_flight.burial_offsets());
        in_flight.give_up_burials(cursor);
        in_flight.burial_offsets()
    }

    /// Takes back the window that was begun, now that it is no longer in flight.
    pub(super) fn recall(&mut self, in_flight: &mut InFlight) {
        if let Some(begun) = in_flight.begun.take() {
            self.unclaim(&begun, in_flight);
            in_flight.queue.push_back(begun);
        }
    }
}
