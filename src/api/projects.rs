//! Projects and versions as JSON, and their deletion.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::model::acl::{Identity, Permission};
use crate::model::index::{self, Index};
use crate::model::links::MirroredVersion;
use crate::model::release::{self, Rel, ReleaseLink};
use crate::model::walk::Share;
use crate::model::{delete, links};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::key;
use crate::store::record::Link;
use crate::store::txn::{Read, WriteTxn};

use super::mirrored::{self, Mirrored};
use super::receipts::Call;
use super::{App, ask, at, auth, legacy, simple};

/// `GET /U/I/P`: the versions of a project with their data; for installers its simple page.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds the project; `Kind::BadGateway` if an upstream is away.
pub fn show(app: &Arc<App>, request: Request, name: &IndexName, spelling: &str) -> Result<Reply> {
    if simple::is_wanted(&request) {
        return simple::project(app, request, name, spelling);
    }
    if let Some(redirect) = simple::to_normal(app, &request, name, "", spelling) {
        return Ok(Reply::Now(redirect));
    }
    let (name, project) = (name.clone(), ProjectName::new(spelling));
    mirrored::answer(app, request, &name.clone(), project.clone(), move |app, request, mirrors| {
        let (txn, walk) = mirrored::walk(app, request, &name, &project)?;
        let own_only = request.has_parameter("ignore_bases");
        let base = ask::base_url(request, app.config.outside_url.as_deref());
        let (mut shown, mut is_known): (Map<String, Json>, _) = (Map::new(), false);
        for part in walk.parts {
            let is_held = matches!(part.share, Share::Holds | Share::Mirror)
                && links::holds(&txn, &part.index, &project)?;
            is_known |= is_held;
            if !is_held || own_only && part.index.name != name {
                continue;
            }
            for (version, data) in versions_of(&txn, &base, &part.index, &project)? {
                match shown.get_mut(version.as_str()) {
                    Some(first) => shadow(first, data),
                    None => {
                        shown.insert(version.to_string(), data);
                    }
                }
            }
        }
        if !is_known {
            return Err(mirrors.absence(Error::not_found(format!("no project '{project}'"))));
        }
        let response = ask::result(200, "projectconfig", Json::Object(shown));
        Ok(at(txn.serial(), marked(response, mirrors)))
    })
}

fn marked(response: Response, mirrors: &Mirrored) -> Response {
    match mirrors.doubt() {
        Some(why) => mirrored::mark_stale(response, &why),
        None => response,
    }
}

/// `GET /U/I/P/V`.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds the version; `Kind::BadGateway` if an upstream is away.
pub fn show_version(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    spelling: &str,
    version: String,
) -> Result<Reply> {
    if let Some(redirect) = simple::to_normal(app, &request, name, "", spelling) {
        return Ok(Reply::Now(redirect));
    }
    let (name, project) = (name.clone(), ProjectName::new(spelling));
    mirrored::answer(app, request, &name.clone(), project.clone(), move |app, request, mirrors| {
        let (txn, walk) = mirrored::walk(app, request, &name, &project)?;
        let base = ask::base_url(request, app.config.outside_url.as_deref());
        let mut shown: Option<Json> = None;
        for part in walk.parts {
            let data = match (&part.share, Version::parse(&version)) {
                (Share::Holds, Ok(version)) => {
                    version_data(&txn, &base, &part.index, &project, &version)?
                }
                (Share::Mirror, _) => versions_of(&txn, &base, &part.index, &project)?
                    .into_iter()
                    .find_map(|(held, data)| (held.as_str() == version).then_some(data)),
                _ => None,
            };
            match (&mut shown, data) {
                (Some(first), Some(data)) => shadow(first, data),
                (None, data) => shown = data,
                _ => (),
            }
        }
        if shown.is_none() && version == legacy::LAST {
            drop(txn);
            return legacy::make(app, request, mirrors, &name, &project, None);
        }
        let shown = shown.ok_or_else(|| {
            mirrors.absence(Error::not_found(format!(
                "The version {version} of project {project} does not exist."
            )))
        })?;
        Ok(at(txn.serial(), marked(ask::result(200, "versiondata", shown), mirrors)))
    })
}

/// The versions that one index holds of a project, each with its data.
fn versions_of(
    txn: &impl Read,
    base: &str,
    index: &Index,
    project: &ProjectName,
) -> Result<Vec<(Version, Json)>> {
    if index.is_mirror() {
        let versions = links::mirrored_versions(txn, index, project)?;
        return Ok(versions
            .into_iter()
            .map(|MirroredVersion { version, mut data, links }| {
                let held: Vec<Json> = links.iter().map(|link| mirrored_link(base, link)).collect();
                data.insert("+links".into(), held.into());
                (version, Json::Object(data))
            })
            .collect());
    }
    let mut found = Vec::new();
    for version in release::versions(txn, &index.name, project)? {
        if let Some(data) = version_data(txn, base, index, project, &version)? {
            found.push((version, data));
        }
    }
    Ok(found)
}

/// A mirror's link as JSON.
fn mirrored_link(base: &str, link: &Link) -> Json {
    let mut shown = json!({"rel": "releasefile", "href": format!("{base}/{}", link.path())});
    let hash = link.hash();
    shown["hash_spec"] = hash.map(|(kind, hex)| format!("{kind}={hex}")).unwrap_or_default().into();
    shown["hashes"] =
        Json::Object(hash.map(|(kind, hex)| (kind.to_owned(), hex.into())).into_iter().collect());
    shown
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
pub fn delete(app: &Call, request: &Request, name: &IndexName, spelling: &str) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let project = ProjectName::new(spelling);
    let is_forced = request.has_parameter("force");
    let refusal = format!("project {project} is on non-volatile index {name}");
    let ((), serial) = app.writer()?.write(|txn| {
        let index = deletable(app, &who, txn, name, is_forced, &refusal)?;
        delete::project(txn, &index, &project)
    })?;
    Ok(at(serial, ask::message(200, format!("project {project} deleted from stage {name}"))))
}

/// `DELETE /U/I/P/V`.
///
/// # Errors
/// As for a project.
pub fn delete_version(
    app: &Call,
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
        delete::version(txn, &index, &project, &version)
    })?;
    Ok(at(serial, ask::message(200, format!("project '{project}' version '{version}' deleted"))))
}
