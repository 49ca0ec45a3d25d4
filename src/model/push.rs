//! Push: a release of one index, or a part of it, becomes one of another index in one transaction.
//!
//! Three steps: `find` says what there is to push; `Ready::stage` gives its bytes a second name beside the files, outside
//! of any transaction; `write` commits records and bytes. If the release changed in between, nothing is written.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::names::{ProjectName, UserName, Version};
use crate::store::Store;
use crate::store::blobs::{Blobs, Staged};
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Record as _};
use crate::store::txn::{Read, WriteTxn};

use super::files::{self, Of};
use super::index::Index;
use super::release::{self, Rel, ReleaseLink};
use super::{delete, links, metadata, time, upload};

/// What of a release is pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// All but documentation.
    NoDocs,
    /// Documentation alone.
    OnlyDocs,
}

impl Selection {
    fn takes(self, link: &ReleaseLink) -> bool {
        match self {
            Self::All => true,
            Self::NoDocs => !link.is(Rel::DocZip),
            Self::OnlyDocs => link.is(Rel::DocZip),
        }
    }
}

/// A release of one index, its bases left aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// The index.
    pub source: Index,
    /// The project.
    pub project: ProjectName,
    /// The version.
    pub version: Version,
    /// What is known of it.
    pub metadata: Dict,
    /// Its links, by the names of their files.
    pub links: Vec<ReleaseLink>,
}

/// Finds a release; `None` if the index does not have it, a mirror as far as it was asked.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn find(
    txn: &impl Read,
    source: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<Option<Release>> {
    let found = match source.is_mirror() {
        true => find_mirrored(txn, source, project, version)?,
        false => txn.get(&key::Release(&source.name, project, version))?.map(|record| {
            let links = release::links(&record);
            (release::metadata(&record), links)
        }),
    };
    Ok(found.map(|(metadata, mut links)| {
        links.sort_by(|a, b| a.name().cmp(b.name()));
        let (project, version) = (project.clone(), version.clone());
        Release { source: source.clone(), project, version, metadata, links }
    }))
}

fn find_mirrored(
    txn: &impl Read,
    source: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<Option<(Dict, Vec<ReleaseLink>)>> {
    let mut versions = links::mirrored_versions(txn, source, project)?.into_iter();
    let Some(found) = versions.find(|found| found.version == *version) else { return Ok(None) };
    let mut metadata = Dict::new();
    for key in ["name", "version", "requires_python"] {
        if let Some(text) = found.data.get(key).and_then(serde_json::Value::as_str) {
            metadata.set(key, text);
        }
    }
    let link = |link: &Link| {
        let mut record = Dict::new();
        record.set("rel", Rel::ReleaseFile.as_str());
        record.set("entrypath", link.path());
        if let Some((kind, hex)) = link.hash() {
            record.set("hash_spec", format!("{kind}={hex}"));
        }
        ReleaseLink(record)
    };
    Ok(Some((metadata, found.links.iter().map(link).collect())))
}

impl Release {
    /// Leaves of the links what is selected.
    pub fn select(&mut self, selection: Selection) {
        self.links.retain(|link| selection.takes(link));
    }
    /// The links of one kind.
    pub fn of(&self, rel: Rel) -> impl Iterator<Item = &ReleaseLink> {
        self.links.iter().filter(move |link| link.is(rel))
    }
    /// Whether the same files are there still. What a mirror shows may change; what was fetched stays right.
    fn is_still(&self, txn: &impl Read, selection: Selection) -> Result<bool> {
        if self.source.is_mirror() {
            return Ok(true);
        }
        let Some(mut now) = find(txn, &self.source, &self.project, &self.version)? else {
            return Ok(false);
        };
        now.select(selection);
        let paths = |release: &Self| -> Vec<String> {
            release.links.iter().map(|link| link.path().to_owned()).collect()
        };
        Ok(paths(&now) == paths(self))
    }
}

/// The record of a link's file; empty if there is none.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn file_record(txn: &impl Read, link: &ReleaseLink) -> Result<Dict> {
    let value = txn.row(link.path())?.and_then(|row| row.value);
    value.map_or_else(|| Ok(Dict::new()), |value| Dict::decode(&value))
}

/// The SHA-256 that a file's record names.
pub fn sha256_of(record: &Dict) -> Option<Digest> {
    let spec = record.text("hash_spec").and_then(|spec| spec.strip_prefix("sha256="));
    let hashes = record.dict("hashes").unwrap_or_default();
    Digest::parse(spec.or_else(|| hashes.text("sha256"))?)
}

/// A file with its bytes staged.
struct Copy {
    link: ReleaseLink,
    record: Dict,
    staged: Staged,
    metadata: Option<Staged>,
}

/// A release whose bytes wait to be put in place.
pub struct Ready {
    release: Release,
    selection: Selection,
    copies: Vec<Copy>,
}

impl Ready {
    /// Stages the bytes of a release's links.
    ///
    /// # Errors
    /// `Kind::Unavailable` if bytes are not here; `Kind::Internal` if the disk refuses.
    pub fn stage(
        store: &Store,
        release: Release,
        selection: Selection,
        target: &Index,
    ) -> Result<Self> {
        let (blobs, mut copies) = (store.blobs(), Vec::new());
        let records: Vec<Dict> = {
            let txn = store.read()?;
            release.links.iter().map(|link| file_record(&txn, link)).collect::<Result<_>>()?
        };
        for (link, record) in release.links.iter().zip(records) {
            let path = release::file_path(link.path())?;
            let absent = || Error::unavailable(format!("the bytes of {path} are not here"));
            let staged = blobs.share(&path, sha256_of(&record))?.ok_or_else(absent)?;
            let metadata = match link.is(Rel::ReleaseFile) {
                true => sidecar(blobs, &path, &record, &staged)?,
                false => None,
            };
            let hex = staged.sums.sha256.hex();
            blobs.prepare(&FilePath::of_digest(&target.name, &hex, path.name())?)?;
            copies.push(Copy { link: link.clone(), record, staged, metadata });
        }
        Ok(Self { release, selection, copies })
    }
}

/// The METADATA beside a wheel: shared like the wheel, or taken out of it.
fn sidecar(
    blobs: &Blobs,
    path: &FilePath,
    record: &Dict,
    wheel: &Staged,
) -> Result<Option<Staged>> {
    let beside = path.sidecar()?;
    if let Some(sha256) = record.text("metadata_sha256").and_then(Digest::parse)
        && let Some(staged) = blobs.share(&beside, Some(sha256))?
    {
        return Ok(Some(staged));
    }
    match metadata::of_wheel(path.name(), wheel.open()?) {
        Some(bytes) => blobs.stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX).map(Some),
        None => Ok(None),
    }
}

/// What a push stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// A release file, at this path.
    File(FilePath),
    /// A test result, at this path.
    Result(FilePath),
    /// Documentation.
    Docs,
}

/// Writes a release to a stage: its metadata take the place of those that are there, its files join the others or, on a
/// volatile index, take the place of those with the same names. `None`, and nothing is written, if the release is not
/// any more what was staged.
///
/// # Errors
/// `Kind::Conflict` if the index does not overwrite and holds one of the files.
pub fn write(
    txn: &mut WriteTxn<'_>,
    target: &Index,
    ready: Ready,
    who: Option<&UserName>,
) -> Result<Option<Vec<Stored>>> {
    let Ready { release, selection, copies } = ready;
    if !release.is_still(txn, selection)? {
        return Ok(None);
    }
    let key = key::Release(&target.name, &release.project, &release.version);
    let held = txn.get(&key)?;
    let links = held.as_ref().map(release::links).unwrap_or_default();
    refuse_taken(target, &links, &copies, &release)?;
    if held.is_none() {
        upload::add_version(txn, target, &release.project, &release.version)?;
    }
    let mut push = Push {
        target,
        release: &release,
        who,
        now: SystemTime::now(),
        links,
        moved: BTreeMap::new(),
        fresh: Vec::new(),
    };
    let stored = push.all(txn, copies)?;
    let Push { links, fresh, .. } = push;
    let mut record = release.metadata.clone();
    write_page(txn, target, &release, &links, &fresh)?;
    if !links.is_empty() {
        release::set_links(&mut record, links);
    }
    txn.set(&key, &record);
    Ok(Some(stored))
}

/// What takes the place of what, seen before anything is written.
fn refuse_taken(
    target: &Index,
    held: &[ReleaseLink],
    copies: &[Copy],
    release: &Release,
) -> Result<()> {
    if target.is_volatile() {
        return Ok(());
    }
    let of = |rel: Rel| copies.iter().filter(move |copy| copy.link.is(rel));
    for copy in of(Rel::ReleaseFile).chain(of(Rel::DocZip)) {
        let name = copy.link.name();
        let is_taken = |link: &&ReleaseLink| match copy.link.is(Rel::DocZip) {
            true => link.is(Rel::DocZip),
            false => link.is(Rel::ReleaseFile) && link.name() == name,
        };
        if held.iter().any(|link| is_taken(&link)) {
            let name = match copy.link.is(Rel::DocZip) {
                true => doc_name(release),
                false => name.to_owned(),
            };
            let message = format!("{name} already exists in non-volatile index");
            return Err(Error::new(Kind::Conflict, message));
        }
    }
    Ok(())
}

fn doc_name(release: &Release) -> String {
    format!("{}-{}.doc.zip", release.project, release.version)
}

/// A push under way.
struct Push<'a> {
    target: &'a Index,
    release: &'a Release,
    who: Option<&'a UserName>,
    now: SystemTime,
    /// The links of the target's release.
    links: Vec<ReleaseLink>,
    /// Where release files came to stand, by where they stood.
    moved: BTreeMap<String, FilePath>,
    /// Release files that are new on the target.
    fresh: Vec<(FilePath, Digest)>,
}

impl Push<'_> {
    /// Stores all: each release file with its test results, then the documentation.
    fn all(&mut self, txn: &mut WriteTxn<'_>, copies: Vec<Copy>) -> Result<Vec<Stored>> {
        let is_result = |copy: &Copy| copy.link.is(Rel::ToxResult);
        let (results, copies): (Vec<_>, Vec<_>) = copies.into_iter().partition(is_result);
        let is_doc = |copy: &Copy| copy.link.is(Rel::DocZip);
        let (docs, files): (Vec<_>, Vec<_>) = copies.into_iter().partition(is_doc);
        let mut results: Vec<Option<Copy>> = results.into_iter().map(Some).collect();
        let mut stored = Vec::new();
        for copy in files {
            let stood = copy.link.path().to_owned();
            stored.push(Stored::File(self.file(txn, copy)?));
            for result in &mut results {
                if let Some(copy) = result.take_if(|r| r.link.for_path() == Some(&stood)) {
                    stored.push(Stored::Result(self.result(txn, copy, &stood)?));
                }
            }
        }
        if let Some(copy) = docs.into_iter().next() {
            self.docs(txn, copy)?;
            stored.push(Stored::Docs);
        }
        Ok(stored)
    }

    fn file(&mut self, txn: &mut WriteTxn<'_>, copy: Copy) -> Result<FilePath> {
        let name = copy.link.name().to_owned();
        let log = self.replace(txn, |link| link.is(Rel::ReleaseFile) && link.name() == name)?;
        let digest = copy.staged.sums.sha256;
        let path = FilePath::of_digest(&self.target.name, &digest.hex(), &name)?;
        self.moved.insert(copy.link.path().to_owned(), path.clone());
        self.fresh.push((path.clone(), digest));
        self.put(txn, Rel::ReleaseFile, copy, path.clone(), (log, None))?;
        Ok(path)
    }

    fn result(&mut self, txn: &mut WriteTxn<'_>, copy: Copy, stood: &str) -> Result<FilePath> {
        let file = self.moved.get(stood).cloned();
        let file = file.ok_or_else(|| Error::internal("a test result is for no file"))?;
        let count = self.links.iter().filter(|l| l.for_path() == Some(file.as_str())).count();
        let digits = time::digits(self.now);
        let path = file.sibling(&format!("{}.toxresult-{digits}-{count}", file.name()))?;
        self.put(txn, Rel::ToxResult, copy, path.clone(), (Vec::new(), Some(&file)))?;
        Ok(path)
    }

    fn docs(&mut self, txn: &mut WriteTxn<'_>, copy: Copy) -> Result<()> {
        let log = self.replace(txn, |link| link.is(Rel::DocZip))?;
        let hex = copy.staged.sums.sha256.hex();
        let path = FilePath::of_digest(&self.target.name, &hex, &doc_name(self.release))?;
        self.put(txn, Rel::DocZip, copy, path, (log, None))
    }

    /// Takes away what is replaced; gives how the log of what replaces it begins.
    fn replace(
        &mut self,
        txn: &mut WriteTxn<'_>,
        is_replaced: impl Fn(&ReleaseLink) -> bool,
    ) -> Result<Vec<Value>> {
        let Some(at) = self.links.iter().position(is_replaced) else { return Ok(Vec::new()) };
        let old = self.links.remove(at);
        delete::link_files(txn, &mut self.links, &old)?;
        let count = ("count", Value::Int(old.overwrites() + 1));
        Ok(vec![release::log_item("overwrite", None, time::six_tuple(self.now), count)])
    }

    /// Writes one file with its link, whose log goes on from that of the source.
    fn put(
        &mut self,
        txn: &mut WriteTxn<'_>,
        rel: Rel,
        copy: Copy,
        path: FilePath,
        (mut log, for_file): (Vec<Value>, Option<&FilePath>),
    ) -> Result<()> {
        let Copy { link, record, staged, metadata } = copy;
        let is_kept = |item: &&Value| item.get("what").and_then(Value::as_str) != Some("overwrite");
        log.extend(link.0.items("_log").iter().filter(is_kept).cloned());
        let src = ("src", Value::from(self.release.source.name.to_string()));
        let item = release::log_item("push", self.who, time::six_tuple(self.now), src);
        let mut item = Dict::from_value(item).unwrap_or_default();
        item.set("dst", self.target.name.to_string());
        log.push(item.into_value());
        let mut new = files::new_link(rel, &path, staged.sums.sha256, log);
        if let Some(file) = for_file {
            new.0.set("for_entrypath", file.as_str());
        }
        self.links.push(new);
        let of = Of { project: &self.release.project, version: &self.release.version };
        let now = time::http_date(self.now);
        let modified = record.text("last_modified").unwrap_or(&now);
        let uploaded = record.text("upload_time");
        files::put_as_of(txn, &of, path, (staged, metadata), modified, uploaded)
    }
}

/// Puts the new files on the target's simple page; all of the version ask for the same Python.
fn write_page(
    txn: &mut WriteTxn<'_>,
    target: &Index,
    release: &Release,
    links: &[ReleaseLink],
    fresh: &[(FilePath, Digest)],
) -> Result<()> {
    let key = key::SimpleLinks(&target.name, &release.project);
    let held = txn.get(&key)?;
    if held.is_none() && fresh.is_empty() {
        return Ok(());
    }
    let mut page = held.unwrap_or_default();
    let python = release.metadata.text("requires_python").unwrap_or_default().to_owned();
    page.links.retain(|held| fresh.iter().all(|(path, _)| path.name() != held.name));
    for held in &mut page.links {
        if links.iter().any(|link| link.path() == held.path()) {
            held.requires_python = Some(python.clone());
        }
    }
    for (path, digest) in fresh {
        page.links.push(Link {
            name: path.name().to_owned(),
            href: format!("{path}#{}", digest.hash_spec()),
            requires_python: Some(python.clone()),
            yanked: Value::None,
        });
    }
    txn.set(&key, &page);
    Ok(())
}
