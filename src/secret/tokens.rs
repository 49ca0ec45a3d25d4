//! devpi's tokens, as itsdangerous signs them: JSON text, a time stamp and an HMAC-SHA1, joined by dots.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::DevpiKey;

/// How long a login token is good.
const LOGIN_SECS_MAX: u64 = 36_000;

/// How long a replica's token is good: devpi allows 37.6 s, and counts whole seconds.
const REPLICA_SECS_MAX: u64 = 37;

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// Signed rightly, but too long ago or in the future.
    Expired,
    /// No token, or not signed with this key.
    Malformed,
    /// A token, but for somebody else.
    Wrong,
}

/// What a login token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginClaim {
    /// The name of the user.
    pub user: String,
    /// Groups that a plugin gave at the login.
    pub groups: Vec<String>,
    /// Whether the password was checked against the user's own record, which then must still exist.
    pub from_user_object: bool,
}

/// The token by which a replica shows itself, made at `now` (Unix seconds).
pub fn replica_token(key: &DevpiKey, uuid: &str, now: u64) -> String {
    sign(key, &quoted(uuid), now)
}

/// Checks the token of the replica with this uuid.
///
/// # Errors
/// Says why it is not accepted.
pub fn read_replica_token(
    key: &DevpiKey,
    token: &str,
    uuid: &str,
    now: u64,
) -> Result<(), TokenFault> {
    let payload = verify(key, token, now, REPLICA_SECS_MAX)?;
    let known: String = serde_json::from_str(payload).map_err(|_| TokenFault::Malformed)?;
    if known.as_bytes().ct_eq(uuid.as_bytes()).into() { Ok(()) } else { Err(TokenFault::Wrong) }
}

/// The token that a login gives, made at `now` (Unix seconds).
pub fn login_token(key: &DevpiKey, claim: &LoginClaim, now: u64) -> String {
    let groups: Vec<_> = claim.groups.iter().map(|group| quoted(group)).collect();
    let payload =
        format!("[{}, [{}], {}]", quoted(&claim.user), groups.join(", "), claim.from_user_object);
    sign(key, &payload, now)
}

/// Reads the token of a login.
///
/// # Errors
/// Says why it is not accepted; `TokenFault::Wrong` if it says something else than a login.
pub fn read_login_token(key: &DevpiKey, token: &str, now: u64) -> Result<LoginClaim, TokenFault> {
    let payload = verify(key, token, now, LOGIN_SECS_MAX)?;
    let (user, groups, from_user_object) =
        serde_json::from_str(payload).map_err(|_| TokenFault::Wrong)?;
    Ok(LoginClaim { user, groups, from_user_object })
}

fn sign(key: &DevpiKey, payload: &str, now: u64) -> String {
    let stamp = now.to_be_bytes();
    let zeros = stamp.iter().take_while(|byte| **byte == 0).count();
    let value = format!("{payload}.{}", URL_SAFE_NO_PAD.encode(&stamp[zeros..]));
    let signature = signature(key, &value);
    format!("{value}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The payload of a token that is not older than `age_max`.
fn verify<'a>(
    key: &DevpiKey,
    token: &'a str,
    now: u64,
    age_max: u64,
) -> Result<&'a str, TokenFault> {
    let (value, given) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let given = URL_SAFE_NO_PAD.decode(given).map_err(|_| TokenFault::Malformed)?;
    if !bool::from(signature(key, value).ct_eq(&given)) {
        return Err(TokenFault::Malformed);
    }
    let (payload, stamp) = value.rsplit_once('.').ok_or(TokenFault::Malformed)?;
    let stamp = URL_SAFE_NO_PAD.decode(stamp).map_err(|_| TokenFault::Malformed)?;
    if stamp.len() > 8 {
        return Err(TokenFault::Malformed);
    }
    let stamp = stamp.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    match now.checked_sub(stamp) {
        Some(age) if age <= age_max => Ok(payload),
        _ => Err(TokenFault::Expired),
    }
}

fn signature(key: &DevpiKey, value: &str) -> [u8; 20] {
    let mac_key = Sha1::new()
        .chain_update(b"itsdangerous")
        .chain_update(b"signer")
        .chain_update(key.0)
        .finalize();
    let mut mac = Hmac::<Sha1>::new_from_slice(&mac_key).expect("HMAC takes keys of any length");
    mac.update(value.as_bytes());
    mac.finalize().into_bytes().into()
}

/// A text as Python's `json` writes it: ASCII only.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some(c @ ' '..='\u{7f}') => out.push(c),
            _ => write!(out, "\\u{unit:04x}").expect("a String takes all"),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_python_does() {
        assert_eq!(
            quoted("a\"\\\n\u{1}\u{7f}/\u{e9}\u{1f600}"),
            r#""a\"\\\n\u0001"#.to_owned() + "\u{7f}/" + r#"\u00e9\ud83d\ude00""#
        );
    }

    #[test]
    fn what_is_signed_but_is_something_else_is_wrong() {
        let key = DevpiKey([7; 16]);
        let replica = replica_token(&key, "0123", 100);
        assert_eq!(read_replica_token(&key, &replica, "0123", 137), Ok(()));
        assert_eq!(read_replica_token(&key, &replica, "0124", 100), Err(TokenFault::Wrong));
        assert_eq!(read_replica_token(&key, &replica, "0123", 138), Err(TokenFault::Expired));
        assert_eq!(read_replica_token(&key, &replica, "0123", 99), Err(TokenFault::Expired));
        assert_eq!(
            read_replica_token(&DevpiKey([8; 16]), &replica, "0123", 100),
            Err(TokenFault::Malformed)
        );
        assert_eq!(read_login_token(&key, &replica, 100), Err(TokenFault::Wrong));
        for bad in ["", ".", "..", "a.b.c", "\"0123\""] {
            assert_eq!(read_login_token(&key, bad, 100), Err(TokenFault::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_changed_character_breaks_the_signature() {
        let key = DevpiKey([7; 16]);
        let claim =
            LoginClaim { user: "a.b".into(), groups: vec!["g".into()], from_user_object: true };
        let token = login_token(&key, &claim, 1 << 33);
        assert_eq!(read_login_token(&key, &token, (1 << 33) + LOGIN_SECS_MAX), Ok(claim));
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] ^= 1;
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(
                read_login_token(&key, &changed, 1 << 33),
                Err(TokenFault::Malformed),
                "{place}"
            );
        }
    }
}
