//! Access tokens as text: what a CI job holds. Only their hash is stored.
//!
//! `twp_` and then, in base64url: six bytes that name the token, 32 random bytes, the owner's name, and four bytes that
//! tell a slip of the pen from a token. So a token says whose it is, whatever user name comes with it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{hex, random};
use crate::error::Result;

/// What access tokens begin with, for people and for scanners that look for secrets.
const PREFIX: &str = "twp_";

const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
const SUM_BYTES: usize = 4;

/// The longest text that is looked at; names of users are shorter.
const TEXT_BYTES_MAX: usize = 1024;

/// An access token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    id: [u8; ID_BYTES],
    secret: [u8; SECRET_BYTES],
    user: String,
}

impl AccessToken {
    /// A new token for a user.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn generate(user: &str) -> Result<Self> {
        Ok(Self { id: random()?, secret: random()?, user: user.to_owned() })
    }

    /// Whether a text means to be an access token, mistyped or not.
    pub fn is_meant(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// Reads a token; `None` if it is none, or a character of it is wrong.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(PREFIX).filter(|text| text.len() <= TEXT_BYTES_MAX)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (said, sum) = bytes.split_last_chunk::<SUM_BYTES>()?;
        if checksum(said) != *sum {
            return None;
        }
        let (id, rest) = said.split_first_chunk::<ID_BYTES>()?;
        let (secret, user) = rest.split_first_chunk::<SECRET_BYTES>()?;
        let user = std::str::from_utf8(user).ok()?.to_owned();
        Some(Self { id: *id, secret: *secret, user })
    }

    /// The text, which is shown once.
    pub fn text(&self) -> String {
        let mut bytes = [&self.id[..], &self.secret, self.user.as_bytes()].concat();
        bytes.extend(checksum(&bytes));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Its public name among the tokens of its owner.
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The owner.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What is stored of it. The secret is as random as a hash, so one plain round is enough.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.secret))
    }

    /// Whether this was stored of it, in constant time.
    pub fn has_hash(&self, stored: &str) -> bool {
        self.hash().as_bytes().ct_eq(stored.as_bytes()).into()
    }
}

fn checksum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(bytes).finalize();
    *digest.first_chunk().expect("SHA-256 has more than four bytes")
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessToken({} of {}, ***)", self.id(), self.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        let token = AccessToken::generate("r\u{e9}mi").expect("random");
        let text = token.text();
        assert_eq!(AccessToken::parse(&text), Some(token.clone()));
        assert!(text.is_ascii() && AccessToken::is_meant(&text));
        assert!(token.has_hash(&token.hash()) && !token.has_hash(""));
        let other = AccessToken::generate("r\u{e9}mi").expect("random");
        assert!(!token.has_hash(&other.hash()) && token.id() != other.id());
    }

    #[test]
    fn a_slip_of_the_pen_is_told() {
        let text = AccessToken::generate("ann").expect("random").text();
        for place in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] = if bytes[place] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(AccessToken::parse(&changed), None, "{place}");
            assert_eq!(AccessToken::parse(&text[..place]), None, "{place}");
        }
        assert_eq!(AccessToken::parse(&format!("{text}A")), None);
    }

    #[test]
    fn nothing_shows_the_secret() {
        let token = AccessToken::generate("ann").expect("random");
        let shown = format!("{token:?}");
        assert_eq!(shown, format!("AccessToken({} of ann, ***)", token.id()));
        assert!(!token.text().contains(&token.hash()));
    }
}
