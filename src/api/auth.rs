//! Credentials -> identity.
//!
//! Wrong credentials never fail a request by themselves: it goes on as anonymous, and what it then may not do is
//! refused (spec/http-api.md 2.3).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::model::acl::{Identity, Permission};
use crate::model::index::Index;
use crate::model::tokens::{self, Grant};
use crate::names::{ProjectName, UserName};
use crate::secret::{AccessToken, LoginCheck};
use crate::store::key;
use crate::store::txn::Read;

use super::App;

/// The user name that goes with any access token, as clients of other indexes send it.
const ANY_USER: &str = "__token__";

/// How long a request waits at most for the key for devpi's tokens, which is derived once.
const KEY_WAIT: Duration = Duration::from_secs(20);

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
    if let Some(token) = AccessToken::parse(&credentials.secret) {
        let grant = grant_of(app, &credentials.user, &token)?;
        return Ok(grant.map_or(Identity::Anonymous, |grant| Identity::Token(Arc::new(grant))));
    }
    let Ok(user) = UserName::parse(&credentials.user) else { return Ok(Identity::Anonymous) };
    let mut check = app.tokens.verify(&credentials.secret, user.as_str(), unix_now());
    if check == LoginCheck::Later {
        app.tokens.wait(request.deadline.min(Deadline::after(KEY_WAIT)))?;
        check = app.tokens.verify(&credentials.secret, user.as_str(), unix_now());
    }
    let is_valid = match check {
        LoginCheck::Valid { .. } => app.store.read()?.has(&key::User(&user))?,
        LoginCheck::Expired | LoginCheck::Wrong | LoginCheck::Later => false,
        LoginCheck::NoToken => check_password(app, &user, &credentials.secret, request)?,
    };
    Ok(if is_valid { Identity::User(user) } else { Identity::Anonymous })
}

/// What a token lets its holder do now. It is looked up each time, so that it ends at once when it is revoked.
fn grant_of(app: &App, user: &str, token: &AccessToken) -> Result<Option<Grant>> {
    let Some(grant) = held_grant(app, user, token)? else { return Ok(None) };
    Ok((!grant.is_over(SystemTime::now())).then_some(grant))
}

/// The grant behind a token, over or not.
fn held_grant(app: &App, user: &str, token: &AccessToken) -> Result<Option<Grant>> {
    let Ok(owner) = UserName::parse(token.user()) else { return Ok(None) };
    if user != owner.as_str() && user != ANY_USER {
        return Ok(None);
    }
    let grant = tokens::find(&app.store.read()?, &owner, &token.id())?;
    Ok(grant.filter(|grant| token.has_hash(&grant.hash)))
}

/// Why the credentials of a request are not good, if they mean to be an access token; for who is refused.
pub fn complaint(app: &App, request: &Request) -> Option<String> {
    let credentials = credentials(request)?;
    if !AccessToken::is_meant(&credentials.secret) {
        return None;
    }
    let Some(token) = AccessToken::parse(&credentials.secret) else {
        return Some("the access token is incomplete or mistyped".to_owned());
    };
    let id = token.id();
    if credentials.user != token.user() && credentials.user != ANY_USER {
        return Some(format!(
            "the access token {id} is for the user name {ANY_USER} or its owner's"
        ));
    }
    Some(match held_grant(app, &credentials.user, &token) {
        Ok(Some(Grant { expires: Some(at), .. })) => format!("the access token {id} ended at {at}"),
        _ => format!("the access token {id} is unknown here: revoked, or of another server"),
    })
}

/// Refuses an upload to an index by who may not, or may not any more. Asked within the transaction that stores it, since
/// much time may have passed.
///
/// # Errors
/// `Kind::Unauthorized` without valid credentials, `Kind::Forbidden` with them.
pub fn require_upload(app: &App, txn: &impl Read, who: &Identity, index: &Index) -> Result<()> {
    if let Identity::Token(grant) = who
        && !tokens::stands(txn, grant)?
    {
        return Err(Error::unauthorized("the access token has ended"));
    }
    if app.policy.allows(who, Permission::Upload(index)) {
        return Ok(());
    }
    Err(match who {
        Identity::Anonymous => Error::unauthorized("authentication is required to submit"),
        _ => Error::forbidden("no permission to submit"),
    })
}

/// Refuses a token that is not for a project.
///
/// # Errors
/// `Kind::Forbidden`.
pub fn require_project(who: &Identity, project: &ProjectName) -> Result<()> {
    match who.is_for(project) {
        true => Ok(()),
        false => {
            Err(Error::forbidden(format!("the access token is not for the project {project}")))
        }
    }
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
