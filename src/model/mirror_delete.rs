//! Deletion on mirrors: what was brought goes, what the upstream shows stays or is asked for again.

use crate::error::{Error, Kind, Result};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Record as _};
use crate::store::txn::{Read, WriteTxn};

use super::index::Index;

/// Deletes a file that was brought, with its record. It is gone until the project's page is looked at anew. When no
/// file of the project is left here, its page goes as well.
///
/// # Errors
/// `Kind::NotFound` if it was never brought; `Kind::Gone` if it was deleted before.
pub fn file(txn: &mut WriteTxn<'_>, index: &Index, path: &FilePath) -> Result<()> {
    let absent = || Error::not_found(format!("package '{path}' doesn't exist"));
    let row = txn.row(path.as_str())?.ok_or_else(absent)?;
    let Some(value) = row.value else {
        return Err(match path.is_by_hash() {
            true => Error::new(Kind::Gone, "file existed, deleted in later serial"),
            false => absent(),
        });
    };
    let record = Dict::decode(&value)?;
    if !is_brought(&record) {
        return Err(absent());
    }
    drop_file(txn, path.clone());
    let Some(project) = record.text("project").map(ProjectName::new) else { return Ok(()) };
    for (_, record) in files(txn, &index.name, &project)?.unwrap_or_default() {
        if is_brought(&record) {
            return Ok(());
        }
    }
    drop_page(txn, &index.name, &project)?;
    txn.remove_name(&key::Projects(&index.name), project.as_str())?;
    Ok(())
}

/// Deletes the bytes of a version's files; they are brought again when somebody wants them.
///
/// # Errors
/// `Kind::NotFound` if the project is not held.
pub fn version(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    version: &Version,
) -> Result<()> {
    let files = files(txn, &index.name, project)?.ok_or_else(|| {
        Error::not_found(format!("project '{project}' not found on stage '{}'", index.name))
    })?;
    let is_known =
        |(_, record): &(FilePath, Dict)| record.text("version") == Some(version.as_str());
    if !files.iter().any(is_known) {
        return Err(Error::not_found(format!(
            "version '{version}' of project '{project}' not found on stage '{}'",
            index.name
        )));
    }
    for (path, mut record) in files.into_iter().filter(is_known) {
        if record.remove("last_modified").is_none() {
            continue;
        }
        if path.is_by_hash() {
            txn.set(&key::File(&path), &record);
        } else {
            // What was measured says nothing of what lies there when it is brought again.
            record.set("hash_spec", "");
            record.remove("hashes");
            record.remove("size");
            txn.set(&key::UnhashedFile(&path), &record);
        }
        txn.remove_file(path);
    }
    Ok(())
}

/// Deletes the page of a project and the files that were brought; the next request for it begins afresh.
///
/// # Errors
/// `Kind::NotFound` if the project is not held.
pub fn project(txn: &mut WriteTxn<'_>, index: &Index, project: &ProjectName) -> Result<()> {
    if !project_content(txn, &index.name, project)? {
        return Err(Error::not_found("project not found"));
    }
    txn.remove_name(&key::Projects(&index.name), project.as_str())?;
    Ok(())
}

/// Deletes all that a mirror holds. Records of files that were never brought stay, as devpi leaves them.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn index_content(txn: &mut WriteTxn<'_>, index: &Index) -> Result<()> {
    let projects = key::Projects(&index.name);
    let Some(names) = txn.get(&projects)? else { return Ok(()) };
    for name in &names.0 {
        project_content(txn, &index.name, &ProjectName::new(name))?;
    }
    txn.delete(&projects);
    Ok(())
}

/// Deletes what is held of a project; false if nothing is.
fn project_content(
    txn: &mut WriteTxn<'_>,
    index: &IndexName,
    project: &ProjectName,
) -> Result<bool> {
    let Some(files) = files(txn, index, project)? else { return Ok(false) };
    for (path, record) in files {
        if is_brought(&record) {
            drop_file(txn, path);
        }
    }
    drop_page(txn, index, project)?;
    Ok(true)
}

/// The files of a project with their records; `None` if no page of it is held.
fn files(
    txn: &impl Read,
    index: &IndexName,
    project: &ProjectName,
) -> Result<Option<Vec<(FilePath, Dict)>>> {
    let Some(page) = txn.get(&key::SimpleLinks(index, project))? else { return Ok(None) };
    if !page.is_of_mirror() {
        return Ok(None);
    }
    let file = |link: &Link| {
        let Some(path) = FilePath::parse(link.path()) else { return Ok(None) };
        let value = txn.row(path.as_str())?.and_then(|row| row.value);
        value.map(|value| Ok((path, Dict::decode(&value)?))).transpose()
    };
    let files = page.links.iter().filter_map(|link| file(link).transpose());
    files.collect::<Result<_>>().map(Some)
}

/// Whether the bytes of a file are, or were, here.
fn is_brought(record: &Dict) -> bool {
    record.get("last_modified").is_some()
}

fn drop_file(txn: &mut WriteTxn<'_>, path: FilePath) {
    match path.is_by_hash() {
        true => txn.delete(&key::File(&path)),
        false => txn.delete(&key::UnhashedFile(&path)),
    }
    txn.remove_file(path);
}

fn drop_page(txn: &mut WriteTxn<'_>, index: &IndexName, project: &ProjectName) -> Result<()> {
    let page = key::SimpleLinks(index, project);
    if txn.has(&page)? {
        txn.delete(&page);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Map, json};

    use super::*;
    use crate::digest::Hasher;
    use crate::model::{delete, index, setup, user};
    use crate::names::UserName;
    use crate::store::codec::RawEntry;
    use crate::store::key::Key as _;
    use crate::store::record::Links;
    use crate::store::{self, Store, Writer};

    struct Scene {
        _dir: tempfile::TempDir,
        store: Arc<Store>,
        writer: Writer,
        index: IndexName,
        files: Vec<FilePath>,
    }

    impl Scene {
        /// A mirror with three files of two versions, of which the first two were brought; the second has no hash.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = store::open(dir.path(), 4).expect("opens");
            let index = IndexName::new("ann", "mir").expect("valid");
            let file = |place: &str| FilePath::parse(&format!("ann/mir/{place}")).expect("valid");
            let files = vec![
                file("+f/123/4567890123456/p-1.0.zip"),
                file("+e/http_x/p-1.0.tar.gz"),
                file("+f/abc/4567890123456/p-2.0.zip"),
            ];
            let scene = Self { _dir: dir, store, writer, index, files };
            let ann = UserName::parse("ann").expect("valid");
            scene.write(|txn| setup::first(txn, "hash", None)).expect("first");
            scene.write(|txn| user::create(txn, &ann, "hash", Vec::new())).expect("user");
            let fields = Map::from_iter([
                ("type".into(), json!("mirror")),
                ("mirror_url".into(), json!("http://x/")),
            ]);
            scene.write(|txn| index::create(txn, &scene.index, &fields)).expect("index");
            scene.write(|txn| scene.fill(txn)).expect("filled");
            scene
        }
        fn fill(&self, txn: &mut WriteTxn<'_>) -> Result<()> {
            for (n, path) in self.files.iter().enumerate() {
                let mut record = Dict::new();
                record.set("url", "http://x/y");
                record.set("hash_spec", "sha256=00");
                record.set("project", "p");
                record.set("version", if n < 2 { "1.0" } else { "2.0" });
                if n < 2 {
                    record.set("last_modified", "now");
                    let staged = self.store.blobs().stage(&mut &b"abc"[..], Hasher::new(), 9)?;
                    txn.add_file(path.clone(), staged);
                }
                match path.is_by_hash() {
                    true => txn.set(&key::File(path), &record),
                    false => txn.set(&key::UnhashedFile(path), &record),
                }
            }
            let link = |path: &FilePath| Link {
                name: path.name().to_owned(),
                href: path.to_string(),
                requires_python: None,
                yanked: store::codec::Value::None,
            };
            let links = Links::of_mirror(self.files.iter().map(link).collect(), Dict::new());
            txn.set(&key::SimpleLinks(&self.index, &ProjectName::new("p")), &links);
            txn.insert_name(&key::Projects(&self.index), "p")?;
            Ok(())
        }
        fn write<T>(&self, change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>) -> Result<T> {
            self.writer.write(change).map(|(value, _)| value)
        }
        fn on_index<T>(
            &self,
            change: impl FnOnce(&mut WriteTxn<'_>, &Index) -> Result<T>,
        ) -> Result<T> {
            self.write(|txn| {
                let index = index::require(txn, &self.index)?;
                change(txn, &index)
            })
        }
        fn are_here(&self) -> Vec<bool> {
            self.files.iter().map(|path| self.store.blobs().size(path).is_some()).collect()
        }
        fn record(&self, n: usize) -> Option<Dict> {
            let row = self.store.read().expect("reads").row(self.files[n].as_str());
            let value = row.expect("reads").and_then(|row| row.value);
            value.map(|value| Dict::decode(&value).expect("a dict"))
        }
        /// The key names of the last entry, sorted; those of deletions with a minus.
        fn last_entry(&self) -> Vec<String> {
            let now = self.store.clock().now().expect("committed");
            let entries = self.store.entries(now, now, usize::MAX).expect("reads");
            let entry = RawEntry::parse(&entries[0].1).expect("well formed");
            let name = |change: &store::codec::RawChange<'_>| match change.value {
                Some(_) => change.keyname.to_owned(),
                None => format!("-{}", change.keyname),
            };
            let mut names: Vec<_> = entry.changes().map(name).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_version_loses_its_bytes_only() {
        let scene = Scene::new();
        let project = ProjectName::new("p");
        let drop = |text: &str| {
            let version = Version::parse(text).expect("valid");
            scene.on_index(|txn, index| delete::version(txn, index, &project, &version))
        };
        drop("1.0").expect("deleted");
        assert_eq!(scene.are_here(), [false; 3]);
        assert_eq!(scene.last_entry(), ["PYPIFILE_NOMD5", "STAGEFILE"]);
        let (hashed, unhashed) = (scene.record(0).expect("stays"), scene.record(1).expect("stays"));
        assert_eq!(hashed.text("hash_spec"), Some("sha256=00"));
        assert_eq!(unhashed.text("hash_spec"), Some(""));
        assert!(!is_brought(&hashed) && !is_brought(&unhashed));
        drop("1.0").expect("nothing to delete is no error");
        assert_eq!(drop("9.0").expect_err("unknown").kind, Kind::NotFound);
    }

    #[test]
    fn the_last_file_that_was_brought_takes_the_page_along() {
        let scene = Scene::new();
        let drop =
            |n: usize| scene.on_index(|txn, index| delete::file(txn, index, &scene.files[n]));
        assert_eq!(drop(2).expect_err("never brought").kind, Kind::NotFound);
        drop(0).expect("deleted");
        assert_eq!(scene.last_entry(), ["-STAGEFILE"]);
        assert_eq!(drop(0).expect_err("twice").kind, Kind::Gone);
        drop(1).expect("deleted");
        assert_eq!(scene.last_entry(), ["-PROJSIMPLELINKS", "-PYPIFILE_NOMD5", "PROJNAMES"]);
        assert_eq!(drop(1).expect_err("twice").kind, Kind::NotFound);
        assert_eq!(scene.are_here(), [false; 3]);
        assert!(scene.record(2).is_some(), "what was never brought stays");
    }

    #[test]
    fn projects_and_indexes_go_with_what_was_brought() {
        let scene = Scene::new();
        let project = ProjectName::new("p");
        let drop = || scene.on_index(|txn, index| delete::project(txn, index, &project));
        drop().expect("deleted");
        let names = ["-PROJSIMPLELINKS", "-PYPIFILE_NOMD5", "-STAGEFILE", "PROJNAMES"];
        assert_eq!(scene.last_entry(), names);
        assert_eq!(drop().expect_err("twice").kind, Kind::NotFound);
        scene.write(|txn| scene.fill(txn)).expect("filled again");
        assert_eq!(scene.are_here(), [true, true, false]);
        scene.write(|txn| index::remove(txn, &scene.index)).expect("deleted");
        let names = ["-PROJNAMES", "-PROJSIMPLELINKS", "-PYPIFILE_NOMD5", "-STAGEFILE", "USER"];
        assert_eq!(scene.last_entry(), names);
        assert_eq!(scene.are_here(), [false; 3]);
        let row = scene.store.read().expect("reads").row(&key::File(&scene.files[2]).path());
        assert!(row.expect("reads").is_some_and(|row| row.value.is_some()));
    }
}
