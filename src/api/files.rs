//! Files and their METADATA.

use std::fs::File;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::error::{Error, Kind, Result};
use crate::http::range::{Validators, Wanted};
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::mirror::files::{Wish, url_of};
use crate::mirror::pages::Standing;
use crate::model::index::{self, Index};
use crate::model::links::QUARANTINED;
use crate::model::{delete, metadata, mirrored};
use crate::names::{IndexName, ProjectName};
use crate::replication::{self, wire};
use crate::serial::Serial;
use crate::store::key::{FilePath, Key as _, SimpleLinks, User};
use crate::store::record::{Dict, Links, Record as _};
use crate::store::txn::Read;

use super::cache::{Kept, OpenFile, Sources, source};
use super::receipts::Call;
use super::{App, Node, ask, at, auth, is_get, mend, projects};

/// A file never changes under its address, which has its hash in it.
const CACHE_FOR_EVER: &str = "max-age=365000000, immutable, public";

/// What is known of a file at one serial.
struct Known {
    index: Index,
    record: Dict,
    sources: Sources,
    serial: Option<Serial>,
}

fn find(app: &App, path: &FilePath) -> Result<Known> {
    let txn = app.store.read()?;
    let name = IndexName::parse(path.index())?;
    let row = txn.row(path.as_str())?.ok_or_else(|| Error::not_found("no such file"))?;
    let Some(value) = row.value else {
        // devpi: what was under a hash and is deleted is gone; elsewhere it is not found.
        return Err(match path.is_by_hash() {
            true => Error::new(Kind::Gone, "file existed, deleted in later serial"),
            false => Error::not_found("no such file"),
        });
    };
    let index = index::require(&txn, &name)?;
    let record = Dict::decode(&value)?;
    let owner = User(index.name.user()).path();
    let mut sources = vec![(path.to_string(), Some(row.serial)), source(&txn, owner)?];
    if index.is_mirror()
        && let Some(project) = record.text("project").map(ProjectName::new)
    {
        refuse_quarantined(&txn, &index, &project)?;
        sources.push(source(&txn, SimpleLinks(&index.name, &project).path())?);
    }
    Ok(Known { index, record, sources, serial: txn.serial() })
}

/// Nothing of a project in quarantine is handed out, also if it is here (PEP 792).
///
/// # Errors
/// `Kind::Forbidden` with the reason that the upstream gives.
pub fn refuse_quarantined(txn: &impl Read, index: &Index, project: &ProjectName) -> Result<()> {
    let Some(value) = txn.row(&SimpleLinks(&index.name, project).path())?.and_then(|r| r.value)
    else {
        return Ok(());
    };
    // Pages can be large, and hardly any has the word in it.
    if memchr::memmem::find(&value, QUARANTINED.as_bytes()).is_none() {
        return Ok(());
    }
    let page = Links::decode(&value)?;
    if page.rest.text("project_status") != Some(QUARANTINED) {
        return Ok(());
    }
    let reason = page.rest.text("project_status_reason").map(|reason| format!(": {reason}"));
    Err(Error::forbidden(format!(
        "project {project} is in quarantine at the upstream of {}{}",
        index.name,
        reason.unwrap_or_default()
    )))
}

/// `GET` of a file, or of what is known of it in JSON mode.
///
/// # Errors
/// `Kind::NotFound` if it never was; `Kind::Gone` if it was deleted.
pub fn get(app: &Arc<App>, request: Request, path: &FilePath) -> Result<Reply> {
    with_known(app, request, path, answer)
}

/// What is to be done with a file of which something is known.
type Then = fn(&Arc<App>, Request, &FilePath, Known) -> Result<Reply>;

/// Answers by what is known of a file. Lock files name files of mirrors before anybody saw the project's page: it is
/// looked at once then.
fn with_known(app: &Arc<App>, request: Request, path: &FilePath, then: Then) -> Result<Reply> {
    let error = match find(app, path) {
        Ok(known) => return then(app, request, path, known),
        Err(error) => error,
    };
    let index = index::find(&app.store.read()?, &IndexName::parse(path.index())?)?;
    let mirror = index.filter(|index| index.is_mirror() && error.kind == Kind::NotFound);
    let (Some(mirror), Some(project)) = (mirror, mirrored::project_of(path.name())) else {
        return ask_master(app, &request, path, error);
    };
    Ok(later(app, request, path, move |app, request, path| {
        let standing = app.mirrors.ensure(&mirror, &project)?;
        match (find(app, path), standing) {
            (Ok(known), _) => then(app, request, path, known),
            (Err(error), Standing::Failed(..)) if error.kind == Kind::NotFound => {
                let message = format!("the upstream of {} could not be asked", mirror.name);
                Err(Error::new(Kind::BadGateway, message))
            }
            (Err(error), _) => ask_master(app, &request, path, error),
        }
    }))
}

/// Does the rest where it may wait for another machine.
fn later(
    app: &Arc<App>,
    request: Request,
    path: &FilePath,
    rest: impl FnOnce(&Arc<App>, Request, &FilePath) -> Result<Reply> + Send + 'static,
) -> Reply {
    let (app, path, is_json) = (app.clone(), path.clone(), ask::is_json(&request));
    Reply::Remote(Box::new(move || {
        let reply = rest(&app, request, &path);
        reply.unwrap_or_else(|error| Reply::Now(ask::failure(&error, is_json)))
    }))
}

fn answer(app: &Arc<App>, request: Request, path: &FilePath, known: Known) -> Result<Reply> {
    // Replicas say that they fetch; an installer that accepts JSON among others still wants the file.
    if ask::is_json(&request) && !request.headers.has(wire::FILE_REPLICATION) {
        let shown = shown_record(&known.record);
        return Ok(Reply::Now(at(known.serial, ask::result(200, "releasefilemeta", shown))));
    }
    match app.store.blobs().get(path)? {
        Some((_, size_bytes)) if mend::is_damaged(&known.record, size_bytes) => {
            if let Node::Replica(replica) = &app.node {
                replica.refetch(path)?;
            }
            bring(app, request, path, known)
        }
        Some(file) => keep(app, &request, path, known, file).map(Reply::Now),
        None => bring(app, request, path, known),
    }
}

/// Answers with a file that is not here.
fn bring(app: &Arc<App>, request: Request, path: &FilePath, known: Known) -> Result<Reply> {
    let Known { index, record, .. } = known;
    let is_mirror = index.is_mirror();
    if is_mirror
        && mirrored::Settings::of(&index).uses_external_urls
        && let Some(url) = url_of(&index, &record).filter(|_| !app.mirrors.is_offline())
    {
        return Ok(Reply::Now(ask::redirect(url)));
    }
    let (wanted, content_type) = (Wanted::of(&request), content_type(path.name()));
    match &app.node {
        Node::Replica(replica) => {
            let elsewhere = if is_mirror { app.mirrors.elsewhere(&index, &record) } else { None };
            let again = later(app, request, path, get);
            let again = Box::new(move || again);
            let path = path.clone();
            let wish = replication::Wish { path, record, wanted, content_type, elsewhere, again };
            Ok(replica.stream_file(wish))
        }
        Node::Master { .. } if is_mirror => {
            Ok(later(app, request, path, move |app, request, path| {
                let wish =
                    Wish { index: &index, path, record: &record, wanted: &wanted, content_type };
                match app.mirrors.file(&wish)? {
                    Some(response) => Ok(Reply::Now(response)),
                    None => get(app, request, path),
                }
            }))
        }
        Node::Master { writer, .. } => Err(mend::note_lost(writer, path)),
    }
}

/// A replica says "not found" only if the master agrees: how far it is behind it knows from the last answer only, and
/// a way to the master that went silent looks like a master that has nothing new.
fn ask_master(app: &App, request: &Request, path: &FilePath, error: Error) -> Result<Reply> {
    match &app.node {
        Node::Replica(replica) if error.kind == Kind::NotFound => {
            Ok(replica.ask_master(request, path, None, error))
        }
        _ => Err(error),
    }
}

/// Fields of records that devpi does not know.
const OWN_FIELDS: [&str; 5] =
    ["size", "metadata_sha256", "has_metadata", "upload_time", "provenance"];

/// What devpi shows of a file; our own fields are for the nodes alone.
fn shown_record(record: &Dict) -> Json {
    let mut shown = record.clone();
    for field in OWN_FIELDS {
        shown.remove(field);
    }
    shown.into_value().to_json()
}

fn content_type(name: &str) -> &'static str {
    let lower = name.to_lowercase();
    match lower.as_str() {
        n if n.ends_with(".tar.gz") || n.ends_with(".tgz") || n.ends_with(".tar.bz2") => {
            "application/x-tar"
        }
        n if n.ends_with(".zip") => "application/zip",
        _ => "application/octet-stream",
    }
}

/// Answers with a file, and keeps it open for the next who asks.
fn keep(
    app: &App,
    request: &Request,
    path: &FilePath,
    known: Known,
    (file, size_bytes): (File, u64),
) -> Result<Response> {
    let etag = known.record.text("hash_spec").and_then(|spec| spec.split_once('='));
    let open = OpenFile {
        file,
        size_bytes,
        etag: etag.map(|(_, hex)| format!("\"{hex}\"")),
        modified: known.record.text("last_modified").map(str::to_owned),
    };
    let kept = Kept::new(open, known.sources, known.serial);
    // What is kept is found by its address alone, whoever asks.
    if known.index.is_open() {
        app.files.put(format!("/{path}"), kept.clone());
    }
    send(request, path.name(), &kept)
}

/// The answer for a file that is open and still stands, found without parsing the route.
pub fn cached(app: &App, request: &Request) -> Option<Response> {
    let path = request.target.as_str();
    if !is_get(request) || !path.contains("/+f/") || ask::is_json(request) {
        return None;
    }
    // METADATA is not offered on every node, but nodes fetch it from each other.
    if path.ends_with(".metadata") && !app.config.enable_core_metadata {
        return None;
    }
    let kept = app.files.get(&app.store, path).ok()??;
    send(request, path.rsplit('/').next().unwrap_or_default(), &kept).ok()
}

fn send(request: &Request, name: &str, kept: &Kept<OpenFile>) -> Result<Response> {
    let OpenFile { file, size_bytes: size, etag, modified } = &kept.value;
    let (etag, modified, size) = (etag.as_deref(), modified.as_deref(), *size);
    let mut response = Response::new(200)
        .with_header("Cache-Control", CACHE_FOR_EVER)
        .with_header("Accept-Ranges", "bytes")
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header(wire::SERIAL, kept.serial().to_string());
    if let Some(etag) = etag {
        response = response.with_header("ETag", etag.to_owned());
    }
    if let Some(modified) = modified {
        response = response.with_header("Last-Modified", modified.to_owned());
    }
    if is_unmodified(request, etag, modified) {
        response.status = 304;
        return Ok(response);
    }
    response = response.with_header("Content-Type", content_type(name));
    let validators = Validators {
        etag,
        modified: modified.and_then(|date| httpdate::parse_http_date(date).ok()),
    };
    Wanted::of(request).answer(response, validators, size, |offset, length| {
        Ok(Body::File { file: file.try_clone()?, offset, length })
    })
}

/// Whether a client holds what it asks for already.
pub fn is_unmodified(request: &Request, etag: Option<&str>, modified: Option<&str>) -> bool {
    if let Some(tags) = request.headers.get("if-none-match") {
        return etag.is_some_and(|etag| {
            tags.split(',').any(|tag| matches!(tag.trim(), "*") || tag.trim() == etag)
        });
    }
    let since = request.headers.get("if-modified-since");
    since.is_some() && since == modified
}

/// `GET` of a wheel's METADATA (PEP 658).
///
/// # Errors
/// `Kind::NotFound` if it is not offered or the wheel has none.
pub fn metadata(app: &Arc<App>, request: Request, wheel: &FilePath) -> Result<Reply> {
    let is_peer = request.headers.has(wire::FILE_REPLICATION);
    if !app.config.enable_core_metadata && !is_peer {
        return Err(Error::not_found("no such file"));
    }
    with_known(app, request, wheel, answer_metadata)
}

fn answer_metadata(
    app: &Arc<App>,
    request: Request,
    wheel: &FilePath,
    mut known: Known,
) -> Result<Reply> {
    let absent = || Error::not_found("the file has no metadata");
    let sha256 = known.record.text("metadata_sha256").map(str::to_owned);
    let sidecar = wheel.sidecar()?;
    let is_here = |sha256: &String| -> Result<bool> {
        let blobs = app.store.blobs();
        Ok(blobs.size(&sidecar).is_some() || metadata::put_beside(blobs, wheel, sha256)?)
    };
    if let Some(sha256) = &sha256
        && is_here(sha256)?
        && let Some(file) = app.store.blobs().get(&sidecar)?
    {
        known.record.set("hash_spec", format!("sha256={sha256}"));
        return keep(app, &request, &sidecar, known, file).map(Reply::Now);
    }
    let Known { index, record, .. } = known;
    let is_mirror = index.is_mirror();
    if is_mirror && !is_offered(&index, &record) || !is_mirror && sha256.is_none() {
        return Err(absent());
    }
    match &app.node {
        Node::Replica(replica) => {
            let elsewhere = app.mirrors.metadata_elsewhere(&index, &record);
            Ok(replica.ask_master(&request, &sidecar, elsewhere, absent()))
        }
        Node::Master { .. } if is_mirror => {
            Ok(later(app, request, wheel, move |app, request, wheel| {
                let (wanted, content_type) = (Wanted::of(&request), "application/octet-stream");
                let wish = Wish {
                    index: &index,
                    path: wheel,
                    record: &record,
                    wanted: &wanted,
                    content_type,
                };
                match app.mirrors.metadata(&wish)? {
                    Some(response) => Ok(Reply::Now(response)),
                    None => metadata(app, request, wheel),
                }
            }))
        }
        Node::Master { .. } => Err(absent()),
    }
}

/// Whether the upstream of a mirror has the METADATA of a wheel beside it, as far as that is known.
fn is_offered(index: &Index, record: &Dict) -> bool {
    mirrored::Settings::of(index).provides_metadata && record.flag("has_metadata").unwrap_or(true)
}

/// `DELETE` of a file.
///
/// # Errors
/// `Kind::Forbidden` also on an index that is not volatile, without `force`; `Kind::NotFound`; `Kind::Gone`.
pub fn delete(app: &Call, request: &Request, path: &FilePath) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let name = IndexName::parse(path.index())?;
    let is_forced = request.has_parameter("force");
    let ((), serial) = app.writer()?.write(|txn| {
        let refusal = format!("cannot delete {path} on non-volatile index");
        let index = projects::deletable(app, &who, txn, &name, is_forced, &refusal)?;
        delete::file(txn, &index, path)
    })?;
    Ok(at(serial, ask::message(200, format!("package '{path}' deleted"))))
}
