//! Indexes: show, make, change, delete.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::http::accept;
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::model::acl::Permission;
use crate::model::index::{self, Patch};
use crate::model::stage;
use crate::names::IndexName;
use crate::store::txn::Read;

use super::ask::{HTML, JSON, SIMPLE_JSON};
use super::receipts::Call;
use super::{App, ask, at, auth, json_body, json_object, lists};

/// `GET /U/I`: for installers the list of projects, for browsers a page, else the configuration.
///
/// # Errors
/// `Kind::NotFound` if there is no such index or the form is not offered.
pub fn show(app: &Arc<App>, request: Request, name: &IndexName) -> Result<Reply> {
    let best = accept::best(request.accept(), &[HTML, JSON, SIMPLE_JSON]);
    if best.is_some_and(|b| b != JSON) && ask::is_installer(&request) || best == Some(SIMPLE_JSON) {
        return lists::simple(app, request, name);
    }
    if best.is_none() {
        return Err(Error::not_found("this address answers in HTML and JSON only"));
    }
    let index = app.shown_index(&request, name)?;
    let txn = app.store.read()?;
    let mut shown = index.shown();
    if !request.has_parameter("no_projects") {
        if index.is_mirror() {
            drop(txn);
            return lists::config(app, request, name, shown);
        }
        if let Json::Object(fields) = &mut shown {
            fields.insert("projects".into(), stage::projects(&txn, name)?.into());
        }
    }
    Ok(Reply::Now(at(txn.serial(), ask::result(200, "indexconfig", shown))))
}

/// `PUT /U/I`: makes an index.
///
/// # Errors
/// `Kind::Forbidden`, `Kind::NotFound` for an unknown user, `Kind::Conflict`, `Kind::Invalid`.
pub fn create(app: &Call, mut request: Request, name: &IndexName) -> Result<Response> {
    let who = auth::identify(app, &request)?;
    crate::model::user::require(&app.store.read()?, name.user())?;
    app.require(&who, Permission::IndexCreate(name))?;
    let fields = json_object(&mut request)?;
    let (index, serial) = app.writer()?.write(|txn| index::create(txn, name, &fields))?;
    Ok(at(serial, ask::result(200, "indexconfig", index.shown())))
}

/// `PATCH /U/I`: changes an index.
///
/// # Errors
/// `Kind::Forbidden` also for an unknown index, `Kind::Invalid`.
pub fn modify(app: &Call, mut request: Request, name: &IndexName) -> Result<Response> {
    let who = auth::identify(app, &request)?;
    require_modify(app, &who, name)?;
    let body = json_body(&mut request)?;
    let patch = match &body {
        Json::Array(operations) => Patch::List(operations),
        Json::Object(fields) => match (fields.get("type"), fields.get("result")) {
            (Some(Json::String(kind)), Some(Json::Object(result))) if kind == "indexconfig" => {
                Patch::Object(result)
            }
            _ => Patch::Object(fields),
        },
        _ => return Err(Error::invalid("Bad request: the body must be a JSON object or list")),
    };
    let errs_on_noop = request.has_parameter("error_on_noop");
    let (index, serial) = app.writer()?.write(|txn| {
        let (index, is_changed) = index::modify(txn, name, &patch)?;
        if errs_on_noop && !is_changed {
            return Err(Error::invalid("The requested modifications resulted in no changes"));
        }
        Ok(index)
    })?;
    Ok(at(serial, ask::result(200, "indexconfig", index.shown())))
}

/// `DELETE /U/I`.
///
/// # Errors
/// `Kind::Forbidden` also when it is not volatile or unknown.
pub fn delete(app: &Call, request: &Request, name: &IndexName) -> Result<Response> {
    let who = auth::identify(app, request)?;
    require_modify(app, &who, name)?;
    let ((), serial) = app.writer()?.write(|txn| index::remove(txn, name))?;
    Ok(at(serial, ask::message(201, format!("index {name} deleted"))))
}

/// An index that does not exist grants nobody anything, so the answer is the same as for one that may not be changed.
fn require_modify(app: &App, who: &crate::model::acl::Identity, name: &IndexName) -> Result<()> {
    app.require(who, Permission::IndexModify(name))?;
    if index::find(&app.store.read()?, name)?.is_none() {
        return Err(Error::forbidden(format!("no permission to change index {name}")));
    }
    Ok(())
}
