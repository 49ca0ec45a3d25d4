//! How a replica proves to its master, on each request, that it knows the secret.
//!
//! The master gives out nonces; the replica answers with a code over its uuid, the method, the path and a nonce. A nonce
//! carries the time by the master's own monotonic clock, so no wall clock counts, and a code by a key of the running
//! process, so a restart ends all nonces and none has to be stored. Within its two minutes a nonce serves for several
//! requests: what is proven is who asks, and each request is bound to its own method and path.

use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Key, Purpose, Secret, random};
use crate::error::Result;

/// The word before the proof in an `Authorization` header.
pub const SCHEME: &str = "Twinpi";

/// How long a nonce is good: longer than a long poll lasts, so that the answer's nonce serves for the next request.
const NONCE_LIFE: Duration = Duration::from_secs(120);

const STAMP_BYTES: usize = 8;
const SALT_BYTES: usize = 16;

/// The identity of a replica: 32 hexadecimal digits in lower case, as devpi makes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaUuid(String);

impl ReplicaUuid {
    /// Reads a uuid; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_uuid = text.len() == 32
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        is_uuid.then(|| Self(text.to_owned()))
    }
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a replica is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// There is no proof.
    Missing,
    /// The nonce is too old, or from before a restart: it is to be tried again with a new one.
    Expired,
    /// The header is no proof.
    Malformed,
    /// The secret is another, or the proof was made for another request.
    Wrong,
}

/// The replica's side: makes proofs.
#[derive(Clone, Debug)]
pub struct ReplicaAuth {
    key: Key,
}

impl ReplicaAuth {
    /// With the key that comes from the secret.
    pub fn new(secret: &Secret) -> Self {
        Self { key: secret.key(Purpose::ReplicaAuth) }
    }

    /// The value of the `Authorization` header for a request. `path` is what stands in the request line, with the
    /// query.
    pub fn sign(&self, uuid: &ReplicaUuid, method: &str, path: &str, nonce: &str) -> String {
        let code = self.key.mac(&proven(uuid.as_str(), method, path, nonce));
        format!("{SCHEME} {uuid}:{nonce}:{}", URL_SAFE_NO_PAD.encode(code))
    }
}

/// The master's side: gives out nonces and checks proofs.
#[derive(Debug)]
pub struct Nonces {
    process: Key,
    replicas: Key,
    start: Instant,
}

impl Nonces {
    /// With the key that comes from the secret, and one of this process.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn new(secret: &Secret) -> Result<Self> {
        let replicas = secret.key(Purpose::ReplicaAuth);
        Ok(Self { process: Key::random()?, replicas, start: Instant::now() })
    }

    /// A new nonce: ASCII letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn issue(&self) -> Result<String> {
        self.issue_at(self.start.elapsed())
    }

    /// The replica that made the `Authorization` header for this request.
    ///
    /// # Errors
    /// Says why there is none.
    pub fn verify(
        &self,
        header: Option<&str>,
        method: &str,
        path: &str,
    ) -> std::result::Result<ReplicaUuid, AuthFailure> {
        self.verify_at(self.start.elapsed(), header, method, path)
    }

    fn issue_at(&self, now: Duration) -> Result<String> {
        let stamp = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).to_be_bytes();
        let salt = random::<SALT_BYTES>()?;
        let code = self.process.mac(&[&stamp, &salt]);
        Ok(URL_SAFE_NO_PAD.encode([stamp.as_slice(), &salt, &code].concat()))
    }

    fn verify_at(
        &self,
        now: Duration,
        header: Option<&str>,
        method: &str,
        path: &str,
    ) -> std::result::Result<ReplicaUuid, AuthFailure> {
        let proof = header.and_then(|h| h.strip_prefix(SCHEME)?.strip_prefix(' '));
        let mut parts = proof.ok_or(AuthFailure::Missing)?.split(':');
        let (Some(uuid), Some(nonce), Some(code), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthFailure::Malformed);
        };
        let uuid = ReplicaUuid::parse(uuid).ok_or(AuthFailure::Malformed)?;
        let code = URL_SAFE_NO_PAD.decode(code).map_err(|_| AuthFailure::Malformed)?;
        if !self.replicas.is_mac(&proven(uuid.as_str(), method, path, nonce), &code) {
            return Err(AuthFailure::Wrong);
        }
        if self.is_current(nonce, now) { Ok(uuid) } else { Err(AuthFailure::Expired) }
    }

    fn is_current(&self, nonce: &str, now: Duration) -> bool {
        let Ok(nonce) = URL_SAFE_NO_PAD.decode(nonce) else { return false };
        let Some((stamp, rest)) = nonce.split_first_chunk::<STAMP_BYTES>() else { return false };
        let Some((salt, code)) = rest.split_first_chunk::<SALT_BYTES>() else { return false };
        let issued = Duration::from_millis(u64::from_be_bytes(*stamp));
        self.process.is_mac(&[stamp, salt], code) && now.saturating_sub(issued) < NONCE_LIFE
    }
}

fn proven<'a>(uuid: &'a str, method: &'a str, path: &'a str, nonce: &'a str) -> [&'a [u8]; 4] {
    [uuid.as_bytes(), method.as_bytes(), path.as_bytes(), nonce.as_bytes()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/+changelog/7-?initial_fetch";

    fn secret(seed: &[u8]) -> Secret {
        Secret::new(&seed.repeat(4)).expect("good")
    }

    fn uuid() -> ReplicaUuid {
        ReplicaUuid::parse("00112233445566778899aabbccddeeff").expect("a uuid")
    }

    #[test]
    fn a_proof_is_good_for_its_request_while_the_nonce_lives() {
        let master = Nonces::new(&secret(b"0123456789")).expect("random");
        let replica = ReplicaAuth::new(&secret(b"0123456789"));
        let nonce = master.issue_at(Duration::from_secs(50)).expect("random");
        let header = replica.sign(&uuid(), "GET", PATH, &nonce);
        let verify = |secs, method, path| {
            master.verify_at(Duration::from_secs(secs), Some(&header), method, path)
        };
        assert_eq!(verify(50, "GET", PATH), Ok(uuid()));
        assert_eq!(verify(169, "GET", PATH), Ok(uuid()));
        assert_eq!(verify(170, "GET", PATH), Err(AuthFailure::Expired));
        assert_eq!(verify(50, "PUT", PATH), Err(AuthFailure::Wrong));
        assert_eq!(verify(50, "GET", "/+changelog/8-"), Err(AuthFailure::Wrong));
    }

    #[test]
    fn another_secret_is_wrong_and_another_process_asks_anew() {
        let master = Nonces::new(&secret(b"0123456789")).expect("random");
        let nonce = master.issue().expect("random");
        let stranger = ReplicaAuth::new(&secret(b"9876543210")).sign(&uuid(), "GET", PATH, &nonce);
        assert_eq!(master.verify(Some(&stranger), "GET", PATH), Err(AuthFailure::Wrong));
        let restarted = Nonces::new(&secret(b"0123456789")).expect("random");
        let header = ReplicaAuth::new(&secret(b"0123456789")).sign(&uuid(), "GET", PATH, &nonce);
        assert_eq!(master.verify(Some(&header), "GET", PATH), Ok(uuid()));
        assert_eq!(restarted.verify(Some(&header), "GET", PATH), Err(AuthFailure::Expired));
        let made_up = ReplicaAuth::new(&secret(b"0123456789")).sign(&uuid(), "GET", PATH, "AAAA");
        assert_eq!(master.verify(Some(&made_up), "GET", PATH), Err(AuthFailure::Expired));
    }

    #[test]
    fn other_headers_are_told_apart() {
        let master = Nonces::new(&secret(b"0123456789")).expect("random");
        for (header, failure) in [
            (None, AuthFailure::Missing),
            (Some("Bearer x"), AuthFailure::Missing),
            (Some("Twinpix"), AuthFailure::Missing),
            (Some("Twinpi "), AuthFailure::Malformed),
            (Some("Twinpi a:b:c"), AuthFailure::Malformed),
            (Some("Twinpi 00112233445566778899aabbccddeeff:b:c:d"), AuthFailure::Malformed),
            (Some("Twinpi 00112233445566778899aabbccddeeff:b:c!"), AuthFailure::Malformed),
        ] {
            assert_eq!(master.verify(header, "GET", PATH), Err(failure), "{header:?}");
        }
        assert!(ReplicaUuid::parse("00112233445566778899AABBCCDDEEFF").is_none());
        assert!(ReplicaUuid::parse("0011").is_none());
    }
}
