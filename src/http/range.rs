//! `Range: bytes=` for one range (RFC 9110, 14). Several ranges in one request get the whole file: no installer
//! sends them, and the answer to them is a format of its own.

use std::time::SystemTime;

use super::request::{Method, Request};
use super::response::{Body, Response};

/// Which bytes of a file to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All: status 200.
    Whole,
    /// A part: status 206 with `Content-Range`.
    Part {
        /// The first byte.
        offset: u64,
        /// How many, at least one.
        length: u64,
    },
    /// Nothing of what was asked for exists: status 416 with `Content-Range: bytes */LENGTH`.
    Unsatisfiable,
}

/// What a request says of the part of a file that it wants.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Only the head.
    pub is_head: bool,
    range: Option<String>,
    if_range: Option<String>,
}

impl Wanted {
    /// By the headers of a request.
    pub fn of(request: &Request) -> Self {
        let field = |name| request.headers.get(name).map(str::to_owned);
        let (range, if_range) = (field("range"), field("if-range"));
        Self { is_head: request.method == Method::Head, range, if_range }
    }

    /// Completes an answer with what is wanted of a file of `length` bytes; `open` gives a part by offset and length.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn answer<E>(
        &self,
        mut response: Response,
        validators: Validators<'_>,
        length: u64,
        open: impl FnOnce(u64, u64) -> Result<Body, E>,
    ) -> Result<Response, E> {
        let range =
            Range::choose(self.range.as_deref(), self.if_range.as_deref(), validators, length);
        if let Some(part) = range.content_range(length) {
            response = response.with_header("Content-Range", part);
        }
        let (offset, length) = match range {
            Range::Whole => (0, length),
            Range::Part { offset, length } => {
                response.status = 206;
                (offset, length)
            }
            Range::Unsatisfiable => {
                response.status = 416;
                return Ok(response);
            }
        };
        Ok(response.with_body(open(offset, length)?))
    }
}

/// What a file is compared by in `If-Range`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validators<'a> {
    /// The strong entity tag with its quotes.
    pub etag: Option<&'a str>,
    /// When the file was last modified.
    pub modified: Option<SystemTime>,
}

impl Range {
    /// Chooses by the headers `Range` and `If-Range` for a file of `length` bytes.
    pub fn choose(
        range: Option<&str>,
        if_range: Option<&str>,
        validators: Validators<'_>,
        length: u64,
    ) -> Self {
        match range {
            Some(range) if if_range.is_none_or(|v| validators.still_match(v)) => {
                Self::parse(range, length)
            }
            _ => Self::Whole,
        }
    }

    /// Reads the value of a `Range` header; what is not understood counts as not sent.
    pub fn parse(value: &str, length: u64) -> Self {
        let Some((unit, set)) = value.split_once('=') else { return Self::Whole };
        if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = set.trim().split_once('-') else { return Self::Whole };
        match (first.trim(), last.trim()) {
            ("", last) => match number(last) {
                None => Self::Whole,
                Some(0) => Self::Unsatisfiable,
                Some(_) if length == 0 => Self::Unsatisfiable,
                Some(n) => Self::Part { offset: length - n.min(length), length: n.min(length) },
            },
            (first, last) => {
                let Some(first) = number(first) else { return Self::Whole };
                let last = match last {
                    "" => u64::MAX,
                    last => match number(last) {
                        Some(last) if last >= first => last,
                        _ => return Self::Whole, // backwards is no range at all
                    },
                };
                if first >= length {
                    return Self::Unsatisfiable;
                }
                Self::Part { offset: first, length: last.min(length - 1) - first + 1 }
            }
        }
    }

    /// The value of `Content-Range` for a file of `length` bytes; none for a whole file.
    pub fn content_range(self, length: u64) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Part { offset, length: part } => {
                Some(format!("bytes {offset}-{}/{length}", offset + part - 1))
            }
            Self::Unsatisfiable => Some(format!("bytes */{length}")),
        }
    }
}

impl Validators<'_> {
    fn still_match(&self, if_range: &str) -> bool {
        let if_range = if_range.trim();
        if if_range.starts_with('"') {
            return self.etag == Some(if_range);
        }
        // A weak tag never matches here; a date must be the very one that was sent.
        match (httpdate::parse_http_date(if_range), self.modified) {
            (Ok(date), Some(modified)) => seconds(date) == seconds(modified),
            _ => false,
        }
    }
}

/// Reads `bytes FIRST-LAST/LENGTH`: the first byte, and the length unless it is `*`.
pub(super) fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (part, length) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let first = part.split_once('-')?.0.trim().parse().ok()?;
    Some((first, length.trim().parse().ok()))
}

fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs())
}

/// Digits only; a number too large to count is as good as the end of any file.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn part(offset: u64, length: u64) -> Range {
        Range::Part { offset, length }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(Range::parse("bytes=0-9", 100), part(0, 10));
        assert_eq!(Range::parse("bytes=90-", 100), part(90, 10));
        assert_eq!(Range::parse("bytes=90-5000", 100), part(90, 10));
        assert_eq!(Range::parse("bytes=-10", 100), part(90, 10));
        assert_eq!(Range::parse("bytes=-5000", 100), part(0, 100));
        assert_eq!(Range::parse("bytes=99-99", 100), part(99, 1));
        assert_eq!(Range::parse("bytes=5-99999999999999999999999", 100), part(5, 95));
    }

    #[test]
    fn outside_the_file_is_unsatisfiable() {
        for value in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(Range::parse(value, 100), Range::Unsatisfiable, "{value}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Unsatisfiable);
        assert_eq!(Range::parse("bytes=-5", 0), Range::Unsatisfiable);
    }

    #[test]
    fn what_is_not_understood_gives_the_whole_file() {
        for value in [
            "bytes=0-1,5-6",
            "lines=0-1",
            "bytes",
            "bytes=9-5",
            "bytes=a-b",
            "bytes=-",
            "bytes=+1-2",
        ] {
            assert_eq!(Range::parse(value, 100), Range::Whole, "{value}");
        }
    }

    #[test]
    fn if_range_must_match() {
        let modified = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        let date = httpdate::fmt_http_date(modified);
        let validators = Validators { etag: Some("\"abc\""), modified: Some(modified) };
        let choose = |if_range| Range::choose(Some("bytes=1-2"), if_range, validators, 10);
        assert_eq!(choose(None), part(1, 2));
        assert_eq!(choose(Some("\"abc\"")), part(1, 2));
        assert_eq!(choose(Some(&date)), part(1, 2));
        assert_eq!(choose(Some("\"abd\"")), Range::Whole);
        assert_eq!(choose(Some("W/\"abc\"")), Range::Whole);
        assert_eq!(choose(Some("Tue, 14 Nov 2023 22:13:21 GMT")), Range::Whole);
        assert_eq!(Range::choose(None, None, validators, 10), Range::Whole);
    }

    #[test]
    fn content_range_names_the_part() {
        assert_eq!(part(90, 10).content_range(100).as_deref(), Some("bytes 90-99/100"));
        assert_eq!(Range::Unsatisfiable.content_range(100).as_deref(), Some("bytes */100"));
        assert_eq!(Range::Whole.content_range(100), None);
    }
}
