//! `POST /+login`: a password for a token.

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::names::UserName;
use crate::secret::AccessToken;

use super::{App, ask, auth, json_object};

/// Seconds for which a token is valid, as devpi has it.
pub const TOKEN_SECS: u64 = 36_000;

/// Logs a user in.
///
/// # Errors
/// `Kind::Invalid` if name or password are missing; `Kind::Unauthorized` if they are wrong.
pub fn login(app: &App, mut request: Request) -> Result<Response> {
    let fields = json_object(&mut request)?;
    let text = |key| fields.get(key).and_then(Json::as_str);
    let (Some(user), Some(password)) = (text("user"), text("password")) else {
        return Err(Error::invalid("Bad request: no user/password specified"));
    };
    let refused = || Error::unauthorized(format!("user '{user}' could not be authenticated"));
    if AccessToken::parse(password).is_some() {
        let message = "an access token cannot log in; use it as the password of each request";
        return Err(Error::unauthorized(message));
    }
    let name = UserName::parse(user).map_err(|_| refused())?;
    if !auth::check_password(app, &name, password, &request)? {
        return Err(refused());
    }
    let body =
        json!({"result": token(app, &name), "type": "proxyauth", "message": "login successful"});
    Ok(ask::json(200, &body))
}

/// A fresh token with its lifetime.
pub fn token(app: &App, user: &UserName) -> Json {
    json!({"password": app.tokens.issue(user.as_str(), auth::unix_now()), "expiration": TOKEN_SECS})
}
