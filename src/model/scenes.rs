//! Scenes over a real store: what an operation writes, and what is seen afterwards.

use std::sync::Arc;

use serde_json::{Map, json};

use crate::digest::Hasher;
use crate::error::{Kind, Result};
use crate::names::{IndexName, ProjectName, UserName, Version};
use crate::store::codec::{self, RawEntry};
use crate::store::key::{self, FilePath, Key as _};
use crate::store::txn::{Read as _, WriteTxn};
use crate::store::{self, Store, Writer};

use super::metadata::Submission;
use super::push::{self, Ready, Selection, Stored};
use super::upload::{self, NewFile, Upload};
use super::{attach, delete, index, links, release, setup, user, walk};

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

impl Scene {
    /// A second index; gives its name.
    fn other(&self, name: &str, volatile: bool) -> IndexName {
        let other = IndexName::new("ann", name).expect("valid");
        let fields = Map::from_iter([("volatile".to_owned(), json!(volatile))]);
        self.write(|txn| index::create(txn, &other, &fields)).expect("index");
        other
    }
    /// Pushes version 1.0 from the scene's index.
    fn push(&self, target: &IndexName, meanwhile: impl FnOnce()) -> Result<Option<Vec<Stored>>> {
        let version = Version::parse("1.0").expect("valid");
        let (release, target) = {
            let txn = self.store.read().expect("reads");
            let source = index::require(&txn, &self.index).expect("there");
            let found = push::find(&txn, &source, &Self::project(), &version);
            (found.expect("reads").expect("known"), index::require(&txn, target).expect("there"))
        };
        let ready = Ready::stage(&self.store, release, Selection::All, &target)?;
        meanwhile();
        self.write(|txn| push::write(txn, &target, ready, Some(self.index.user())))
    }
    /// What the logs of a release's links on an index say, by file name.
    fn logs(&self, index: &IndexName) -> Vec<(String, Vec<String>)> {
        let version = Version::parse("1.0").expect("valid");
        let txn = self.store.read().expect("reads");
        let key = key::Release(index, &Self::project(), &version);
        let links = release::links(&txn.get(&key).expect("reads").expect("known"));
        let what = |item: &codec::Value| {
            item.get("what").and_then(codec::Value::as_str).unwrap_or_default().to_owned()
        };
        let log = |link: &release::ReleaseLink| {
            let name = link.name().split(".toxresult").next().unwrap_or_default().to_owned();
            (name, link.0.items("_log").iter().map(what).collect())
        };
        links.iter().map(log).collect()
    }
}

#[test]
fn a_push_is_one_entry_with_files_results_and_logs() {
    let scene = Scene::new(true);
    for bytes in [b"one", b"two"] {
        scene.upload("some_pkg-1.0.zip", "1.0", bytes).expect("stored");
    }
    let path = scene.path();
    let staged = scene.store.blobs().stage(&mut &b"{}"[..], Hasher::new(), 9).expect("fits");
    let add = |txn: &mut WriteTxn<'_>| {
        let index = index::require(txn, &scene.index)?;
        attach::store_result(txn, &index, &path, staged, None)
    };
    scene.write(add).expect("stored");
    let target = scene.other("prod", false);
    let stored = scene.push(&target, || ()).expect("no error").expect("unchanged");
    assert!(matches!(stored.as_slice(), [Stored::File(_), Stored::Result(_)]));
    let mut all = vec!["PROJNAMES", "PROJSIMPLELINKS", "PROJVERSION", "PROJVERSIONS"];
    all.extend(["STAGEFILE", "STAGEFILE"]);
    assert_eq!(scene.last_entry(), all);
    let item = |what: &[&str]| {
        ("some_pkg-1.0.zip".to_owned(), what.iter().map(|w| (*w).to_owned()).collect())
    };
    assert_eq!(scene.logs(&scene.index)[0], item(&["overwrite", "upload"]));
    let pushed: Vec<(String, Vec<String>)> =
        vec![item(&["upload", "push"]), item(&["upload", "push"])];
    assert_eq!(scene.logs(&target), pushed);
    // Either index may lose the file; the other one keeps it.
    let copy = FilePath::parse(&path.as_str().replace("ann/dev/", "ann/prod/")).expect("valid");
    scene.write(|txn| index::remove(txn, &scene.index)).expect("deleted");
    assert!(scene.store.blobs().size(&path).is_none());
    assert_eq!(scene.store.blobs().size(&copy), Some(3));
}

#[test]
fn a_push_over_a_file_is_refused_or_replaces() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let (fixed, loose) = (scene.other("fixed", false), scene.other("loose", true));
    for target in [&fixed, &loose, &scene.index] {
        scene.push(target, || ()).expect("no error").expect("unchanged");
    }
    let serial = scene.store.clock().now();
    let error = scene.push(&fixed, || ()).expect_err("taken, even if identical");
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(scene.store.clock().now(), serial);
    scene.push(&loose, || ()).expect("no error").expect("unchanged");
    assert_eq!(scene.logs(&loose)[0].1[0], "overwrite");
    assert!(scene.store.blobs().size(&scene.path()).is_some());
}

#[test]
fn a_release_that_changes_meanwhile_is_not_pushed_by_halves() {
    let scene = Scene::new(true);
    scene.upload("some_pkg-1.0.zip", "1.0", b"one").expect("stored");
    let target = scene.other("prod", true);
    let meanwhile = || {
        scene.upload("some_pkg-1.0.tar.gz", "1.0", b"two").expect("stored");
    };
    assert_eq!(scene.push(&target, meanwhile).expect("no error"), None);
    let txn = scene.store.read().expect("reads");
    assert!(!txn.has(&key::Versions(&target, &Scene::project())).expect("reads"));
}
