//! What an upstream's page becomes in the log: a record for each file, and the links of the project.
//!
//! Only what differs from what is there is written, so that looking again costs no serial. Fields that devpi does not
//! know: in file records `size`, `upload_time`, `has_metadata`, `metadata_sha256` and `provenance`; in the links `upstream`, the
//! address that they came from, `project_status` with `project_status_reason`, and `revised`, the serial at which a file's
//! record changed last.

use crate::error::Result;
use crate::model::index::Index;
use crate::model::mirrored;
use crate::names::ProjectName;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Links};
use crate::store::txn::{Read, WriteTxn};

use super::parse::{UpstreamFile, UpstreamPage};

/// What an answer said besides the page.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The entity tag.
    pub etag: Option<String>,
    /// `X-PyPI-Last-Serial`.
    pub serial: Option<i64>,
    /// The address of the index, without credentials.
    pub upstream: String,
}

/// Writes what an upstream shows of a project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn store(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    page: &UpstreamPage,
    seen: &Seen,
) -> Result<()> {
    let (mut links, mut is_revised) = (Vec::with_capacity(page.files.len()), false);
    for file in &page.files {
        if let Some((link, is_changed)) = store_file(txn, index, project, file)? {
            links.push(link);
            is_revised |= is_changed;
        }
    }
    let key = key::SimpleLinks(&index.name, project);
    let held = txn.get(&key)?;
    let mut rest = rest_of(page, seen);
    // Pages are made from this row and those of the files, and only this one tells whether they still stand.
    let revised = match is_revised {
        true => i64::try_from(txn.next_serial().get()).unwrap_or(i64::MAX),
        false => held.as_ref().and_then(|held| held.rest.integer("revised")).unwrap_or(0),
    };
    rest.set("revised", Value::int(revised));
    let fresh = Links::of_mirror(links, rest);
    if held.as_ref().is_some_and(|held| is_same(held, &fresh)) {
        return Ok(());
    }
    txn.set(&key, &fresh);
    txn.insert_name(&key::Projects(&index.name), project.as_str())?;
    Ok(())
}

fn rest_of(page: &UpstreamPage, seen: &Seen) -> Dict {
    let mut rest = Dict::new();
    rest.set("etag", seen.etag.as_deref().map_or(Value::None, Value::from));
    rest.set("serial", Value::int(seen.serial.unwrap_or(-1)));
    rest.set("upstream", seen.upstream.as_str());
    if let Some((status, reason)) = &page.status {
        rest.set("project_status", status.as_str());
        if let Some(reason) = reason {
            rest.set("project_status_reason", reason.as_str());
        }
    }
    rest
}

/// Whether two pages say the same. Entity tags and serials change for reasons that nobody here sees.
fn is_same(held: &Links, fresh: &Links) -> bool {
    let fields = ["upstream", "project_status", "project_status_reason", "revised"];
    held.is_of_mirror()
        && held.links == fresh.links
        && fields.iter().all(|field| held.rest.get(field) == fresh.rest.get(field))
}

/// Writes the record of a file if it is new or says something new, and gives the link to it with whether it changed a
/// record that was there; none if it cannot stand here.
fn store_file(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    file: &UpstreamFile,
) -> Result<Option<(Link, bool)>> {
    let hex = file.hash.as_ref().map(|(_, hex)| hex.as_str());
    let Ok(path) = mirrored::path_of(&index.name, &file.url, hex, &file.name) else {
        return Ok(None);
    };
    let spec = file.hash.as_ref().map(|(kind, hex)| format!("{kind}={hex}"));
    let held = match &spec {
        Some(_) => txn.get(&key::File(&path))?,
        None => txn.get(&key::UnhashedFile(&path))?,
    };
    let is_other = |held: &Dict| spec.is_some() && held.text("hash_spec") != spec.as_deref();
    if held.as_ref().is_some_and(is_other) {
        log::warn!("{path} has another hash at the upstream than here; it is not shown");
        return Ok(None);
    }
    let record = record_of(held.as_ref(), file, spec.as_deref(), project);
    if held.as_ref() != Some(&record) {
        match &spec {
            Some(_) => txn.set(&key::File(&path), &record),
            None => txn.set(&key::UnhashedFile(&path), &record),
        }
    }
    let is_changed = held.is_some_and(|held| held != record);
    Ok(Some((link_of(&path, file, spec.as_deref()), is_changed)))
}

fn link_of(path: &FilePath, file: &UpstreamFile, spec: Option<&str>) -> Link {
    let href = match spec {
        Some(spec) => format!("{path}#{spec}"),
        None => path.to_string(),
    };
    Link {
        name: file.name.clone(),
        href,
        requires_python: file.requires_python.clone(),
        yanked: file.yanked.clone(),
    }
}

fn record_of(
    held: Option<&Dict>,
    file: &UpstreamFile,
    spec: Option<&str>,
    project: &ProjectName,
) -> Dict {
    let mut record = held.cloned().unwrap_or_default();
    record.set("url", file.url.as_str());
    if held.is_none() {
        record.set("hash_spec", spec.unwrap_or_default());
        if let Some((kind, hex)) = &file.hash {
            record.set("hashes", Dict(vec![(kind.clone(), hex.as_str().into())]));
        }
        record.set("project", project.as_str());
        if let Some(version) = mirrored::version_of(&file.name, project) {
            record.set("version", version);
        }
    }
    // What was measured here beats what is said there.
    if let (Some(size), None) = (file.size_bytes, record.get("last_modified")) {
        record.set("size", Value::int(i64::try_from(size).unwrap_or(i64::MAX)));
    }
    if let Some(time) = &file.upload_time {
        record.set("upload_time", time.as_str());
    }
    if file.name.ends_with(".whl") {
        record.set("has_metadata", file.metadata.is_some());
    }
    if let Some(Some(sha256)) = &file.metadata {
        record.set("metadata_sha256", sha256.as_str());
    }
    match &file.provenance {
        Some(url) => record.set("provenance", url.as_str()),
        None => drop(record.remove("provenance")),
    }
    record
}
