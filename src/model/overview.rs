//! What lists for people show: of an index its projects with their newest release, of a project its versions.
//!
//! Nothing here reads more than the lists need: versions are told from the links of the simple page, without a look at
//! the record of each file.

use std::collections::HashMap;

use crate::error::Result;
use crate::names::{IndexName, ProjectName, Version};
use crate::store::codec::{self, Value};
use crate::store::key::{self, FilePath, Key as _};
use crate::store::record::Link;
use crate::store::txn::Read;

use super::walk::{Share, Walk};
use super::{mirrored, release, time};

/// A project in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectLine {
    /// Its name in normal form.
    pub name: String,
    /// The version that installers would take: the newest stable one, else the newest.
    pub version: Option<String>,
    /// What that version says of itself in a line.
    pub summary: String,
}

/// The version that installers take if nothing else is said: the newest stable one, else the newest.
pub fn newest(versions: &[Version]) -> Option<&Version> {
    versions.iter().max_by_key(|version| (version.is_stable(), version.sort_key()))
}

/// A project of a stage as a list shows it.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn project_line(txn: &impl Read, index: &IndexName, name: &str) -> Result<ProjectLine> {
    let project = ProjectName::new(name);
    let versions = release::versions(txn, index, &project)?;
    let newest = newest(&versions);
    let summary = match newest {
        Some(version) => field(txn, &key::Release(index, &project, version), "summary")?,
        None => String::new(),
    };
    Ok(ProjectLine { name: name.to_owned(), version: newest.map(Version::to_string), summary })
}

/// One text of a record, without decoding the rest: a release's record grows with its files.
fn field(txn: &impl Read, key: &key::Release<'_>, name: &str) -> Result<String> {
    let Some(bytes) = txn.row(&key.path())?.and_then(|row| row.value) else {
        return Ok(String::new());
    };
    let items = codec::dict_items(&bytes)?;
    let span = items.into_iter().find(|(key, _)| *key == name).map(|(_, span)| span);
    Ok(match span.map(|span| codec::decode(&bytes[span])).transpose()? {
        Some(Value::Str(text)) => text,
        _ => String::new(),
    })
}

/// A version in a project's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionLine {
    /// The index that holds it; the first one of the order.
    pub index: IndexName,
    /// The version.
    pub version: Version,
    /// How many files it has there.
    pub files: usize,
    /// Which Python it asks for.
    pub requires_python: Option<String>,
    /// Whether all its files are withdrawn (PEP 592).
    pub is_yanked: bool,
    /// Where its first file lies.
    pub first: Option<FilePath>,
    /// Other indexes of the order that hold the version too.
    pub also: Vec<IndexName>,
    /// The version as PEP 440 reads it, read once: there may be thousands.
    read: Option<pep440_rs::Version>,
}

impl VersionLine {
    fn new(index: &IndexName, version: Version, read: Option<pep440_rs::Version>) -> Self {
        let (index, is_yanked) = (index.clone(), false);
        Self {
            index,
            version,
            files: 0,
            requires_python: None,
            is_yanked,
            first: None,
            also: Vec::new(),
            read,
        }
    }

    /// As `Version::sort_key`.
    fn order(&self) -> (Option<&pep440_rs::Version>, &str) {
        (self.read.as_ref(), self.version.as_str())
    }

    fn is_stable(&self) -> bool {
        self.read.as_ref().is_some_and(|version| !version.any_prerelease())
    }

    fn take(&mut self, link: &Link) {
        let is_yanked = link.yanked != Value::None && link.yanked != Value::Bool(false);
        self.is_yanked = is_yanked && (self.is_yanked || self.files == 0);
        self.files += 1;
        if self.requires_python.is_none() {
            let python = link.requires_python.clone();
            self.requires_python = python.filter(|python| !python.is_empty());
        }
        if self.first.is_none() {
            self.first = FilePath::parse(link.path());
        }
    }
}

/// What tells one version from another: `1.0` and `1.0.0` are the same one.
fn identity(version: &Version, read: Option<&pep440_rs::Version>) -> String {
    read.cloned().map_or_else(|| version.to_string(), canonical)
}

fn canonical(version: pep440_rs::Version) -> String {
    let release = version.release().to_vec();
    let kept = release.iter().rposition(|part| *part != 0).map_or(1, |at| at + 1);
    version.with_release(release.into_iter().take(kept)).to_string()
}

/// The versions of a project on the indexes of a walk, newest first; `None` if nobody knows the project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn versions(
    txn: &impl Read,
    walk: &Walk,
    project: &ProjectName,
) -> Result<Option<Vec<VersionLine>>> {
    let (mut lines, mut places, mut is_known) = (Vec::new(), HashMap::new(), false);
    for part in &walk.parts {
        let is_mirror = match part.share {
            Share::Holds => false,
            Share::Mirror => true,
            _ => continue,
        };
        let name = &part.index.name;
        let held = txn.get(&key::SimpleLinks(name, project))?;
        if is_mirror && !held.as_ref().is_some_and(|held| held.is_of_mirror()) {
            continue;
        }
        is_known = true;
        if !is_mirror {
            for version in release::versions(txn, name, project)? {
                line(&mut lines, &mut places, name, version);
            }
        }
        for link in held.map(|held| held.links).unwrap_or_default() {
            let version = mirrored::version_of(&link.name, project);
            if let Some(version) = version.and_then(|text| Version::parse(&text).ok())
                && let line = line(&mut lines, &mut places, name, version)
                && line.index == *name
            {
                line.take(&link);
            }
        }
    }
    lines.sort_by(|one: &VersionLine, other| other.order().cmp(&one.order()));
    Ok(is_known.then_some(lines))
}

/// Of lines from newest to oldest the one that installers take.
pub fn newest_line(lines: &[VersionLine]) -> Option<&VersionLine> {
    lines.iter().find(|line| line.is_stable()).or_else(|| lines.first())
}

/// The line of a version, made if there is none; the index is noted.
fn line<'l>(
    lines: &'l mut Vec<VersionLine>,
    places: &mut HashMap<String, usize>,
    index: &IndexName,
    version: Version,
) -> &'l mut VersionLine {
    let read = version.as_str().parse().ok();
    let place = *places.entry(identity(&version, read.as_ref())).or_insert_with(|| {
        lines.push(VersionLine::new(index, version, read));
        lines.len() - 1
    });
    let line = &mut lines[place];
    if line.index != *index && line.also.last() != Some(index) {
        line.also.push(index.clone());
    }
    line
}

/// When a file was uploaded, as `2026-11-22T23:59:04Z`; nothing if that is not known.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn upload_time(txn: &impl Read, path: &FilePath) -> Result<Option<String>> {
    let record = txn.get(&key::File(path))?.unwrap_or_default();
    let told = record.text("upload_time").map(str::to_owned);
    Ok(told.or_else(|| record.text("last_modified").and_then(time::upload_time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_one_that_installers_take() {
        for (given, wanted) in [
            (&["1.0", "2.0rc1"][..], Some("1.0")),
            (&["2.0rc1", "2.0.dev3"], Some("2.0rc1")),
            (&["1.9", "1.10"], Some("1.10")),
            (&["odd", "1"], Some("1")),
            (&["odd"], Some("odd")),
            (&[], None),
        ] {
            let versions: Vec<Version> =
                given.iter().map(|text| Version::parse(text).expect("valid")).collect();
            assert_eq!(newest(&versions).map(Version::as_str), wanted, "{given:?}");
        }
    }

    #[test]
    fn spellings_of_one_version_are_one() {
        let identity = |text: &str| {
            identity(&Version::parse(text).expect("valid"), text.parse().ok().as_ref())
        };
        for (one, other) in
            [("1.0", "1.0.0"), ("1.0-beta1", "1.0b1"), ("v1.2", "1.2"), ("0", "0.0")]
        {
            assert_eq!(identity(one), identity(other));
        }
        for (one, other) in [("1.0", "1.0.1"), ("1.0+a", "1.0+b"), ("10", "1"), ("odd", "even")] {
            assert_ne!(identity(one), identity(other));
        }
    }
}
