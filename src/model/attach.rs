//! What hangs on a release besides its files: documentation zips and test results.

use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::names::{ProjectName, UserName, Version};
use crate::store::blobs::Staged;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::{Read, WriteTxn};

use super::files::{self, Of};
use super::index::Index;
use super::release::{self, Rel};
use super::upload::{self, Upload};
use super::{delete, time};

/// The newest version that an index holds of a project.
///
/// # Errors
/// `Kind::Invalid` if it holds none.
pub fn newest_version(txn: &impl Read, index: &Index, project: &ProjectName) -> Result<Version> {
    let versions = release::versions(txn, &index.name, project)?;
    versions.into_iter().max_by_key(Version::sort_key).ok_or_else(|| {
        Error::invalid(format!(
            "doczip has no version and '{project}' has no releases to derive one from"
        ))
    })
}

/// Stores a documentation zip; the version is made if it is not known.
///
/// # Errors
/// `Kind::Conflict` if the index does not overwrite and holds other documentation.
pub fn store_doc(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    (name, version): (&str, &Version),
    zip: Staged,
    who: Option<&UserName>,
) -> Result<Upload> {
    let project = ProjectName::new(name);
    let key = key::Release(&index.name, &project, version);
    let held = txn.get(&key)?;
    let mut record = held.clone().unwrap_or_else(|| {
        Dict(vec![("name".into(), name.into()), ("version".into(), version.as_str().into())])
    });
    let mut links = release::links(&record);
    let now = SystemTime::now();
    let (digest, mut log) = (zip.sums.sha256, Vec::new());
    let file_name = format!("{project}-{version}.doc.zip");
    if let Some(at) = links.iter().position(|link| link.is(Rel::DocZip)) {
        if !index.is_volatile() {
            return upload::settle(&links[at], &file_name, digest);
        }
        let count = Value::Int(links[at].overwrites() + 1);
        log.push(release::log_item("overwrite", None, time::six_tuple(now), ("count", count)));
        let old = links.remove(at);
        delete::link_files(txn, &mut links, &old)?;
    }
    if held.is_none() {
        upload::add_version(txn, index, &project, version)?;
    }
    let dst = ("dst", Value::from(index.name.to_string()));
    log.push(release::log_item("upload", who, time::six_tuple(now), dst));
    let path = FilePath::of_digest(&index.name, &digest.hex(), &file_name)?;
    links.push(files::new_link(Rel::DocZip, &path, digest, log));
    release::set_links(&mut record, links);
    txn.set(&key, &record);
    files::put(txn, &Of { project: &project, version }, path, zip, None, now)?;
    Ok(Upload::Stored)
}

/// Stores a test result for a release file, and gives its path.
///
/// # Errors
/// `Kind::NotFound` if there is no such release file.
pub fn store_result(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    file: &FilePath,
    result: Staged,
    who: Option<&UserName>,
) -> Result<FilePath> {
    let absent = || Error::not_found(format!("no release file found at {file}"));
    let record = txn.get(&key::File(file))?.ok_or_else(absent)?;
    let project = ProjectName::new(record.text("project").unwrap_or_default());
    let version =
        Version::parse(record.text("version").unwrap_or_default()).map_err(|_| absent())?;
    let key = key::Release(&index.name, &project, &version);
    let mut release = txn.get(&key)?.ok_or_else(absent)?;
    let mut links = release::links(&release);
    if !links.iter().any(|link| link.is(Rel::ReleaseFile) && link.path() == file.as_str()) {
        return Err(absent());
    }
    let count = links.iter().filter(|link| link.for_path() == Some(file.as_str())).count();
    let now = SystemTime::now();
    let path = file.sibling(&format!("{}.toxresult-{}-{count}", file.name(), time::digits(now)))?;
    let dst = ("dst", Value::from(index.name.to_string()));
    let log = vec![release::log_item("upload", who, time::six_tuple(now), dst)];
    let mut link = files::new_link(Rel::ToxResult, &path, result.sums.sha256, log);
    link.0.set("for_entrypath", file.as_str());
    links.push(link);
    release::set_links(&mut release, links);
    txn.set(&key, &release);
    files::put(txn, &Of { project: &project, version: &version }, path.clone(), result, None, now)?;
    Ok(path)
}
