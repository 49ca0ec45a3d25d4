//! A file that a client asks for before it is here: from the master to the client and to disk at once.
//!
//! The last piece is held back until the digest was right and the file is in place. So a client never gets a whole
//! file with wrong bytes; it sees its connection cut, and nothing is stored.

use std::io::{self, Read};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::http::client::Answer;
use crate::http::request::{Headers, Method};
use crate::http::response::{Body, Response};
use crate::store::blobs::Staging;
use crate::store::expected::Expected;
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read as _;

use super::files::{Files, not_sent};
use super::link;

/// How much of a file is held back, and handed on at once.
const PIECE_BYTES: usize = 64 << 10;

/// Header fields of the master's answer that are true of the file here.
const PASSED: [&str; 5] =
    ["content-type", "last-modified", "etag", "cache-control", "x-content-type-options"];

/// What is to become of the bytes.
enum Place {
    /// They are the file of a record, and stay.
    Record(FilePath),
    /// They are the METADATA beside a wheel, and stay.
    Sidecar(FilePath),
    /// No record here names them yet; the queue will bring them.
    Nowhere,
}

/// Gets a file of a record that is not here.
///
/// # Errors
/// `Kind::BadGateway` if the master cannot be reached or sends something else; `Kind::NotFound` and `Kind::Gone` as
/// it says.
pub fn file(
    files: &Arc<Files>,
    method: Method,
    path: &FilePath,
    record: &Dict,
) -> Result<Response> {
    let expected = Expected::of(record);
    if method == Method::Head && expected.size_bytes.is_some() {
        return Ok(Response::new(200)
            .with_header("Content-Type", "application/octet-stream")
            .with_body(nothing_of(expected.size_bytes)));
    }
    let answer = ask(files, path)?;
    if answer.status != 200 {
        return Err(not_sent(answer));
    }
    stream(files, path, expected, Place::Record(path.clone()), answer)
}

/// Asks the master, as the client, for a file that no record here names. `error` is what the client gets if the master has it no
/// more than this node.
///
/// # Errors
/// `error`; `Kind::BadGateway` if the master cannot be reached or sends something else.
pub fn unknown(
    files: &Arc<Files>,
    client: &Headers,
    path: &FilePath,
    error: Error,
) -> Result<Response> {
    let (expected, place) = match metadata_of(files, path)? {
        Some(expected) => (expected, Place::Sidecar(path.clone())),
        None => (Expected::of_path(path.as_str()), Place::Nowhere),
    };
    let answer =
        files.ask_for(client, path).map_err(|error| files.link.away(path.as_str(), &error))?;
    match answer.status {
        200 => stream(files, path, expected, place, answer),
        404 | 410 if error.kind == Kind::NotFound => {
            let says = not_sent(answer);
            Err(if says.kind == Kind::Gone { says } else { error })
        }
        _ => Err(not_sent(answer)),
    }
}

fn ask(files: &Files, path: &FilePath) -> Result<Answer> {
    files.ask(path).map_err(|error| files.link.away(path.as_str(), &error))
}

/// What a wheel's record says of the METADATA at this path, if that is what lies there.
fn metadata_of(files: &Files, path: &FilePath) -> Result<Option<Expected>> {
    let Some(wheel) = path.name().strip_suffix(".metadata").map(|name| path.sibling(name)) else {
        return Ok(None);
    };
    let record = files.store().read()?.get(&key::File(&wheel?))?;
    let sha256 = record.and_then(|record| record.text("metadata_sha256").map(str::to_owned));
    Ok(sha256.map(|hex| Expected::of_sha256(&hex)))
}

fn stream(
    files: &Arc<Files>,
    path: &FilePath,
    expected: Expected,
    place: Place,
    answer: Answer,
) -> Result<Response> {
    let length = link::length_of(&answer.headers);
    if let (Some(length), Some(due)) = (length, expected.size_bytes)
        && length != due
    {
        let message = format!("the master sends {length} bytes for {path} where {due} are due");
        return Err(Error::new(Kind::BadGateway, message));
    }
    let mut response = Response::new(200);
    for (name, value) in &answer.headers.0 {
        if PASSED.contains(&name.to_lowercase().as_str()) {
            response.headers.push((name.clone().into(), value.clone().into()));
        }
    }
    let staging = files.store().blobs().begin(expected.hasher())?;
    let length = length.or(expected.size_bytes);
    let reader = Through {
        source: answer.body,
        files: files.clone(),
        path: path.clone(),
        checked: Some(Checked { expected, place, staging }),
        ready: Vec::new(),
        at: 0,
        held: Vec::new(),
    };
    Ok(response.with_body(Body::Stream { reader: Box::new(reader), length }))
}

/// A body of this length for an answer without one.
fn nothing_of(length: Option<u64>) -> Body {
    Body::Stream { reader: Box::new(io::empty()), length }
}

/// What waits for the end of a file.
struct Checked {
    expected: Expected,
    place: Place,
    staging: Staging,
}

/// The body of the answer: each piece is written to disk, and handed on when the next one is there.
struct Through {
    source: Box<dyn Read + Send>,
    files: Arc<Files>,
    path: FilePath,
    /// None once the end was reached, or something failed.
    checked: Option<Checked>,
    ready: Vec<u8>,
    at: usize,
    held: Vec<u8>,
}

impl Through {
    fn advance(&mut self) -> Result<()> {
        let Some(mut checked) = self.checked.take() else { return Ok(()) };
        let mut piece = Vec::new();
        let limit = PIECE_BYTES as u64;
        self.source
            .by_ref()
            .take(limit)
            .read_to_end(&mut piece)
            .map_err(|e| Error::new(Kind::BadGateway, "the master stopped sending").caused_by(e))?;
        self.ready = std::mem::take(&mut self.held);
        self.at = 0;
        if piece.is_empty() {
            return self.finish(checked);
        }
        checked.staging.write(&piece)?;
        self.held = piece;
        self.checked = Some(checked);
        Ok(())
    }

    fn finish(&mut self, checked: Checked) -> Result<()> {
        let Checked { expected, place, staging } = checked;
        let staged = staging.finish()?;
        expected.check(&staged.sums)?;
        match place {
            Place::Record(path) => self.files.place(&path, &expected, staged),
            Place::Sidecar(path) => self.files.store().blobs().place(staged, &path),
            Place::Nowhere => Ok(()),
        }
    }
}

impl Read for Through {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if self.checked.is_none() {
                return Ok(0);
            }
            if let Err(error) = self.advance() {
                self.ready.clear();
                self.at = 0;
                log::warn!("{} is cut off on its way to a client: {error}", self.path);
                return Err(io::Error::other(error));
            }
        }
        let n = buf.len().min(self.ready.len() - self.at);
        buf[..n].copy_from_slice(&self.ready[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
