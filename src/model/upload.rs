//! Uploads to a stage: registering metadata and storing a file.

use std::time::SystemTime;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::names::{ProjectName, UserName, Version};
use crate::store::blobs::Staged;
use crate::store::codec::{self, Value};
use crate::store::key::{self, FilePath, Key};
use crate::store::record::{Dict, Link};
use crate::store::txn::{Read, WriteTxn};

use super::index::Index;
use super::metadata::Submission;
use super::release::{self, Rel, ReleaseLink};
use super::{delete, files, time};

/// A file on disk that waits to be stored.
pub struct NewFile {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub staged: Staged,
    /// The METADATA of a wheel.
    pub metadata: Option<Staged>,
}

/// How an upload ended, short of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// The file is stored.
    Stored,
    /// The same bytes were there before, on an index that does not overwrite.
    AlreadyThere,
}

/// Registers metadata: all that was known of the version is replaced, its files stay.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn register(txn: &mut WriteTxn<'_>, index: &Index, submission: &Submission) -> Result<()> {
    let (project, version) = (&submission.project, &submission.version);
    let key = key::Release(&index.name, project, version);
    let held = txn.get(&key)?;
    let mut record = submission.full();
    match &held {
        Some(held) => {
            let links = release::links(held);
            if !links.is_empty() {
                release::set_links(&mut record, links);
            }
        }
        None => add_version(txn, index, project, version)?,
    }
    let asks_for = |record: &Dict| record.text("requires_python").unwrap_or_default().to_owned();
    if held.as_ref().is_some_and(|held| asks_for(held) != asks_for(&record)) {
        rewrite_requires_python(txn, index, submission, &record)?;
    }
    txn.set(&key, &record);
    Ok(())
}

/// Stores a file of a release.
///
/// # Errors
/// `Kind::Conflict` if the index does not overwrite and holds other bytes under the name.
pub fn store_file(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    submission: &Submission,
    file: NewFile,
    who: Option<&UserName>,
) -> Result<Upload> {
    if let Some((path, now)) = append_file(txn, index, submission, &file, who)? {
        put_file(txn, submission, path, file, now)?;
        return Ok(Upload::Stored);
    }
    let (project, version) = (&submission.project, &submission.version);
    let key = key::Release(&index.name, project, version);
    let held = txn.get(&key)?;
    let mut record = match &held {
        Some(held) => held.clone(),
        None => submission.full(),
    };
    let mut links = release::links(&record);
    let replaced = links.iter().position(|l| l.is(Rel::ReleaseFile) && l.name() == file.name);
    let mut log = Vec::new();
    let now = SystemTime::now();
    if let Some(at) = replaced {
        if !index.is_volatile() {
            return settle(&links[at], &file.name, file.staged.sums.sha256);
        }
        let count = Value::Int(links[at].overwrites() + 1);
        log.push(release::log_item("overwrite", None, time::six_tuple(now), ("count", count)));
        let old = links.remove(at);
        delete::link_files(txn, &mut links, &old)?;
    }
    let had_python = record.text("requires_python").map(str::to_owned);
    submission.write_over(&mut record);
    if held.is_none() {
        add_version(txn, index, project, version)?;
    }
    let dst = ("dst", Value::from(index.name.to_string()));
    log.push(release::log_item("upload", who, time::six_tuple(now), dst));
    let path = FilePath::of_digest(&index.name, &file.staged.sums.sha256.hex(), &file.name)?;
    let digest = file.staged.sums.sha256;
    links.push(files::new_link(Rel::ReleaseFile, &path, digest, log));
    release::set_links(&mut record, links);
    let python = record.text("requires_python").unwrap_or_default().to_owned();
    if replaced.is_some() || held.is_some() && had_python.as_deref() != Some(&python) {
        rewrite_requires_python(txn, index, submission, &record)?;
    }
    push_simple_link(txn, index, submission, &path, digest, &python, replaced.is_some())?;
    txn.set(&key, &record);
    put_file(txn, submission, path, file, now)?;
    Ok(Upload::Stored)
}

/// The common case: one file more for a version that is known, under a name that it does not hold, asking for the
/// same Python. Its record and the simple page get one link spliced in, so that the thousandth file costs little more
/// than the tenth. Gives the file's path; `None` if it is another case.
fn append_file(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    submission: &Submission,
    file: &NewFile,
    who: Option<&UserName>,
) -> Result<Option<(FilePath, SystemTime)>> {
    let key = key::Release(&index.name, &submission.project, &submission.version);
    let Some(held) = txn.row(&key.path())?.and_then(|row| row.value) else { return Ok(None) };
    if memchr::memmem::find(&held, format!("/{}", file.name).as_bytes()).is_some() {
        return Ok(None);
    }
    let now = SystemTime::now();
    let digest = file.staged.sums.sha256;
    let path = FilePath::of_digest(&index.name, &digest.hex(), &file.name)?;
    let dst = ("dst", Value::from(index.name.to_string()));
    let log = vec![release::log_item("upload", who, time::six_tuple(now), dst)];
    let link = codec::encode(&files::new_link(Rel::ReleaseFile, &path, digest, log).0.into_value());
    let Some((record, python)) = release::append_link(&held, submission.given(), &link) else {
        return Ok(None);
    };
    push_simple_link(txn, index, submission, &path, digest, &python, false)?;
    txn.set_encoded(&key, record);
    Ok(Some((path, now)))
}

/// What becomes of an upload over a file on an index that does not overwrite.
pub(super) fn settle(held: &ReleaseLink, name: &str, offered: Digest) -> Result<Upload> {
    if held.0.text("hash_spec") == Some(&offered.hash_spec()) {
        return Ok(Upload::AlreadyThere);
    }
    Err(Error::conflict(format!("{name} already exists in non-volatile index")))
}

pub(super) fn add_version(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<()> {
    let versions = key::Versions(&index.name, project);
    if !txn.has(&versions)? {
        txn.insert_name(&key::Projects(&index.name), project.as_str())?;
    }
    txn.insert_name(&versions, version.as_str())?;
    Ok(())
}

fn put_file(
    txn: &mut WriteTxn<'_>,
    submission: &Submission,
    path: FilePath,
    file: NewFile,
    now: SystemTime,
) -> Result<()> {
    let of = files::Of { project: &submission.project, version: &submission.version };
    files::put(txn, &of, path, file.staged, file.metadata, now)
}

/// Adds a link to the simple page: by splicing its bytes, so that a long page costs little more than a short one.
fn push_simple_link(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    submission: &Submission,
    path: &FilePath,
    digest: Digest,
    python: &str,
    is_replaced: bool,
) -> Result<()> {
    let key = key::SimpleLinks(&index.name, &submission.project);
    let link = Link {
        name: path.name().to_owned(),
        href: format!("{path}#{}", digest.hash_spec()),
        requires_python: Some(python.to_owned()),
        yanked: Value::None,
    };
    let held = if is_replaced { None } else { txn.row(&key.path())?.and_then(|row| row.value) };
    if let Some(spliced) = held.and_then(|held| splice_link(&held, &link)) {
        txn.set_encoded(&key, spliced);
        return Ok(());
    }
    let mut page = txn.get(&key)?.unwrap_or_default();
    page.links.retain(|held| held.name != link.name);
    page.links.push(link);
    txn.set(&key, &page);
    Ok(())
}

/// A page's bytes with one link more; `None` if they are not of the plain shape `{links, requires_python}` with as
/// many of each.
fn splice_link(page: &[u8], link: &Link) -> Option<Vec<u8>> {
    let pair = Value::Tuple(vec![link.name.as_str().into(), link.href.as_str().into()]);
    let python = link.requires_python.as_deref().map_or(Value::None, Value::from);
    let items = [codec::encode(&pair), codec::encode(&python)];
    codec::pair_push(page, ["links", "requires_python"], [&items[0], &items[1]])
}

/// Gives all links of one version the Python requirement of its record.
fn rewrite_requires_python(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    submission: &Submission,
    record: &Dict,
) -> Result<()> {
    let key = key::SimpleLinks(&index.name, &submission.project);
    let Some(mut page) = txn.get(&key)? else { return Ok(()) };
    let python = record.text("requires_python").map(str::to_owned);
    let links = release::links(record);
    for held in &mut page.links {
        if links.iter().any(|link| link.path() == held.path()) {
            held.requires_python.clone_from(&python);
        }
    }
    txn.set(&key, &page);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{Links, Record as _};

    #[test]
    fn a_spliced_page_is_the_page_with_the_link() {
        let link = |n: u8| Link {
            name: format!("p-{n}.whl"),
            href: format!("a/b/+f/123/4567890123456/p-{n}.whl#sha256=00"),
            requires_python: Some(">=3".into()),
            yanked: Value::None,
        };
        let page = Links::of_stage(vec![link(1), link(2)]).encode();
        let spliced = splice_link(&page, &link(3)).expect("plain shape");
        let expected = Links::of_stage(vec![link(1), link(2), link(3)]);
        assert_eq!(spliced, expected.encode());
    }
}
