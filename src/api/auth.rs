//! Credentials -> identity.
//!
//! Wrong credentials never fail a request by themselves: it goes on as anonymous, and what it then may not do is
//! refused (spec/http-api.md 2.3).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Result;
use crate::http::request::Request;
use crate::model::acl::Identity;
use crate::names::UserName;
use crate::secret::LoginCheck;
use crate::store::key;
use crate::store::txn::Read;

use super::App;

/// A user name with a password or a token.
pub struct Credentials {
    /// As it was given.
    pub user: String,
    /// Password or token.
    pub secret: String,
}

/// Reads `X-Devpi-Auth`, else `Authorization: Basic`.
pub fn credentials(request: &Request) -> Option<Credentials> {
    let basic = |value: &str| {
        let (scheme, value) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| value.trim().to_owned())
    };
    let encoded = match request.headers.get("x-devpi-auth") {
        Some(value) => value.trim().to_owned(),
        None => basic(request.headers.get("authorization")?)?,
    };
    let bytes = STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|e| e.as_bytes().iter().map(|b| char::from(*b)).collect());
    let (user, secret) = text.split_once(':')?;
    Some(Credentials { user: user.to_owned(), secret: secret.to_owned() })
}

/// Who asks.
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked at the same time.
pub fn identify(app: &App, request: &Request) -> Result<Identity> {
    let Some(credentials) = credentials(request) else { return Ok(Identity::Anonymous) };
    let Ok(user) = UserName::parse(&credentials.user) else { return Ok(Identity::Anonymous) };
    let is_valid = match app.tokens.verify(&credentials.secret, user.as_str(), unix_now()) {
        LoginCheck::Valid { .. } => app.store.read()?.has(&key::User(&user))?,
        LoginCheck::Expired | LoginCheck::Wrong => false,
        LoginCheck::NoToken => check_password(app, &user, &credentials.secret, request)?,
    };
    Ok(if is_valid { Identity::User(user) } else { Identity::Anonymous })
}

/// Whether this is the user's password.
///
/// # Errors
/// `Kind::Unavailable` if too many passwords are being checked at the same time.
pub fn check_password(
    app: &App,
    user: &UserName,
    password: &str,
    request: &Request,
) -> Result<bool> {
    let record = app.store.read()?.get(&key::User(user))?;
    let text = |key| record.as_ref().and_then(|record| record.text(key));
    // Records from before devpi-server 5 keep the salt apart.
    let stored = match (text("pwhash"), text("pwsalt")) {
        (Some(hash), Some(salt)) => Some(format!("{salt}:{hash}")),
        (hash, _) => hash.map(str::to_owned),
    };
    app.passwords.verify(user.as_str(), stored.as_deref(), password, request.deadline)
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
