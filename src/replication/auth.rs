//! Who is a replica: the token of each request, made at one end and checked at the other.
//!
//! Between nodes of ours it is a proof over the request and a nonce of the master, so that no wall clock decides. A
//! Python replica sends devpi's token, whose key takes seconds and half a gibibyte to derive; that is done once, in
//! the background, and the replica is asked to come again meanwhile.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::request::{Headers, Request};
use crate::http::response::Response;
use crate::secret::{
    AuthFailure, DevpiKeys, Nonces, ReplicaAuth, ReplicaUuid, SCHEME, Salt, Secret, TokenFault,
    read_replica_token, replica_token,
};
use crate::sync::{Mutex, lock};

use super::wire;

/// The seconds after which a Python replica may come again while its key is derived; it does so by itself after 5.
const RETRY_SECS: &str = "5";

/// How old devpi's token may be, in seconds.
const DEVPI_AGE_MAX: u64 = 37;

/// How much older than it is a token is made, in seconds: devpi refuses those of a clock that is ahead of its own.
const DEVPI_CLOCK_MARGIN: u64 = 2;

/// The bytes of its signature.
const SIGNATURE_BYTES: usize = 20;

/// The master's side.
pub struct Gate {
    nonces: Nonces,
    devpi: DevpiKeys,
}

impl Gate {
    /// Lets in who knows the secret.
    ///
    /// # Errors
    /// `Kind::Internal` if the system gives no random bytes.
    pub fn new(secret: &Secret, devpi: DevpiKeys) -> Result<Self> {
        Ok(Self { nonces: Nonces::new(secret)?, devpi })
    }

    /// What the next proof is to be made with; none if the system gives no random bytes, which a later answer mends.
    pub fn nonce(&self) -> Option<String> {
        self.nonces.issue().inspect_err(|e| log::error!("no nonce for a replica: {e}")).ok()
    }

    /// The uuid of the replica that sends a request; none if it does not say to be one.
    pub fn check(&self, request: &Request) -> std::result::Result<Option<String>, Response> {
        let Some(uuid) = request.headers.get(wire::REPLICA_UUID) else { return Ok(None) };
        let given = request.headers.get("authorization");
        let is_ours = request.headers.has(wire::TWINPI_VERSION)
            || given.is_some_and(|v| v.starts_with(SCHEME));
        match given.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) => self.check_devpi(token, uuid)?,
            None if is_ours => self.check_ours(request, given, uuid)?,
            None => return Ok(None),
        }
        Ok(Some(uuid.to_owned()))
    }

    fn check_ours(
        &self,
        request: &Request,
        given: Option<&str>,
        uuid: &str,
    ) -> std::result::Result<(), Response> {
        match self.nonces.verify(given, request.method.as_str(), &request.target) {
            Ok(proven) if proven.as_str() == uuid => Ok(()),
            Ok(_) => Err(refusal("Wrong authorization value.")),
            Err(AuthFailure::Missing | AuthFailure::Expired) => {
                let mut ask = wire::failure(401, "a proof with a fresh nonce is needed")
                    .with_header("WWW-Authenticate", SCHEME);
                ask.headers.extend(self.nonce().map(|nonce| (wire::NONCE.into(), nonce.into())));
                Err(ask)
            }
            Err(AuthFailure::Malformed) => Err(refusal("Authorization malformed.")),
            Err(AuthFailure::Wrong) => Err(refusal(
                "the proof does not fit the request: replica and master have different secrets, or a proxy between \
                 them changes the path",
            )),
        }
    }

    fn check_devpi(&self, token: &str, uuid: &str) -> std::result::Result<(), Response> {
        let now = now();
        // Only what can be a token has the key derived: it costs too much to be had for anyone's asking.
        screen(token, uuid, now).map_err(fault)?;
        let key = self.devpi.get(Salt::Replica).ok_or_else(|| {
            wire::failure(503, "the key for devpi's tokens is being derived, come again soon")
                .with_header("Retry-After", RETRY_SECS)
        })?;
        read_replica_token(&key, token, uuid, now).map_err(fault)?;
        self.devpi.note_follower();
        Ok(())
    }
}

/// The seconds of the Unix clock.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn fault(fault: TokenFault) -> Response {
    refusal(match fault {
        TokenFault::Expired => "Authorization expired.",
        TokenFault::Malformed => "Authorization malformed.",
        TokenFault::Wrong => "Wrong authorization value.",
    })
}

fn refusal(message: &str) -> Response {
    wire::failure(403, message)
}

/// Refuses what cannot be a token that this replica made just now, whatever the key.
fn screen(token: &str, uuid: &str, now: u64) -> std::result::Result<(), TokenFault> {
    let mut parts = token.rsplitn(3, '.');
    let mut decoded = || {
        URL_SAFE_NO_PAD.decode(parts.next().unwrap_or_default()).map_err(|_| TokenFault::Malformed)
    };
    let (signature, stamp) = (decoded()?, decoded()?);
    if signature.len() != SIGNATURE_BYTES || !(1..=8).contains(&stamp.len()) {
        return Err(TokenFault::Malformed);
    }
    let stamp = stamp.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    if now.checked_sub(stamp).is_none_or(|age| DEVPI_AGE_MAX < age) {
        return Err(TokenFault::Expired);
    }
    let is_for_it =
        ReplicaUuid::parse(uuid).is_some() && parts.next() == Some(&format!("\"{uuid}\""));
    if is_for_it { Ok(()) } else { Err(TokenFault::Wrong) }
}

/// How a master wants to be shown who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// By a proof over the request and a nonce of the master.
    Ours,
    /// By devpi's token, which is good for any request for half a minute.
    Devpi,
}

/// The replica's side: makes proofs with the last nonce that the master gave, or devpi's tokens.
pub struct Signer {
    auth: ReplicaAuth,
    uuid: ReplicaUuid,
    nonce: Mutex<Option<String>>,
    devpi: DevpiKeys,
}

impl Signer {
    /// Signs as the replica `uuid`.
    pub fn new(secret: &Secret, uuid: ReplicaUuid, devpi: DevpiKeys) -> Self {
        Self { auth: ReplicaAuth::new(secret), uuid, nonce: Mutex::new(None), devpi }
    }

    /// The replica's uuid.
    pub fn uuid(&self) -> &str {
        self.uuid.as_str()
    }

    /// The `Authorization` header for a request; none in our manner before the first nonce.
    ///
    /// # Errors
    /// `Kind::Unavailable` while the key for devpi's tokens is being derived, which `wait_for_key` waits for.
    pub fn authorize(
        &self,
        manner: Manner,
        method: &str,
        target: &str,
    ) -> Result<Option<(String, String)>> {
        let value = match manner {
            Manner::Ours => {
                let Some(nonce) = lock(&self.nonce).clone() else { return Ok(None) };
                self.auth.sign(&self.uuid, method, target, &nonce)
            }
            Manner::Devpi => {
                let key = self.devpi.get(Salt::Replica).ok_or_else(|| {
                    Error::unavailable(
                        "the key for devpi's tokens is being derived from the secret",
                    )
                })?;
                let stamp = now().saturating_sub(DEVPI_CLOCK_MARGIN);
                format!("Bearer {}", replica_token(&key, self.uuid.as_str(), stamp))
            }
        };
        Ok(Some(("Authorization".to_owned(), value)))
    }

    /// Whether the key for devpi's tokens is not there.
    pub fn lacks_key(&self) -> bool {
        self.devpi.get(Salt::Replica).is_none()
    }

    /// Whether the key for devpi's tokens was asked for and is not settled yet.
    pub fn is_deriving(&self) -> bool {
        self.devpi.is_pending(Salt::Replica)
    }

    /// Waits for the key for devpi's tokens.
    ///
    /// # Errors
    /// `Kind::Unavailable` if it is not there by the deadline or cannot be made.
    pub fn wait_for_key(&self, deadline: Deadline) -> Result<()> {
        self.devpi.wait(Salt::Replica, deadline).map(drop)
    }

    /// Takes the nonce that an answer brings.
    pub fn learn(&self, headers: &Headers) {
        if let Some(nonce) = headers.get(wire::NONCE) {
            *lock(&self.nonce) = Some(nonce.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::http::request::Method;
    use crate::secret::{Argon2Cost, DevpiKey};

    const UUID: &str = "00112233445566778899aabbccddeeff";
    const CHEAP: Argon2Cost = Argon2Cost { memory_kib: 8, time: 1, parallelism: 1 };

    fn secret() -> Secret {
        Secret::new(b"test-vector-secret-0123456789-abcdefghijklmnop").expect("good")
    }

    fn gate() -> Gate {
        Gate::new(&secret(), DevpiKeys::new(&secret(), CHEAP, None)).expect("random bytes")
    }

    fn signer() -> Signer {
        let devpi = DevpiKeys::new(&secret(), CHEAP, None);
        Signer::new(&secret(), ReplicaUuid::parse(UUID).expect("a uuid"), devpi)
    }

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            method: Method::Get,
            target: "/+changelog/0-".into(),
            headers: Headers(headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()),
            peer: None,
            deadline: Deadline::after(Duration::from_secs(9)),
            body_length: None,
            body: Box::new(io::empty()),
        }
    }

    #[test]
    fn nobody_who_does_not_say_to_be_a_replica_is_one() {
        let gate = gate();
        let bearer = format!("Bearer \"{UUID}\".x.y");
        for headers in
            [&[][..], &[("Authorization", bearer.as_str())], &[(wire::REPLICA_UUID, UUID)]]
        {
            assert!(matches!(gate.check(&request(headers)), Ok(None)), "{headers:?}");
        }
        let basic = [(wire::REPLICA_UUID, UUID), ("Authorization", "Basic cm9vdDo=")];
        assert!(matches!(gate.check(&request(&basic)), Ok(None)));
    }

    #[test]
    fn a_node_without_a_nonce_gets_one_and_comes_in() {
        let gate = gate();
        let signer = signer();
        let authorize = || signer.authorize(Manner::Ours, "GET", "/+changelog/0-");
        assert_eq!(authorize().expect("no key is needed"), None);
        let ours = (wire::TWINPI_VERSION, "1");
        let asked =
            gate.check(&request(&[ours, (wire::REPLICA_UUID, UUID)])).expect_err("no proof");
        assert_eq!(asked.status, 401);
        let nonce = asked.header(wire::NONCE).expect("a nonce").to_owned();
        signer.learn(&Headers(vec![(wire::NONCE.to_lowercase(), nonce)]));
        let (name, proof) = authorize().expect("no key is needed").expect("a proof");
        let good = request(&[ours, (wire::REPLICA_UUID, UUID), (&name, &proof)]);
        assert_eq!(gate.check(&good).ok().flatten().as_deref(), Some(UUID));
        let mut moved = request(&[ours, (wire::REPLICA_UUID, UUID), (&name, &proof)]);
        moved.target = "/+changelog/1-".into();
        assert_eq!(gate.check(&moved).expect_err("another path").status, 403);
        let other =
            request(&[ours, (wire::REPLICA_UUID, &UUID.replace('0', "1")), (&name, &proof)]);
        assert_eq!(gate.check(&other).expect_err("another replica").status, 403);
        let restarted = self::gate();
        assert_eq!(restarted.check(&good).expect_err("an old nonce").status, 401);
    }

    #[test]
    fn a_python_replica_is_asked_to_wait_for_the_key_and_then_let_in() {
        let gate = gate();
        let key = DevpiKey::derive(&secret(), Salt::Replica, CHEAP).expect("cheap");
        let with = |token: &str| {
            let bearer = format!("Bearer {token}");
            gate.check(&request(&[(wire::REPLICA_UUID, UUID), ("Authorization", &bearer)]))
        };
        for bad in ["", "x", "a.b.c", &replica_token(&key, UUID, now() - 100)] {
            assert_eq!(with(bad).expect_err("bad").status, 403, "{bad}");
        }
        let good = replica_token(&key, UUID, now() - 1);
        let first = with(&good);
        assert!(
            first.is_ok()
                || first.is_err_and(|r| r.status == 503 && r.header("Retry-After").is_some())
        );
        gate.devpi.wait(Salt::Replica, Deadline::after(Duration::from_secs(60))).expect("derived");
        assert_eq!(with(&good).ok().flatten().as_deref(), Some(UUID));
        for (bad, says) in [
            (replica_token(&key, UUID, now() - 100), "Authorization expired."),
            (replica_token(&key, UUID, now() + 100), "Authorization expired."),
            (replica_token(&DevpiKey::new([1; 16]), UUID, now()), "Authorization malformed."),
            (replica_token(&key, &UUID.replace('0', "1"), now()), "Wrong authorization value."),
        ] {
            let refused = with(&bad).expect_err("bad");
            let crate::http::response::Body::Owned(body) = refused.body else { panic!("no body") };
            assert_eq!(refused.status, 403);
            assert!(String::from_utf8_lossy(&body).contains(says), "{says}");
        }
    }

    #[test]
    fn a_signer_makes_devpis_tokens_once_it_has_the_key() {
        let (signer, gate) = (signer(), gate());
        let soon = || Deadline::after(Duration::from_secs(60));
        signer.wait_for_key(soon()).expect("derived");
        gate.devpi.wait(Salt::Replica, soon()).expect("derived");
        let made = signer.authorize(Manner::Devpi, "GET", "/any").expect("the key is there");
        let (name, token) = made.expect("a token");
        let known = gate.check(&request(&[(wire::REPLICA_UUID, UUID), (&name, &token)]));
        assert_eq!(known.ok().flatten().as_deref(), Some(UUID));
        let key = DevpiKey::derive(&secret(), Salt::Replica, CHEAP).expect("cheap");
        let token = token.strip_prefix("Bearer ").expect("devpi's scheme");
        let ahead = now() - DEVPI_CLOCK_MARGIN;
        assert!(read_replica_token(&key, token, UUID, ahead).is_ok(), "their clock is behind");
    }

    #[test]
    fn a_signer_without_the_key_says_so() {
        let dear = Argon2Cost { memory_kib: 1, ..CHEAP };
        let uuid = ReplicaUuid::parse(UUID).expect("a uuid");
        let signer = Signer::new(&secret(), uuid, DevpiKeys::new(&secret(), dear, None));
        let error = signer.authorize(Manner::Devpi, "GET", "/any").expect_err("no key");
        assert!(error.message.contains("devpi's tokens"), "{error}");
        assert!(signer.wait_for_key(Deadline::after(Duration::from_secs(60))).is_err());
    }
}
