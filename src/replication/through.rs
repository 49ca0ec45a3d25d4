//! A file that a client asks for before it is here: from the master to disk, once, and to all who want it meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::client::Answer;
use crate::http::range::{Validators, Wanted};
use crate::http::request::Headers;
use crate::http::response::{Body, Reply, Response};
use crate::http::resume::{self, Ask, Manner, Opened, Steady};
use crate::store::blobs::Staging;
use crate::store::expected::Expected;
use crate::store::growing::{About, Arrival, Arrivals, Growing};
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read as _;

use super::files::{FILE_BYTES_MAX, Files, not_sent};
use super::sources::FilesWanted;

/// The longest wait until it is known how a file is to be answered with.
const OUTLOOK_WAIT: Duration = Duration::from_secs(60);
/// How much longer than for its own files the master is waited for where it has to ask elsewhere itself.
const MIRROR_PATIENCE: u32 = 4;

/// Header fields of the master's answer that are true of the file here.
const PASSED: [&str; 5] =
    ["content-type", "last-modified", "etag", "cache-control", "x-content-type-options"];

/// A file that a client wants and that is not here.
pub struct Wish {
    /// Which one.
    pub path: FilePath,
    /// Its record.
    pub record: Dict,
    /// Which part of it.
    pub wanted: Wanted,
    /// Its media type, where nobody else says one.
    pub content_type: &'static str,
    /// Asks for it elsewhere if the master is away.
    pub elsewhere: Option<Ask>,
    /// Answers with it if it came in this moment.
    pub again: Box<dyn FnOnce() -> Reply + Send>,
}

/// What is to become of the bytes.
#[derive(Clone)]
enum Place {
    /// They are the file of a record, and stay.
    Record,
    /// They are the METADATA beside a wheel, and stay.
    Sidecar,
    /// No record here names them yet; the queue will bring them.
    Nowhere,
}

/// Gets a file of a record that is not here.
///
/// # Errors
/// `Kind::BadGateway` if the master cannot be reached or sends something else; `Kind::NotFound` and `Kind::Gone` as
/// it says.
pub fn file(files: &Arc<Files>, wish: Wish) -> Result<Reply> {
    let expected = Expected::of(&wish.record);
    if let Some(size) = expected.size_bytes.filter(|_| wish.wanted.is_head) {
        let body = Body::Stream { reader: Box::new(io::empty()), length: Some(size) };
        let head = Response::new(200).with_header("Content-Type", wish.content_type);
        return Ok(Reply::Now(head.with_body(body)));
    }
    let is_mirrored = wish.record.text("url").is_some();
    let errand = Errand {
        path: wish.path.clone(),
        expected,
        place: if files.choice == FilesWanted::None { Place::Nowhere } else { Place::Record },
        client: None,
        patience: if is_mirrored { MIRROR_PATIENCE } else { 1 },
        elsewhere: wish.elsewhere,
    };
    let is_here = || files.store().blobs().size(&wish.path).is_some();
    match join(files, &files.arrivals, errand, is_here) {
        None => Ok((wish.again)()),
        Some(growing) => follow(&growing, &wish.wanted, wish.content_type).map(Reply::Now),
    }
}

/// A file that no record here names, or METADATA.
pub struct Unknown {
    /// Which one.
    pub path: FilePath,
    /// The header fields of the client, who may be one of some for whom the file is.
    pub client: Headers,
    /// Which part of it.
    pub wanted: Wanted,
    /// Asks for it elsewhere if the master is away.
    pub elsewhere: Option<Ask>,
    /// What the client gets if the master has it no more than this node.
    pub error: Error,
}

/// Asks the master for a file that no record here names, as the client, since the master knows for whom it is; or for
/// the METADATA of a wheel that is known here.
///
/// # Errors
/// `Unknown::error`; `Kind::BadGateway` if the master cannot be reached or sends something else.
pub fn unknown(files: &Arc<Files>, wish: Unknown) -> Result<Response> {
    let Unknown { path, client, wanted, elsewhere, error } = wish;
    let patience = if elsewhere.is_some() { MIRROR_PATIENCE } else { 1 };
    let (expected, place, client) = match metadata_of(files, &path)? {
        Some(expected) if files.choice == FilesWanted::None => (expected, Place::Nowhere, None),
        Some(expected) => (expected, Place::Sidecar, None),
        None => (Expected::of_path(path.as_str()), Place::Nowhere, Some(client)),
    };
    // What is for this client may not be for the next.
    let alone = Arrivals::default();
    let arrivals = if client.is_some() { &alone } else { &files.arrivals };
    let errand = Errand { path, expected, place, client, patience, elsewhere };
    let growing = join(files, arrivals, errand, || false).expect("it was said not to be here");
    follow(&growing, &wanted, "application/octet-stream").map_err(|says| match says.kind {
        Kind::NotFound if error.kind == Kind::NotFound => error,
        _ => says,
    })
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

/// A file to bring.
struct Errand {
    path: FilePath,
    expected: Expected,
    place: Place,
    /// Who is to be asked for; this node if none.
    client: Option<Headers>,
    patience: u32,
    elsewhere: Option<Ask>,
}

/// The file on its way, or none if it is here.
fn join(
    files: &Arc<Files>,
    arrivals: &Arrivals,
    errand: Errand,
    is_here: impl FnOnce() -> bool,
) -> Option<Arc<Growing>> {
    let (path, named) = (errand.path.clone(), errand.path.clone());
    arrivals.join(&path, is_here, |mut arrival| {
        let bringing = files.clone();
        let work = move || match bring(&bringing, &mut arrival, errand) {
            Ok(()) => arrival.done(),
            Err(error) => {
                log::info!("{named} is not passed on: {error:?}");
                arrival.fail(&error);
            }
        };
        // Work that finds no room is dropped, which ends the arrival.
        drop(files.lane.submit(Box::new(work)));
    })
}

fn bring(files: &Arc<Files>, arrival: &mut Arrival, errand: Errand) -> Result<()> {
    let Errand { path, expected, place, client, patience, elsewhere } = errand;
    let ask = either(files, &path, client, patience, elsewhere);
    let manner = Manner { is_checked: expected.is_known(), asks_again: false };
    let blobs = files.store().blobs();
    let begun = match place {
        Place::Record => blobs.resume(&path, &expected)?,
        Place::Sidecar | Place::Nowhere => None,
    };
    let at = begun.as_ref().map_or(0, Staging::written);
    let mut source = match resume::open_at(ask, manner, at)? {
        Opened::Body(body) => body,
        Opened::Refused(answer) => return Err(not_sent(answer)),
    };
    let about = about(&source);
    if let (Some(length), Some(due)) = (about.length, expected.size_bytes)
        && length != due
    {
        let message = format!("{length} bytes are sent for {path} where {due} are due");
        return Err(Error::new(Kind::BadGateway, message));
    }
    let staging = match place {
        Place::Record => blobs.go_on(&path, &expected, begun, (source.at(), about.length))?,
        Place::Sidecar | Place::Nowhere => blobs.begin(expected.hasher())?,
    };
    let bytes_max = expected.size_bytes.unwrap_or(FILE_BYTES_MAX);
    let sealed = arrival.take(staging, about, &mut source, bytes_max)?;
    expected.check(&sealed.sums)?;
    let staged = sealed.sync()?;
    match place {
        Place::Record => files.place(&path, &expected, staged),
        Place::Sidecar => blobs.place(staged, &path),
        Place::Nowhere => Ok(()),
    }
}

/// Asks the master; if it is away or in trouble, elsewhere where that is possible.
fn either(
    files: &Arc<Files>,
    path: &FilePath,
    client: Option<Headers>,
    patience: u32,
    elsewhere: Option<Ask>,
) -> Ask {
    let (files, path) = (files.clone(), path.clone());
    Box::new(move |fields| {
        let result = match &client {
            Some(client) => files.ask_for(client, &path, fields),
            None => files.ask(&path, fields, patience),
        };
        let result = result.map_err(|error| files.link.away(path.as_str(), &error));
        let is_settled = |answer: &Answer| answer.status < 500 && answer.status != 302;
        match (&result, &elsewhere) {
            (Ok(answer), _) if is_settled(answer) => result,
            (_, Some(elsewhere)) => match elsewhere(fields) {
                Ok(answer) if matches!(answer.status, 200 | 206) => Ok(answer),
                _ => result,
            },
            (_, None) => result,
        }
    })
}

fn about(source: &Steady) -> About {
    let passed = |(name, _): &&(String, String)| PASSED.contains(&name.to_lowercase().as_str());
    let fields = source.headers.0.iter().filter(passed).cloned().collect();
    About { length: source.length(), fields }
}

/// Answers with a file that comes.
fn follow(growing: &Arc<Growing>, wanted: &Wanted, content_type: &'static str) -> Result<Response> {
    let about = growing.outlook(Deadline::after(OUTLOOK_WAIT))?;
    let mut response = Response::new(200);
    for (name, value) in &about.fields {
        response.headers.push((name.clone().into(), value.clone().into()));
    }
    if about.field("content-type").is_none() {
        response = response.with_header("Content-Type", content_type);
    }
    let Some(length) = about.length else {
        let reader = Box::new(growing.reader(0, None));
        return Ok(response.with_body(Body::Stream { reader, length: None }));
    };
    let modified =
        about.field("last-modified").and_then(|date| httpdate::parse_http_date(date).ok());
    let validators = Validators { etag: about.field("etag"), modified };
    wanted.answer(response, validators, length, |offset, length| {
        let reader = Box::new(growing.reader(offset, Some(length)));
        Ok(Body::Stream { reader, length: Some(length) })
    })
}
