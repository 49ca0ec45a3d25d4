//! Moments and spans as people read them.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use crate::model::time;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// A span in one or two words: `12 s`, `3 min`, `5 h`, `2 days`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let many = |count: u64, unit: &str| match count {
        1 => format!("1 {unit}"),
        _ => format!("{count} {unit}s"),
    };
    match seconds {
        0 if span.is_zero() => "0 s".to_owned(),
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..MINUTE => format!("{seconds} s"),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        DAY..YEAR => many(seconds / DAY, "day"),
        _ => many(seconds / YEAR, "year"),
    }
}

/// How long ago something was, in whole seconds where that is few.
pub fn ago(now: SystemTime, at: SystemTime) -> String {
    let passed = now.duration_since(at).unwrap_or_default();
    match passed.as_secs() {
        0..2 => "just now".to_owned(),
        seconds @ 2..10 => format!("{seconds} s ago"),
        _ => format!("{} ago", span(passed)),
    }
}

/// A moment with its date in words for machines, and both ways of telling it for people.
pub fn moment(now: SystemTime, at: SystemTime) -> Markup {
    let stamp = time::stamp(at);
    let absolute = stamp.replace('T', " ").replace('Z', " UTC");
    html! { time datetime=(stamp) { (ago(now, at)) " " span.quiet.stamp { (absolute) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_the_largest_unit_that_fits() {
        for (seconds, told) in [
            (0.0, "0 s"),
            (0.25, "0.2 s"),
            (9.96, "10.0 s"),
            (59.9, "59 s"),
            (60.0, "1 min"),
            (3_599.0, "59 min"),
            (3_600.0, "1 h"),
            (86_400.0, "1 day"),
            (200_000.0, "2 days"),
            (800_000_000.0, "25 years"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(seconds)), told);
        }
    }

    #[test]
    fn what_is_to_come_was_just_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let after = |seconds| now + Duration::from_secs(seconds);
        for (seconds, told) in [(0, "just now"), (7, "7 s ago"), (61, "1 min ago")] {
            assert_eq!(ago(after(seconds), now), told);
        }
        assert_eq!(ago(now, after(5)), "just now");
        let drawn = moment(now, now).into_string();
        assert!(
            drawn.contains("datetime=\"1970-01-12T13:46:40Z\"")
                && drawn.contains("1970-01-12 13:46:40 UTC")
        );
    }
}
