//! Files and their METADATA.

use std::fs::File;

use serde_json::Value as Json;

use crate::error::{Error, Kind, Result};
use crate::http::range::{Range, Validators};
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::model::{delete, index};
use crate::names::IndexName;
use crate::replication::wire;
use crate::serial::Serial;
use crate::store::key::{FilePath, Key as _, User};
use crate::store::record::{Dict, Record as _};
use crate::store::txn::Read;

use super::cache::{Kept, OpenFile, Sources, source};
use super::{App, Node, ask, at, auth, is_get, projects};

/// A file never changes under its address, which has its hash in it.
const CACHE_FOR_EVER: &str = "max-age=365000000, immutable, public";

/// What is known of a file at one serial.
struct Known {
    record: Dict,
    sources: Sources,
    serial: Option<Serial>,
    /// Whether everybody may read it.
    is_open: bool,
}

fn find(app: &App, path: &FilePath) -> Result<Known> {
    let txn = app.store.read()?;
    let index = IndexName::parse(path.index())?;
    let row = txn.row(path.as_str())?.ok_or_else(|| Error::not_found("no such file"))?;
    let Some(value) = row.value else {
        // devpi: what was under a hash and is deleted is gone; elsewhere it is not found.
        return Err(match path.as_str().contains("/+f/") {
            true => Error::new(Kind::Gone, "file existed, deleted in later serial"),
            false => Error::not_found("no such file"),
        });
    };
    let is_open = index::require(&txn, &index)?.is_open();
    let owner = User(index.user()).path();
    let sources = vec![(path.to_string(), Some(row.serial)), source(&txn, owner)?];
    Ok(Known { record: Dict::decode(&value)?, sources, serial: txn.serial(), is_open })
}

/// `GET` of a file, or of what is known of it in JSON mode.
///
/// # Errors
/// `Kind::NotFound` if it never was; `Kind::Gone` if it was deleted.
pub fn get(app: &App, request: &Request, path: &FilePath) -> Result<Reply> {
    let known = match find(app, path) {
        Ok(known) => known,
        Err(error) => return ask_master(app, request, path, error),
    };
    // Replicas say that they fetch; an installer that accepts JSON among others still wants the file.
    if ask::is_json(request) && !request.headers.has(wire::FILE_REPLICATION) {
        let shown = shown_record(&known.record);
        return Ok(Reply::Now(at(known.serial, ask::result(200, "releasefilemeta", shown))));
    }
    match app.store.blobs().get(path)? {
        Some(file) => keep(app, request, path, known, file).map(Reply::Now),
        None => match &app.node {
            Node::Replica(replica) => Ok(replica.stream_file(request, path, known.record)),
            Node::Master { .. } => Err(Error::not_found("no such file")),
        },
    }
}

/// A replica says "not found" only if it is up to date or the master agrees.
fn ask_master(app: &App, request: &Request, path: &FilePath, error: Error) -> Result<Reply> {
    match &app.node {
        Node::Replica(replica) if error.kind == Kind::NotFound && !replica.is_current() => {
            Ok(replica.ask_master(request, path, error))
        }
        _ => Err(error),
    }
}

/// What devpi shows of a file; our own fields are for the nodes alone.
fn shown_record(record: &Dict) -> Json {
    let mut shown = record.clone();
    shown.remove("size");
    shown.remove("metadata_sha256");
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
    if known.is_open {
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
    let headers = &request.headers;
    let range = Range::choose(headers.get("range"), headers.get("if-range"), validators, size);
    if let Some(part) = range.content_range(size) {
        response = response.with_header("Content-Range", part);
    }
    let (offset, length) = match range {
        Range::Whole => (0, size),
        Range::Part { offset, length } => {
            response.status = 206;
            (offset, length)
        }
        Range::Unsatisfiable => {
            response.status = 416;
            return Ok(response);
        }
    };
    Ok(response.with_body(Body::File { file: file.try_clone()?, offset, length }))
}

fn is_unmodified(request: &Request, etag: Option<&str>, modified: Option<&str>) -> bool {
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
pub fn metadata(app: &App, request: &Request, wheel: &FilePath) -> Result<Reply> {
    let is_peer = request.headers.has(wire::FILE_REPLICATION);
    if !app.config.enable_core_metadata && !is_peer {
        return Err(Error::not_found("no such file"));
    }
    let mut known = find(app, wheel)?;
    let absent = || Error::not_found("the file has no metadata");
    let sha256 = known.record.text("metadata_sha256").ok_or_else(absent)?.to_owned();
    let sidecar = wheel.sibling(&format!("{}.metadata", wheel.name()))?;
    known.record.set("hash_spec", format!("sha256={sha256}"));
    match app.store.blobs().get(&sidecar)? {
        Some(file) => keep(app, request, &sidecar, known, file).map(Reply::Now),
        None => match &app.node {
            Node::Replica(replica) => Ok(replica.ask_master(request, &sidecar, absent())),
            Node::Master { .. } => Err(absent()),
        },
    }
}

/// `DELETE` of a file.
///
/// # Errors
/// `Kind::Forbidden` also on an index that is not volatile, without `force`; `Kind::NotFound`; `Kind::Gone`.
pub fn delete(app: &App, request: &Request, path: &FilePath) -> Result<Response> {
    let who = auth::identify(app, request)?;
    let name = IndexName::parse(path.index())?;
    let is_forced = request.has_parameter("force");
    let ((), serial) = app.writer()?.write(|txn| {
        let refusal = format!("cannot delete {path} on non-volatile index");
        let index = projects::deletable(app, &who, txn, &name, is_forced, &refusal)?;
        projects::require_stage(&index)?;
        delete::file(txn, &index, path)
    })?;
    Ok(at(serial, ask::message(200, format!("package '{path}' deleted"))))
}
