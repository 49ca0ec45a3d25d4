//! Writes what a server holds as an export that devpi-import and our own import read (spec/replication-wire.md section 8).
//!
//! Everything is read at one serial, by project, so memory stays bounded. The index of the export gets its name last: a
//! folder without one is an export that did not end. Access tokens are left out: other servers would show them.

mod index_file;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::digest::Hasher;
use crate::error::{Context, Error, Result};
use crate::model::index::{self, Index};
use crate::model::release::{self, Rel, ReleaseLink};
use crate::model::{mirrored, tokens, user};
use crate::names::{IndexName, ProjectName, UserName, Version};
use crate::store::Store;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Record as _};
use crate::store::txn::{Read, ReadTxn};

use super::progress::Progress;
use super::spool::INDEX_FILE;
use index_file::IndexFile;

/// The version of devpi-server whose format this is.
const DEVPI_VERSION: &str = "6.20.3";
/// The version of the format.
const DUMP_VERSION: &str = "2";
/// Bytes that are copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where to, and what.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// A folder that is empty or not there.
    pub target: PathBuf,
    /// Whether files that mirrors hold are written too.
    pub mirrored_files: bool,
    /// Whether files are linked where the system allows it, instead of copied.
    pub hard_links: bool,
}

/// What was exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Users.
    pub users: u64,
    /// Indexes.
    pub indexes: u64,
    /// Files.
    pub files: u64,
}

/// Writes an export.
///
/// # Errors
/// `Kind::Conflict` if the target is not empty; `Kind::NotFound` if a file of a stage is not here; `Kind::Internal` if
/// one is damaged or the disk refuses.
pub fn export(store: &Store, options: &ExportOptions) -> Result<Exported> {
    let target = &options.target;
    make_target(target)?;
    let part = target.join(format!(".{INDEX_FILE}.part"));
    let txn = store.read()?;
    let mut export = Export {
        store,
        options,
        out: IndexFile::create(&part)?,
        txn,
        done: Exported::default(),
        progress: Progress::new("files exported", None),
        cannot_link: false,
    };
    export.write()?;
    let done = export.done;
    export.out.finish()?;
    fs::rename(&part, target.join(INDEX_FILE))?;
    File::open(target)?.sync_all()?;
    Ok(done)
}

fn make_target(target: &Path) -> Result<()> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(Error::conflict(format!("{} is not empty", target.display()))),
            None => Ok(()),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(target).context(|| format!("making {}", target.display()))
        }
        Err(e) => Err(e).context(|| format!("opening {}", target.display())),
    }
}

struct Export<'a> {
    store: &'a Store,
    options: &'a ExportOptions,
    out: IndexFile,
    txn: ReadTxn,
    done: Exported,
    progress: Progress,
    cannot_link: bool,
}

/// A file to write.
struct Wanted<'a> {
    rel: Rel,
    project: &'a ProjectName,
    version: &'a str,
    /// Below the index's folder.
    place: String,
    link: Option<&'a ReleaseLink>,
    is_cache: bool,
}

impl Export<'_> {
    fn write(&mut self) -> Result<()> {
        self.out.open(None)?;
        let users = user::names(&self.txn)?;
        self.out.open(Some("users"))?;
        for name in &users {
            self.done.users += 1;
            let record = user::require(&self.txn, name)?;
            self.out.value(Some(name.as_str()), &user_json(name, &record))?;
        }
        self.out.close()?;
        self.out.open(Some("indexes"))?;
        for name in &users {
            let record = user::require(&self.txn, name)?;
            for index in index::of_user(name, &record) {
                self.done.indexes += 1;
                self.index(&index).context(|| format!("exporting {}", index.name))?;
            }
        }
        self.out.close()?;
        self.out.value(Some("dumpversion"), &DUMP_VERSION.into())?;
        self.out.value(Some("pythonversion"), &json!([3, 11, 0, "final", 0]))?;
        self.out.value(Some("devpi_server"), &DEVPI_VERSION.into())?;
        self.out.close()
    }

    fn index(&mut self, index: &Index) -> Result<()> {
        self.out.open(Some(&index.name.to_string()))?;
        self.out.value(Some("indexconfig"), &index.shown())?;
        if !index.is_mirror() || self.options.mirrored_files {
            let projects = self.txn.get(&key::Projects(&index.name))?.unwrap_or_default();
            let mut projects: Vec<ProjectName> =
                projects.0.iter().map(|name| ProjectName::new(name)).collect();
            projects.sort();
            self.out.open(Some("projects"))?;
            for project in &projects {
                self.out.open(Some(project.as_str()))?;
                for (version, json) in self.versions(index, project)? {
                    self.out.value(Some(&version), &json)?;
                }
                self.out.close()?;
            }
            self.out.close()?;
            self.out.open_list("files")?;
            for project in &projects {
                match index.is_mirror() {
                    true => self.mirrored_files(&index.name, project)?,
                    false => self.stage_files(&index.name, project)?,
                }
            }
            self.out.close()?;
        }
        self.out.close()
    }

    fn versions(&self, index: &Index, project: &ProjectName) -> Result<Vec<(String, Json)>> {
        if index.is_mirror() {
            return self.mirrored_versions(&index.name, project);
        }
        let mut found = Vec::new();
        for version in sorted_versions(&self.txn, &index.name, project)? {
            let key = key::Release(&index.name, project, &version);
            let record = self.txn.get(&key)?.unwrap_or_default();
            let shown = release::metadata(&record).into_value().to_json();
            found.push((version.to_string(), shown));
        }
        Ok(found)
    }

    fn mirrored_versions(
        &self,
        index: &IndexName,
        project: &ProjectName,
    ) -> Result<Vec<(String, Json)>> {
        let mut found = BTreeMap::new();
        for (link, path, record) in self.held(index, project)? {
            let Some(version) = version_of(&record, &path, project) else { continue };
            let mut about = Map::new();
            about.insert("name".into(), project.as_str().into());
            about.insert("version".into(), version.as_str().into());
            if let Some(python) = link.requires_python.filter(|python| !python.is_empty()) {
                about.insert("requires_python".into(), python.into());
            }
            if !matches!(link.yanked, Value::None | Value::Bool(false)) {
                about.insert("yanked".into(), link.yanked.to_json());
            }
            found.insert(version, about.into());
        }
        Ok(found.into_iter().collect())
    }

    /// The files of a mirror's project that are here.
    fn held(
        &self,
        index: &IndexName,
        project: &ProjectName,
    ) -> Result<Vec<(Link, FilePath, Dict)>> {
        let links = self.txn.get(&key::SimpleLinks(index, project))?.unwrap_or_default().links;
        let mut held = Vec::new();
        for link in links {
            let Some(path) = FilePath::parse(link.path()) else { continue };
            if let Some(record) = self.record(&path)?
                && record.text("last_modified").is_some()
                && self.store.blobs().size(&path).is_some()
            {
                held.push((link, path, record));
            }
        }
        Ok(held)
    }

    fn record(&self, path: &FilePath) -> Result<Option<Dict>> {
        let value = self.txn.row(path.as_str())?.and_then(|row| row.value);
        value.map(|value| Dict::decode(&value)).transpose()
    }

    fn mirrored_files(&mut self, index: &IndexName, project: &ProjectName) -> Result<()> {
        for (_, path, record) in self.held(index, project)? {
            let Some(version) = version_of(&record, &path, project) else { continue };
            let place = format!("{project}/{version}/{}", path.name());
            let (rel, is_cache) = (Rel::ReleaseFile, true);
            let wanted = Wanted { rel, project, version: &version, place, link: None, is_cache };
            self.file(index, &path, &record, &wanted)?;
        }
        Ok(())
    }

    fn stage_files(&mut self, index: &IndexName, project: &ProjectName) -> Result<()> {
        for version in sorted_versions(&self.txn, index, project)? {
            let key = key::Release(index, project, &version);
            let links = release::links(&self.txn.get(&key)?.unwrap_or_default());
            let docs = links.iter().rfind(|link| link.is(Rel::DocZip));
            let releases = links.iter().filter(|link| link.is(Rel::ReleaseFile));
            let results = links.iter().filter(|link| link.is(Rel::ToxResult));
            for link in releases.chain(results).chain(docs) {
                let path = release::file_path(link.path())?;
                let Some(record) = self.record(&path)? else { continue };
                let Some((rel, place)) = place_of(link, &links, project, &version) else {
                    log::warn!("{path} is the result of a file that is not there; left out");
                    continue;
                };
                if record.text("last_modified").is_none() {
                    continue;
                }
                let (version, link, is_cache) = (version.as_str(), Some(link), false);
                let wanted = Wanted { rel, project, version, place, link, is_cache };
                self.file(index, &path, &record, &wanted)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        index: &IndexName,
        path: &FilePath,
        record: &Dict,
        wanted: &Wanted<'_>,
    ) -> Result<()> {
        let relpath = format!("{index}/{}", wanted.place);
        let target = self.options.target.join(&relpath);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).context(|| format!("making {}", folder.display()))?;
        }
        self.copy(path, record, &target, wanted.is_cache)?;
        let mut about = Map::new();
        about.insert("version".into(), wanted.version.into());
        about.insert("entrymapping".into(), record.clone().into_value().to_json());
        if let Some(release) = wanted.link.and_then(ReleaseLink::for_path) {
            about.insert("for_entrypath".into(), release.into());
        }
        let log = wanted.link.map_or(&[][..], |link| link.0.items("_log"));
        about.insert("log".into(), log.iter().map(Value::to_json).collect());
        about.insert("type".into(), wanted.rel.as_str().into());
        about.insert("projectname".into(), wanted.project.as_str().into());
        about.insert("relpath".into(), relpath.into());
        self.done.files += 1;
        self.progress.add(1);
        self.out.value(None, &about.into())
    }

    /// Writes a file's bytes to `target`; those that are copied must be what its record says.
    fn copy(
        &mut self,
        path: &FilePath,
        record: &Dict,
        target: &Path,
        is_cache: bool,
    ) -> Result<()> {
        if self.options.hard_links && !self.cannot_link {
            match self.store.blobs().link_to(path, target) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(missing(path)),
                Err(e) => {
                    log::warn!("files are copied, since they cannot be linked: {e}");
                    self.cannot_link = true;
                }
            }
        }
        let (mut from, _) = self.store.blobs().get(path)?.ok_or_else(|| missing(path))?;
        let mut to = File::create_new(target).context(|| format!("making {}", target.display()))?;
        let (mut hasher, mut chunk) = (Hasher::new(), vec![0; CHUNK_BYTES]);
        loop {
            let n = match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context(|| format!("reading {path}")),
            };
            hasher.update(&chunk[..n]);
            to.write_all(&chunk[..n]).context(|| format!("writing {}", target.display()))?;
        }
        let found = hasher.finish().sha256.hex();
        match record.dict("hashes").and_then(|hashes| hashes.text("sha256").map(str::to_owned)) {
            Some(due) if due != found && !is_cache => Err(Error::internal(format!(
                "{path} is damaged: its sha256 is {found} where {due} is due"
            ))),
            _ => Ok(()),
        }
    }
}

fn missing(path: &FilePath) -> Error {
    Error::not_found(format!("the file {path} is not here; nothing is left out of an export"))
}

fn sorted_versions(
    txn: &ReadTxn,
    index: &IndexName,
    project: &ProjectName,
) -> Result<Vec<Version>> {
    let mut versions = release::versions(txn, index, project)?;
    versions.sort();
    Ok(versions)
}

fn version_of(record: &Dict, path: &FilePath, project: &ProjectName) -> Option<String> {
    let held = record.text("version").map(str::to_owned);
    let version = held.or_else(|| mirrored::version_of(path.name(), project))?;
    Version::parse(&version).ok().map(|version| version.to_string())
}

/// Where a file of a stage stands below the index's folder.
fn place_of(
    link: &ReleaseLink,
    links: &[ReleaseLink],
    project: &ProjectName,
    version: &Version,
) -> Option<(Rel, String)> {
    if link.is(Rel::DocZip) {
        return Some((Rel::DocZip, format!("{project}-{version}.doc.zip")));
    }
    if link.is(Rel::ReleaseFile) {
        return Some((Rel::ReleaseFile, format!("{project}/{version}/{}", link.name())));
    }
    let release =
        links.iter().find(|l| l.is(Rel::ReleaseFile) && Some(l.path()) == link.for_path());
    let spec = release?.0.text("hash_spec")?;
    Some((Rel::ToxResult, format!("{project}/{spec}/{}", link.name())))
}

/// A user's record as an export has it: with the password's hash, without what is only ours.
fn user_json(name: &UserName, record: &Dict) -> Json {
    let mut record = record.clone();
    record.remove("indexes");
    record.remove(tokens::FIELD);
    record.set("username", name.as_str());
    record.into_value().to_json()
}
