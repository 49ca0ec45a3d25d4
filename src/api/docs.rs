//! Documentation: pages out of the zips that were uploaded, raw or within a frame (spec/http-api.md section 15).
//!
//! What somebody uploaded is shown under this server's own address, so it is confined: the header says `sandbox`, under
//! which browsers treat each page as from nowhere. Fonts are the one thing that such a page is told it may load, since
//! browsers ask for leave there.

use std::io::Read as _;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::{Error, Kind, Result};
use crate::http::range::Wanted;
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::model::docs::Zip;
use crate::model::release::{self, Rel, ReleaseLink};
use crate::names::{IndexName, ProjectName, Version};
use crate::pages::docs::{self as draw, Frame};
use crate::replication::Wish;
use crate::serial::Serial;
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read;

use super::files::is_unmodified;
use super::route::DocPage;
use super::{App, Node, ask, at, web};

/// How long browsers may show a page without asking; the word `latest` may mean another one soon.
const CACHE: &str = "max-age=60";
/// What pages of documentation are called first.
const FIRST: &str = "index.html";
/// Pages up to this size are unpacked before the answer begins, so that a failure still is a clean one.
const SMALL_BYTES: u64 = 256 << 10;
/// What the directories of open zips may take together, in bytes.
const ZIPS_BYTES_MAX: u64 = 64 << 20;
/// The least that an open zip counts for, which bounds their number to a hundred or so.
const ZIP_BYTES_MIN: u64 = 512 << 10;

/// Weighs a zip by its directory.
#[derive(Clone)]
struct Scale;

impl Weighter<String, Arc<Zip>> for Scale {
    fn weight(&self, _: &String, zip: &Arc<Zip>) -> u64 {
        zip.weight().max(ZIP_BYTES_MIN)
    }
}

/// Zips that are open, by path and digest.
pub struct ZipCache(Cache<String, Arc<Zip>, Scale>);

impl ZipCache {
    /// An empty one.
    pub fn new() -> Self {
        let items = (ZIPS_BYTES_MAX / ZIP_BYTES_MIN) as usize;
        Self(Cache::with_weighter(items, ZIPS_BYTES_MAX, Scale))
    }
}

impl Default for ZipCache {
    fn default() -> Self {
        Self::new()
    }
}

/// Documentation of one version.
struct Docs {
    index: IndexName,
    version: Version,
    link: ReleaseLink,
    record: Dict,
    serial: Option<Serial>,
    /// Where the words `latest` and `stable` lead, if they lead to other versions.
    others: Vec<(&'static str, Version)>,
    /// Whether the index holds a newer version.
    is_behind: bool,
}

/// `GET` of a page.
///
/// # Errors
/// `Kind::NotFound` if there is no such documentation or no such page.
pub fn show(app: &Arc<App>, request: Request, name: &IndexName, page: DocPage) -> Result<Reply> {
    if let Some(redirect) = redirect(app, &request, &page) {
        return Ok(Reply::Now(redirect));
    }
    let docs = find(app, &request, name, &page)?;
    let etag = docs.link.0.text("hash_spec").and_then(|spec| spec.split_once('='));
    let etag = etag.map(|(_, hex)| format!("\"{hex}\""));
    if !page.is_framed && is_unmodified(&request, etag.as_deref(), None) {
        return Ok(Reply::Now(at(docs.serial, cached(Response::new(304), etag))));
    }
    let path = release::file_path(docs.link.path())?;
    match (&app.node, app.store.blobs().size(&path)) {
        (Node::Replica(_), None) => {
            let (app, is_json) = (app.clone(), ask::is_json(&request));
            Ok(Reply::Remote(Box::new(move || {
                let done =
                    fetch(&app, &docs).and_then(|()| answer(&app, &request, &page, &docs, etag));
                Reply::Now(done.unwrap_or_else(|error| ask::failure(&error, is_json)))
            })))
        }
        _ => answer(app, &request, &page, &docs, etag).map(Reply::Now),
    }
}

fn cached(response: Response, etag: Option<String>) -> Response {
    let response = response.with_header("Cache-Control", CACHE);
    match etag {
        Some(etag) => response.with_header("ETag", etag),
        None => response,
    }
}

/// To the first page, and to the project's name in normal form.
fn redirect(app: &App, request: &Request, page: &DocPage) -> Option<Response> {
    let is_normal = ProjectName::is_normal(&page.project) || !page.project.is_ascii();
    if is_normal && !page.page.is_empty() {
        return None;
    }
    let path = request.path().trim_end_matches('/');
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let project = ProjectName::new(&page.project);
    if !is_normal && let Some(part) = parts.get_mut(2) {
        *part = project.as_str();
    }
    if page.page.is_empty() {
        parts.push(FIRST);
    }
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let query = query_of(request);
    Some(ask::redirect(format!("{base}/{}{query}", parts.join("/"))))
}

fn query_of(request: &Request) -> String {
    if request.query().is_empty() { String::new() } else { format!("?{}", request.query()) }
}

/// The documentation that an address means.
fn find(app: &App, request: &Request, name: &IndexName, page: &DocPage) -> Result<Docs> {
    let reading = app.read_index(request, name)?;
    let (txn, project) = (&reading.txn, ProjectName::new(&page.project));
    let absent =
        || Error::not_found(format!("No documentation available for {project} {}.", page.version));
    let mut versions = release::versions(txn, name, &project)?;
    versions.sort_by_cached_key(|version| std::cmp::Reverse(version.sort_key()));
    let newest = versions.first().cloned();
    let docs_of = |version: &Version| -> Result<Option<ReleaseLink>> {
        let record = txn.get(&key::Release(name, &project, version))?.unwrap_or_default();
        Ok(release::links(&record).into_iter().find(|link| link.is(Rel::DocZip)))
    };
    let named = |word: &str| -> Result<Option<(Version, ReleaseLink)>> {
        for version in &versions {
            let counts = word == "latest" || version.is_stable();
            if counts && let Some(link) = docs_of(version)? {
                return Ok(Some((version.clone(), link)));
            }
        }
        Ok(None)
    };
    let found = match page.version.as_str() {
        word @ ("latest" | "stable") => named(word)?,
        version => {
            let version = Version::parse(version).map_err(|_| absent())?;
            docs_of(&version)?.map(|link| (version, link))
        }
    };
    let (version, link) = found.ok_or_else(absent)?;
    let mut others = Vec::new();
    for word in ["latest", "stable"] {
        if page.is_framed
            && let Some((other, _)) = named(word)?
            && other != version
        {
            others.push((word, other));
        }
    }
    let record = txn.get(&key::File(&release::file_path(link.path())?))?.unwrap_or_default();
    let is_behind = newest.is_some_and(|newest| newest != version);
    Ok(Docs { index: name.clone(), version, link, record, serial: txn.serial(), others, is_behind })
}

/// Brings a zip from the master, as a client's request for it would.
fn fetch(app: &App, docs: &Docs) -> Result<()> {
    bring(app, &release::file_path(docs.link.path())?, docs.record.clone(), "application/zip")
}

/// Has a file of a replica here, brought from the master if need be. May wait.
///
/// # Errors
/// `Kind::BadGateway` or `Kind::Unavailable` if it does not come.
pub(super) fn fetch_file(app: &App, path: &FilePath, content_type: &'static str) -> Result<()> {
    let record = app.store.read()?.get(&key::File(path))?.unwrap_or_default();
    bring(app, path, record, content_type)
}

fn bring(app: &App, path: &FilePath, record: Dict, content_type: &'static str) -> Result<()> {
    let Node::Replica(replica) = &app.node else { return Ok(()) };
    if app.store.blobs().size(path).is_some() {
        return Ok(());
    }
    let mut reply = replica.stream_file(Wish {
        path: path.clone(),
        record,
        wanted: Wanted::default(),
        content_type,
        elsewhere: None,
        again: Box::new(|| Reply::Now(Response::new(200))),
    });
    while let Reply::Remote(job) = reply {
        reply = job();
    }
    if let Reply::Now(Response { status: 200, body: Body::Stream { mut reader, .. }, .. }) = reply {
        let away = |e| Error::new(Kind::BadGateway, format!("{path} did not come")).caused_by(e);
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(away)?;
    }
    match app.store.blobs().size(path) {
        Some(_) => Ok(()),
        None => {
            Err(Error::unavailable(format!("{path} is not here yet, and could not be fetched")))
        }
    }
}

/// The zip, from the cache or opened anew.
fn open(app: &App, link: &ReleaseLink) -> Result<Arc<Zip>> {
    let key = format!("{}#{}", link.path(), link.0.text("hash_spec").unwrap_or_default());
    if let Some(zip) = app.zips.0.get(&key) {
        return Ok(zip);
    }
    let absent = || Error::not_found("the documentation is not here");
    let (file, _) = app.store.blobs().get(&release::file_path(link.path())?)?.ok_or_else(absent)?;
    let unshown = |e: Error| match e.kind {
        Kind::Invalid => {
            Error::not_found(format!("This documentation cannot be shown: {}.", e.message))
        }
        _ => e,
    };
    let zip = Arc::new(Zip::open(file).map_err(unshown)?);
    app.zips.0.insert(key, zip.clone());
    Ok(zip)
}

fn answer(
    app: &App,
    request: &Request,
    page: &DocPage,
    docs: &Docs,
    etag: Option<String>,
) -> Result<Response> {
    let zip = open(app, &docs.link)?;
    if zip.page(FIRST).is_none() {
        return Err(Error::not_found(format!("This documentation has no {FIRST}.")));
    }
    let Some(found) = zip.page(&page.page) else {
        if zip.page(&format!("{}/{FIRST}", page.page)).is_some() {
            let base = ask::base_url(request, app.config.outside_url.as_deref());
            let path = request.path().trim_end_matches('/');
            return Ok(ask::redirect(format!("{base}{path}/{FIRST}{}", query_of(request))));
        }
        return Err(Error::not_found(format!("File {} not found in documentation.", page.page)));
    };
    if page.is_framed {
        return framed(app, request, page, docs);
    }
    let mut reader = zip.read(found)?;
    let body = match found.size_bytes <= SMALL_BYTES {
        true => {
            let mut bytes = Vec::with_capacity(found.size_bytes as usize);
            let damaged = |e| Error::not_found("This page is damaged.").caused_by(e);
            reader.read_to_end(&mut bytes).map_err(damaged)?;
            Body::Owned(bytes)
        }
        false => Body::Stream { reader: Box::new(reader), length: Some(found.size_bytes) },
    };
    let response = confined(Response::new(200), &page.page).with_body(body);
    Ok(at(docs.serial, cached(response, etag)))
}

/// Type and confinement of a page.
fn confined(mut response: Response, name: &str) -> Response {
    let guess = mime_guess::from_path(name.strip_suffix(".svgz").map_or(name, |_| "x.svg"));
    let kind = guess.first_raw().unwrap_or("application/octet-stream");
    let is_text = kind.starts_with("text/") || kind.ends_with("json") || kind.ends_with("+xml");
    response = match is_text {
        true => response.with_header("Content-Type", format!("{kind}; charset=utf-8")),
        false => response.with_header("Content-Type", kind),
    };
    if name.ends_with(".svgz") {
        response = response.with_header("Content-Encoding", "gzip");
    }
    if is_font(name) {
        response = response.with_header("Access-Control-Allow-Origin", "null");
    }
    // What shows PDF in browsers does not run where it is confined, and shows nothing but PDF.
    if kind != "application/pdf" {
        let policy = format!("sandbox {}", draw::SANDBOX);
        response = response.with_header("Content-Security-Policy", policy);
    }
    response
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("Referrer-Policy", "same-origin")
}

fn is_font(name: &str) -> bool {
    let end = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    matches!(end.as_str(), "woff" | "woff2" | "ttf" | "otf" | "eot")
}

/// Our own page with the page in a frame.
fn framed(app: &App, request: &Request, page: &DocPage, docs: &Docs) -> Result<Response> {
    let who = web::reader(app, request)?;
    // Addresses are relative, so that they hold behind any proxy. The path has the page's parts as they were sent.
    let path = request.path();
    let tail = path.split_once("/+d/").map_or("", |(_, tail)| tail.trim_end_matches('/'));
    let up = "../".repeat(path.trim_end_matches('/').matches('/').count() - DEPTH + 1);
    let others: Vec<_> =
        docs.others.iter().map(|(word, _)| (*word, format!("{up}../{word}/+d/{FIRST}"))).collect();
    let frame = Frame {
        index: &docs.index.to_string(),
        project: &page.project,
        version: docs.version.as_str(),
        inside: &format!("{up}+doc/{tail}{}", query_of(request)),
        others: &others,
        is_behind: docs.is_behind,
    };
    let html = draw::frame(&web::place(app, request, &who), &frame);
    Ok(web::respond(200, docs.serial, html))
}

/// Slashes before the first part of a page: `/U/I/P/V/+d/`.
const DEPTH: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_confined_whatever_it_is_called() {
        for (name, kind) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.svg", "image/svg+xml; charset=utf-8"),
            ("page.xhtml", "application/xhtml+xml; charset=utf-8"),
            ("searchindex.js", "text/javascript; charset=utf-8"),
            ("no-end", "application/octet-stream"),
        ] {
            let response = confined(Response::new(200), name);
            assert_eq!(response.header("Content-Type"), Some(kind), "{name}");
            let policy = response.header("Content-Security-Policy").expect("a policy");
            assert!(policy.starts_with("sandbox ") && !policy.contains("same-origin"), "{name}");
            assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"), "{name}");
            assert_eq!(response.header("Access-Control-Allow-Origin"), None, "{name}");
        }
        let font = confined(Response::new(200), "_static/a.WOFF2");
        assert_eq!(font.header("Access-Control-Allow-Origin"), Some("null"));
    }
}
