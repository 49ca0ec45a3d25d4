//! Deletion: of a file, a version, a project, the content of an index; one function each, top down. What it means on
//! mirrors stands in `mirror_delete`.

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::key::{self, FilePath};
use crate::store::record::NameSet;
use crate::store::txn::{Read, WriteTxn};

use super::index::Index;
use super::mirror_delete;
use super::release::{self, ReleaseLink};

/// Deletes the file of a link that was taken out of `links`, and the test results that are for it.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn link_files(
    txn: &mut WriteTxn<'_>,
    links: &mut Vec<ReleaseLink>,
    link: &ReleaseLink,
) -> Result<()> {
    file_bytes(txn, link)?;
    let is_for = |l: &ReleaseLink| l.for_path() == Some(link.path());
    for result in links.extract_if(.., |l| is_for(l)) {
        file_bytes(txn, &result)?;
    }
    Ok(())
}

fn file_bytes(txn: &mut WriteTxn<'_>, link: &ReleaseLink) -> Result<()> {
    let path = release::file_path(link.path())?;
    txn.delete(&key::File(&path));
    txn.remove_file(path);
    Ok(())
}

/// Deletes one file; the version when it was its last link; the project when that was its last version.
///
/// # Errors
/// `Kind::NotFound` if the index has no such file; `Kind::Gone` if it was deleted before.
pub fn file(txn: &mut WriteTxn<'_>, index: &Index, path: &FilePath) -> Result<()> {
    if index.is_mirror() {
        return mirror_delete::file(txn, index, path);
    }
    let record = match txn.row(path.as_str())? {
        None => return Err(Error::not_found(format!("package '{path}' doesn't exist"))),
        Some(row) if row.value.is_none() => {
            return Err(Error::new(
                crate::error::Kind::Gone,
                "file existed, deleted in later serial",
            ));
        }
        Some(_) => txn.get(&key::File(path))?.unwrap_or_default(),
    };
    let project = ProjectName::new(record.text("project").unwrap_or_default());
    let absent = || Error::not_found(format!("package '{path}' doesn't exist"));
    let version =
        Version::parse(record.text("version").unwrap_or_default()).map_err(|_| absent())?;
    let release = key::Release(&index.name, &project, &version);
    let mut held = txn.get(&release)?.ok_or_else(absent)?;
    let mut links = release::links(&held);
    let at = links.iter().position(|l| l.path() == path.as_str()).ok_or_else(absent)?;
    let link = links.remove(at);
    link_files(txn, &mut links, &link)?;
    if links.is_empty() {
        return version_content(txn, index, &project, &version);
    }
    release::set_links(&mut held, links);
    txn.set(&release, &held);
    drop_simple_links(txn, &index.name, &project, &[link])
}

/// Deletes a version with all its files; the project when it was its last version.
///
/// # Errors
/// `Kind::NotFound` if there is no such version.
pub fn version(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<()> {
    if index.is_mirror() {
        return mirror_delete::version(txn, index, project, version);
    }
    if !txn.has(&key::Versions(&index.name, project))? {
        return Err(Error::not_found(format!(
            "project '{project}' not found on stage '{}'",
            index.name
        )));
    }
    if !txn.has(&key::Release(&index.name, project, version))? {
        return Err(Error::not_found(format!(
            "version '{version}' of project '{project}' not found on stage '{}'",
            index.name
        )));
    }
    version_content(txn, index, project, version)
}

fn version_content(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<()> {
    let versions_key = key::Versions(&index.name, project);
    let mut versions = txn.get(&versions_key)?.unwrap_or_default();
    versions.remove(version.as_str());
    if versions.0.is_empty() {
        return project_content(txn, index, project);
    }
    let links = drop_release(txn, &index.name, project, version)?;
    txn.set(&versions_key, &versions);
    drop_simple_links(txn, &index.name, project, &links)
}

/// Deletes the record of a version and its files, and gives what its links were.
fn drop_release(
    txn: &mut WriteTxn<'_>,
    index: &IndexName,
    project: &ProjectName,
    version: &Version,
) -> Result<Vec<ReleaseLink>> {
    let release = key::Release(index, project, version);
    let links = release::links(&txn.get(&release)?.unwrap_or_default());
    for link in &links {
        file_bytes(txn, link)?;
    }
    txn.delete(&release);
    Ok(links)
}

fn drop_simple_links(
    txn: &mut WriteTxn<'_>,
    index: &IndexName,
    project: &ProjectName,
    dropped: &[ReleaseLink],
) -> Result<()> {
    let key = key::SimpleLinks(index, project);
    let Some(mut page) = txn.get(&key)? else { return Ok(()) };
    page.links.retain(|held| dropped.iter().all(|link| link.path() != held.path()));
    txn.set(&key, &page);
    Ok(())
}

/// Deletes a project.
///
/// # Errors
/// `Kind::NotFound` if the index does not hold it.
pub fn project(txn: &mut WriteTxn<'_>, index: &Index, project: &ProjectName) -> Result<()> {
    if index.is_mirror() {
        return mirror_delete::project(txn, index, project);
    }
    if !txn.has(&key::Versions(&index.name, project))? {
        return Err(Error::not_found("project not found"));
    }
    project_content(txn, index, project)
}

fn project_content(txn: &mut WriteTxn<'_>, index: &Index, project: &ProjectName) -> Result<()> {
    drop_project(txn, &index.name, project)?;
    txn.remove_name(&key::Projects(&index.name), project.as_str())?;
    Ok(())
}

fn drop_project(txn: &mut WriteTxn<'_>, index: &IndexName, project: &ProjectName) -> Result<()> {
    for version in release::versions(txn, index, project)? {
        drop_release(txn, index, project, &version)?;
    }
    let (versions, links) = (key::Versions(index, project), key::SimpleLinks(index, project));
    if txn.has(&versions)? {
        txn.delete(&versions);
    }
    if txn.has(&links)? {
        txn.delete(&links);
    }
    Ok(())
}

/// Deletes all projects of an index; the index itself is the caller's.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn index_content(txn: &mut WriteTxn<'_>, index: &Index) -> Result<()> {
    if index.is_mirror() {
        return mirror_delete::index_content(txn, index);
    }
    let projects = key::Projects(&index.name);
    let Some(names) = txn.get(&projects)? else { return Ok(()) };
    for name in &names.0 {
        drop_project(txn, &index.name, &ProjectName::new(name))?;
    }
    txn.set(&projects, &NameSet::default());
    Ok(())
}
