//! Versions and test results as pages.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use maud::{PreEscaped, html};

use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Reply, Response};
use crate::model::acl::Identity;
use crate::model::index::{self, Index};
use crate::model::overview;
use crate::model::release::{self, Rel, ReleaseLink};
use crate::model::{links, results, time};
use crate::names::{IndexName, ProjectName, Version};
use crate::pages::layout::Paging;
use crate::pages::results::{self as draw_results, Of, TestResult};
use crate::pages::version::{Event, File, Outside, ResultLine, VersionPage, page};
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::{Dict, Link};
use crate::store::txn::{Read, ReadTxn};

use super::super::access::Reading;
use super::super::mirrored::{self, Mirrored};
use super::super::route::ResultsOf;
use super::super::{App, docs, simple};
use super::browse::{self, upstream_page};
use super::{facts, place, reader, remote, respond};

/// Test results that are read for one page.
const RESULTS_READ_MAX: usize = 30;
/// Test results of one file on the page of a version.
const RESULTS_SHOWN: usize = 6;
/// Files on one page.
const FILES: usize = 100;
/// Descriptions up to this length are rendered at once; longer ones on a thread that may take its time.
const SHORT_BYTES: usize = 64 << 10;
/// The longest test result that is read where several are shown, in bytes.
const GLANCE_BYTES_MAX: u64 = 256 << 10;
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
    if index::require(&app.store.read()?, &name)?.is_mirror() {
        return mirrored::answer(
            app,
            request,
            &name.clone(),
            project.clone(),
            move |app, request, mirrors| {
                draw_mirrored(app, request, (&name, &project, &version), mirrors)
            },
        );
    }
    if let Some(response) = draw(app, &request, (&name, &project, &version), false)? {
        return Ok(Reply::Now(response));
    }
    Ok(remote(app, request, move |app, request| {
        let drawn = draw(app, request, (&name, &project, &version), true)?;
        drawn.ok_or_else(|| Error::internal("a page that may take its time was not drawn"))
    }))
}

fn no_version(name: &IndexName, project: &ProjectName, asked: &str) -> Error {
    let text = format!("The version {asked} of project {project} does not exist on {name}.");
    Error::not_found(text)
}

/// The page of a version that a stage holds; none if its description takes longer to render than this thread may.
fn draw(
    app: &App,
    request: &Request,
    (name, project, asked): (&IndexName, &ProjectName, &str),
    has_time: bool,
) -> Result<Option<Response>> {
    let who = reader(app, request)?;
    let page_asked = browse::asked(request)?;
    let txn = app.read_index(request, name)?.txn;
    let versions = release::versions(&txn, name, project)?;
    let version = meant(&versions, asked).ok_or_else(|| no_version(name, project, asked))?;
    let record = txn.get(&key::Release(name, project, version))?.unwrap_or_default();
    let (written, notation) = description(&record);
    let is_long = SHORT_BYTES < written.len() && !app.descriptions.has(written, notation);
    if is_long && !has_time {
        return Ok(None);
    }
    let held = release::links(&record);
    let files: Vec<_> = held.iter().filter(|link| link.is(Rel::ReleaseFile)).collect();
    let paging = Paging::new(page_asked, files.len(), FILES);
    let files = files_of(app, &txn, &who, &held, &files[paging.range()])?;
    let serial = txn.serial();
    drop(txn);
    let rendered = (!written.is_empty()).then(|| app.descriptions.get(written, notation));
    let shown = VersionPage {
        index: name.to_string(),
        project: project.to_string(),
        version: version.to_string(),
        newer: newer(&versions, version),
        summary: facts::summary(&record),
        facts: facts::facts(&record),
        lists: facts::lists(&record),
        links: facts::outside(&record),
        files,
        paging,
        has_docs: held.iter().any(|link| link.is(Rel::DocZip)),
        note: rendered.as_ref().and_then(|rendered| rendered.note).map(str::to_owned),
        description: match rendered {
            // Made safe by whoever made it.
            Some(rendered) => PreEscaped(rendered.html.clone()),
            None => html! { p.quiet { "None was given." } },
        },
    };
    Ok(Some(respond(200, serial, page(&place(app, request, &who), &shown))))
}

/// The description and what it is written in.
fn description(record: &Dict) -> (&str, &str) {
    let text = |name: &str| record.text(name).unwrap_or_default();
    match text("description") {
        written if matches!(written.trim(), "" | "UNKNOWN") => ("", ""),
        written => (written, text("description_content_type")),
    }
}

/// The page of a version that a mirror knows.
fn draw_mirrored(
    app: &App,
    request: &Request,
    (name, project, asked): (&IndexName, &ProjectName, &str),
    mirrors: &Mirrored,
) -> Result<Response> {
    let who = reader(app, request)?;
    let page_asked = browse::asked(request)?;
    let Reading { txn, index, .. } = app.read_index(request, name)?;
    let absent = || mirrors.absence(no_version(name, project, asked));
    let shown = of_mirror(&txn, &index, project, (asked, page_asked))?.ok_or_else(absent)?;
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

fn files_of(
    app: &App,
    txn: &ReadTxn,
    who: &Identity,
    held: &[ReleaseLink],
    shown: &[&ReleaseLink],
) -> Result<Vec<File>> {
    let (mut files, mut read) = (Vec::new(), 0);
    let mut readable = Readable { app, txn, who, known: HashMap::new() };
    for link in shown {
        let mut file = file_of(app, txn, link)?;
        file.history = history(&mut readable, link)?;
        for result in results_of(held, link).into_iter().take(RESULTS_SHOWN) {
            read += 1;
            file.results.extend(result_lines(app, result, read <= RESULTS_READ_MAX)?);
        }
        files.push(file);
    }
    Ok(files)
}

fn of_mirror(
    txn: &ReadTxn,
    index: &Index,
    project: &ProjectName,
    (asked, page_asked): (&str, usize),
) -> Result<Option<VersionPage>> {
    let held = links::mirrored_versions(txn, index, project)?;
    let versions: Vec<Version> = held.iter().map(|held| held.version.clone()).collect();
    let Some(version) = meant(&versions, asked) else { return Ok(None) };
    let Some(found) = held.iter().find(|held| held.version == *version) else { return Ok(None) };
    let mut files = Vec::new();
    let paging = Paging::new(page_asked, found.links.len(), FILES);
    for link in &found.links[paging.range()] {
        let path = release::file_path(link.path())?;
        let record = txn.get(&key::File(&path))?.unwrap_or_default();
        let mut file = named(&link.name, link.path());
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
        index: index.name.to_string(),
        project: project.to_string(),
        version: version.to_string(),
        newer: newer(&versions, version),
        paging,
        facts: facts.into_iter().collect(),
        links: links.into_iter().collect(),
        files,
        description: html! { p.quiet { "Mirrors know the files of a project, not its description." } },
        summary: String::new(),
        lists: Vec::new(),
        has_docs: false,
        note: None,
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
fn named(name: &str, path: &str) -> File {
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
    File {
        name: name.to_owned(),
        path: path.to_owned(),
        kind: kind.to_owned(),
        python,
        ..File::default()
    }
}

fn file_of(app: &App, txn: &ReadTxn, link: &ReleaseLink) -> Result<File> {
    let path = release::file_path(link.path())?;
    let record = txn.get(&key::File(&path))?.unwrap_or_default();
    let mut file = named(link.name(), link.path());
    let told = record.integer("size").and_then(|size| u64::try_from(size).ok());
    file.size_bytes = told.or_else(|| app.store.blobs().size(&path));
    file.uploaded = overview::upload_time(txn, &path)?.unwrap_or_default();
    let hash = link.0.text("hash_spec").and_then(|spec| spec.strip_prefix("sha256="));
    file.sha256 = hash.unwrap_or_default().to_owned();
    Ok(file)
}

/// Which indexes the reader may know of.
struct Readable<'a> {
    app: &'a App,
    txn: &'a ReadTxn,
    who: &'a Identity,
    known: HashMap<String, bool>,
}

impl Readable<'_> {
    /// ` to NAME` and the like, if the reader may know of the index.
    fn named(&mut self, word: &str, name: Option<&str>) -> Result<String> {
        let Some(name) = name else { return Ok(String::new()) };
        let may_know = match self.known.get(name) {
            Some(known) => *known,
            None => {
                let parsed = IndexName::parse(name).ok();
                let index = parsed.map(|name| index::find(self.txn, &name)).transpose()?.flatten();
                let may_know = index.is_some_and(|index| self.app.may_read(self.who, &index));
                self.known.insert(name.to_owned(), may_know);
                may_know
            }
        };
        Ok(if may_know { format!(" {word} {name}") } else { String::new() })
    }
}

/// What is noted of a link, the latest first. Indexes that the reader may not read are not named.
fn history(readable: &mut Readable<'_>, link: &ReleaseLink) -> Result<Vec<Event>> {
    let logs = link.0.items("_log").iter().rev().cloned().filter_map(Dict::from_value);
    logs.take(EVENTS_MAX).map(|log| event(readable, &log)).collect()
}

fn event(readable: &mut Readable<'_>, log: &Dict) -> Result<Event> {
    let who = log.text("who").map(|who| format!(" by {who}")).unwrap_or_default();
    let from = readable.named("from", log.text("src"))?;
    let to = readable.named("to", log.text("dst"))?;
    let text = match log.text("what") {
        Some("upload") => format!("Uploaded{who}{to}"),
        Some("push") => format!("Pushed{who}{from}{to}"),
        Some("overwrite") => match log.integer("count") {
            Some(1) => "Replaced once before".to_owned(),
            Some(count) => format!("Replaced {count} times before"),
            None => "Replaced before".to_owned(),
        },
        what => format!("{}{who}", what.unwrap_or("Changed")),
    };
    Ok(Event { at: moment(log), text })
}

/// When something was noted.
fn moment(log: &Dict) -> String {
    log.get("when").and_then(time::of_six_tuple).map(time::stamp).unwrap_or_default()
}

/// When and by whom a link came.
fn came(link: &ReleaseLink) -> (String, String) {
    let mut logs = link.0.items("_log").iter().cloned().filter_map(Dict::from_value);
    let last = logs.next_back().unwrap_or_default();
    let who = last.text("who").unwrap_or_default().to_owned();
    (moment(&last), who)
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
    let environments = if reads { read_result(app, link, GLANCE_BYTES_MAX)? } else { None };
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
fn read_result(
    app: &App,
    link: &ReleaseLink,
    bytes_max: u64,
) -> Result<Option<Vec<results::Environment>>> {
    let path = release::file_path(link.path())?;
    let Some((file, size)) = app.store.blobs().get(&path)? else { return Ok(None) };
    if bytes_max < size {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(results::parse(&bytes))
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
    let bytes_max = if of.result.is_some() { results::BYTES_MAX } else { GLANCE_BYTES_MAX };
    let mut shown = Vec::new();
    for link in found {
        let ((at, who), name) = (came(link), link.name().to_owned());
        shown.push(TestResult { name, who, at, environments: read_result(app, link, bytes_max)? });
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
            let file = named(name, "");
            assert_eq!((file.kind.as_str(), file.python.as_str()), (kind, python), "{name}");
        }
    }
}
