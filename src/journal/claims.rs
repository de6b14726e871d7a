//! Events that a sink settles while the journal may give up what waits for it.
//!
//! A full journal moves the cursor of a `best_effort` sink past its oldest waiting events and counts them as given up.
//! The sink's pump may have read some of them. It claims events before it sends them, so that each event counts once:
//! as given up, or as settled by the pump.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Offset;

/// What one sink's pump has in flight, and what it has settled before the cursor could pass it.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    in_flight: BTreeSet<u64>,
    /// Not below the cursor.
    settled: BTreeSet<u64>,
}

impl Claims {
    /// These are in flight from now on, except those below the cursor.
    pub(super) fn claim(&mut self, events: &[Offset], cursor: u64) {
        self.in_flight.extend(events.iter().map(|offset| offset.0).filter(|offset| *offset >= cursor));
    }

    /// These are no longer in flight: they are settled.
    pub(super) fn settle(&mut self, events: &[Offset], cursor: u64) {
        for Offset(offset) in events {
            if self.in_flight.remove(offset) && *offset >= cursor {
                self.settled.insert(*offset);
            }
        }
    }

    /// These are no longer in flight, and not settled. Returns how many of them are given up, because the cursor passed
    /// them meanwhile.
    pub(super) fn release(&mut self, events: &[Offset], cursor: u64) -> u64 {
        events.iter().filter(|Offset(offset)| self.in_flight.remove(offset) && *offset < cursor).count() as u64
    }

    /// The cursor passes these events, which are being given up. Returns how many of them are in flight or settled, and
    /// so not given up now.
    pub(super) fn pass_over(&mut self, events: Range<u64>) -> u64 {
        let spared = self.in_flight.range(events.clone()).count() + self.settled.range(events.clone()).count();
        self.settled = self.settled.split_off(&events.end);
        spared as u64
    }

    /// The cursor passes what is settled.
    pub(super) fn advance(&mut self, to: u64) {
        self.settled = self.settled.split_off(&to);
    }

    /// The pump forgets all that it has read, and reads on from the cursor. Returns how many events are given up by that:
    /// they were in flight, and the cursor has passed them.
    pub(super) fn abandon(&mut self, cursor: u64) -> u64 {
        self.settled.clear();
        std::mem::take(&mut self.in_flight).range(..cursor).count() as u64
    }
}
