//! Files of mirrors: brought once for all who want them, passed on while they come, checked and kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::deadline::Deadline;
use crate::digest::{Hasher, Sums};
use crate::error::{Error, Kind, Result};
use crate::http::range::{Validators, Wanted};
use crate::http::response::{Body, Response};
use crate::http::resume::{self, Ask, Manner, Opened, Steady};
use crate::model::index::{self, Index};
use crate::model::mirrored::Settings;
use crate::model::{metadata, time};
use crate::names::IndexName;
use crate::store::blobs::Staged;
use crate::store::codec::Value;
use crate::store::expected::Expected;
use crate::store::growing::{About, Arrival, Growing};
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Record as _};
use crate::store::txn::{Read, WriteTxn};
use crate::store::{Store, Writer};

use super::pages::identity;
use super::upstream::{Upstream, with_credentials_of, without_credentials};
use super::{Mirrors, Source};

/// The longest wait until it is known how a file is to be answered with. It comes all the same, for the next who asks.
const OUTLOOK_WAIT: Duration = Duration::from_secs(60);
/// The largest file that is taken when nothing says its size, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// The largest METADATA that is taken, in bytes.
const METADATA_BYTES_MAX: u64 = 16 << 20;

/// A file that a client wants.
pub struct Wish<'a> {
    /// The mirror.
    pub index: &'a Index,
    /// Where the file stands here.
    pub path: &'a FilePath,
    /// Its record.
    pub record: &'a Dict,
    /// Which part of it.
    pub wanted: &'a Wanted,
    /// The media type of the answer.
    pub content_type: &'static str,
}

/// Where a file lies at its upstream, with the credentials of the mirror if it is the same server: for requests and
/// redirects, not to be shown.
pub fn url_of(index: &Index, record: &Dict) -> Option<String> {
    let url = record.text("url").filter(|url| !url.is_empty())?;
    let settings = Settings::of(index);
    Some(match &settings.url {
        Some(mirror_url) => with_credentials_of(url, mirror_url),
        None => url.to_owned(),
    })
}

/// Asks for what lies at `url`, which may hold credentials.
fn ask_for(upstream: Arc<Upstream>, url: String) -> Ask {
    Box::new(move |fields| {
        let mut headers = vec![("accept".to_owned(), "*/*".to_owned())];
        headers.extend(fields.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        upstream.get(&url, &headers, upstream.timeout())
    })
}

fn open(upstream: Arc<Upstream>, url: String, is_checked: bool) -> Result<Steady> {
    let shown = without_credentials(&url);
    let failed =
        |error: Error| Error::new(Kind::BadGateway, format!("error getting {shown}: {error}"));
    let manner = Manner { is_checked, asks_again: true };
    match resume::open(ask_for(upstream, url), manner).map_err(failed)? {
        Opened::Body(body) => Ok(body),
        Opened::Refused(answer) => Err(resume::refused(answer, &shown)),
    }
}

impl Mirrors {
    /// Answers with a file that is not here, from its upstream, and keeps it. `None` if it came in this moment. Blocks:
    /// not for threads of the local crew.
    ///
    /// # Errors
    /// `Kind::NotFound` if the upstream does not have it, `Kind::BadGateway` if it fails or sends another file,
    /// `Kind::Unavailable` if too much waits.
    pub fn file(self: &Arc<Self>, wish: &Wish<'_>) -> Result<Option<Response>> {
        let url = url_of(wish.index, wish.record).filter(|_| !self.is_offline());
        let url = url.ok_or_else(|| Error::not_found("no such file"))?;
        let (is_head, size) = (wish.wanted.is_head, Expected::of(wish.record).size_bytes);
        if let Some(size) = size.filter(|_| is_head) {
            return Ok(Some(head_of(wish, size)));
        }
        let etag = etag_of(wish.record);
        let growing = self.join(wish, url);
        growing.map(|growing| follow(wish, etag.as_deref(), &growing)).transpose()
    }

    /// Has a file in its place here, from its upstream if it is not. Blocks as long as that takes.
    ///
    /// # Errors
    /// As `file`.
    pub fn have(self: &Arc<Self>, wish: &Wish<'_>) -> Result<()> {
        let url = url_of(wish.index, wish.record).filter(|_| !self.is_offline());
        let url = url.ok_or_else(|| Error::not_found("no such file"))?;
        self.join(wish, url).map_or(Ok(()), |growing| growing.settled())
    }

    /// The arrival of a file; none if it is here.
    fn join(self: &Arc<Self>, wish: &Wish<'_>, url: String) -> Option<Arc<Growing>> {
        let path = wish.path;
        let is_here = || self.store().blobs().size(path).is_some();
        self.arrivals().join(path, is_here, |arrival| {
            let (mirrors, path, record) = (self.clone(), path.clone(), wish.record.clone());
            self.start(wish.index, arrival, move |arrival| {
                mirrors.bring(arrival, &path, &record, url)
            });
        })
    }

    /// The METADATA of a wheel that is not here, from beside it at its upstream; as `file` does.
    ///
    /// # Errors
    /// As `file`.
    pub fn metadata(self: &Arc<Self>, wheel: &Wish<'_>) -> Result<Option<Response>> {
        let url = url_of(wheel.index, wheel.record).filter(|_| !self.is_offline());
        let url = url.ok_or_else(|| Error::not_found("the file has no metadata"))?;
        let sidecar = wheel.path.sidecar()?;
        let is_here = || self.store().blobs().size(&sidecar).is_some();
        let growing = self.arrivals().join(&sidecar, is_here, |arrival| {
            let (mirrors, path, record) = (self.clone(), wheel.path.clone(), wheel.record.clone());
            let url = beside(&url);
            self.start(wheel.index, arrival, move |arrival| {
                mirrors.bring_metadata(arrival, &path, &record, url)
            });
        });
        growing.map(|growing| follow(wheel, None, &growing)).transpose()
    }

    /// Asks for a file at its upstream; `None` if it has none, or nothing may be asked for.
    pub fn elsewhere(&self, index: &Index, record: &Dict) -> Option<Ask> {
        let url = url_of(index, record).filter(|_| !self.is_offline())?;
        Some(ask_for(self.upstream_handle(), url))
    }

    /// Asks for the METADATA of a wheel at its upstream, as `elsewhere` does.
    pub fn metadata_elsewhere(&self, index: &Index, record: &Dict) -> Option<Ask> {
        let url = url_of(index, record).filter(|_| !self.is_offline())?;
        Some(ask_for(self.upstream_handle(), beside(&url)))
    }

    /// Has a file brought on a thread of its own; work that finds no room is dropped, which ends the arrival.
    fn start(
        &self,
        index: &Index,
        mut arrival: Arrival,
        bring: impl FnOnce(&mut Arrival) -> Result<()> + Send + 'static,
    ) {
        let work = move || match bring(&mut arrival) {
            Ok(()) => arrival.done(),
            Err(error) => {
                log::warn!("{error:?}");
                arrival.fail(&error);
            }
        };
        let upstream = identity(&Settings::of(index));
        drop(self.file_lanes.submit(&upstream, Box::new(work)));
    }

    fn bring(
        &self,
        arrival: &mut Arrival,
        path: &FilePath,
        record: &Dict,
        url: String,
    ) -> Result<()> {
        let expected = Expected::of(record);
        let (staged, modified) = self.take(arrival, path, &expected, url, FILE_BYTES_MAX)?;
        let Source::Upstream(writer) = self.source() else {
            return Err(Error::internal("a replica writes no records"));
        };
        let metadata = metadata_of(self.store(), path, &staged);
        self.store().blobs().prepare(path)?;
        let sums = staged.sums.clone();
        let is_kept = keep(writer, path, |txn, mut held| {
            if Expected::of(&held).check(&sums).is_err() {
                return Ok(false);
            }
            set_measured(&mut held, &sums, modified.as_deref());
            keep_metadata(txn, path, &mut held, metadata)?;
            txn.add_file(path.clone(), staged);
            set_record(txn, path, &held);
            Ok(true)
        })?;
        if !is_kept {
            log::info!("{path} was deleted or changed while it came; it is not kept");
        }
        Ok(())
    }

    fn bring_metadata(
        &self,
        arrival: &mut Arrival,
        wheel: &FilePath,
        record: &Dict,
        url: String,
    ) -> Result<()> {
        let sidecar = wheel.sidecar()?;
        let due = record.text("metadata_sha256");
        let expected = due.map_or_else(Expected::default, Expected::of_sha256);
        let (staged, _) = self.take(arrival, &sidecar, &expected, url, METADATA_BYTES_MAX)?;
        let Source::Upstream(writer) = self.source() else {
            return Err(Error::internal("a replica writes no records"));
        };
        let blobs = self.store().blobs();
        if due.is_some() {
            return blobs.place(staged, &sidecar);
        }
        let sha256 = staged.sums.sha256.hex();
        keep(writer, wheel, |txn, mut held| {
            if held.text("metadata_sha256").is_some_and(|due| due != sha256) {
                return Ok(false);
            }
            held.set("metadata_sha256", sha256.as_str());
            txn.add_file(sidecar.clone(), staged);
            set_record(txn, wheel, &held);
            Ok(true)
        })?;
        Ok(())
    }

    /// Takes the bytes of what lies at `url`, and checks them. Gives when they were modified there, too.
    fn take(
        &self,
        arrival: &mut Arrival,
        path: &FilePath,
        expected: &Expected,
        url: String,
        bytes_max: u64,
    ) -> Result<(Staged, Option<String>)> {
        let shown = without_credentials(&url);
        let wrong = |what: String| {
            Error::new(Kind::BadGateway, format!("error getting {path} from {shown}: {what}"))
        };
        let mut source = open(self.upstream_handle(), url, expected.is_known())?;
        let length = source.length();
        if let (Some(length), Some(due)) = (length, expected.size_bytes)
            && length != due
        {
            return Err(wrong(format!("{length} bytes are sent where {due} are due")));
        }
        let modified = source.headers.get("last-modified").map(str::to_owned);
        let fields = modified.clone().map(|date| ("Last-Modified".to_owned(), date));
        let about = About { length, fields: fields.into_iter().collect() };
        let staging = self.store().blobs().begin(expected.hasher())?;
        let bytes_max = expected.size_bytes.unwrap_or(bytes_max);
        let sealed = arrival.take(staging, about, &mut source, bytes_max);
        let sealed = sealed.map_err(|error| match error.kind {
            Kind::BadGateway => wrong(error.to_string()),
            _ => error,
        })?;
        expected.check(&sealed.sums).map_err(|error| wrong(error.message))?;
        arrival.right();
        Ok((sealed.sync()?, modified))
    }
}

/// Changes the record of a file, if it still stands and its index is a mirror still; false if not, or if `change` says so.
fn keep(
    writer: &Writer,
    path: &FilePath,
    change: impl FnOnce(&mut WriteTxn<'_>, Dict) -> Result<bool>,
) -> Result<bool> {
    let (is_kept, _) = writer.write(|txn| {
        let value = txn.row(path.as_str())?.and_then(|row| row.value);
        let name = IndexName::parse(path.index())?;
        let is_mirror = index::find(txn, &name)?.is_some_and(|index| index.is_mirror());
        match value {
            Some(value) if is_mirror => change(txn, Dict::decode(&value)?),
            _ => Ok(false),
        }
    })?;
    Ok(is_kept)
}

/// Stores the record of a file under the key that belongs to its path.
pub(super) fn set_record(txn: &mut WriteTxn<'_>, path: &FilePath, record: &Dict) {
    match path.is_by_hash() {
        true => txn.set(&key::File(path), record),
        false => txn.set(&key::UnhashedFile(path), record),
    }
}

/// Puts what was measured of a file into its record (spec/replication-wire.md 2.4).
fn set_measured(record: &mut Dict, sums: &Sums, modified: Option<&str>) {
    let modified = modified.filter(|date| httpdate::parse_http_date(date).is_ok());
    let modified = modified.map_or_else(|| time::http_date(SystemTime::now()), str::to_owned);
    record.set("last_modified", modified);
    if record.text("hash_spec").is_none_or(str::is_empty) {
        record.set("hash_spec", sums.sha256.hash_spec());
    }
    let mut hashes = record.dict("hashes").unwrap_or_default();
    hashes.set("sha256", sums.sha256.hex());
    record.set("hashes", hashes);
    record.set("size", Value::int(i64::try_from(sums.size_bytes).unwrap_or(i64::MAX)));
}

/// Has the METADATA of a wheel put beside it, unless the upstream promised another one.
fn keep_metadata(
    txn: &mut WriteTxn<'_>,
    path: &FilePath,
    record: &mut Dict,
    metadata: Option<Staged>,
) -> Result<()> {
    let Some(metadata) = metadata else { return Ok(()) };
    let found = metadata.sums.sha256.hex();
    match record.text("metadata_sha256") {
        Some(due) if !due.eq_ignore_ascii_case(&found) => {
            log::info!("the METADATA in {path} is not what its upstream says; it is not kept");
            return Ok(());
        }
        Some(_) => (),
        None => record.set("metadata_sha256", found),
    }
    txn.add_file(path.sidecar()?, metadata);
    Ok(())
}

/// The METADATA of a wheel that was staged.
fn metadata_of(store: &Store, path: &FilePath, wheel: &Staged) -> Option<Staged> {
    let bytes = metadata::of_wheel(path.name(), wheel.open().ok()?)?;
    store.blobs().stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX).ok()
}

/// Where the METADATA of a wheel lies at its upstream (PEP 658).
fn beside(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}.metadata?{query}"),
        None => format!("{url}.metadata"),
    }
}

fn etag_of(record: &Dict) -> Option<String> {
    let (_, hex) = record.text("hash_spec")?.split_once('=')?;
    Some(format!("\"{hex}\""))
}

/// What all answers with a file that is not here have in common.
fn answer_of(wish: &Wish<'_>) -> Response {
    Response::new(200)
        .with_header("Content-Type", wish.content_type)
        .with_header("Accept-Ranges", "bytes")
        .with_header("X-Content-Type-Options", "nosniff")
        .with_header("X-Accel-Buffering", "no")
}

fn head_of(wish: &Wish<'_>, length: u64) -> Response {
    let reader = Box::new(std::io::empty());
    answer_of(wish).with_body(Body::Stream { reader, length: Some(length) })
}

/// Answers with a file that comes.
fn follow(wish: &Wish<'_>, etag: Option<&str>, growing: &Arc<Growing>) -> Result<Response> {
    let about = growing.outlook(Deadline::after(OUTLOOK_WAIT))?;
    let mut response = answer_of(wish);
    let modified = about.field("last-modified");
    if let Some(modified) = modified {
        response = response.with_header("Last-Modified", modified.to_owned());
    }
    if let Some(etag) = etag {
        response = response.with_header("ETag", etag.to_owned());
    }
    let Some(length) = about.length else {
        let reader = Box::new(growing.reader(0, None));
        return Ok(response.with_body(Body::Stream { reader, length: None }));
    };
    let modified = modified.and_then(|date| httpdate::parse_http_date(date).ok());
    wish.wanted.answer(response, Validators { etag, modified }, length, |offset, length| {
        let reader = Box::new(growing.reader(offset, Some(length)));
        Ok(Body::Stream { reader, length: Some(length) })
    })
}
