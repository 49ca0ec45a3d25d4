//! Receipts as nodes speak of them: the keys of requests, and what a replica remembers of those that it relayed.

use std::collections::VecDeque;
use std::io::Read as _;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::digest::{Digest, hex};
use crate::error::{Error, Result};
use crate::http::client::Timeouts;
use crate::http::request::Headers;
use crate::serial::Serial;
use crate::sync::{Mutex, lock};

use super::link::{self, CONNECT, Link};
use super::wire;

/// How long a key may be.
const KEY_CHARS_MAX: usize = 128;
/// How short a key may be: whoever guesses one learns what became of a request.
const KEY_CHARS_MIN: usize = 16;
/// Of so many relayed requests a replica remembers what became of them.
const REMEMBERED_MAX: usize = 4096;
/// How long the master may take to tell of a receipt.
const RECEIPT_WAIT: Duration = Duration::from_secs(5);
/// The longest receipt that is read.
const RECEIPT_BYTES_MAX: u64 = 64 << 10;

/// What makes a request one that is carried out once, however often it is sent. Whoever holds it may ask what became of
/// the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Reads one.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is too short or too long or has characters that mean something in an address.
    pub fn parse(text: &str) -> Result<Self> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
        match (KEY_CHARS_MIN..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(Error::invalid(format!(
                "a receipt key ({}) has {KEY_CHARS_MIN} to {KEY_CHARS_MAX} letters, digits and any of -._~",
                wire::RECEIPT
            ))),
        }
    }
    /// The one that a request carries.
    ///
    /// # Errors
    /// `Kind::Invalid` if it is none, or there are several.
    pub fn of(headers: &Headers) -> Result<Option<Self>> {
        let mut given =
            headers.0.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wire::RECEIPT));
        match (given.next(), given.next()) {
            (None, _) => Ok(None),
            (Some((_, text)), None) => Self::parse(text.trim()).map(Some),
            (Some(_), Some(_)) => Err(Error::invalid("a request has one receipt key")),
        }
    }
    /// One that nobody guesses.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn random() -> Result<Self> {
        let mut bytes = [0_u8; 16];
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::internal(format!("the system gives no random bytes: {e}")))?;
        Ok(Self(hex(&bytes)))
    }
    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// What it is kept under.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// What became of a request, as far as somebody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is being carried out, or on its way.
    UnderWay,
    /// It was carried out.
    Committed {
        /// The serial of the change.
        serial: Option<Serial>,
        /// The status of the answer; `None` if that was lost.
        status: Option<u16>,
    },
    /// Nothing is known of it, or nothing any more.
    Unknown,
}

impl Fate {
    /// As `/+receipt/KEY` shows it on a node that has come to `here`.
    pub fn to_json(self, here: Option<Serial>) -> Json {
        let (state, serial, status) = match self {
            Self::UnderWay => ("under-way", None, None),
            Self::Unknown => ("unknown", None, None),
            Self::Committed { serial, status } => ("committed", serial, status),
        };
        let is_visible = match self {
            Self::Committed { serial, .. } => Json::Bool(serial <= here),
            _ => Json::Null,
        };
        let serial = serial.map_or(Json::Null, |serial| Serial::wire(Some(serial)).into());
        json!({"state": state, "serial": serial, "status": status, "visible_here": is_visible})
    }
    /// Reads what `to_json` made.
    fn of_json(shown: &Json) -> Option<Self> {
        match shown.get("state")?.as_str()? {
            "under-way" => Some(Self::UnderWay),
            "unknown" => Some(Self::Unknown),
            "committed" => Some(Self::Committed {
                serial: shown.get("serial").and_then(Json::as_u64).and_then(Serial::new),
                status: shown
                    .get("status")
                    .and_then(Json::as_u64)
                    .and_then(|status| u16::try_from(status).ok())
                    .filter(|status| (200..600).contains(status)),
            }),
            _ => None,
        }
    }
}

/// Asks the master what became of a request; `None` if it does not tell, since it is away or keeps no receipts.
pub(super) fn ask(link: &Link, key: &Key) -> Option<Fate> {
    let timeouts =
        Timeouts { connect: CONNECT, response_head: RECEIPT_WAIT, per_read: RECEIPT_WAIT };
    let target = format!("{}{}", wire::RECEIPTS, key.as_str());
    let answer = link.get(&target, &[("Accept", "application/json")], timeouts).ok()?;
    if answer.status != 200 || !answer.headers.has(wire::TWINPI_VERSION) {
        link::drain(answer);
        return None;
    }
    let mut bytes = Vec::new();
    answer.body.take(RECEIPT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Fate::of_json(&serde_json::from_slice(&bytes).ok()?)
}

/// What a replica remembers of the requests that it relayed, for while its master is away.
#[derive(Default)]
pub(super) struct Memory(Mutex<VecDeque<(Digest, Fate)>>);

impl Memory {
    /// Notes what became of a request. What is known to be committed stays so.
    pub fn note(&self, key: &Key, fate: Fate) {
        let (key, mut held) = (key.digest(), lock(&self.0));
        match held.iter_mut().rev().find(|(of, _)| *of == key) {
            Some((_, Fate::Committed { .. })) if !matches!(fate, Fate::Committed { .. }) => {}
            Some((_, known)) => *known = fate,
            None => {
                if REMEMBERED_MAX <= held.len() {
                    held.pop_front();
                }
                held.push_back((key, fate));
            }
        }
    }
    /// What became of a request.
    pub fn find(&self, key: &Key) -> Fate {
        let key = key.digest();
        let held = lock(&self.0);
        held.iter().rev().find(|(of, _)| *of == key).map_or(Fate::Unknown, |(_, fate)| *fate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_and_plain() {
        for good in ["0123456789abcdef", "A-b.c_d~0123456789"] {
            assert_eq!(Key::parse(good).expect("good").as_str(), good);
        }
        let long = "x".repeat(KEY_CHARS_MAX + 1);
        for bad in ["", "0123456789abcde", "0123456789abcdef/", "0123456789 abcdef", long.as_str()]
        {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
        let (one, two) = (Key::random().expect("random"), Key::random().expect("random"));
        assert_ne!(one, two);
        assert_eq!(Key::parse(one.as_str()).expect("good"), one);
    }

    #[test]
    fn a_request_has_one_key_or_none() {
        let mut headers = Headers::default();
        assert_eq!(Key::of(&headers).expect("none"), None);
        headers.push("x-twinpi-receipt", " 0123456789abcdef ");
        assert!(Key::of(&headers).expect("one").is_some());
        headers.push(wire::RECEIPT, "0123456789abcdef");
        assert!(Key::of(&headers).is_err());
    }

    #[test]
    fn a_fate_is_read_as_it_is_shown() {
        let serial = Serial::new(7);
        let committed = Fate::Committed { serial, status: Some(201) };
        for fate in [Fate::UnderWay, Fate::Unknown, committed] {
            assert_eq!(Fate::of_json(&fate.to_json(serial)), Some(fate));
        }
        assert_eq!(committed.to_json(serial)["visible_here"], true);
        assert_eq!(committed.to_json(Serial::new(6))["visible_here"], false);
        assert_eq!(Fate::Unknown.to_json(serial)["visible_here"], Json::Null);
        assert_eq!(Fate::of_json(&json!({"state": "?"})), None);
    }

    #[test]
    fn a_replica_remembers_a_bounded_number_and_takes_nothing_back() {
        let memory = Memory::default();
        let key = |n: usize| Key::parse(&format!("{n:016}")).expect("good");
        let committed = Fate::Committed { serial: Serial::new(3), status: Some(200) };
        memory.note(&key(0), Fate::UnderWay);
        memory.note(&key(0), committed);
        memory.note(&key(0), Fate::Unknown);
        assert_eq!(memory.find(&key(0)), committed);
        for n in 1..=REMEMBERED_MAX {
            memory.note(&key(n), Fate::UnderWay);
        }
        assert_eq!(memory.find(&key(0)), Fate::Unknown);
        assert_eq!(memory.find(&key(1)), Fate::UnderWay);
    }
}
