//! Records of files and links to them, as uploads of every kind write them.

use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::Result;
use crate::names::{ProjectName, Version};
use crate::store::blobs::Staged;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::WriteTxn;

use super::release::{Rel, ReleaseLink};
use super::time;

/// The release that a file belongs to.
pub struct Of<'a> {
    /// The project.
    pub project: &'a ProjectName,
    /// The version.
    pub version: &'a Version,
}

/// A link to a file, with its log.
pub fn new_link(rel: Rel, path: &FilePath, digest: Digest, log: Vec<Value>) -> ReleaseLink {
    let mut link = Dict::new();
    link.set("rel", rel.as_str());
    link.set("entrypath", path.as_str());
    link.set("hash_spec", digest.hash_spec());
    link.set("hashes", hashes(digest));
    link.set("_log", Value::List(log));
    ReleaseLink(link)
}

fn hashes(digest: Digest) -> Dict {
    Dict(vec![("sha256".to_owned(), digest.hex().into())])
}

/// Writes the record of a file and has its bytes put in place, those of its METADATA beside it. The fields `size`,
/// `metadata_sha256` and `upload_time` are ours; other servers pass them over.
///
/// # Errors
/// `Kind::Invalid` if the name is too long for the file system.
pub fn put(
    txn: &mut WriteTxn<'_>,
    of: &Of<'_>,
    path: FilePath,
    staged: Staged,
    metadata: Option<Staged>,
    now: SystemTime,
) -> Result<()> {
    put_as_of(txn, of, path, (staged, metadata), &time::http_date(now), None)
}

/// The same with the moments of a file that came from elsewhere: when it was last modified, as an HTTP date, and when
/// it was uploaded there, as PEP 700 writes it.
///
/// # Errors
/// `Kind::Invalid` if the name is too long for the file system.
pub fn put_as_of(
    txn: &mut WriteTxn<'_>,
    of: &Of<'_>,
    path: FilePath,
    (staged, metadata): (Staged, Option<Staged>),
    last_modified: &str,
    upload_time: Option<&str>,
) -> Result<()> {
    let sums = &staged.sums;
    let mut record = Dict::new();
    record.set("last_modified", last_modified);
    record.set("hash_spec", sums.sha256.hash_spec());
    record.set("hashes", hashes(sums.sha256));
    record.set("project", of.project.as_str());
    record.set("version", of.version.as_str());
    record.set("size", Value::int(i64::try_from(sums.size_bytes).unwrap_or(i64::MAX)));
    if let Some(upload_time) = upload_time {
        record.set("upload_time", upload_time);
    }
    if let Some(metadata) = metadata {
        record.set("metadata_sha256", metadata.sums.sha256.hex());
        txn.add_file(path.sidecar()?, metadata);
    }
    txn.set(&key::File(&path), &record);
    txn.add_file(path, staged);
    Ok(())
}
