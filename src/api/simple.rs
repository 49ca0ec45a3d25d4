//! The simple index: lists of projects and project pages, from the cache or made anew.

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, Result};
use crate::http::accept;
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::model::links;
use crate::model::walk::{Part, Share, Walk};
use crate::names::{IndexName, ProjectName};
use crate::pages::simple::{self as draw, Look};
use crate::replication::wire;
use crate::serial::Serial;
use crate::store::key::{FilePath, Key as _, SimpleLinks, User, Versions};
use crate::store::txn::{Read, ReadTxn};

use super::ask::{self, Form, SIMPLE_JSON};
use super::cache::{Kept, Page, Sources, source};
use super::mirrored::{self, Mirrored};
use super::{App, at, is_get};

/// Pages smaller than this are sent as they are.
const GZIP_BYTES_MIN: usize = 1024;

/// Whether a GET of an address that pages and JSON share wants the simple page.
pub fn is_wanted(request: &Request) -> bool {
    let best = accept::best(request.accept(), &[ask::HTML, ask::JSON, SIMPLE_JSON]);
    best == Some(SIMPLE_JSON) || best.is_some_and(|b| b != ask::JSON) && ask::is_installer(request)
}

/// The key of a page: all of a request that its bytes depend on.
fn cache_key(app: &App, request: &Request, is_installer: bool) -> String {
    let form = match Form::of(request) {
        Form::Html => 'h',
        Form::Json => 'j',
    };
    let agent = if is_installer { 'i' } else { 'p' };
    let coding = if takes_gzip(request) { 'z' } else { '-' };
    let base = absolute_base(app, request).unwrap_or_default();
    format!("{form}{agent}{coding}{base} {}", request.path())
}

pub(super) fn takes_gzip(request: &Request) -> bool {
    request.headers.get("accept-encoding").is_some_and(|codings| {
        codings.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.all(|p| p.replace(' ', "") != "q=0")
        })
    })
}

pub(super) fn absolute_base(app: &App, request: &Request) -> Option<String> {
    let is_absolute = app.config.absolute_urls || request.headers.has("x-devpi-absolute-urls");
    is_absolute.then(|| ask::base_url(request, app.config.outside_url.as_deref()))
}

/// The answer for a page that was made before and still stands, found without parsing the route.
pub fn cached(app: &App, request: &Request) -> Option<Response> {
    if !is_get(request) {
        return None;
    }
    let is_installer = ask::is_installer(request);
    // Other addresses show a simple page only to those who want one.
    let is_simple = request.target.contains("/+simple") || is_installer && is_wanted(request);
    if !is_simple || request.has_parameter(EXPLAIN) {
        return None;
    }
    let page = app.pages.get(&app.store, &cache_key(app, request, is_installer)).ok()??;
    page.value.is_alive().then(|| respond(request, &page))
}

/// The head of an answer with this entity tag, and whether the client has its body already.
pub(super) fn begin(request: &Request, etag: &str, serial: i64) -> (Response, bool) {
    let is_known = request.headers.get("if-none-match").is_some_and(|tags| {
        tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*")
    });
    let response = Response::new(if is_known { 304 } else { 200 })
        .with_header("ETag", etag.to_owned())
        .with_header("Vary", "Accept, Accept-Encoding, User-Agent")
        .with_header("Cache-Control", "max-age=0, must-revalidate")
        .with_header(wire::SERIAL, serial.to_string());
    (response, is_known)
}

pub(super) fn respond(request: &Request, kept: &Arc<Kept<Page>>) -> Response {
    let page = &kept.value;
    let (mut response, is_known) = begin(request, &page.etag, kept.serial());
    if let Some(serial) = page.upstream_serial {
        response = response.with_header("X-PYPI-LAST-SERIAL", serial.to_string());
    }
    if let Some(at) = page.life().looked_at {
        response = response.with_header("Age", at.elapsed().as_secs().to_string());
    }
    if is_known {
        return response;
    }
    let response = response
        .with_header("Content-Type", page.content_type)
        .with_body(Body::Shared(page.body.clone()));
    if page.is_gzip { response.with_header("Content-Encoding", "gzip") } else { response }
}

/// A page as it goes out.
pub(super) fn finished(request: &Request, text: String) -> Result<Page> {
    let is_gzip = takes_gzip(request) && text.len() >= GZIP_BYTES_MIN;
    let body = if is_gzip { gzip(text.as_bytes())? } else { text.into_bytes() };
    Ok(Page::new(body, Form::of(request).content_type(), is_gzip))
}

/// Keeps a fresh page and answers with it.
pub(super) fn keep(
    app: &App,
    request: &Request,
    page: Page,
    sources: Sources,
    serial: Option<Serial>,
) -> Response {
    let page = Kept::new(page, sources, serial);
    app.pages.put(cache_key(app, request, ask::is_installer(request)), page.clone());
    respond(request, &page)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A redirect to the address with the project in normal form; `None` if it is.
pub fn to_normal(
    app: &App,
    request: &Request,
    name: &IndexName,
    below: &str,
    spelling: &str,
) -> Option<Response> {
    if ProjectName::is_normal(spelling) || !spelling.is_ascii() {
        return None;
    }
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    let path = request.path();
    let tail = match path.trim_end_matches('/').rsplit_once('/') {
        // A version may follow the project.
        Some((_, last)) if below.is_empty() && path.trim_matches('/').split('/').count() == 4 => {
            format!("/{last}")
        }
        _ => String::new(),
    };
    let slash = if path.ends_with('/') || !below.is_empty() { "/" } else { "" };
    let query =
        if request.query().is_empty() { String::new() } else { format!("?{}", request.query()) };
    let project = ProjectName::new(spelling);
    Some(ask::redirect(format!("{base}/{name}{below}/{project}{tail}{slash}{query}")))
}

/// A redirect of people to the address with a slash at its end.
pub(super) fn to_slash(app: &App, request: &Request, path: &str) -> Option<Response> {
    let is_direct = request.path().ends_with('/')
        || ask::is_installer(request)
        || Form::of(request) == Form::Json;
    let base = ask::base_url(request, app.config.outside_url.as_deref());
    (!is_direct).then(|| ask::redirect(format!("{base}/{path}/")))
}

/// The relative way from an address to the root.
pub(super) fn to_root(path: &str) -> String {
    "../".repeat(path.matches('/').count().saturating_sub(1))
}

/// `GET /U/I/+simple/P/`: the files of a project.
///
/// # Errors
/// `Kind::NotFound` if neither the index nor a base knows the project; `Kind::BadGateway` if that cannot be told since
/// an upstream is away.
pub fn project(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    spelling: &str,
) -> Result<Reply> {
    if !spelling.is_ascii() {
        return Err(Error::invalid("unicode project names not allowed"));
    }
    let is_simple = request.path().contains("/+simple/");
    let below = if is_simple { "/+simple" } else { "" };
    if let Some(redirect) = to_normal(app, &request, name, below, spelling) {
        return Ok(Reply::Now(redirect));
    }
    let project = ProjectName::new(spelling);
    if is_simple
        && let Some(redirect) = to_slash(app, &request, &format!("{name}/+simple/{project}"))
    {
        return Ok(Reply::Now(redirect));
    }
    let (name, asked) = (name.clone(), project.clone());
    mirrored::answer(app, request, &name.clone(), project, move |app, request, mirrors| {
        match request.has_parameter(EXPLAIN) {
            true => explain(app, request, (&name, &asked), mirrors),
            false => show(app, request, (&name, &asked), mirrors),
        }
    })
}

/// What goes before a page's key where not everybody would be given the same: which indexes of the order are closed to
/// the one who asks. Such a page is found only by those who were let in and see as much, never by its address alone.
fn view(walk: &Walk) -> String {
    if walk.is_open() {
        return String::new();
    }
    let mark = |part: &Part| if part.share == Share::Closed { '-' } else { '+' };
    walk.parts.iter().map(mark).collect()
}

/// The page once all that it is made from was looked at.
fn show(
    app: &App,
    request: &Request,
    (name, project): (&IndexName, &ProjectName),
    mirrors: &Mirrored,
) -> Result<Response> {
    let seen = view(&mirrored::walk(app, request, name, project)?.1);
    let key = format!("{seen}{}", cache_key(app, request, ask::is_installer(request)));
    let is_kept = mirrors.is_complete();
    // No transaction is open while another one makes the page.
    let _making = is_kept.then(|| app.pages.make(&key));
    if is_kept && let Some(kept) = app.pages.get(&app.store, &key)? {
        kept.value.renew(mirrors.life());
        return Ok(respond(request, &kept));
    }
    let (txn, walk) = mirrored::walk(app, request, name, project)?;
    let sources = project_sources(&txn, &walk, project)?;
    let Some(mut page) = links::page(&txn, &walk, project)? else {
        let absent = Error::not_found(format!("The project {project} does not exist."));
        return Err(mirrors.absence(absent));
    };
    let serial = txn.serial();
    drop(txn);
    if app.mirrors.is_offline() {
        // Only what can really be had.
        let is_here = |path| app.store.blobs().size(&path).is_some();
        page.files.retain(|file| FilePath::parse(file.link.path()).is_some_and(is_here));
    }
    let mut made = finished(request, draw(app, request, name, project, &page))?;
    made.upstream_serial = page.upstream_serial;
    made.renew(mirrors.life());
    let made = Kept::new(made, sources, serial);
    let response = respond(request, &made);
    if is_kept && view(&walk) == seen {
        app.pages.put(key, made);
        return Ok(response);
    }
    Ok(match mirrors.doubt() {
        Some(why) => mirrored::mark_stale(response, &why),
        None => response,
    })
}

fn draw(
    app: &App,
    request: &Request,
    name: &IndexName,
    project: &ProjectName,
    page: &links::Page,
) -> String {
    let prefix = match absolute_base(app, request) {
        Some(base) => format!("{base}/"),
        None => to_root(request.path()),
    };
    let look = Look {
        prefix: &prefix,
        for_people: !ask::is_installer(request),
        with_metadata: app.config.enable_core_metadata,
    };
    match Form::of(request) {
        Form::Html => draw::project_html((name, project), page, &look),
        Form::Json => draw::project_json(project.as_str(), page, &look),
    }
}

/// The query parameter that asks how a page came about.
const EXPLAIN: &str = "explain";

/// `GET /U/I/+simple/P/?explain`: which index supplied each file, and what was hidden or kept out, and why.
fn explain(
    app: &App,
    request: &Request,
    (name, project): (&IndexName, &ProjectName),
    mirrors: &Mirrored,
) -> Result<Response> {
    let (txn, walk) = mirrored::walk(app, request, name, project)?;
    let shown = links::explain(&txn, &walk, project, |index| mirrors.note(&index.name))?;
    Ok(at(txn.serial(), ask::result(200, "explanation", shown)))
}

fn project_sources(txn: &ReadTxn, walk: &Walk, project: &ProjectName) -> Result<Sources> {
    let mut sources = Vec::new();
    for part in &walk.parts {
        let index = &part.index;
        sources.push(source(txn, User(index.name.user()).path())?);
        sources.push(source(txn, Versions(&index.name, project).path())?);
        sources.push(source(txn, SimpleLinks(&index.name, project).path())?);
        for base in index.bases() {
            sources.push(source(txn, User(base.user()).path())?);
        }
    }
    sources.sort();
    sources.dedup();
    Ok(sources)
}

/// `POST /U/I/+simple/P/refresh`: has every mirror of the order look at the project again, and shows the page.
///
/// # Errors
/// `Kind::NotFound` if there is no such index.
pub fn refresh(
    app: &Arc<App>,
    request: Request,
    name: &IndexName,
    spelling: &str,
) -> Result<Reply> {
    let project = ProjectName::new(spelling);
    let mirrors = mirrored::walk(app, &request, name, &project)?.1.mirrors();
    let base = ask::base_url(&request, app.config.outside_url.as_deref());
    let address = match request.path().contains("/+simple/") {
        true => format!("{base}/{name}/+simple/{project}/"),
        false => format!("{base}/{name}/{project}"),
    };
    if mirrors.is_empty() {
        return Ok(Reply::Now(at(app.store.clock().now(), ask::redirect(address))));
    }
    let app = app.clone();
    Ok(Reply::Remote(Box::new(move || {
        for index in &mirrors {
            if let Err(error) = app.mirrors.refresh(index, &project) {
                return Reply::Now(ask::failure(&error, false));
            }
        }
        Reply::Now(at(app.store.clock().now(), ask::redirect(address)))
    })))
}
