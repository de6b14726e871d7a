//! Sizes, durations and ages, as people write them.

use std::time::Duration;

use bytesize::ByteSize;

use crate::clock::Timestamp;

/// `69.4 GiB`, `900 GiB`, `17 B`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string().replace(".0 ", " ")
}

/// `1 event`, `2 events`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    counted_as(count, noun, &format!("{noun}s"))
}

/// `1 event waits`, `2 events wait`.
pub(crate) fn counted_as(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// In the largest unit that divides it: `90m`, `24h`, `7d`. Days begin at two, because most people write `24h`.
pub(crate) fn duration(duration: Duration) -> String {
    if duration.subsec_nanos() > 0 {
        return format!("{duration:?}");
    }
    let seconds = duration.as_secs();
    match seconds {
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(86_400) && seconds > 86_400 => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// An age, rounded down: `41 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// A moment in RFC 3339 with its age: `2024-01-02T03:04:05.678Z (41 s ago)`. Without the age if either time is invalid.
pub(crate) fn with_age(moment: &str, now: &str) -> String {
    let read = |text: &str| text.parse::<Timestamp>().ok();
    match (read(moment), read(now)) {
        (Some(then), Some(now)) => format!("{moment} ({} ago)", age(now.since(then))),
        _ => moment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_written_as_people_do() {
        assert_eq!([0, 17, 966_367_641_600, 74_541_166_592].map(size), ["0 B", "17 B", "900 GiB", "69.4 GiB"]);
        let written = [0, 5, 90, 5_400, 3_600, 86_400, 604_800].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(written, ["0s", "5s", "90s", "90m", "1h", "24h", "7d"]);
        assert_eq!(duration(Duration::from_millis(1_500)), "1.5s");
    }

    #[test]
    fn a_moment_is_shown_with_its_age() {
        let aged = |now| with_age("2024-01-02T03:04:05.678Z", now);
        assert_eq!(aged("2024-01-02T03:04:46.700Z"), "2024-01-02T03:04:05.678Z (41 s ago)");
        assert_eq!(aged("2024-01-02T05:04:04.000Z"), "2024-01-02T03:04:05.678Z (119 min ago)");
        assert_eq!(aged("2024-01-04T03:04:06.000Z"), "2024-01-02T03:04:05.678Z (2 d ago)");
        assert_eq!(aged("2024-01-01T00:00:00Z"), "2024-01-02T03:04:05.678Z (0 s ago)", "the clock went back");
        assert_eq!(aged(""), "2024-01-02T03:04:05.678Z");
    }
}
