//! The three ways in which devpi's records write a moment; all in UTC.

use std::time::SystemTime;

use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, tz::TimeZone};

use crate::store::codec::Value;

fn civil(now: SystemTime) -> DateTime {
    let stamp = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
    stamp.to_zoned(TimeZone::UTC).datetime()
}

/// `2026-11-22T23:59:01Z`, as in user records.
pub fn stamp(now: SystemTime) -> String {
    civil(now).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads such a stamp, or a date alone, which begins at midnight.
pub fn parse(text: &str) -> Option<SystemTime> {
    let at = match text.parse::<Date>() {
        Ok(date) if text.len() == "2026-11-22".len() => date.to_datetime(Time::midnight()),
        _ => return text.parse::<Timestamp>().ok().map(SystemTime::from),
    };
    at.to_zoned(TimeZone::UTC).ok().map(|at| SystemTime::from(at.timestamp()))
}

/// `(2026, 11, 22, 23, 59, 4)`, as in the log of a link.
pub fn six_tuple(now: SystemTime) -> Value {
    let at = civil(now);
    let date = [i32::from(at.year()), i32::from(at.month()), i32::from(at.day())];
    let time = [i32::from(at.hour()), i32::from(at.minute()), i32::from(at.second())];
    Value::Tuple(date.into_iter().chain(time).map(Value::Int).collect())
}

/// Reads what `six_tuple` makes, and tuples with more in them.
pub fn of_six_tuple(value: &Value) -> Option<SystemTime> {
    let numbers: Option<Vec<i64>> = value.as_list()?.iter().map(Value::as_i64).collect();
    let [year, month, day, hour, minute, second] = numbers?.get(..6)?.try_into().ok()?;
    let small = |number: i64| i8::try_from(number).ok();
    let date = Date::new(i16::try_from(year).ok()?, small(month)?, small(day)?).ok()?;
    let time = Time::new(small(hour)?, small(minute)?, small(second)?, 0).ok()?;
    let at = date.to_datetime(time).to_zoned(TimeZone::UTC).ok()?;
    Some(SystemTime::from(at.timestamp()))
}

/// `Sun, 22 Nov 2026 23:59:04 GMT`, as in file records.
pub fn http_date(now: SystemTime) -> String {
    httpdate::fmt_http_date(now)
}

/// `20261122235904`, as in the names of test results.
pub fn digits(now: SystemTime) -> String {
    civil(now).strftime("%Y%m%d%H%M%S").to_string()
}

/// An HTTP date as PEP 700 wants it: `2026-11-22T23:59:04Z`.
pub fn upload_time(http_date: &str) -> Option<String> {
    httpdate::parse_http_date(http_date).ok().map(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_moment_in_its_three_spellings() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(stamp(at), "2023-11-14T22:13:20Z");
        assert_eq!(http_date(at), "Tue, 14 Nov 2023 22:13:20 GMT");
        assert_eq!(upload_time(&http_date(at)).as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(parse("2023-11-14T22:13:20Z"), Some(at));
        assert_eq!(parse("2023-11-14").map(stamp).as_deref(), Some("2023-11-14T00:00:00Z"));
        assert!(parse("2023-11-14T22:13:20").is_none() && parse("2023-11").is_none());
        let parts = [2023, 11, 14, 22, 13, 20].map(Value::Int);
        assert_eq!(six_tuple(at), Value::Tuple(parts.to_vec()));
        assert_eq!(of_six_tuple(&six_tuple(at)), Some(at));
    }
}
