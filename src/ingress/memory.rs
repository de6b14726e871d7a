//! The memory of all bodies that are not yet durable. A quarter is reserved for small bodies, so that a few large ones,
//! which may be strangers', never keep out the many small events.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The size up to which a body is small. Most events have a few KiB.
pub(super) const SMALL: usize = 64 * 1024;

/// Counts the bytes of all bodies.
pub(super) struct BodyMemory {
    general: Arc<Semaphore>,
    /// For small bodies only.
    reserved: Arc<Semaphore>,
}

/// No memory is left for this body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl BodyMemory {
    /// Allows `all` bytes. A body of `max_body` bytes must always fit, which can leave less than a quarter for small
    /// ones.
    pub(super) fn new(all: usize, max_body: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        let reserved = (all / 4).min(all.saturating_sub(max_body));
        Self { general: Arc::new(Semaphore::new(all - reserved)), reserved: Arc::new(Semaphore::new(reserved)) }
    }
}

/// The memory that one body holds. Dropping it returns the memory.
#[derive(Debug, Default)]
pub(super) struct Share {
    general: Option<OwnedSemaphorePermit>,
    reserved: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes `bytes` more. A body that turns out not to be small returns its part of the reserve.
    pub(super) fn grow(&mut self, memory: &BodyMemory, bytes: usize, small: bool) -> Result<(), Full> {
        if small && take(&memory.reserved, bytes, &mut self.reserved).is_ok() {
            return Ok(());
        }
        let moved = if small { 0 } else { self.reserved.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) };
        take(&memory.general, bytes + moved, &mut self.general)?;
        if !small {
            self.reserved = None;
        }
        Ok(())
    }
}

fn take(from: &Arc<Semaphore>, bytes: usize, held: &mut Option<OwnedSemaphorePermit>) -> Result<(), Full> {
    let bytes = u32::try_from(bytes).map_err(|_| Full)?;
    let more = Arc::clone(from).try_acquire_many_owned(bytes).map_err(|_| Full)?;
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_leave_a_quarter_to_small_ones() {
        let memory = BodyMemory::new(64, 8);
        let mut large = Share::default();
        assert_eq!(large.grow(&memory, 48, false), Ok(()));
        assert_eq!(large.grow(&memory, 1, false), Err(Full));
        let mut small = Share::default();
        assert_eq!(small.grow(&memory, 16, true), Ok(()));
        assert_eq!(small.grow(&memory, 1, true), Err(Full));
        drop(large);
        assert_eq!(small.grow(&memory, 48, true), Ok(()), "small bodies may use everything");
    }

    #[test]
    fn a_body_that_turns_out_to_be_large_returns_its_part_of_the_reserve() {
        let memory = BodyMemory::new(64, 8);
        let mut grown = Share::default();
        assert_eq!(grown.grow(&memory, 16, true), Ok(()));
        assert_eq!(grown.grow(&memory, 32, false), Ok(()));
        assert_eq!(memory.reserved.available_permits(), 16);
        assert_eq!(memory.general.available_permits(), 0);
        drop(grown);
        assert_eq!(memory.general.available_permits(), 48);
    }

    #[test]
    fn the_largest_body_always_fits() {
        for (all, max_body) in [(8, 8), (9, 8), (64, 60), (0, 0)] {
            let memory = BodyMemory::new(all, max_body);
            assert_eq!(Share::default().grow(&memory, max_body, false), Ok(()), "{max_body} of {all}");
        }
    }
}
