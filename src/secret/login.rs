//! Login tokens: our own, and devpi's. Any node with the same secret accepts both; nothing is stored.
//!
//! devpi's are accepted everywhere, since a devpi-server that is or was the master gives them out. They are given out
//! only where a devpi-server follows, which knows no others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::tokens::quoted;
use super::{
    DevpiKeys, Key, LoginClaim, Purpose, Salt, Secret, TokenFault, login_token, read_login_token,
};
use crate::deadline::Deadline;
use crate::error::Result;

/// How long a token is good: 10 hours, what devpi clients are told.
pub const LOGIN_SECS: u64 = 36_000;

/// What our tokens begin with. Clients of devpi treat `devpi-` and `pypi-` in a way of their own.
const PREFIX: &str = "twl1";

/// What a password that may be a token turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginCheck {
    /// The user's token, good until then (Unix seconds).
    Valid {
        /// When it ends.
        expires: u64,
    },
    /// The user's token, but too old.
    Expired,
    /// A token that is not the user's, or not of this secret.
    Wrong,
    /// Nothing that looks like a token: it may be a password.
    NoToken,
    /// It looks like devpi's token, the key for which is not there yet; `LoginTokens::wait` waits for it.
    Later,
}

/// Issues and checks login tokens.
#[derive(Clone, Debug)]
pub struct LoginTokens {
    key: Key,
    devpi: DevpiKeys,
}

impl LoginTokens {
    /// With the keys that come from the secret.
    pub fn new(secret: &Secret, devpi: DevpiKeys) -> Self {
        Self { key: secret.key(Purpose::LoginToken), devpi }
    }

    /// A token for the user from `now` on (Unix seconds).
    pub fn issue(&self, user: &str, now: u64) -> String {
        if let Some(key) = self.devpi.login_if_followed() {
            let claim =
                LoginClaim { user: user.to_owned(), groups: Vec::new(), from_user_object: true };
            return login_token(&key, &claim, now);
        }
        let expires = now.saturating_add(LOGIN_SECS);
        let code = self.key.mac(&[user.as_bytes(), &expires.to_be_bytes()]);
        let [user, expires, code] = [user.as_bytes(), &expires.to_be_bytes(), &code]
            .map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("{PREFIX}.{user}.{expires}.{code}")
    }

    /// Checks what came as the user's password at `now` (Unix seconds).
    pub fn verify(&self, token: &str, user: &str, now: u64) -> LoginCheck {
        let mut parts = token.split('.');
        if parts.next() != Some(PREFIX) {
            return self.verify_devpi(token, user, now);
        }
        let mut decoded = parts.map(|part| URL_SAFE_NO_PAD.decode(part).ok());
        let (Some(Some(name)), Some(Some(expires)), Some(Some(code)), None) =
            (decoded.next(), decoded.next(), decoded.next(), decoded.next())
        else {
            return LoginCheck::NoToken;
        };
        if name != user.as_bytes() || !self.key.is_mac(&[&name, &expires], &code) {
            return LoginCheck::Wrong;
        }
        match <[u8; 8]>::try_from(expires).map(u64::from_be_bytes) {
            Ok(expires) if now < expires => LoginCheck::Valid { expires },
            _ => LoginCheck::Expired,
        }
    }

    /// The same for a token of devpi's. Only what looks like one for this user has the key derived.
    fn verify_devpi(&self, token: &str, user: &str, now: u64) -> LoginCheck {
        if !token.starts_with(&format!("[{}, [", quoted(user))) || token.split('.').count() < 3 {
            return LoginCheck::NoToken;
        }
        let Some(key) = self.devpi.get(Salt::Login) else { return LoginCheck::Later };
        match read_login_token(&key, token, now) {
            Ok(claim) if claim.user == user && claim.from_user_object => {
                LoginCheck::Valid { expires: now.saturating_add(LOGIN_SECS) }
            }
            Ok(_) | Err(TokenFault::Wrong) => LoginCheck::Wrong,
            Err(TokenFault::Expired) => LoginCheck::Expired,
            Err(TokenFault::Malformed) => LoginCheck::NoToken,
        }
    }

    /// Waits until devpi's tokens can be checked.
    ///
    /// # Errors
    /// `Kind::Unavailable` if the key for them is not there by the deadline, or cannot be made.
    pub fn wait(&self, deadline: Deadline) -> Result<()> {
        self.devpi.wait(Salt::Login, deadline).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::secret::Argon2Cost;

    fn tokens(seed: &[u8]) -> LoginTokens {
        let secret = Secret::new(&seed.repeat(4)).expect("good");
        let cost = Argon2Cost { memory_kib: 8, time: 1, parallelism: 1 };
        LoginTokens::new(&secret, DevpiKeys::new(&secret, cost, None))
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    #[test]
    fn devpis_tokens_are_accepted_and_given_out_only_where_a_devpi_follows() {
        let tokens = tokens(b"0123456789");
        assert!(tokens.issue("ann", 1000).starts_with(PREFIX));
        tokens.devpi.note_follower();
        tokens.wait(soon()).expect("derived");
        let token = tokens.issue("ann", 1000);
        assert!(token.starts_with("[\"ann\", [], true]."), "{token}");
        let fresh = self::tokens(b"0123456789");
        assert_eq!(fresh.verify(&token, "ann", 1000), LoginCheck::Later);
        fresh.wait(soon()).expect("derived");
        assert!(matches!(fresh.verify(&token, "ann", 1000), LoginCheck::Valid { .. }));
        assert_eq!(fresh.verify(&token, "bob", 1000), LoginCheck::NoToken);
        assert_eq!(fresh.verify(&token, "ann", 1001 + LOGIN_SECS), LoginCheck::Expired);
        assert_eq!(fresh.verify(&token.replace("true", "null"), "ann", 1000), LoginCheck::NoToken);
        let key = fresh.devpi.get(Salt::Login).expect("derived");
        let from_plugin =
            LoginClaim { user: "ann".into(), groups: Vec::new(), from_user_object: false };
        let token = login_token(&key, &from_plugin, 1000);
        assert_eq!(fresh.verify(&token, "ann", 1000), LoginCheck::Wrong);
    }

    #[test]
    fn a_token_is_good_for_its_user_and_ten_hours_on_each_node() {
        let token = tokens(b"0123456789").issue("ann", 1000);
        let other_node = tokens(b"0123456789");
        let expires = 1000 + LOGIN_SECS;
        assert_eq!(other_node.verify(&token, "ann", 1000), LoginCheck::Valid { expires });
        assert_eq!(other_node.verify(&token, "ann", expires - 1), LoginCheck::Valid { expires });
        assert_eq!(other_node.verify(&token, "ann", expires), LoginCheck::Expired);
        assert_eq!(other_node.verify(&token, "bob", 1000), LoginCheck::Wrong);
        assert_eq!(tokens(b"9876543210").verify(&token, "ann", 1000), LoginCheck::Wrong);
        assert!(token.is_ascii() && !token.starts_with("devpi-") && !token.starts_with("pypi-"));
    }

    #[test]
    fn a_changed_token_is_never_valid() {
        let tokens = tokens(b"0123456789");
        let token = tokens.issue("r\u{e9}mi", 1000);
        assert!(matches!(tokens.verify(&token, "r\u{e9}mi", 1000), LoginCheck::Valid { .. }));
        for place in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[place] ^= 1;
            let changed = String::from_utf8(bytes).expect("ASCII");
            let check = tokens.verify(&changed, "r\u{e9}mi", 1000);
            assert!(matches!(check, LoginCheck::Wrong | LoginCheck::NoToken), "{place}: {check:?}");
        }
    }

    #[test]
    fn passwords_are_no_tokens() {
        let tokens = tokens(b"0123456789");
        for password in
            ["", "secret", "twl1", "twl1.", "twl1.a.b", "twl1.YQ.YQ.YQ.YQ", "twl1.\u{e9}.YQ.YQ"]
        {
            assert_eq!(tokens.verify(password, "ann", 0), LoginCheck::NoToken, "{password}");
        }
    }
}
