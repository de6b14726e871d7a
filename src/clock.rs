//! The wall clock, passed in from outside so that tests of retention, deduplication and back-off do not sleep.
//!
//! It decides only what is deleted or remembered, never what is delivered.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of the wall clock: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A moment given in microseconds since the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, as brokers count.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// How long after `earlier` this moment is. Zero if the clock went backwards.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// This moment in RFC 3339 without a fraction: `2024-01-02T03:04:05Z`.
    pub fn to_the_second(self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            match jiff::Timestamp::from_second(i64::try_from(self.0 / 1_000_000).unwrap_or(i64::MAX)) {
                Ok(moment) => write!(f, "{moment}"),
                // After the year 9999, as below.
                Err(_) => write!(f, "{self}"),
            }
        })
    }

    /// The moment that is earlier by `by`, but not before the epoch.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Timestamp {
    /// A short form for a line that is read soon: `18:51:25`, with the date unless it is that of `now`. In UTC, like
    /// the log.
    pub fn brief(self, now: Self) -> String {
        let (this, now) = (self.to_string(), now.to_string());
        let Some((date, time)) = this.split_once('T') else { return this };
        let time = time.get(..8).unwrap_or(time);
        if now.starts_with(date) { time.to_owned() } else { format!("{date} {time}") }
    }
}

/// RFC 3339 in UTC with milliseconds: `2024-01-02T03:04:05.678Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_microsecond(micros) {
            Ok(moment) => write!(f, "{moment:.3}"),
            // After the year 9999. Only a damaged record has such a time, and logging it must not panic.
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

/// Parses RFC 3339.
impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment: jiff::Timestamp = text.parse()?;
        Ok(Self(u64::try_from(moment.as_microsecond()).unwrap_or_default()))
    }
}

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, in the form that the parts of the bridge take.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_displayed_in_rfc_3339_with_milliseconds() {
        assert_eq!(Timestamp::from_micros(1_704_164_645_678_901).to_string(), "2024-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert!(Timestamp::from_micros(u64::MAX).to_string().ends_with("us"));
    }

    #[test]
    fn a_moment_of_the_day_is_brief() {
        let moment = Timestamp::from_micros(1_704_164_645_678_901);
        assert_eq!(moment.brief(Timestamp::from_micros(1_704_164_700_000_000)), "03:04:05");
        assert_eq!(moment.brief(Timestamp::from_micros(1_704_264_700_000_000)), "2024-01-02 03:04:05");
        assert_eq!(Timestamp::from_micros(u64::MAX).brief(moment), format!("{}us", u64::MAX));
    }

    #[test]
    fn a_clock_that_goes_backwards_gives_no_negative_age() {
        let early = Timestamp::from_micros(5);
        assert_eq!(early.since(Timestamp::from_micros(9)), Duration::ZERO);
        assert_eq!(early.before(Duration::from_secs(1)), Timestamp::from_micros(0));
    }
}
