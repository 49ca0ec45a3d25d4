//! The files that a simple page offers: links of the index and its bases, first one of a name wins, each with what
//! PEP 503, 592, 658, 691 and 700 let installers know of it.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::names::{IndexName, ProjectName, Version};
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::Link;
use crate::store::txn::Read;

use super::index::Index;
use super::{release, stage, time};

/// One file of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageFile {
    /// The index that supplied it.
    pub owner: IndexName,
    /// The stored link.
    pub link: Link,
    /// Its size, when known.
    pub size_bytes: Option<u64>,
    /// `2026-11-22T23:59:04Z`, when known.
    pub upload_time: Option<String>,
    /// SHA-256 in hex of its METADATA, when it has one that is known here.
    pub metadata_sha256: Option<String>,
}

/// A project's page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The files, in the order of the indexes and of arrival.
    pub files: Vec<PageFile>,
    /// All versions, sorted.
    pub versions: Vec<String>,
}

/// The page of a project on an index with its bases; `None` if none of them knows the project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn page(txn: &impl Read, start: Index, project: &ProjectName) -> Result<Option<Page>> {
    let (mut page, mut names, mut is_known) = (Page::default(), BTreeSet::new(), false);
    let mut versions = Vec::new();
    for index in stage::resolution_order(txn, start)? {
        if index.is_mirror() || !stage::holds(txn, &index.name, project)? {
            continue;
        }
        is_known = true;
        versions.extend(release::versions(txn, &index.name, project)?);
        let held = txn.get(&key::SimpleLinks(&index.name, project))?.unwrap_or_default();
        for link in held.links {
            if names.insert(link.name.clone()) {
                page.files.push(describe(txn, &index.name, link)?);
            }
        }
    }
    versions.sort_by_cached_key(Version::sort_key);
    versions.dedup();
    page.versions = versions.iter().map(Version::to_string).collect();
    Ok(is_known.then_some(page))
}

fn describe(txn: &impl Read, owner: &IndexName, link: Link) -> Result<PageFile> {
    let record = match FilePath::parse(link.path()) {
        Some(path) => txn.get(&key::File(&path))?.unwrap_or_default(),
        None => Default::default(),
    };
    let size_bytes = match record.get("size") {
        Some(Value::Int(size)) => u64::try_from(*size).ok(),
        Some(Value::BigInt(size)) => size.parse().ok(),
        _ => None,
    };
    let upload_time = record.text("last_modified").and_then(time::upload_time);
    let metadata_sha256 = record.text("metadata_sha256").map(str::to_owned);
    Ok(PageFile { owner: owner.clone(), link, size_bytes, upload_time, metadata_sha256 })
}
