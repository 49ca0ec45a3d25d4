//! Versions and test results as pages.

use std::io::Read as _;
use std::sync::Arc;

use maud::{PreEscaped, html};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::model::index::Index;
use crate::model::overview;
use crate::model::release::{self, Rel, ReleaseLink};
use crate::model::walk::Share;
use crate::model::{links, results, time};
use crate::names::{IndexName, ProjectName, Version};
use crate::pages::results::{self as draw_results, Of, TestResult};
use crate::pages::version::{Event, File, Outside, ResultLine, VersionPage, page};
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::{Dict, Link};
use crate::store::txn::{Read, ReadTxn};

use super::super::mirrored::{self, Mirrored};
use super::super::route::ResultsOf;
use super::super::{App, docs, simple};
use super::browse::upstream_page;
use super::{place, reader, remote, respond};

/// Test results that are read for one page.
const RESULTS_READ_MAX: usize = 30;
/// Test results of one file on the page of a version.
const RESULTS_SHOWN: usize = 6;
/// Files on one page; real releases have some hundred at most.
const FILES_MAX: usize = 500;
/// Things that happened to one file, in its history.
const EVENTS_MAX: usize = 20;

/// `GET /U/I/P/V`, where V may be `latest` or `stable`.
///
/// # Errors
/// `Kind::NotFound` if the index itself does not hold the version; `Kind::BadGateway` if an upstream is away.
pub fn show(
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
        draw(app, request, (&name, &project, &version), mirrors)
    })
}

fn draw(
    app: &App,
    request: &Request,
    (name, project, asked): (&IndexName, &ProjectName, &str),
    mirrors: &Mirrored,
) -> Result<Response> {
    let who = reader(app, request)?;
    let (txn, walk) = mirrored::walk(app, request, name, project)?;
    let absent = || {
        mirrors.absence(Error::not_found(format!(
            "The version {asked} of project {project} does not exist on {name}."
        )))
    };
    // Only what the index itself has; mirrors come last in the order even if they were asked for.
    let part = walk.parts.into_iter().find(|part| part.index.name == *name).ok_or_else(absent)?;
    let mut shown = match part.share {
        Share::Holds => of_stage(app, &txn, &part.index, project, asked)?,
        Share::Mirror => of_mirror(&txn, &part.index, project, asked)?,
        _ => None,
    }
    .ok_or_else(absent)?;
    (shown.index, shown.project) = (name.to_string(), project.to_string());
    let serial = txn.serial();
    drop(txn);
    Ok(respond(200, serial, page(&place(app, request, &who), &shown)))
}

/// The version that an address means among those that there are.
fn meant<'v>(versions: &'v [Version], asked: &str) -> Option<&'v Version> {
    match asked {
        "latest" => versions.iter().max_by_key(|version| version.sort_key()),
        "stable" => versions.iter().filter(|v| v.is_stable()).max_by_key(|v| v.sort_key()),
        asked => versions.iter().find(|version| version.as_str() == asked),
    }
}

/// A newer version than the one that is shown.
fn newer(versions: &[Version], shown: &Version) -> Option<String> {
    let newest = overview::newest(versions)?;
    (shown.sort_key() < newest.sort_key()).then(|| newest.to_string())
}

fn of_stage(
    app: &App,
    txn: &ReadTxn,
    index: &Index,
    project: &ProjectName,
    asked: &str,
) -> Result<Option<VersionPage>> {
    let versions = release::versions(txn, &index.name, project)?;
    let Some(version) = meant(&versions, asked) else { return Ok(None) };
    let record = txn.get(&key::Release(&index.name, project, version))?.unwrap_or_default();
    let held = release::links(&record);
    let text = |name: &str| record.text(name).unwrap_or_default().to_owned();
    let (mut files, mut read) = (Vec::new(), 0);
    let yanked = txn.get(&key::SimpleLinks(&index.name, project))?.unwrap_or_default().links;
    for link in held.iter().filter(|link| link.is(Rel::ReleaseFile)).take(FILES_MAX) {
        let mut file = file_of(app, txn, link)?;
        let simple = yanked.iter().find(|simple| simple.path() == link.path());
        file.yanked = simple.and_then(why_yanked);
        for result in results_of(&held, link).into_iter().take(RESULTS_SHOWN) {
            read += 1;
            file.results.extend(result_lines(app, result, read <= RESULTS_READ_MAX)?);
        }
        files.push(file);
    }
    let (written, notation) = (text("description"), text("description_content_type"));
    let rendered = (!written.trim().is_empty()).then(|| app.descriptions.get(&written, &notation));
    Ok(Some(VersionPage {
        version: version.to_string(),
        newer: newer(&versions, version),
        summary: text("summary"),
        facts: facts(&record),
        lists: lists(&record),
        links: outside(&record),
        files,
        has_docs: held.iter().any(|link| link.is(Rel::DocZip)),
        note: rendered.as_ref().and_then(|rendered| rendered.note).map(str::to_owned),
        description: match rendered {
            // Made safe by whoever made it.
            Some(rendered) => PreEscaped(rendered.html.clone()),
            None => html! { p.quiet { "None was given." } },
        },
        ..VersionPage::default()
    }))
}

fn of_mirror(
    txn: &ReadTxn,
    index: &Index,
    project: &ProjectName,
    asked: &str,
) -> Result<Option<VersionPage>> {
    let held = links::mirrored_versions(txn, index, project)?;
    let versions: Vec<Version> = held.iter().map(|held| held.version.clone()).collect();
    let Some(version) = meant(&versions, asked) else { return Ok(None) };
    let Some(found) = held.iter().find(|held| held.version == *version) else { return Ok(None) };
    let mut files = Vec::new();
    for link in found.links.iter().take(FILES_MAX) {
        let path = release::file_path(link.path())?;
        let record = txn.get(&key::File(&path))?.unwrap_or_default();
        let mut file = named(&link.name, format!("/{}", link.path()));
        file.size_bytes = record.integer("size").and_then(|size| u64::try_from(size).ok());
        file.uploaded = overview::upload_time(txn, &path)?.unwrap_or_default();
        file.yanked = why_yanked(link);
        if let Some(("sha256", hex)) = link.hash() {
            file.sha256 = hex.to_owned();
        }
        files.push(file);
    }
    let python = found.links.iter().find_map(|link| link.requires_python.clone());
    let facts = python.filter(|p| !p.is_empty()).map(|python| ("Python", python));
    let links = upstream_page(index, project)
        .map(|address| Outside { label: "Page at the upstream".to_owned(), address });
    Ok(Some(VersionPage {
        version: version.to_string(),
        newer: newer(&versions, version),
        facts: facts.into_iter().collect(),
        links: links.into_iter().collect(),
        files,
        description: html! { p.quiet { "Mirrors know the files of a project, not its description." } },
        ..VersionPage::default()
    }))
}

fn why_yanked(link: &Link) -> Option<String> {
    match &link.yanked {
        Value::None | Value::Bool(false) => None,
        Value::Str(why) => Some(why.clone()),
        _ => Some(String::new()),
    }
}

/// What a file's name tells of it.
fn named(name: &str, address: String) -> File {
    let (kind, python) = match name.strip_suffix(".whl") {
        Some(stem) => {
            let tags: Vec<&str> = stem.rsplitn(4, '-').collect();
            let python = tags.get(2).copied().unwrap_or_default();
            let platform = tags.first().copied().filter(|platform| *platform != "any");
            let text = [Some(python), platform].into_iter().flatten().collect::<Vec<_>>();
            ("Wheel", text.join(" "))
        }
        None if name.ends_with(".egg") => ("Egg", String::new()),
        None if [".tar.gz", ".zip", ".tar.bz2", ".tgz"].iter().any(|end| name.ends_with(end)) => {
            ("Source", String::new())
        }
        None => ("File", String::new()),
    };
    File { name: name.to_owned(), address, kind: kind.to_owned(), python, ..File::default() }
}

fn file_of(app: &App, txn: &ReadTxn, link: &ReleaseLink) -> Result<File> {
    let path = release::file_path(link.path())?;
    let record = txn.get(&key::File(&path))?.unwrap_or_default();
    let mut file = named(link.name(), format!("/{}", link.path()));
    let told = record.integer("size").and_then(|size| u64::try_from(size).ok());
    file.size_bytes = told.or_else(|| app.store.blobs().size(&path));
    file.uploaded = overview::upload_time(txn, &path)?.unwrap_or_default();
    let hash = link.0.text("hash_spec").and_then(|spec| spec.strip_prefix("sha256="));
    file.sha256 = hash.unwrap_or_default().to_owned();
    file.history = history(link);
    Ok(file)
}

/// What is noted of a link, the latest first.
fn history(link: &ReleaseLink) -> Vec<Event> {
    let logs = link.0.items("_log").iter().rev().cloned().filter_map(Dict::from_value);
    logs.take(EVENTS_MAX).map(event).collect()
}

fn event(log: Dict) -> Event {
    let who = log.text("who").map(|who| format!(" by {who}")).unwrap_or_default();
    let to = log.text("dst").map(|to| format!(" to {to}")).unwrap_or_default();
    let text = match log.text("what") {
        Some("upload") => format!("Uploaded{who}{to}"),
        Some("push") => {
            let from = log.text("src").map(|from| format!(" from {from}")).unwrap_or_default();
            format!("Pushed{who}{from}{to}")
        }
        Some("overwrite") => match log.integer("count") {
            Some(1) => "Replaced once before".to_owned(),
            Some(count) => format!("Replaced {count} times before"),
            None => "Replaced before".to_owned(),
        },
        what => format!("{}{who}", what.unwrap_or("Changed")),
    };
    Event {
        at: log.get("when").and_then(time::of_six_tuple).map(time::stamp).unwrap_or_default(),
        text,
    }
}

/// When and by whom a link came.
fn came(link: &ReleaseLink) -> (String, String) {
    let mut logs = link.0.items("_log").iter().cloned().filter_map(Dict::from_value);
    let last = logs.next_back().unwrap_or_default();
    let who = last.text("who").unwrap_or_default().to_owned();
    (event(last).at, who)
}

/// The test results of a file, newest first.
fn results_of<'l>(links: &'l [ReleaseLink], file: &ReleaseLink) -> Vec<&'l ReleaseLink> {
    let is_of =
        |link: &&ReleaseLink| link.is(Rel::ToxResult) && link.for_path() == Some(file.path());
    let mut found: Vec<&ReleaseLink> = links.iter().filter(is_of).collect();
    found.reverse();
    found
}

fn result_lines(app: &App, link: &ReleaseLink, reads: bool) -> Result<Vec<ResultLine>> {
    let (at, _) = came(link);
    let name = link.name().to_owned();
    let environments = if reads { read_result(app, link)? } else { None };
    Ok(match environments {
        Some(environments) => environments
            .into_iter()
            .map(|environment| ResultLine {
                name: name.clone(),
                label: match environment.platform.as_str() {
                    "" => environment.name,
                    platform => format!("{} on {platform}", environment.name),
                },
                is_passed: environment.is_passed,
                at: at.clone(),
            })
            .collect(),
        None => vec![ResultLine { label: name.clone(), name, at, is_passed: None }],
    })
}

/// A result as it lies on the disk; none if it is not here or cannot be read.
fn read_result(app: &App, link: &ReleaseLink) -> Result<Option<Vec<results::Environment>>> {
    let path = release::file_path(link.path())?;
    let Some((file, size)) = app.store.blobs().get(&path)? else { return Ok(None) };
    if results::BYTES_MAX < size {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(results::BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(results::parse(&bytes))
}

fn facts(record: &Dict) -> Vec<(&'static str, String)> {
    let text = |name: &str| record.text(name).map(str::trim).unwrap_or_default().to_owned();
    let person = |name: &str, mail: &str| match (text(name), text(mail)) {
        (name, mail) if mail.contains('<') || name.is_empty() => {
            format!("{name} {mail}").trim().to_owned()
        }
        (name, mail) if mail.is_empty() => name,
        (name, mail) => format!("{name} <{mail}>"),
    };
    let license = match text("license_expression") {
        expression if !expression.is_empty() => expression,
        // Some put the whole text here.
        _ => text("license").lines().next().unwrap_or_default().to_owned(),
    };
    let facts = [
        ("Author", person("author", "author_email")),
        ("Maintainer", person("maintainer", "maintainer_email")),
        ("Licence", license),
        ("Python", text("requires_python")),
        ("Keywords", text("keywords")),
    ];
    facts.into_iter().filter(|(_, text)| !text.is_empty()).collect()
}

fn lists(record: &Dict) -> Vec<(&'static str, Vec<String>)> {
    let lists = [
        ("Requires", "requires_dist"),
        ("Extras", "provides_extras"),
        ("Classifiers", "classifiers"),
        ("Platforms", "platform"),
    ];
    let words = |name: &str| record.texts(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
    lists
        .map(|(name, field)| (name, words(field)))
        .into_iter()
        .filter(|(_, l)| !l.is_empty())
        .collect()
}

fn outside(record: &Dict) -> Vec<Outside> {
    let mut links: Vec<Outside> = record
        .texts("project_urls")
        .into_iter()
        .map(|url| match url.split_once(',') {
            Some((label, address)) => (label.trim(), address.trim()),
            None => (url, url),
        })
        .map(|(label, address)| Outside { label: label.to_owned(), address: address.to_owned() })
        .collect();
    for (label, field) in [("Homepage", "home_page"), ("Download", "download_url")] {
        let address = record.text(field).unwrap_or_default().trim();
        if !address.is_empty() && links.iter().all(|link| link.address != address) {
            links.push(Outside { label: label.to_owned(), address: address.to_owned() });
        }
    }
    links
}

/// `GET /U/I/P/V/+toxresults/F` and `.../+toxresults/F/RESULT`
///
/// # Errors
/// `Kind::NotFound` if there is no such file or result.
pub fn results(app: &Arc<App>, request: Request, name: &IndexName, of: ResultsOf) -> Result<Reply> {
    let record = {
        let txn = app.read_index(&request, name)?.txn;
        let project = ProjectName::new(&of.project);
        let version = Version::parse(&of.version).map_err(|_| absent(&of))?;
        txn.get(&key::Release(name, &project, &version))?.ok_or_else(|| absent(&of))?
    };
    let held = release::links(&record);
    let is_file = |link: &&ReleaseLink| link.is(Rel::ReleaseFile) && link.name() == of.file;
    let file = held.iter().find(is_file).ok_or_else(|| absent(&of))?;
    let mut found: Vec<ReleaseLink> = results_of(&held, file).into_iter().cloned().collect();
    if let Some(result) = &of.result {
        found.retain(|link| link.name() == result);
        if found.is_empty() {
            return Err(absent(&of));
        }
    }
    found.truncate(RESULTS_READ_MAX);
    let name = name.clone();
    let is_here = |link: &ReleaseLink| {
        release::file_path(link.path()).is_ok_and(|path| app.store.blobs().size(&path).is_some())
    };
    if of.result.is_none() || found.iter().all(is_here) {
        return draw_result(app, &request, (&name, &of), &found).map(Reply::Now);
    }
    Ok(remote(app, request, move |app, request| {
        for link in &found {
            docs::fetch_file(app, &release::file_path(link.path())?, "application/json")?;
        }
        draw_result(app, request, (&name, &of), &found)
    }))
}

fn absent(of: &ResultsOf) -> Error {
    Error::not_found(format!("there is no such test result for {}", of.file))
}

fn draw_result(
    app: &App,
    request: &Request,
    (name, of): (&IndexName, &ResultsOf),
    found: &[ReleaseLink],
) -> Result<Response> {
    let who = reader(app, request)?;
    let mut shown = Vec::new();
    for link in found {
        let ((at, who), name) = (came(link), link.name().to_owned());
        shown.push(TestResult { name, who, at, environments: read_result(app, link)? });
    }
    let (index, place) = (name.to_string(), place(app, request, &who));
    let project = ProjectName::new(&of.project);
    let drawn =
        Of { index: &index, project: project.as_str(), version: &of.version, file: &of.file };
    let page = match (&of.result, shown.first(), found.first()) {
        (Some(_), Some(result), Some(link)) => {
            draw_results::one(&place, &drawn, result, &format!("/{}", link.path()))
        }
        _ => draw_results::list(&place, &drawn, &shown),
    };
    Ok(respond(200, app.store.clock().now(), page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_versions_mean_those_that_there_are() {
        let versions: Vec<Version> =
            ["1.0", "2.0rc1", "1.10"].iter().map(|v| Version::parse(v).expect("valid")).collect();
        for (asked, wanted) in [
            ("latest", Some("2.0rc1")),
            ("stable", Some("1.10")),
            ("1.0", Some("1.0")),
            ("3", None),
        ] {
            assert_eq!(meant(&versions, asked).map(Version::as_str), wanted, "{asked}");
        }
        assert_eq!(newer(&versions, &versions[0]).as_deref(), Some("1.10"));
        assert_eq!(newer(&versions, &versions[1]), None);
    }

    #[test]
    fn names_of_files_tell_what_they_are() {
        for (name, kind, python) in [
            ("p-1-py3-none-any.whl", "Wheel", "py3"),
            ("p-1-cp312-cp312-manylinux_2_17_x86_64.whl", "Wheel", "cp312 manylinux_2_17_x86_64"),
            ("p-1-1build-cp312-abi3-win32.whl", "Wheel", "cp312 win32"),
            ("p-1.tar.gz", "Source", ""),
            ("p-1.exe", "File", ""),
        ] {
            let file = named(name, String::new());
            assert_eq!((file.kind.as_str(), file.python.as_str()), (kind, python), "{name}");
        }
    }
}
