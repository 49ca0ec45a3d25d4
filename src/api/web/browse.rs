//! Users, indexes and projects as pages.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::mirror::lists::NameList;
use crate::model::acl::{ANONYMOUS, AUTHENTICATED, Identity};
use crate::model::index::{self, Index};
use crate::model::overview::{self, ProjectLine, VersionLine};
use crate::model::release::{self, Rel};
use crate::model::{stage, user};
use crate::names::{IndexName, ProjectName, UserName};
use crate::pages::home::{self, IndexLine, UserLine};
use crate::pages::index::IndexPage;
use crate::pages::layout::Paging;
use crate::pages::project::{Line, ProjectPage};
use crate::store::key;
use crate::store::record::Dict;
use crate::store::txn::{Read, ReadTxn};

use super::super::mirrored::{self, Mirrored};
use super::super::{App, ask, simple};
use super::{place, reader, remote, respond};

/// Users on one page.
const USERS: usize = 60;
/// Projects on one page.
const PROJECTS: usize = 100;
/// Versions on one page.
const VERSIONS: usize = 50;

/// The page of a long list that a request asks for.
pub(super) fn asked(request: &Request) -> Result<usize> {
    Ok(usize::try_from(ask::number(request, "page")?.unwrap_or(1)).unwrap_or(usize::MAX))
}

/// `GET /`
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn all(app: &App, request: &Request) -> Result<Response> {
    let who = reader(app, request)?;
    let txn = app.store.read()?;
    let names = user::names(&txn)?;
    let paging = Paging::new(asked(request)?, names.len(), USERS);
    let mut users = Vec::new();
    for name in names.get(paging.range()).unwrap_or_default() {
        if let Some(record) = txn.get(&key::User(name))? {
            users.push(user_line(app, &who, name, &record));
        }
    }
    let serial = txn.serial();
    drop(txn);
    Ok(respond(200, serial, home::all(&place(app, request, &who), &users, paging)))
}

/// `GET /U`
///
/// # Errors
/// `Kind::NotFound` if there is no such user.
pub fn user(app: &App, request: &Request, name: &UserName) -> Result<Response> {
    let who = reader(app, request)?;
    let txn = app.store.read()?;
    let shown = user_line(app, &who, name, &user::require(&txn, name)?);
    let serial = txn.serial();
    drop(txn);
    Ok(respond(200, serial, home::user(&place(app, request, &who), &shown)))
}

fn user_line(app: &App, who: &Identity, name: &UserName, record: &Dict) -> UserLine {
    let text = |key: &str| record.text(key).unwrap_or_default().to_owned();
    let indexes = index::of_user(name, record);
    let readable = indexes.iter().filter(|index| app.may_read(who, index));
    UserLine {
        name: name.to_string(),
        title: text("title"),
        description: text("description"),
        indexes: readable.map(index_line).collect(),
    }
}

fn index_line(index: &Index) -> IndexLine {
    IndexLine {
        name: index.name.to_string(),
        kind: index.config.text("type").unwrap_or("stage").to_owned(),
        title: index.config.text("title").unwrap_or_default().to_owned(),
        bases: index.bases().iter().map(ToString::to_string).collect(),
        is_volatile: index.is_volatile(),
        is_open: index.is_open(),
    }
}

/// `GET /U/I`
///
/// # Errors
/// `Kind::NotFound` if there is no such index.
pub fn index(app: &Arc<App>, request: Request, name: &IndexName) -> Result<Reply> {
    let index = index::require(&app.store.read()?, name)?;
    if !index.is_mirror() {
        return draw_index(app, &request, &index, None).map(Reply::Now);
    }
    match app.mirrors.list_at_once(&index) {
        Some(list) => draw_index(app, &request, &index, Some(list)).map(Reply::Now),
        None => {
            let mirrors = app.mirrors.clone();
            Ok(remote(app, request, move |app, request| {
                let list = mirrors.lists(std::slice::from_ref(&index)).pop();
                draw_index(app, request, &index, list)
            }))
        }
    }
}

/// The page of an index, and of a mirror with what is known of its upstream's projects.
fn draw_index(
    app: &App,
    request: &Request,
    index: &Index,
    list: Option<NameList>,
) -> Result<Response> {
    let who = reader(app, request)?;
    let starts = ask::parameter(request, "starts").unwrap_or_default();
    let prefix = ProjectName::new(starts.trim());
    let page = asked(request)?;
    let txn = app.store.read()?;
    let list = list.filter(|list| !list.names.is_empty() || list.doubt.is_some());
    let (paging, projects) = match &list {
        Some(list) => {
            let range = list.names.with_prefix(prefix.as_str());
            let paging = Paging::new(page, range.len(), PROJECTS);
            let shown = range.skip(paging.range().start).take(paging.range().len());
            let shown = shown.filter_map(|at| list.names.get(at));
            (paging, lines(&txn, &index.name, shown)?)
        }
        None => {
            let names = stage::projects(&txn, &index.name)?;
            let start = names.partition_point(|name| name.as_str() < prefix.as_str());
            let names = &names[start..];
            let count = names.partition_point(|name| name.starts_with(prefix.as_str()));
            let paging = Paging::new(page, count, PROJECTS);
            (paging, lines(&txn, &index.name, names[paging.range()].iter().map(String::as_str))?)
        }
    };
    let bases = readable(app, &txn, &who, index)?;
    let serial = txn.serial();
    drop(txn);
    let shown = app.veil(&who, index.clone());
    let page = IndexPage {
        line: &IndexLine { bases, ..index_line(index) },
        description: shown.config.text("description").unwrap_or_default(),
        mirror_url: shown.config.text("mirror_url"),
        settings: &settings(&shown),
        projects: &projects,
        paging,
        starts: &starts,
        doubt: list.and_then(|list| list.doubt),
    };
    let place = place(app, request, &who);
    Ok(respond(200, serial, crate::pages::index::page(&place, &page)))
}

fn lines<'n>(
    txn: &ReadTxn,
    index: &IndexName,
    names: impl Iterator<Item = &'n str>,
) -> Result<Vec<ProjectLine>> {
    names.map(|name| overview::project_line(txn, index, name)).collect()
}

/// The bases that the reader may know of.
fn readable(app: &App, txn: &ReadTxn, who: &Identity, index: &Index) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for base in index.bases() {
        if index::find(txn, &base)?.is_some_and(|base| app.may_read(who, &base)) {
            names.push(base.to_string());
        }
    }
    Ok(names)
}

/// The settings of an index that people ask for, in words.
fn settings(index: &Index) -> Vec<(&'static str, Vec<String>)> {
    let people = |principals: Vec<&str>| {
        let word = |principal: &str| match principal {
            ANONYMOUS => "everybody".to_owned(),
            AUTHENTICATED => "everybody who signed in".to_owned(),
            name => name.to_owned(),
        };
        principals.into_iter().map(word).collect::<Vec<_>>()
    };
    let mut settings = vec![("Reading", people(index.acl_pkg_read()))];
    if !index.is_mirror() {
        settings.push(("Uploads", people(index.acl_upload())));
        settings.push(("Test results", people(index.acl_toxresult_upload())));
        let allowed = index.config.texts("mirror_whitelist");
        if !allowed.is_empty() {
            settings
                .push(("Allowed from mirrors", allowed.into_iter().map(str::to_owned).collect()));
        }
    }
    settings
}

/// `GET /U/I/P`
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base holds the project; `Kind::BadGateway` if an upstream is away.
pub fn project(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    spelling: &str,
) -> Result<Reply> {
    if let Some(redirect) = simple::to_normal(app, &request, name, "", spelling) {
        return Ok(Reply::Now(redirect));
    }
    let (name, project) = (name.clone(), ProjectName::new(spelling));
    mirrored::answer(app, request, &name.clone(), project.clone(), move |app, request, mirrors| {
        draw_project(app, request, (&name, &project), mirrors)
    })
}

fn draw_project(
    app: &App,
    request: &Request,
    (name, project): (&IndexName, &ProjectName),
    mirrors: &Mirrored,
) -> Result<Response> {
    let who = reader(app, request)?;
    let page = asked(request)?;
    let (txn, walk) = mirrored::walk(app, request, name, project)?;
    let versions = overview::versions(&txn, &walk, project)?;
    let absent = || mirrors.absence(Error::not_found(format!("no project '{project}'")));
    let versions = versions.ok_or_else(absent)?;
    let paging = Paging::new(page, versions.len(), VERSIONS);
    let mut shown = Vec::new();
    for line in &versions[paging.range()] {
        shown.push(version_line(&txn, project, line)?);
    }
    let newest = overview::newest_line(&versions);
    let newest_index = newest.map(|line| &line.index);
    let summary = match newest_index {
        Some(index) => overview::project_line(&txn, index, project.as_str())?.summary,
        None => String::new(),
    };
    let blocked: Vec<_> =
        walk.blocked().iter().map(|(mirror, by)| (mirror.to_string(), by.to_string())).collect();
    let upstream = walk.mirrors().iter().find_map(|index| upstream_page(index, project));
    let serial = txn.serial();
    drop(txn);
    let page = ProjectPage {
        index: &name.to_string(),
        project: project.as_str(),
        newest: newest.map(|line| line.version.as_str()),
        newest_index: &newest_index.unwrap_or(name).to_string(),
        summary: &summary,
        lines: &shown,
        paging,
        has_mirrors: !walk.mirrors().is_empty(),
        blocked: &blocked,
        upstream: upstream.as_deref(),
        doubt: mirrors.doubt(),
    };
    Ok(respond(200, serial, crate::pages::project::page(&place(app, request, &who), &page)))
}

fn version_line(txn: &ReadTxn, project: &ProjectName, line: &VersionLine) -> Result<Line> {
    let record = txn.get(&key::Release(&line.index, project, &line.version))?.unwrap_or_default();
    let uploaded = match &line.first {
        Some(path) => overview::upload_time(txn, path)?,
        None => None,
    };
    Ok(Line {
        index: line.index.to_string(),
        version: line.version.to_string(),
        files: line.files,
        requires_python: line.requires_python.clone().unwrap_or_default(),
        is_yanked: line.is_yanked,
        uploaded,
        has_docs: release::links(&record).iter().any(|link| link.is(Rel::DocZip)),
        also: line.also.iter().map(ToString::to_string).collect(),
    })
}

/// Where a mirror's owner says that people find a project at the upstream; only addresses of web pages.
pub(super) fn upstream_page(index: &Index, project: &ProjectName) -> Option<String> {
    let form = index.config.text("mirror_web_url_fmt")?;
    let is_web = form.starts_with("https://") || form.starts_with("http://");
    (index.is_mirror() && is_web).then(|| form.replace("{name}", project.as_str()))
}
