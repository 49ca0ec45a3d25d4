//! Makes the content of a new server out of an export, devpi's or ours (spec/replication-wire.md section 8).
//!
//! As devpi does it: serial 0 is what `init` writes, the next entry has all users, the next all indexes, then one comes
//! for each project. A project with very many versions or files takes several, so that memory stays bounded. Every file
//! is checked against the digests that the export names while it is copied.

mod files;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::error::{Context, Error, Result};
use crate::model::index::Index;
use crate::model::{release, setup};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::codec::Value;
use crate::store::key;
use crate::store::record::{Dict, Links};
use crate::store::txn::{Read as _, WriteTxn};
use crate::store::{Store, Writer};

use super::progress::Progress;
use super::spool::{INDEX_FILE, Spool};
use files::Incoming;

/// Versions, or files, of one project that go into one transaction.
const BATCH: usize = 100;
/// Projects that are looked up at a time.
const PROJECTS_AT_ONCE: usize = 1000;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The folder with the export.
    pub source: PathBuf,
    /// The password hash of root, unless the export has one.
    pub pwhash: String,
    /// The index that `root/pypi` mirrors unless the export says so.
    pub root_pypi: Option<String>,
    /// Whether there shall be no `root/pypi` whatever the export says.
    pub no_root_pypi: bool,
    /// Types of indexes that are left out.
    pub skip_types: Vec<String>,
    /// Whether files are linked instead of copied.
    pub hard_links: bool,
}

/// What was imported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Users.
    pub users: usize,
    /// Indexes.
    pub indexes: usize,
    /// Projects.
    pub projects: u64,
    /// Files.
    pub files: u64,
}

/// An export that was read and can be imported, as far as its index shows.
pub struct Import {
    options: ImportOptions,
    spool: Spool,
    stages: Vec<(usize, Index)>,
}

impl Import {
    /// Reads the index of an export.
    ///
    /// # Errors
    /// `Kind::Invalid` if it cannot be read or holds what this server does not know.
    pub fn read(options: ImportOptions) -> Result<Self> {
        log::info!("reading {}", options.source.join(INDEX_FILE).display());
        let spool = Spool::read(&options.source)?;
        let stages = settings::stages(&spool, &options)?;
        for (at, index) in &stages {
            if let Some(project) = spool.stray(*at)? {
                let name = &index.name;
                let text = format!("files of {project} are in {name}, which does not name it");
                return Err(Error::invalid(text));
            }
        }
        Ok(Self { options, spool, stages })
    }

    /// Imports into a store that is empty.
    ///
    /// # Errors
    /// `Kind::Conflict` if the store is not empty; `Kind::Invalid` if a file is missing or differs from its digest;
    /// `Kind::Internal` if the disk refuses.
    pub fn run(&self, store: &Arc<Store>, writer: &Writer) -> Result<Imported> {
        let Self { options, spool, stages } = self;
        writer.write(|txn| setup::first(txn, &options.pwhash, options.root_pypi.as_deref()))?;
        writer.write(|txn| settings::put_users(txn, spool))?;
        let put_indexes = |txn: &mut WriteTxn<'_>| {
            stages.iter().try_for_each(|(_, index)| settings::put_index(txn, index))
        };
        writer.write(put_indexes)?;
        let mut imported = Imported { users: spool.users.len(), ..Imported::default() };
        let mut progress = Progress::new("files imported", Some(spool.files));
        for (at, index) in stages {
            imported.indexes += 1;
            let job = Job { store, writer, spool, options, at: *at, index };
            let mut after = String::new();
            loop {
                let projects = spool.projects(*at, &after, PROJECTS_AT_ONCE)?;
                let Some(last) = projects.last() else { break };
                for project in &projects {
                    imported.files += job
                        .project(&ProjectName::new(project), &mut progress)
                        .context(|| format!("importing {project} of {}", index.name))?;
                    imported.projects += 1;
                }
                after.clone_from(last);
            }
        }
        Ok(imported)
    }
}

/// Imports one index.
struct Job<'a> {
    store: &'a Arc<Store>,
    writer: &'a Writer,
    spool: &'a Spool,
    options: &'a ImportOptions,
    at: usize,
    index: &'a Index,
}

impl Job<'_> {
    /// Imports a project and gives how many files it has.
    fn project(&self, project: &ProjectName, progress: &mut Progress) -> Result<u64> {
        let of = (self.at, project.as_str());
        let (mut version, mut place, mut count, mut is_new) = (String::new(), (-1, 0), 0, true);
        loop {
            let versions = self.spool.versions(of, &version, BATCH)?;
            if let Some((last, _)) = versions.last() {
                version.clone_from(last);
            }
            // Files come when all versions are known.
            let files = match versions.len() {
                BATCH => Vec::new(),
                _ => self.spool.files(of, place, BATCH)?,
            };
            if versions.is_empty() && files.is_empty() && !is_new {
                return Ok(count);
            }
            is_new = false;
            let mut incoming = Vec::with_capacity(files.len());
            for (at, file) in &files {
                place = *at;
                incoming.push(self.stage(project, file)?);
                progress.add(1);
            }
            count += incoming.len() as u64;
            let is_last = versions.len() < BATCH && files.len() < BATCH;
            self.write(project, versions, incoming)?;
            if is_last {
                return Ok(count);
            }
        }
    }

    fn stage(&self, project: &ProjectName, file: &Json) -> Result<Incoming> {
        let blobs = self.store.blobs();
        let mut incoming =
            Incoming::stage(blobs, &self.options.source, project, file, self.options.hard_links)?;
        if self.index.is_mirror() {
            let version = incoming.version.as_str();
            let about = self.spool.version((self.at, project.as_str()), version)?;
            incoming.about = about.unwrap_or_default();
        }
        Ok(incoming)
    }

    fn write(
        &self,
        project: &ProjectName,
        versions: Vec<(String, Json)>,
        files: Vec<Incoming>,
    ) -> Result<()> {
        let index = self.index;
        let write = |txn: &mut WriteTxn<'_>| {
            txn.insert_name(&key::Projects(&index.name), project.as_str())?;
            if index.is_mirror() {
                return files::put_mirrored(txn, &index.name, project, files);
            }
            let mut batch = Batch::begin(txn, &index.name, project)?;
            for (name, json) in versions {
                batch.put_version(txn, &name, json)?;
            }
            for file in files {
                batch.put_file(txn, file)?;
            }
            batch.finish(txn);
            Ok(())
        };
        self.writer.write(write).map(|_| ())
    }
}

/// What one transaction changes of a stage's project, written once at its end.
struct Batch<'a> {
    index: &'a IndexName,
    project: &'a ProjectName,
    releases: BTreeMap<Version, Dict>,
    page: Links,
    has_page_changed: bool,
}

impl<'a> Batch<'a> {
    fn begin(txn: &WriteTxn<'_>, index: &'a IndexName, project: &'a ProjectName) -> Result<Self> {
        let page = txn.get(&key::SimpleLinks(index, project))?.unwrap_or_default();
        Ok(Self { index, project, releases: BTreeMap::new(), page, has_page_changed: false })
    }

    fn put_version(&mut self, txn: &mut WriteTxn<'_>, name: &str, json: Json) -> Result<()> {
        let named = json["version"].as_str().filter(|named| !named.is_empty());
        let version = Version::parse(named.unwrap_or(name))?;
        let mut record = Dict::from_value(Value::from_json(&json)?).ok_or_else(|| {
            Error::invalid(format!("the metadata of version {name} is no object"))
        })?;
        record.0.retain(|(key, _)| !key.starts_with(['+', ':']));
        record.set("version", version.as_str());
        if record.text("name").is_none() {
            record.set("name", self.project.as_str());
        }
        txn.insert_name(&key::Versions(self.index, self.project), version.as_str())?;
        self.releases.insert(version, record);
        Ok(())
    }

    fn release(&mut self, txn: &WriteTxn<'_>, version: &Version) -> Result<&mut Dict> {
        if !self.releases.contains_key(version) {
            let held = txn.get(&key::Release(self.index, self.project, version))?;
            let held = held.ok_or_else(|| {
                Error::invalid(format!("a file is of version {version}, which is not named"))
            })?;
            self.releases.insert(version.clone(), held);
        }
        Ok(self.releases.get_mut(version).expect("it was put there"))
    }

    fn finish(self, txn: &mut WriteTxn<'_>) {
        for (version, record) in &self.releases {
            txn.set(&key::Release(self.index, self.project, version), record);
        }
        if self.has_page_changed {
            txn.set(&key::SimpleLinks(self.index, self.project), &self.page);
        }
    }

    fn put_file(&mut self, txn: &mut WriteTxn<'_>, file: Incoming) -> Result<()> {
        let version = file.version.clone();
        let (index, project) = (self.index, self.project);
        let release = self.release(txn, &version)?;
        let mut links = release::links(release);
        let (link, path) = file.link(index, project, &links)?;
        links.push(link);
        let python = release.text("requires_python").unwrap_or_default().to_owned();
        release::set_links(release, links);
        if let Some(link) = file.simple_link(&path, python) {
            self.page.links.push(link);
            self.has_page_changed = true;
        }
        file.put(txn, project, path)
    }
}
