//! The files that a simple page offers: links of the index and its bases, first one of a name wins, each with what
//! PEP 503, 592, 658, 691, 700 and 740 let installers know of it.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use crate::error::Result;
use crate::names::{IndexName, ProjectName, Version};
use crate::store::codec::{self, Value};
use crate::store::key::{self, Key as _};
use crate::store::record::{Dict, Link, Record as _};
use crate::store::txn::Read;

use super::index::Index;
use super::mirrored::Settings;
use super::walk::{Share, Walk};
use super::{release, stage, time};

/// What is known of a wheel's METADATA (PEP 658, 714).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Metadata {
    /// It is not offered.
    #[default]
    None,
    /// It is offered.
    Offered,
    /// It is offered and has this SHA-256, in hex.
    Hashed(String),
}

/// One file of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageFile {
    /// The index that supplied it.
    pub owner: IndexName,
    /// The stored link.
    pub link: Link,
    /// Its size, when known.
    pub size_bytes: Option<u64>,
    /// `2026-11-22T23:59:04Z`, when known; of a mirror's file as the upstream says.
    pub upload_time: Option<String>,
    /// Its METADATA.
    pub metadata: Metadata,
    /// Where its provenance lies (PEP 740).
    pub provenance: Option<String>,
}

/// A project's page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The files, in the order of the indexes and of arrival.
    pub files: Vec<PageFile>,
    /// All versions, sorted.
    pub versions: Vec<String>,
    /// Status and reason, unless active (PEP 792).
    pub status: Option<(String, Option<String>)>,
    /// The mirrors that have a part in it.
    pub mirrors: Vec<IndexName>,
    /// Mirrors that are hidden, each with the stage that hides it.
    pub blocked: Vec<(IndexName, IndexName)>,
    /// The last serial of the upstream, where the index is a mirror that knows it.
    pub upstream_serial: Option<i64>,
    /// Files that another index hides: its name, and the owner of the one that is shown.
    pub hidden: Vec<(PageFile, IndexName)>,
}

/// What one index holds of a project.
struct Held {
    files: Vec<PageFile>,
    versions: Vec<Version>,
    status: Option<(String, Option<String>)>,
    serial: Option<i64>,
}

/// The page of a project as a walk of its indexes gives it; `None` if none of them knows the project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn page(txn: &impl Read, walk: &Walk, project: &ProjectName) -> Result<Option<Page>> {
    let mut page = Page { blocked: walk.blocked(), ..Page::default() };
    let mut shown: HashMap<String, usize> = HashMap::new();
    let (mut versions, mut is_known) = (Vec::new(), false);
    for (place, part) in walk.parts.iter().enumerate() {
        let held = match part.share {
            Share::Holds => of_stage(txn, &part.index, project)?,
            Share::Mirror => match of_mirror(txn, &part.index, project)? {
                Some(held) => held,
                None => continue,
            },
            _ => continue,
        };
        if part.share == Share::Mirror {
            page.mirrors.push(part.index.name.clone());
            if place == 0 {
                page.upstream_serial = held.serial;
            }
        }
        if !is_known {
            page.status = held.status;
        }
        is_known = true;
        versions.extend(held.versions);
        for file in held.files {
            match shown.get(&file.link.name) {
                Some(at) => page.hidden.push((file, page.files[*at].owner.clone())),
                None => {
                    shown.insert(file.link.name.clone(), page.files.len());
                    page.files.push(file);
                }
            }
        }
    }
    page.versions = sorted(versions).iter().map(Version::to_string).collect();
    Ok(is_known.then_some(page))
}

fn sorted(mut versions: Vec<Version>) -> Vec<Version> {
    versions.sort();
    versions.dedup();
    versions.sort_by_cached_key(Version::sort_key);
    versions
}

fn of_stage(txn: &impl Read, index: &Index, project: &ProjectName) -> Result<Held> {
    let versions = release::versions(txn, &index.name, project)?;
    let links = txn.get(&key::SimpleLinks(&index.name, project))?.unwrap_or_default().links;
    let mut files = Vec::with_capacity(links.len());
    for link in links {
        let record = record_of(txn, &link)?;
        let metadata = match record.text("metadata_sha256") {
            Some(sha256) => Metadata::Hashed(sha256.to_owned()),
            None => Metadata::None,
        };
        // A file that was pushed from a mirror keeps the time of its upload there.
        let upload_time = record.text("upload_time").map(str::to_owned);
        let upload_time =
            upload_time.or_else(|| record.text("last_modified").and_then(time::upload_time));
        files.push(describe(index, link, &record, upload_time, metadata));
    }
    Ok(Held { files, versions, status: None, serial: None })
}

fn of_mirror(txn: &impl Read, index: &Index, project: &ProjectName) -> Result<Option<Held>> {
    let held = txn.get(&key::SimpleLinks(&index.name, project))?;
    let Some(held) = held.filter(|held| held.is_of_mirror()) else { return Ok(None) };
    let status = held.rest.text("project_status").map(|status| {
        (status.to_owned(), held.rest.text("project_status_reason").map(str::to_owned))
    });
    let serial = held.rest.integer("serial").filter(|serial| 0 < *serial);
    let offers = Settings::of(index).provides_metadata;
    let (mut files, mut versions) = (Vec::with_capacity(held.links.len()), Vec::new());
    // Nothing of a project in quarantine may be offered (PEP 792).
    let is_quarantined = status.as_ref().is_some_and(|(status, _)| status == QUARANTINED);
    for link in held.links {
        let record = record_of(txn, &link)?;
        versions.extend(record.text("version").and_then(|v| Version::parse(v).ok()));
        if is_quarantined {
            continue;
        }
        let metadata = match record.text("metadata_sha256") {
            _ if !offers || !link.name.ends_with(".whl") => Metadata::None,
            Some(sha256) => Metadata::Hashed(sha256.to_owned()),
            // A record from another server does not say; the setting does then.
            None if record.flag("has_metadata").unwrap_or(true) => Metadata::Offered,
            None => Metadata::None,
        };
        let upload_time = record.text("upload_time").map(str::to_owned);
        files.push(describe(index, link, &record, upload_time, metadata));
    }
    Ok(Some(Held { files, versions, status, serial }))
}

/// The status of a project whose files are kept back.
pub const QUARANTINED: &str = "quarantined";

/// What pages say of a file besides its link.
const SHOWN: [&str; 7] = [
    "last_modified",
    "size",
    "upload_time",
    "has_metadata",
    "metadata_sha256",
    "provenance",
    "version",
];

/// What pages say of the file that a link names, out of its record; empty if there is none. The other fields are passed
/// over, since there are pages of ten thousand files.
fn record_of(txn: &impl Read, link: &Link) -> Result<Dict> {
    let Some(value) = txn.row(link.path())?.and_then(|row| row.value) else {
        return Ok(Dict::new());
    };
    let mut shown = Dict::new();
    for (name, span) in codec::dict_items(&value)? {
        if SHOWN.contains(&name) {
            shown.0.push((name.to_owned(), codec::decode(&value[span])?));
        }
    }
    Ok(shown)
}

fn describe(
    owner: &Index,
    link: Link,
    record: &Dict,
    upload_time: Option<String>,
    metadata: Metadata,
) -> PageFile {
    let size_bytes = record.integer("size").and_then(|size| u64::try_from(size).ok());
    let provenance = record.text("provenance").map(str::to_owned);
    PageFile { owner: owner.name.clone(), link, size_bytes, upload_time, metadata, provenance }
}

/// A version of a mirrored project.
pub struct MirroredVersion {
    /// The version.
    pub version: Version,
    /// What is known of it, in devpi's fields.
    pub data: Map<String, Json>,
    /// Its files.
    pub links: Vec<Link>,
}

/// The versions of a mirrored project with the data that is known of each, in the order of the links.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn mirrored_versions(
    txn: &impl Read,
    index: &Index,
    project: &ProjectName,
) -> Result<Vec<MirroredVersion>> {
    let held = txn.get(&key::SimpleLinks(&index.name, project))?;
    let Some(held) = held.filter(|held| held.is_of_mirror()) else { return Ok(Vec::new()) };
    let mut places: HashMap<Version, usize> = HashMap::new();
    let mut found: Vec<MirroredVersion> = Vec::new();
    for link in held.links {
        let record = record_of(txn, &link)?;
        let version = record.text("version").map(str::to_owned);
        let version = version.or_else(|| super::mirrored::version_of(&link.name, project));
        let Some(version) = version.and_then(|v| Version::parse(&v).ok()) else { continue };
        let place = *places.entry(version.clone()).or_insert_with(|| {
            let mut data = Map::new();
            data.insert("name".into(), project.as_str().into());
            data.insert("version".into(), version.as_str().into());
            found.push(MirroredVersion { version, data, links: Vec::new() });
            found.len() - 1
        });
        let MirroredVersion { data, links, .. } = &mut found[place];
        if let Some(python) = link.requires_python.as_deref().filter(|python| !python.is_empty()) {
            data.entry("requires_python").or_insert_with(|| python.into());
        }
        match &link.yanked {
            Value::None => (),
            yanked => {
                data.entry("yanked").or_insert_with(|| yanked.to_json());
            }
        }
        links.push(link);
    }
    Ok(found)
}

/// How a page came about: which index supplied each file, and which were hidden or kept out, and why.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn explain(
    txn: &impl Read,
    walk: &Walk,
    project: &ProjectName,
    note: impl Fn(&Index) -> Option<String>,
) -> Result<Json> {
    let page = page(txn, walk, project)?.unwrap_or_default();
    let mut indexes = Vec::new();
    for part in &walk.parts {
        let (share, why) = match &part.share {
            Share::Holds => ("holds", None),
            Share::Lacks => ("lacks", None),
            Share::Closed => ("closed", Some("you may not read this index".to_owned())),
            Share::Mirror => ("mirror", note(&part.index)),
            Share::Blocked { by } => (
                "blocked",
                Some(format!("{by} holds {project}, and no mirror_whitelist lets it through")),
            ),
        };
        let mut shown = json!({"index": part.index.name.to_string(), "share": share});
        if let Some(why) = why {
            shown["why"] = why.into();
        }
        if matches!(part.share, Share::Blocked { .. }) {
            let kept_out = of_mirror(txn, &part.index, project)?.map(|held| held.files);
            let names = kept_out.unwrap_or_default().into_iter().map(|file| file.link.name);
            shown["known_files"] = names.collect::<Vec<_>>().into();
        }
        indexes.push(shown);
    }
    let file = |file: &PageFile| {
        json!({
            "filename": file.link.name,
            "index": file.owner.to_string(),
            "hash_spec": file.link.hash().map(|(kind, hex)| format!("{kind}={hex}")),
        })
    };
    let hidden = page.hidden.iter().map(|(hidden, by)| {
        let mut shown = file(hidden);
        shown["hidden_by"] = by.to_string().into();
        shown
    });
    Ok(json!({
        "project": project.as_str(),
        "indexes": indexes,
        "files": page.files.iter().map(file).collect::<Vec<_>>(),
        "hidden": hidden.collect::<Vec<_>>(),
    }))
}

/// Whether an index holds a project now, a mirror as far as it was asked.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn holds(txn: &impl Read, index: &Index, project: &ProjectName) -> Result<bool> {
    match index.is_mirror() {
        true => is_cached(txn, &index.name, project),
        false => stage::holds(txn, &index.name, project),
    }
}

/// Whether a mirror keeps the page of a project. devpi leaves an empty value behind when it clears its cache.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn is_cached(txn: &impl Read, index: &IndexName, project: &ProjectName) -> Result<bool> {
    let empty = Dict::new().encode();
    let value = txn.row(&key::SimpleLinks(index, project).path())?.and_then(|row| row.value);
    Ok(value.is_some_and(|value| value != empty))
}
