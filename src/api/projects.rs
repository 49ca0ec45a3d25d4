//! Projects and versions as JSON, and their deletion.

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::model::acl::{Identity, Permission};
use crate::model::index::{self, Index};
use crate::model::release::{self, Rel, ReleaseLink};
use crate::model::{delete, stage};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::key;
use crate::store::txn::{Read, WriteTxn};

use super::{App, ask, at, auth, simple};

/// `GET /U/I/P`: the versions of a project with their data; for installers its simple page.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds the project.
pub fn show(app: &App, request: &Request, name: &IndexName, spelling: &str) -> Result<Response> {
    if simple::is_wanted(request) {
        return simple::project(app, request, name, spelling);
    }
    if let Some(redirect) = simple::to_normal(app, request, name, "", spelling) {
        return Ok(redirect);
    }
    let project = ProjectName::new(spelling);
    let txn = app.store.read()?;
    let own_only = request.has_parameter("ignore_bases");
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let mut shown: Map<String, Json> = Map::new();
    let mut is_known = false;
    for index in stage::resolution_order(&txn, index::require(&txn, name)?)? {
        let is_held = stage::holds(&txn, &index.name, &project)?;
        is_known |= is_held;
        if !is_held || own_only && index.name != *name {
            continue;
        }
        for version in release::versions(&txn, &index.name, &project)? {
            let Some(data) = version_data(&txn, &base, &index, &project, &version)? else {
                continue;
            };
            match shown.get_mut(version.as_str()) {
                Some(first) => shadow(first, data),
                None => {
                    shown.insert(version.to_string(), data);
                }
            }
        }
    }
    if !is_known {
        return Err(Error::not_found(format!("no project '{project}'")));
    }
    Ok(at(txn.serial(), ask::result(200, "projectconfig", Json::Object(shown))))
}

/// `GET /U/I/P/V`.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds the version.
pub fn show_version(
    app: &App,
    request: &Request,
    name: &IndexName,
    spelling: &str,
    version: &str,
) -> Result<Response> {
    if let Some(redirect) = simple::to_normal(app, request, name, "", spelling) {
        return Ok(redirect);
    }
    let project = ProjectName::new(spelling);
    let txn = app.store.read()?;
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let mut shown: Option<Json> = None;
    let order = stage::resolution_order(&txn, index::require(&txn, name)?)?;
    if let Ok(version) = Version::parse(version) {
        for index in order {
            let Some(data) = version_data(&txn, &base, &index, &project, &version)? else {
                continue;
            };
            match &mut shown {
                Some(first) => shadow(first, data),
                None => shown = Some(data),
            }
        }
    }
    let shown = shown.ok_or_else(|| {
        Error::not_found(format!("The version {version} of project {project} does not exist."))
    })?;
    Ok(at(txn.serial(), ask::result(200, "versiondata", shown)))
}

fn shadow(first: &mut Json, hidden: Json) {
    if let Json::Object(fields) = first
        && let Json::Array(list) = fields.entry("+shadowing").or_insert_with(|| json!([]))
    {
        list.push(hidden);
    }
}

fn version_data(
    txn: &impl Read,
    base: &str,
    index: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<Option<Json>> {
    let Some(record) = txn.get(&key::Release(&index.name, project, version))? else {
        return Ok(None);
    };
    let mut data = match release::metadata(&record).into_value().to_json() {
        Json::Object(data) => data,
        _ => Map::new(),
    };
    let links: Vec<Json> =
        release::links(&record).iter().map(|link| shown_link(base, link)).collect();
    if !links.is_empty() {
        data.insert("+links".into(), links.into());
    }
    Ok(Some(Json::Object(data)))
}

fn shown_link(base: &str, link: &ReleaseLink) -> Json {
    let ReleaseLink(record) = link;
    let mut shown = Map::new();
    let copy = |shown: &mut Map<String, Json>, from: &str, to: &str| {
        if let Some(value) = record.get(from) {
            shown.insert(to.to_owned(), value.to_json());
        }
    };
    copy(&mut shown, "rel", "rel");
    shown.insert("href".into(), format!("{base}/{}", link.path()).into());
    copy(&mut shown, "hash_spec", "hash_spec");
    copy(&mut shown, "hashes", "hashes");
    copy(&mut shown, "_log", "log");
    if link.is(Rel::ToxResult)
        && let Some(path) = link.for_path()
    {
        shown.insert("for_href".into(), format!("{base}/{path}").into());
    }
    Json::Object(shown)
}

/// The index of a deletion, which must allow it.
pub(super) fn deletable(
    app: &App,
    who: &Identity,
    txn: &WriteTxn<'_>,
    name: &IndexName,
    is_forced: bool,
    what: &str,
) -> Result<Index> {
    let index = index::require(txn, name)?;
    app.require(who, Permission::DeleteEntries(&index))?;
    if !index.is_volatile() && !is_forced {
        return Err(Error::forbidden(what.to_owned()));
    }
    Ok(index)
}

/// `DELETE /U/I/P`.
///
/// # Errors
/// `Kind::Forbidden` also on an index that is not volatile, without `force`; `Kind::NotFound`.
pub fn delete(app: &App, request: &Request, name: &IndexName, spelling: &str) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let project = ProjectName::new(spelling);
    let is_forced = request.has_parameter("force");
    let refusal = format!("project {project} is on non-volatile index {name}");
    let ((), serial) = app.writer()?.write(|txn| {
        let index = deletable(app, &who, txn, name, is_forced, &refusal)?;
        require_stage(&index)?;
        delete::project(txn, &index, &project)
    })?;
    Ok(at(serial, ask::message(200, format!("project {project} deleted from stage {name}"))))
}

/// `DELETE /U/I/P/V`.
///
/// # Errors
/// As for a project.
pub fn delete_version(
    app: &App,
    request: &Request,
    name: &IndexName,
    spelling: &str,
    version: &str,
) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let (project, version) = (ProjectName::new(spelling), Version::parse(version)?);
    let is_forced = request.has_parameter("force");
    let ((), serial) = app.writer()?.write(|txn| {
        let refusal = "cannot delete version on non-volatile index";
        let index = deletable(app, &who, txn, name, is_forced, refusal)?;
        require_stage(&index)?;
        delete::version(txn, &index, &project, &version)
    })?;
    Ok(at(serial, ask::message(200, format!("project '{project}' version '{version}' deleted"))))
}

pub(super) fn require_stage(index: &Index) -> Result<()> {
    if index.is_mirror() {
        return Err(super::unsupported("deletion on mirrors"));
    }
    Ok(())
}
