//! Files that this node has lost, and those who bring them back: `GET /+files/lost` and `PUT /+files/PATH`, for
//! replicas alone.

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::store::Writer;
use crate::store::expected::Expected;
use crate::store::key::{File, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read as _;

use super::{App, ask};

/// How many lost files are told at once; a replica asks again when it has brought them.
const LIST_MAX: usize = 1000;

/// The answer to `GET /+files/lost`: paths, as a list in JSON.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn lost(app: &App) -> Result<Response> {
    let lost = app.store.lost(LIST_MAX)?;
    let paths: Vec<&str> = lost.iter().map(FilePath::as_str).collect();
    Ok(Response::bytes(200, ask::JSON, json!(paths).to_string().into_bytes()))
}

/// Takes the bytes of a file that is lost here. They are what its record says, or they are not taken; no serial is
/// used.
///
/// # Errors
/// `Kind::NotFound` if no record names the file; `Kind::Conflict` if there is nothing to check it by; `Kind::Invalid`
/// if it is another one; `Kind::Internal` if the disk fails.
pub fn take(
    app: &App,
    writer: &Writer,
    request: &mut Request,
    path: &FilePath,
) -> Result<Response> {
    let record = app.store.read()?.get(&File(path))?;
    let Some(record) = record else {
        writer.forget_lost(path)?;
        return Err(Error::not_found("no record names this file"));
    };
    let expected = Expected::of(&record);
    if !expected.is_known() {
        return Err(Error::conflict("the record of this file has no digest to check it by"));
    }
    let blobs = app.store.blobs();
    let bytes_max = expected.size_bytes.unwrap_or(app.config.body_bytes_max);
    let staged = blobs.stage(&mut request.take_body(), expected.hasher(), bytes_max)?;
    if let Err(error) = expected.check(&staged.sums) {
        log::warn!("a replica brought something else for {path}: {error}");
        return Err(Error::new(Kind::Invalid, format!("these are not the bytes: {error}")));
    }
    blobs.prepare(path)?;
    let sums = staged.sums.clone();
    let fits = |record: &Dict| Expected::of(record).check(&sums).is_ok();
    if !writer.fetched(path, staged, fits)? {
        return Err(Error::conflict("the record of this file changed meanwhile"));
    }
    writer.forget_lost(path)?;
    log::info!("{path} is back, from a replica");
    Ok(Response::text(200, "taken"))
}

/// Notes that a file's bytes should be here and are not, and says so to who asked.
pub fn note_lost(writer: &Writer, path: &FilePath) -> Error {
    match writer.note_lost(path) {
        Ok(true) => log::error!("the bytes of {path} are lost here; replicas are asked for them"),
        Ok(false) => {}
        Err(error) => log::error!("that {path} is lost cannot be noted: {error}"),
    }
    let message = "the bytes of this file are lost on this node; its replicas are asked for them";
    Error::new(Kind::Unavailable, message)
}

/// Whether the file on disk cannot be the one of the record.
pub fn is_damaged(record: &Dict, size_bytes: u64) -> bool {
    Expected::of(record).size_bytes.is_some_and(|due| due != size_bytes)
}
