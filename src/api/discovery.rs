//! `+api`, which clients ask first, and `+authcheck`, which proxies ask.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Kind, Result};
use crate::http::accept;
use crate::http::request::{Method, Request};
use crate::http::response::Response;
use crate::model::acl::Identity;
use crate::model::index;

use super::route::{Route, Scope};
use super::{App, access, ask, auth};

/// What clients may ask for beyond the basics.
const FEATURES: [&str; 4] =
    ["push-no-docs", "push-only-docs", "push-register-project", "server-keyvalue-parsing"];

/// `GET /+api`, `/U/+api` and `/U/I/+api`.
///
/// # Errors
/// `Kind::NotFound` for an unknown index, or if JSON is not acceptable.
pub fn api(app: &App, request: &Request, scope: Option<&Scope>) -> Result<Response> {
    if accept::best(request.accept(), &[ask::JSON]).is_none() {
        return Err(Error::not_found("this address answers in JSON only"));
    }
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let mut api = Map::new();
    api.insert("login".into(), format!("{base}/+login").into());
    api.insert(
        "authstatus".into(),
        match auth::identify(app, request)? {
            Identity::Anonymous | Identity::Replica => json!(["noauth", "", []]),
            Identity::User(user) => json!(["ok", user.as_str(), []]),
            Identity::Token(grant) => json!(["ok", grant.owner.as_str(), []]),
        },
    );
    api.insert("features".into(), json!(FEATURES));
    if let Some(Scope::Index(name)) = scope {
        let index = index::require(&app.store.read()?, name)?;
        api.insert("index".into(), format!("{base}/{name}").into());
        api.insert("simpleindex".into(), format!("{base}/{name}/+simple/").into());
        if !index.is_mirror() {
            api.insert("pypisubmit".into(), format!("{base}/{name}/").into());
        }
    }
    Ok(ask::result(200, "apiconfig", Json::Object(api)))
}

fn is_devpi_client(request: &Request) -> bool {
    request.headers.get("user-agent").is_some_and(|agent| agent.contains("devpi-client"))
}

/// `GET /+authcheck`: whether a request that a proxy holds would be let through.
///
/// # Errors
/// `Kind::Forbidden` if its address leads nowhere, or its asker may not read there; `Kind::Unauthorized` if credentials
/// would help.
pub fn authcheck(app: &App, request: &Request) -> Result<Response> {
    let original = request.headers.get("x-original-uri").unwrap_or(&request.target);
    let path = original
        .split_once("://")
        .map_or(original, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    let path = match ask::prefix(request, app.config.outside_url.as_deref()) {
        Some(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or(path),
        None => path,
    };
    let route = match Route::parse(Method::Get, path) {
        Ok(route) => route,
        Err(_) => Route::parse(Method::Post, path)
            .map_err(|_| Error::forbidden("there is no such page"))?,
    };
    match access::check(app, request, &route) {
        Ok(_) => Ok(Response::text(200, "")),
        // devpi-client prints an error of a 403 only.
        Err(error) if error.kind == Kind::Unauthorized && !is_devpi_client(request) => Err(error),
        Err(error) if error.kind == Kind::Unauthorized => Err(Error::forbidden(error.message)),
        Err(error) => Err(error),
    }
}
