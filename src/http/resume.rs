//! A body that goes on after a break: what another server stops sending is asked for again from where it stopped, so
//! that a passing failure there is none here.

use std::io::{self, ErrorKind, Read};
use std::thread;
use std::time::Duration;

use super::client::Answer;
use super::range::content_range;
use super::request::Headers;
use crate::error::{Error, Kind, Result};

/// The pauses before a server is asked again in a row; with the first time that makes three.
#[cfg(not(test))]
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(800)];
#[cfg(test)]
const PAUSES: [Duration; 2] = [Duration::from_millis(1); 2];
/// How often a body may break off in all, also if it came further each time.
const BREAKS_MAX: u32 = 20;
/// What is read of an answer that is of no use, so that its connection can be used again.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

/// Asks for the body, with these header fields besides those that it takes anyway.
pub type Ask = Box<dyn Fn(&[(&str, &str)]) -> Result<Answer> + Send>;

/// What came of asking.
pub enum Opened {
    /// The file.
    Body(Steady),
    /// An answer with another status than 200.
    Refused(Answer),
}

/// The body of a file, read as one.
pub struct Steady {
    ask: Ask,
    /// The header fields of the first answer.
    pub headers: Headers,
    body: Box<dyn Read + Send>,
    length: Option<u64>,
    at: u64,
    /// Whether whoever reads can tell a wrong file from a right one, so that another answer may fill in for the first.
    is_checked: bool,
    /// Breaks since the last byte.
    in_a_row: usize,
    breaks: u32,
    /// Whether this server gave another part than was asked for.
    knows_no_parts: bool,
}

/// How a file is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Whether its bytes will be compared with what they should be.
    pub is_checked: bool,
    /// Whether an answer that there is trouble is worth another question. A master that says so has tried already.
    pub asks_again: bool,
}

/// Asks for a file, again if that fails in a way that may pass.
///
/// # Errors
/// Those of `ask` at the last attempt.
pub fn open(ask: Ask, manner: Manner) -> Result<Opened> {
    open_at(ask, manner, 0)
}

/// As `open`, for a file of which the first `at` bytes are here. What comes may begin at its first byte all the same,
/// as `Steady::at` tells.
///
/// # Errors
/// Those of `ask` at the last attempt.
pub fn open_at(ask: Ask, manner: Manner, at: u64) -> Result<Opened> {
    let is_checked = manner.is_checked;
    let mut pauses = PAUSES.iter();
    let range = format!("bytes={at}-");
    let range = [("Range", range.as_str())];
    let mut fields = if at > 0 && is_checked { range.as_slice() } else { &[] };
    loop {
        let result = ask(fields);
        let is_of_no_use = |answer: &Answer| match answer.status {
            206 => part_from(answer, at).is_none(),
            status => status == 416,
        };
        if !fields.is_empty() && result.as_ref().is_ok_and(is_of_no_use) {
            result.map(drain).unwrap_or_default();
            fields = &[];
            continue;
        }
        let may_pass = match &result {
            Ok(answer) => manner.asks_again && is_passing(answer.status),
            Err(error) => error.kind != Kind::Invalid,
        };
        match (may_pass, pauses.next()) {
            (true, Some(pause)) => {
                result.map(drain).unwrap_or_default();
                thread::sleep(*pause);
            }
            _ => {
                let at = if fields.is_empty() { 0 } else { at };
                return result.map(|answer| settle(ask, answer, is_checked, at));
            }
        }
    }
}

/// The whole length of a file, if this answer is its part from byte `at` to the end.
fn part_from(answer: &Answer, at: u64) -> Option<u64> {
    let (first, total) = answer.headers.get("content-range").and_then(content_range)?;
    let rest = length_of(&answer.headers)?;
    total.filter(|total| first == at && at.checked_add(rest) == Some(*total))
}

fn settle(ask: Ask, answer: Answer, is_checked: bool, asked_at: u64) -> Opened {
    let (at, length) = match answer.status {
        200 => (0, length_of(&answer.headers)),
        206 if asked_at > 0 => (asked_at, part_from(&answer, asked_at)),
        _ => return Opened::Refused(answer),
    };
    Opened::Body(Steady {
        ask,
        headers: answer.headers,
        body: answer.body,
        length,
        at,
        is_checked,
        in_a_row: 0,
        breaks: 0,
        knows_no_parts: false,
    })
}

/// Whether a server that answers so may answer otherwise soon.
fn is_passing(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504)
}

/// Reads the rest of an answer that is small, so that its connection can be used again.
fn drain(answer: Answer) {
    let _ = io::copy(&mut answer.body.take(DRAIN_BYTES_MAX), &mut io::sink());
}

/// The length that an answer announces.
fn length_of(headers: &Headers) -> Option<u64> {
    headers.get("content-length")?.trim().parse().ok()
}

impl Steady {
    /// The length that was announced.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Which byte of the file comes next.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What makes a part belong to the same file; a weak tag does not.
    fn validator(&self) -> Option<String> {
        let etag = self.headers.get("etag").map(str::trim).filter(|tag| tag.starts_with('"'));
        etag.or_else(|| self.headers.get("last-modified")).map(str::to_owned)
    }

    /// Goes on where the body broke off.
    fn resume(&mut self, cause: io::Error) -> io::Result<()> {
        loop {
            self.breaks += 1;
            let Some(pause) = PAUSES.get(self.in_a_row).filter(|_| self.breaks <= BREAKS_MAX)
            else {
                return Err(cause);
            };
            self.in_a_row += 1;
            thread::sleep(*pause);
            if self.ask_again()? {
                return Ok(());
            }
        }
    }

    /// Asks for the rest; false if that failed in a way that may pass.
    fn ask_again(&mut self) -> io::Result<bool> {
        let validator = self.validator();
        if self.at > 0 && !self.is_checked && validator.is_none() {
            return Err(io::Error::other(
                "the file broke off, and the rest could be another file's",
            ));
        }
        let range = format!("bytes={}-", self.at);
        let mut fields = Vec::new();
        if self.at > 0 && !self.knows_no_parts {
            fields.push(("Range", range.as_str()));
            fields.extend(validator.as_deref().map(|validator| ("If-Range", validator)));
        }
        let answer = match (self.ask)(&fields) {
            Ok(answer) => answer,
            Err(error) => {
                log::info!("a file that broke off cannot be asked for: {error}");
                return Ok(false);
            }
        };
        match answer.status {
            206 => Ok(self.take_part(answer)),
            200 => self.take_whole(answer),
            status if is_passing(status) => {
                drain(answer);
                Ok(false)
            }
            status => {
                drain(answer);
                Err(io::Error::other(format!("the rest of the file was answered with {status}")))
            }
        }
    }

    fn take_part(&mut self, answer: Answer) -> bool {
        let part = answer.headers.get("content-range").and_then(content_range);
        let is_right = part.is_some_and(|(first, total)| {
            let is_same = |total| self.length.is_none_or(|length| length == total);
            first == self.at && total.is_none_or(is_same)
        });
        if is_right {
            self.body = answer.body;
        }
        self.knows_no_parts |= !is_right;
        is_right
    }

    /// The whole file once more, of which what came before is passed over.
    fn take_whole(&mut self, mut answer: Answer) -> io::Result<bool> {
        let length = length_of(&answer.headers);
        if !self.is_checked && self.at > 0 || self.length.is_some() && length != self.length {
            return Err(io::Error::other("the file broke off and is another one now"));
        }
        match io::copy(&mut answer.body.by_ref().take(self.at), &mut io::sink()) {
            Ok(passed) if passed == self.at => {
                self.body = answer.body;
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Read for Steady {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let cause = match self.body.read(buf) {
                Ok(0) if !buf.is_empty() && self.length.is_some_and(|length| self.at < length) => {
                    io::Error::new(ErrorKind::UnexpectedEof, "the other server stopped sending")
                }
                Ok(n) => {
                    self.at += n as u64;
                    self.in_a_row = if n > 0 { 0 } else { self.in_a_row };
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
                Err(e) => e,
            };
            log::info!("a file broke off at byte {}: {cause}", self.at);
            self.resume(cause)?;
        }
    }
}

/// The error for a file that another server did not give.
pub fn refused(answer: Answer, url: &str) -> Error {
    let status = answer.status;
    drain(answer);
    match status {
        404 | 410 => Error::not_found(format!("error {status} getting {url}")),
        _ => Error::new(Kind::BadGateway, format!("error {status} getting {url}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::sync::{Mutex, lock};

    /// Bytes, then an error.
    struct Broken(&'static [u8], bool);

    impl Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 if self.1 => Err(ErrorKind::ConnectionReset.into()),
                n => Ok(n),
            }
        }
    }

    type Script = (u16, &'static [(&'static str, &'static str)], &'static [u8], bool);

    /// A server that answers by a script; gives what is read, and what was asked for besides.
    fn play(is_checked: bool, script: &[Script]) -> (Result<io::Result<Vec<u8>>>, Vec<String>) {
        play_from(0, is_checked, script)
    }

    fn play_from(
        at: u64,
        is_checked: bool,
        script: &[Script],
    ) -> (Result<io::Result<Vec<u8>>>, Vec<String>) {
        let asked: std::sync::Arc<Mutex<Vec<String>>> = Default::default();
        let (seen, script) = (asked.clone(), Mutex::new(VecDeque::from(script.to_vec())));
        let ask = move |fields: &[(&str, &str)]| {
            let fields: Vec<_> = fields.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            lock(&seen).push(fields.join("; "));
            let Some((status, fields, body, breaks)) = lock(&script).pop_front() else {
                return Err(Error::new(Kind::BadGateway, "refused"));
            };
            let fields = fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            Ok(Answer {
                status,
                reason: None,
                url: String::new(),
                headers: Headers(fields.collect()),
                body: Box::new(Broken(body, breaks)),
            })
        };
        let manner = Manner { is_checked, asks_again: true };
        let result = open_at(Box::new(ask), manner, at).map(|opened| match opened {
            Opened::Refused(answer) => Err(io::Error::other(answer.status.to_string())),
            Opened::Body(mut body) => {
                let mut got = Vec::new();
                body.read_to_end(&mut got).map(|_| got)
            }
        });
        let asked = lock(&asked).clone();
        (result, asked)
    }

    #[test]
    fn a_break_is_mended_with_the_rest() {
        let first: Script = (200, &[("content-length", "6"), ("etag", "\"a\"")], b"abc", true);
        let rest: Script = (206, &[("content-range", "bytes 3-5/6")], b"def", false);
        let (got, asked) = play(false, &[first, rest]);
        assert_eq!(got.expect("opens").expect("whole"), b"abcdef");
        assert_eq!(asked, ["", "Range: bytes=3-; If-Range: \"a\""]);
        let busy: Script = (503, &[], b"", false);
        let (got, asked) = play(false, &[busy, first, busy, rest]);
        assert_eq!(got.expect("opens").expect("whole"), b"abcdef");
        assert_eq!(asked.len(), 4);
    }

    #[test]
    fn a_body_that_ends_too_soon_is_a_break_too() {
        let first: Script = (200, &[("content-length", "6")], b"abc", false);
        let whole: Script = (200, &[("content-length", "6")], b"abcdef", false);
        let (got, asked) = play(true, &[first, whole]);
        assert_eq!(got.expect("opens").expect("whole"), b"abcdef");
        assert_eq!(asked[1], "Range: bytes=3-");
        let (got, _) = play(false, &[first, whole]);
        assert!(got.expect("opens").is_err(), "nothing says that it is the same file");
    }

    #[test]
    fn another_part_than_was_asked_for_is_not_taken() {
        let first: Script = (200, &[("content-length", "6")], b"abc", true);
        let wrong: Script = (206, &[("content-range", "bytes 0-5/6")], b"abcdef", false);
        let whole: Script = (200, &[("content-length", "6")], b"abcdef", false);
        let (got, asked) = play(true, &[first, wrong, whole]);
        assert_eq!(got.expect("opens").expect("whole"), b"abcdef");
        assert_eq!(asked[2], "", "a server that knows no parts is asked for the whole");
        let other: Script = (200, &[("content-length", "7")], b"abcdefg", false);
        assert!(play(true, &[first, other]).0.expect("opens").is_err());
    }

    #[test]
    fn what_is_here_is_not_asked_for_again() {
        const PART: &[(&str, &str)] = &[("content-range", "bytes 3-5/6"), ("content-length", "3")];
        const WHOLE: &[(&str, &str)] = &[("content-length", "6")];
        let got = |script: &[Script]| {
            let (result, asked) = play_from(3, true, script);
            (result.expect("opens").expect("whole"), asked)
        };
        let rest: Script = (206, PART, b"def", false);
        assert_eq!(got(&[rest]), (b"def".to_vec(), vec!["Range: bytes=3-".to_owned()]));
        let cut: Script = (206, PART, b"d", false);
        let last: Script = (206, &[("content-range", "bytes 4-5/6")], b"ef", false);
        let (bytes, asked) = got(&[cut, last]);
        assert_eq!((bytes.as_slice(), asked[1].as_str()), (&b"def"[..], "Range: bytes=4-"));
        let whole: Script = (200, WHOLE, b"abcdef", false);
        assert_eq!(got(&[whole]).0, b"abcdef", "a server that knows no parts");
        let wrong: Script =
            (206, &[("content-range", "bytes 0-5/6"), ("content-length", "6")], b"abcdef", false);
        for odd in [wrong, (416, &[], b"", false)] {
            let (bytes, asked) = got(&[odd, whole]);
            assert_eq!((bytes.as_slice(), asked[1].as_str()), (&b"abcdef"[..], ""));
        }
    }

    #[test]
    fn what_lasts_is_given_up() {
        let busy: Script = (500, &[], b"", false);
        let (got, asked) = play(true, &[busy, busy, busy, busy]);
        assert_eq!(got.expect("answered").expect_err("refused").to_string(), "500");
        assert_eq!(asked.len(), 3);
        let (got, asked) = play(true, &[(404, &[], b"", false), busy]);
        assert_eq!(got.expect("answered").expect_err("refused").to_string(), "404");
        assert_eq!(asked.len(), 1, "not found is an answer");
        let first: Script = (200, &[("content-length", "6")], b"abc", true);
        let (got, asked) = play(true, &[first, busy, busy, busy]);
        assert!(got.expect("opens").is_err());
        assert_eq!(asked.len(), 3);
        assert!(play(true, &[]).0.is_err());
    }
}
