//! Access tokens: `/U/+tokens`.

use std::time::SystemTime;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::model::acl::{Identity, Permission};
use crate::model::tokens::{self, Grant, Wish};
use crate::model::{index, user};
use crate::names::UserName;
use crate::secret::AccessToken;
use crate::store::txn::{Read, WriteTxn};

use super::receipts::Call;
use super::{App, ask, at, auth, json_object};

/// What the answer to a new token says beside it.
const SHOWN_ONCE: &str = "keep the token: it is shown this once";

/// Refuses all but the user and who may act for the user, by password or login.
fn require(app: &App, request: &Request, owner: &UserName) -> Result<()> {
    let who = auth::identify(app, request)?;
    if app.policy.allows(&who, Permission::UserTokens(owner)) {
        return Ok(());
    }
    Err(match who {
        Identity::Anonymous => Error::unauthorized("authentication is required for access tokens"),
        Identity::Token(_) => Error::forbidden("an access token cannot be used to manage tokens"),
        _ => Error::forbidden(format!("no permission for the access tokens of {owner}")),
    })
}

/// `GET /U/+tokens`: all but the secrets.
///
/// # Errors
/// `Kind::Unauthorized`, `Kind::Forbidden`; `Kind::NotFound` if there is no such user.
pub fn list(app: &App, request: &Request, owner: &UserName) -> Result<Response> {
    require(app, request, owner)?;
    let txn = app.store.read()?;
    let (record, now) = (user::require(&txn, owner)?, SystemTime::now());
    let shown: Vec<Json> =
        tokens::of_user(owner, &record).iter().map(|grant| grant.shown(now)).collect();
    Ok(at(txn.serial(), private(ask::result(200, "tokens", shown.into()))))
}

/// `POST /U/+tokens`: makes one, and shows it this once.
///
/// # Errors
/// `Kind::Unauthorized`, `Kind::Forbidden`; `Kind::NotFound` if there is no such user; `Kind::Invalid`.
pub fn create(app: &Call, mut request: Request, owner: &UserName) -> Result<Response> {
    require(app, &request, owner)?;
    let now = SystemTime::now();
    let wish = Wish::parse(&json_object(&mut request)?, now)?;
    let token = AccessToken::generate(owner.as_str())?;
    let indexes: Vec<_> = wish.indexes().collect();
    let grant = wish.into_grant(owner, token.id(), token.hash(), now);
    let ((), serial) = app.writer()?.write(|txn| {
        for name in &indexes {
            check_index(app, txn, &grant, name)?;
        }
        tokens::store(txn, &grant)
    })?;
    let mut shown = match grant.shown(now) {
        Json::Object(fields) => fields,
        _ => Map::new(),
    };
    shown.insert("token".into(), token.text().into());
    let body = json!({"result": shown, "type": "token", "message": SHOWN_ONCE});
    Ok(at(serial, private(ask::json(201, &body))))
}

/// A slip in an index's name would make a token that is good for nothing. Whether there is an index that the owner may
/// not read is not told.
fn check_index(
    app: &App,
    txn: &WriteTxn<'_>,
    grant: &Grant,
    name: &crate::names::IndexName,
) -> Result<()> {
    let owner = Identity::User(grant.owner.clone());
    let is_of_use = index::find(txn, name)?.is_some_and(|index| {
        [Permission::Read(&index), Permission::Upload(&index)]
            .into_iter()
            .any(|permission| app.policy.allows(&owner, permission))
    });
    if is_of_use {
        return Ok(());
    }
    let owner = &grant.owner;
    Err(Error::invalid(format!("there is no index '{name}' that {owner} may read or upload to")))
}

/// `DELETE /U/+tokens/ID`: ends it at once.
///
/// # Errors
/// `Kind::Unauthorized`, `Kind::Forbidden`; `Kind::NotFound` if there is no such user or token.
pub fn revoke(app: &Call, request: &Request, owner: &UserName, id: &str) -> Result<Response> {
    require(app, request, owner)?;
    let ((), serial) = app.writer()?.write(|txn| tokens::revoke(txn, owner, id))?;
    Ok(at(serial, ask::message(200, format!("token '{id}' of {owner} revoked"))))
}

fn private(response: Response) -> Response {
    response.with_header("Cache-Control", "private, no-store")
}
