//! Files of an export: copied and checked, then written with what hangs on them.

use std::fs::File;
use std::path::{Component, Path};
use std::time::SystemTime;

use serde_json::{Map, Value as Json};

use crate::digest::{Hasher, Sums, is_known};
use crate::error::{Context, Error, Result};
use crate::model::files::{self, Of};
use crate::model::release::{Rel, ReleaseLink};
use crate::model::{metadata, mirrored, release, time};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::blobs::{Blobs, Staged};
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Links};
use crate::store::txn::{Read as _, WriteTxn};

/// Who is named as uploader where an export has no log.
const IMPORTER: &str = "<import>";

/// A file of an export whose bytes are staged and right.
pub struct Incoming {
    rel: Rel,
    name: String,
    /// The version that it belongs to.
    pub version: Version,
    /// What a mirror knows of that version.
    pub about: Json,
    for_name: Option<String>,
    log: Option<Vec<Value>>,
    entry: Map<String, Json>,
    staged: Staged,
    metadata: Option<Staged>,
}

impl Incoming {
    /// Copies a file below `source`, or links it, and checks its digests.
    ///
    /// # Errors
    /// `Kind::Invalid` if the description is wrong or the bytes are not those of its digests; `Kind::Internal` if the
    /// disk refuses.
    pub fn stage(
        blobs: &Blobs,
        source: &Path,
        project: &ProjectName,
        json: &Json,
        links: bool,
    ) -> Result<Self> {
        let text = |key: &str| json[key].as_str();
        let relpath = text("relpath").ok_or_else(|| Error::invalid("a file has no relpath"))?;
        let parts = Path::new(relpath).components();
        if parts.clone().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(Error::invalid(format!("{relpath} leads out of the export")));
        }
        let name = relpath.rsplit('/').next().unwrap_or_default().to_owned();
        let rel = match text("type") {
            Some("releasefile") => Rel::ReleaseFile,
            Some("doczip") => Rel::DocZip,
            Some("toxresult") => Rel::ToxResult,
            other => {
                let other = other.unwrap_or("none");
                return Err(Error::invalid(format!("{relpath} is of the unknown type '{other}'")));
            }
        };
        let derived = || mirrored::version_of(&name, project);
        let version = text("version").map(str::to_owned).or_else(derived);
        let version = version.ok_or_else(|| Error::invalid(format!("{relpath} has no version")))?;
        let entry = json["entrymapping"].as_object().cloned().unwrap_or_default();
        let due = digests(&entry, relpath, rel);
        let staged = bring(blobs, &source.join(relpath), &due, links)?;
        check(&staged.sums, &due).context(|| source.join(relpath).display().to_string())?;
        let metadata = match rel {
            Rel::ReleaseFile => sidecar(blobs, &name, &staged)?,
            _ => None,
        };
        let log =
            json["log"].as_array().map(|items| items.iter().map(log_item).collect::<Result<_>>());
        let log: Option<Vec<Value>> = log.transpose()?;
        let for_name =
            text("for_entrypath").map(|path| path.rsplit('/').next().unwrap_or(path).to_owned());
        let version = Version::parse(&version)?;
        let about = Json::Null;
        Ok(Self { rel, name, version, about, for_name, log, entry, staged, metadata })
    }

    /// The link to it from its version, which has `links` already, and where it will stand.
    ///
    /// # Errors
    /// `Kind::Invalid` if its name cannot be one, or it is the result of a file that is not there.
    pub fn link(
        &self,
        index: &IndexName,
        project: &ProjectName,
        links: &[ReleaseLink],
    ) -> Result<(ReleaseLink, FilePath)> {
        let digest = self.staged.sums.sha256;
        let by_digest = |name: &str| FilePath::of_digest(index, &digest.hex(), name);
        let mut release = None;
        let path = match self.rel {
            Rel::ReleaseFile => by_digest(&self.name)?,
            Rel::DocZip => by_digest(&format!("{project}-{}.doc.zip", self.version))?,
            Rel::ToxResult => {
                let wanted = self.for_name.as_deref().unwrap_or_default();
                let found = links.iter().find(|l| l.is(Rel::ReleaseFile) && l.name() == wanted);
                let found = found.ok_or_else(|| {
                    let name = &self.name;
                    Error::invalid(format!("{name} is a result of '{wanted}', which is not there"))
                })?;
                let found = release::file_path(found.path())?;
                let path = found.sibling(&self.name)?;
                release = Some(found);
                path
            }
        };
        let log = self.log.clone().unwrap_or_else(|| vec![self.first_log(index)]);
        let mut link = files::new_link(self.rel, &path, digest, log);
        if let Some(release) = release {
            link.0.set("for_entrypath", release.as_str());
        }
        Ok((link, path))
    }

    fn first_log(&self, index: &IndexName) -> Value {
        let mut item = Dict::new();
        item.set("what", "upload");
        item.set("who", IMPORTER);
        item.set("when", time::six_tuple(SystemTime::now()));
        item.set("dst", index.to_string());
        item.into_value()
    }

    /// The link to it from the simple page; `None` if it is no release.
    pub fn simple_link(&self, path: &FilePath, python: String) -> Option<Link> {
        (self.rel == Rel::ReleaseFile).then(|| Link {
            name: path.name().to_owned(),
            href: format!("{path}#{}", self.staged.sums.sha256.hash_spec()),
            requires_python: Some(python),
            yanked: Value::None,
        })
    }

    /// Writes its record and has its bytes put in place.
    ///
    /// # Errors
    /// `Kind::Invalid` if its name is too long for the file system.
    pub fn put(self, txn: &mut WriteTxn<'_>, project: &ProjectName, path: FilePath) -> Result<()> {
        let of = Of { project, version: &self.version };
        let upload_time = self.entry.get("upload_time").and_then(Json::as_str);
        let modified = last_modified(&self.entry);
        files::put_as_of(txn, &of, path, (self.staged, self.metadata), &modified, upload_time)
    }
}

fn last_modified(entry: &Map<String, Json>) -> String {
    let held = entry.get("last_modified").and_then(Json::as_str).map(str::to_owned);
    held.unwrap_or_else(|| time::http_date(SystemTime::now()))
}

/// Writes files of a mirror that were brought, and the links to them before those that are there.
///
/// # Errors
/// `Kind::Invalid` if one does not say where it came from; `Kind::Internal` if the database fails.
pub fn put_mirrored(
    txn: &mut WriteTxn<'_>,
    index: &IndexName,
    project: &ProjectName,
    files: Vec<Incoming>,
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let key = key::SimpleLinks(index, project);
    let held: Option<Links> = txn.get(&key)?;
    let mut links = Vec::new();
    for file in files {
        let url = file.entry.get("url").and_then(Json::as_str).ok_or_else(|| {
            Error::invalid(format!("{} does not say where it came from", file.name))
        })?;
        let sums = &file.staged.sums;
        let path = mirrored::path_of(index, url, Some(&sums.sha256.hex()), &file.name)?;
        let spec = sums.sha256.hash_spec();
        let mut record = Dict::new();
        record.set("url", url);
        record.set("hash_spec", spec.as_str());
        record.set("project", project.as_str());
        record.set("version", file.version.as_str());
        record.set("last_modified", last_modified(&file.entry));
        record.set("hashes", Dict(vec![("sha256".to_owned(), sums.sha256.hex().into())]));
        record.set("size", Value::int(i64::try_from(sums.size_bytes).unwrap_or(i64::MAX)));
        if let Some(at) = file.entry.get("upload_time").and_then(Json::as_str) {
            record.set("upload_time", at);
        }
        txn.set(&key::File(&path), &record);
        links.push(Link {
            name: file.name,
            href: format!("{path}#{spec}"),
            requires_python: file.about["requires_python"].as_str().map(str::to_owned),
            yanked: Value::from_json(&file.about["yanked"])?,
        });
        txn.add_file(path, file.staged);
    }
    let rest = Dict(vec![("etag".to_owned(), Value::None), ("serial".to_owned(), Value::int(-1))]);
    links.extend(held.into_iter().flat_map(|held| held.links));
    txn.set(&key, &Links::of_mirror(links, rest));
    Ok(())
}

/// An item of a link's log as devpi stores it: moments are tuples there.
fn log_item(json: &Json) -> Result<Value> {
    let mut value = Value::from_json(json)?;
    if let Value::Dict(items) = &mut value {
        for (key, item) in items {
            if key.as_str() == Some("when")
                && let Value::List(parts) = item
            {
                *item = Value::Tuple(std::mem::take(parts));
            }
        }
    }
    Ok(value)
}

/// The digests that an export names for a file, as kind and hex. Some versions of devpi gave test results the digest of
/// the file that they are for, which is part of the path; that one does not count.
fn digests(entry: &Map<String, Json>, relpath: &str, rel: Rel) -> Vec<(String, String)> {
    let mut due: Vec<(String, String)> = Vec::new();
    let hashes = entry.get("hashes").and_then(Json::as_object);
    for (kind, hex) in hashes.into_iter().flatten() {
        due.extend(hex.as_str().map(|hex| (kind.clone(), hex.to_owned())));
    }
    let md5 = entry.get("md5").and_then(Json::as_str);
    due.extend(md5.map(|hex| ("md5".to_owned(), hex.to_owned())));
    let spec = entry.get("hash_spec").and_then(Json::as_str).and_then(|spec| spec.split_once('='));
    due.extend(spec.map(|(kind, hex)| (kind.to_owned(), hex.to_owned())));
    due.sort();
    due.dedup();
    if rel == Rel::ToxResult
        && let Some((kind, hex)) = relpath.split('/').nth(3).and_then(|part| part.split_once('='))
        && due.iter().any(|(k, h)| k == kind && h == hex)
    {
        due.clear();
    }
    due
}

fn bring(blobs: &Blobs, path: &Path, due: &[(String, String)], links: bool) -> Result<Staged> {
    let hasher = || Hasher::with(due.iter().map(|(kind, _)| kind.as_str()));
    let unreadable = |e| Error::invalid(format!("{} cannot be read", path.display())).caused_by(e);
    let mut file = File::open(path).map_err(unreadable)?;
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Error::invalid(format!("{} is no file", path.display())));
    }
    if links && let Some(staged) = blobs.adopt(path, hasher())? {
        return Ok(staged);
    }
    blobs.stage(&mut file, hasher(), u64::MAX).context(|| path.display().to_string())
}

fn check(sums: &Sums, due: &[(String, String)]) -> Result<()> {
    for (kind, hex) in due.iter().filter(|(kind, _)| is_known(kind)) {
        let found = sums.hex_of(kind).unwrap_or_default();
        if !found.eq_ignore_ascii_case(hex) {
            return Err(Error::invalid(format!("its {kind} is {found} where {hex} is due")));
        }
    }
    Ok(())
}

fn sidecar(blobs: &Blobs, name: &str, staged: &Staged) -> Result<Option<Staged>> {
    let bytes = metadata::of_wheel(name, staged.open()?);
    bytes.map(|bytes| blobs.stage(&mut bytes.as_slice(), Hasher::new(), u64::MAX)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(json: Json) -> Map<String, Json> {
        json.as_object().cloned().expect("an object")
    }

    #[test]
    fn digests_come_from_all_places_that_versions_of_devpi_used() {
        let old = entry(json!({"md5": "aa", "hash_spec": "sha256=bb", "hashes": {"sha1": "cc"}}));
        let due = digests(&old, "a/b/c/1/x.whl", Rel::ReleaseFile);
        let kinds: Vec<&str> = due.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["md5", "sha1", "sha256"]);
        let of_release = entry(json!({"hashes": {"sha256": "bb"}}));
        let path = "a/b/c/sha256=bb/x.whl.toxresult-1-0";
        assert_eq!(digests(&of_release, path, Rel::ToxResult), []);
        assert_eq!(digests(&of_release, "a/b/c/sha256=dd/x", Rel::ToxResult).len(), 1);
    }

    #[test]
    fn a_file_that_differs_or_leads_out_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(dir.path()).expect("opens");
        std::fs::write(dir.path().join("x-1.0.zip"), b"abc").expect("written");
        let project = ProjectName::new("x");
        let stage = |path: &str, hex: &str| {
            let json = json!({"relpath": path, "type": "releasefile",
                "entrymapping": {"hashes": {"md5": hex}}});
            Incoming::stage(&blobs, dir.path(), &project, &json, false).map_err(|e| e.message)
        };
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let incoming = stage("x-1.0.zip", md5).expect("is right");
        assert_eq!(incoming.version.as_str(), "1.0");
        assert!(stage("x-1.0.zip", "00").err().expect("differs").contains("x-1.0.zip"));
        assert!(stage("../x-1.0.zip", md5).err().expect("is out").contains("leads out"));
        assert!(stage("y-1.0.zip", md5).err().expect("is no version").contains("no version"));
        assert!(stage("x-2.0.zip", md5).err().expect("is missing").contains("cannot be read"));
    }
}
