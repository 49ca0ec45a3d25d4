//! Our own login tokens. Any node with the same secret accepts them; nothing is stored.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Key, Purpose, Secret};

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
}

/// Issues and checks login tokens.
#[derive(Clone, Debug)]
pub struct LoginTokens {
    key: Key,
}

impl LoginTokens {
    /// With the key that comes from the secret.
    pub fn new(secret: &Secret) -> Self {
        Self { key: secret.key(Purpose::LoginToken) }
    }

    /// A token for the user from `now` on (Unix seconds).
    pub fn issue(&self, user: &str, now: u64) -> String {
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
            return LoginCheck::NoToken;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(seed: &[u8]) -> LoginTokens {
        LoginTokens::new(&Secret::new(&seed.repeat(4)).expect("good"))
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
