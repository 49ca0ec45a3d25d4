//! Scenes over a real store: what an operation writes, and what is seen afterwards.

use std::sync::Arc;

use serde_json::{Map, json};

use crate::digest::Hasher;
use crate::error::{Kind, Result};
use crate::names::{IndexName, ProjectName, UserName};
use crate::store::codec::RawEntry;
use crate::store::key::{self, FilePath, Key as _};
use crate::store::txn::{Read as _, WriteTxn};
use crate::store::{self, Store, Writer};

use super::metadata::Submission;
use super::upload::{self, NewFile, Upload};
use super::{delete, index, links, setup, user, walk};

struct Scene {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    writer: Writer,
    index: IndexName,
}

impl Scene {
    fn new(volatile: bool) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = store::open(dir.path(), 4).expect("opens");
        let index = IndexName::new("ann", "dev").expect("valid");
        let scene = Self { _dir: dir, store, writer, index };
        scene.write(|txn| setup::first(txn, "hash", None)).expect("first");
        let ann = UserName::parse("ann").expect("valid");
        scene.write(|txn| user::create(txn, &ann, "hash", Vec::new())).expect("user");
        let fields = Map::from_iter([("volatile".to_owned(), json!(volatile))]);
        scene.write(|txn| index::create(txn, &scene.index, &fields)).expect("index");
        scene
    }
    fn write<T>(&self, change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>) -> Result<T> {
        self.writer.write(change).map(|(value, _)| value)
    }
    fn upload(&self, name: &str, version: &str, bytes: &[u8]) -> Result<Upload> {
        let form = [("name", "Some.Pkg"), ("version", version), ("requires_python", ">=3.8")];
        let form: Vec<_> = form.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let submission = Submission::parse(&form)?;
        let staged = self.store.blobs().stage(&mut &*bytes, Hasher::new(), 99)?;
        let file = NewFile { name: name.to_owned(), staged, metadata: None };
        self.write(|txn| {
            let index = index::require(txn, &self.index)?;
            upload::store_file(txn, &index, &submission, file, Some(self.index.user()))
        })
    }
    fn project() -> ProjectName {
        ProjectName::new("some-pkg")
    }
    fn page(&self) -> Option<Vec<String>> {
        let txn = self.store.read().expect("reads");
        let index = index::require(&txn, &self.index).expect("there");
        let walk = walk::walk(&txn, index, &Self::project(), |_| Ok(true)).expect("reads");
        let page = links::page(&txn, &walk, &Self::project()).expect("reads");
        page.map(|page| page.files.into_iter().map(|file| file.link.href).collect())
    }
    fn path(&self) -> FilePath {
        let href = self.page().expect("known").pop().expect("a link");
        FilePath::parse(href.split('#').next().expect("a path")).expect("valid")
    }
    /// The key names of the last entry, sorted.
    fn last_entry(&self) -> Vec<String> {
        let now = self.store.clock().now().expect("committed");
        let entries = self.store.entries(now, now, usize::MAX).expect("reads");
        let entry = RawEntry::parse(&entries[0].1).expect("well formed");
        let mut names: Vec<_> = entry.changes().map(|change| change.keyname.to_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn an_upload_writes_what_devpi_writes() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let all = ["PROJNAMES", "PROJSIMPLELINKS", "PROJVERSION", "PROJVERSIONS", "STAGEFILE"];
    assert_eq!(scene.last_entry(), all);
    assert!(scene.store.blobs().size(&scene.path()).is_some());
    scene.upload("some_pkg-1.0.tar.gz", "1.0", b"two").expect("stored");
    assert_eq!(scene.last_entry(), ["PROJSIMPLELINKS", "PROJVERSION", "STAGEFILE"]);
    assert_eq!(scene.page().expect("known").len(), 2);
}

#[test]
fn a_volatile_index_replaces_and_forgets_the_old_file() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let old = scene.path();
    scene.upload("some_pkg-1.0.zip", "1.0", b"two").expect("stored");
    let new = scene.path();
    assert_ne!(old, new);
    assert_eq!(scene.page().expect("known").len(), 1);
    assert!(scene.store.blobs().size(&old).is_none() && scene.store.blobs().size(&new).is_some());
    scene.upload("some_pkg-1.0.zip", "1.0", b"two").expect("stored again");
    assert!(scene.store.blobs().size(&new).is_some());
}

#[test]
fn an_index_that_does_not_overwrite_takes_only_the_same_bytes_again() {
    let scene = Scene::new(false);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let serial = scene.store.clock().now();
    let again = scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("no error");
    assert_eq!(again, Upload::AlreadyThere);
    let error = scene.upload("some_pkg-1.0.zip", "1.0", b"two").expect_err("taken");
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(scene.store.clock().now(), serial);
}

#[test]
fn the_last_file_takes_its_version_and_project_along() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    scene.upload("some_pkg-2.0.zip", "2.0", b"two").expect("stored");
    for left in [1, 0] {
        let path = scene.path();
        let remove = |txn: &mut WriteTxn<'_>| {
            let index = index::require(txn, &scene.index)?;
            delete::file(txn, &index, &path)
        };
        scene.write(remove).expect("deleted");
        assert!(scene.store.blobs().size(&path).is_none());
        assert_eq!(scene.page().map_or(0, |page| page.len()), left);
        let gone = scene.write(remove).expect_err("deleted before");
        assert_eq!(gone.kind, Kind::Gone);
    }
    assert_eq!(scene.page(), None);
    let txn = scene.store.read().expect("reads");
    let projects =
        txn.get(&key::Projects(&scene.index)).expect("reads").expect("an empty set stays");
    assert!(projects.0.is_empty());
}

#[test]
fn a_deleted_index_leaves_no_file_and_an_empty_set() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let path = scene.path();
    scene.write(|txn| index::remove(txn, &scene.index)).expect("deleted");
    let names =
        ["PROJNAMES", "PROJSIMPLELINKS", "PROJVERSION", "PROJVERSIONS", "STAGEFILE", "USER"];
    assert_eq!(scene.last_entry(), names);
    assert!(scene.store.blobs().size(&path).is_none());
    let txn = scene.store.read().expect("reads");
    assert!(
        txn.row(&key::File(&path).path()).expect("reads").is_some_and(|row| row.value.is_none())
    );
}
