//! How long to wait before the next try.

use std::time::Duration;

/// Bounds of the waits between tries.
///
/// Invariant: `0 < min <= max`. Each wait lies in `[min, max]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    min: Duration,
    max: Duration,
}

/// These two durations are no bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a back-off of more than 0 whose minimum is not above its maximum, found {min:?} and {max:?}")]
pub struct InvalidBackOff {
    min: Duration,
    max: Duration,
}

impl BackOff {
    /// The bounds for sinks: 100 ms to 5 s.
    pub const SINK: Self = Self { min: Duration::from_millis(100), max: Duration::from_secs(5) };

    /// Checks and makes bounds. `min` must be above zero, so that no loop runs hot.
    pub fn new(min: Duration, max: Duration) -> Result<Self, InvalidBackOff> {
        if min.is_zero() || min > max { Err(InvalidBackOff { min, max }) } else { Ok(Self { min, max }) }
    }

    /// Starts a sequence of waits with this jitter.
    pub fn delays(self, rng: fastrand::Rng) -> Delays {
        Delays { bounds: self, ceiling: self.first_ceiling(), rng }
    }

    fn first_ceiling(self) -> Duration {
        self.min.saturating_mul(2).min(self.max)
    }
}

/// The waits between tries of one thing: drawn evenly between the minimum and a ceiling that doubles. This is full jitter,
/// so that the sinks of a broker that returns do not all connect at once.
#[derive(Clone, Debug)]
pub struct Delays {
    bounds: BackOff,
    ceiling: Duration,
    rng: fastrand::Rng,
}

impl Delays {
    /// How long to wait after another failure.
    pub fn after_failure(&mut self) -> Duration {
        let span = self.ceiling.saturating_sub(self.bounds.min).as_micros();
        let jitter = self.rng.u64(0..=u64::try_from(span).unwrap_or(u64::MAX));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.bounds.max);
        self.bounds.min.saturating_add(Duration::from_micros(jitter)).min(self.bounds.max)
    }

    /// Starts again from the minimum after a success.
    pub fn reset(&mut self) {
        self.ceiling = self.bounds.first_ceiling();
    }

    /// Starts a separate sequence with the same bounds.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        self.bounds.delays(self.rng.fork())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn bounds_that_cannot_be_are_refused() {
        assert!(BackOff::new(MS, MS).is_ok());
        assert_eq!(BackOff::new(Duration::ZERO, MS), Err(InvalidBackOff { min: Duration::ZERO, max: MS }));
        assert!(BackOff::new(2 * MS, MS).is_err());
        assert_eq!(BackOff::new(100 * MS, 5_000 * MS), Ok(BackOff::SINK));
    }

    #[test]
    fn every_wait_is_within_the_bounds_and_the_ceiling_doubles() {
        for seed in 0..200 {
            let mut delays = BackOff::SINK.delays(fastrand::Rng::with_seed(seed));
            let mut ceiling = 200 * MS;
            for _ in 0..20 {
                let wait = delays.after_failure();
                assert!((100 * MS..=ceiling).contains(&wait), "{wait:?} is not within 100 ms and {ceiling:?}");
                ceiling = (ceiling * 2).min(5_000 * MS);
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_waits_and_another_does_not() {
        let row = |seed| {
            let mut delays = BackOff::SINK.delays(fastrand::Rng::with_seed(seed));
            std::iter::repeat_with(|| delays.after_failure()).take(8).collect::<Vec<_>>()
        };
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
    }

    #[test]
    fn a_success_begins_again_from_the_minimum() {
        let mut delays = BackOff::SINK.delays(fastrand::Rng::with_seed(1));
        for _ in 0..10 {
            delays.after_failure();
        }
        delays.reset();
        assert!(delays.after_failure() <= 200 * MS);
    }

    #[test]
    fn the_longest_bounds_do_not_overflow() {
        let bounds = BackOff::new(Duration::MAX, Duration::MAX).expect("bounds");
        assert_eq!(bounds.delays(fastrand::Rng::with_seed(1)).after_failure(), Duration::MAX);
    }
}
