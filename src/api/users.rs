//! Users: list, show, make, change, delete.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::model::acl::Permission;
use crate::model::{index, user};
use crate::names::UserName;
use crate::store::key;
use crate::store::record::Dict;
use crate::store::txn::Read;

use super::receipts::Call;
use super::{App, ask, at, auth, json_object, login};

/// `GET /`: all users with the indexes that the asker may read.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn list(app: &App, request: &Request) -> Result<Response> {
    let txn = app.store.read()?;
    let mut records = Vec::new();
    for name in user::names(&txn)? {
        if let Some(record) = txn.get(&key::User(&name))? {
            records.push((name, record));
        }
    }
    let serial = txn.serial();
    drop(txn);
    let users: Map<_, _> = visible(app, request, records)?
        .iter()
        .map(|(name, record)| (name.to_string(), user::shown(name, record)))
        .collect();
    Ok(at(serial, ask::result(200, "list:userconfig", Json::Object(users))))
}

/// Leaves out the indexes that the asker may not read, and credentials for upstreams.
fn visible(
    app: &App,
    request: &Request,
    mut records: Vec<(UserName, Dict)>,
) -> Result<Vec<(UserName, Dict)>> {
    let indexes: Vec<_> =
        records.iter().flat_map(|(name, record)| index::of_user(name, record)).collect();
    let who = app.reader_of(request, &indexes)?;
    for (name, record) in &mut records {
        let mut shown = Dict::new();
        let indexes = index::of_user(name, record).into_iter();
        for index in indexes.filter(|index| app.may_read(&who, index)) {
            let index = app.veil(&who, index);
            shown.set(index.name.index(), index.config);
        }
        record.set("indexes", shown);
    }
    Ok(records)
}

/// `GET /U`.
///
/// # Errors
/// `Kind::NotFound` if there is no such user.
pub fn show(app: &App, request: &Request, name: &UserName) -> Result<Response> {
    let txn = app.store.read()?;
    let record = user::require(&txn, name)?;
    let serial = txn.serial();
    drop(txn);
    let mut shown = Json::Null;
    for (name, record) in visible(app, request, vec![(name.clone(), record)])? {
        shown = user::shown(&name, &record);
    }
    Ok(at(serial, ask::result(200, "userconfig", shown)))
}

/// `PUT /U`: makes a user.
///
/// # Errors
/// `Kind::Forbidden`, `Kind::Conflict` if the name is taken, `Kind::Invalid` for bad fields.
pub fn create(app: &Call, mut request: Request, name: &UserName) -> Result<Response> {
    let who = auth::identify(app, &request)?;
    app.require(&who, Permission::UserCreate)?;
    let fields = json_object(&mut request)?;
    if app.store.read()?.has(&key::User(name))? {
        return Err(Error::conflict("user already exists"));
    }
    let password = match fields.get("password") {
        Some(Json::String(password)) => password,
        _ => return Err(Error::invalid("password needs to be set")),
    };
    let settings = user::parse_settings(&fields)?;
    let pwhash = app.passwords.hash(password, request.deadline)?;
    let (record, serial) = app.writer()?.write(|txn| user::create(txn, name, &pwhash, settings))?;
    Ok(at(serial, ask::result(201, "userconfig", user::shown(name, &record))))
}

/// `PATCH /U`: changes a user.
///
/// # Errors
/// `Kind::Forbidden`, `Kind::NotFound`.
pub fn modify(app: &Call, mut request: Request, name: &UserName) -> Result<Response> {
    let who = auth::identify(app, &request)?;
    let fields = json_object(&mut request)?;
    let is_password_only = fields.len() == 1 && fields.contains_key("password");
    app.require(
        &who,
        match is_password_only {
            true => Permission::UserPassword(name),
            false => Permission::UserModify(name),
        },
    )?;
    user::require(&app.store.read()?, name)?;
    let pwhash = match fields.get("password") {
        Some(Json::String(password)) => Some(app.passwords.hash(password, request.deadline)?),
        Some(Json::Null) | None => None,
        Some(_) => return Err(Error::invalid("the password must be text")),
    };
    let settings = user::known_settings(&fields)?;
    let ((), serial) =
        app.writer()?.write(|txn| user::modify(txn, name, pwhash.as_deref(), settings))?;
    if pwhash.is_none() {
        return Ok(at(serial, ask::message(200, "user updated")));
    }
    let body = json!({
        "result": login::token(app, name),
        "type": "userpassword",
        "message": "user updated, new proxy auth",
    });
    Ok(at(serial, ask::json(200, &body)))
}

/// `DELETE /U`: deletes a user with all indexes.
///
/// # Errors
/// `Kind::Forbidden` also when an index is not volatile; `Kind::NotFound`.
pub fn delete(app: &Call, request: &Request, name: &UserName) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let txn = app.store.read()?;
    if !name.is_root() && txn.get(&key::User(name))?.is_none() {
        return Err(Error::not_found(format!("no user '{name}'")));
    }
    drop(txn);
    app.require(&who, Permission::UserDelete(name))?;
    let ((), serial) = app.writer()?.write(|txn| user::remove(txn, name))?;
    Ok(at(serial, ask::message(200, format!("user '{name}' deleted"))))
}
