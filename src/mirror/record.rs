//! What an upstream's page becomes in the log: a record for each file, and the links of the project.
//!
//! Only what differs from what is there is written, so that looking again costs no serial. Fields that devpi does not
//! know: in file records `size`, `upload_time`, `has_metadata`, `metadata_sha256` and `provenance`; in the links `upstream`, the
//! address that they came from, `project_status` with `project_status_reason`, and `revised`, the serial at which a file's
//! record changed last.

use crate::error::Result;
use crate::model::index::Index;
use crate::model::mirrored;
use crate::names::ProjectName;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Link, Links};
use crate::store::txn::{Read, WriteTxn};

use super::parse::{UpstreamFile, UpstreamPage};

/// What an answer said besides the page.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The entity tag.
    pub etag: Option<String>,
    /// `X-PyPI-Last-Serial`.
    pub serial: Option<i64>,
    /// The address of the index, without credentials.
    pub upstream: String,
}

/// Writes what an upstream shows of a project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn store(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    page: &UpstreamPage,
    seen: &Seen,
) -> Result<()> {
    let (mut links, mut is_revised) = (Vec::with_capacity(page.files.len()), false);
    for file in &page.files {
        if let Some((link, is_changed)) = store_file(txn, index, project, file)? {
            links.push(link);
            is_revised |= is_changed;
        }
    }
    let key = key::SimpleLinks(&index.name, project);
    let held = txn.get(&key)?;
    let mut rest = rest_of(page, seen);
    // Pages are made from this row and those of the files, and only this one tells whether they still stand.
    let revised = match is_revised {
        true => i64::try_from(txn.next_serial().get()).unwrap_or(i64::MAX),
        false => held.as_ref().and_then(|held| held.rest.integer("revised")).unwrap_or(0),
    };
    rest.set("revised", Value::int(revised));
    let fresh = Links::of_mirror(links, rest);
    if held.as_ref().is_some_and(|held| is_same(held, &fresh)) {
        return Ok(());
    }
    txn.set(&key, &fresh);
    txn.insert_name(&key::Projects(&index.name), project.as_str())?;
    Ok(())
}

fn rest_of(page: &UpstreamPage, seen: &Seen) -> Dict {
    let mut rest = Dict::new();
    rest.set("etag", seen.etag.as_deref().map_or(Value::None, Value::from));
    rest.set("serial", Value::int(seen.serial.unwrap_or(-1)));
    rest.set("upstream", seen.upstream.as_str());
    if let Some((status, reason)) = &page.status {
        rest.set("project_status", status.as_str());
        if let Some(reason) = reason {
            rest.set("project_status_reason", reason.as_str());
        }
    }
    rest
}

/// Whether two pages say the same. Entity tags and serials change for reasons that nobody here sees.
fn is_same(held: &Links, fresh: &Links) -> bool {
    let fields = ["upstream", "project_status", "project_status_reason", "revised"];
    held.is_of_mirror()
        && held.links == fresh.links
        && fields.iter().all(|field| held.rest.get(field) == fresh.rest.get(field))
}

/// Writes the record of a file if it is new or says something new, and gives the link to it with whether it changed a
/// record that was there; none if it cannot stand here.
fn store_file(
    txn: &mut WriteTxn<'_>,
    index: &Index,
    project: &ProjectName,
    file: &UpstreamFile,
) -> Result<Option<(Link, bool)>> {
    let hex = file.hash.as_ref().map(|(_, hex)| hex.as_str());
    let Ok(path) = mirrored::path_of(&index.name, &file.url, hex, &file.name) else {
        return Ok(None);
    };
    let spec = file.hash.as_ref().map(|(kind, hex)| format!("{kind}={hex}"));
    let held = match &spec {
        Some(_) => txn.get(&key::File(&path))?,
        None => txn.get(&key::UnhashedFile(&path))?,
    };
    let is_other = |held: &Dict| spec.is_some() && held.text("hash_spec") != spec.as_deref();
    if held.as_ref().is_some_and(is_other) {
        log::warn!("{path} has another hash at the upstream than here; it is not shown");
        return Ok(None);
    }
    let record = record_of(held.as_ref(), file, spec.as_deref(), project);
    if held.as_ref() != Some(&record) {
        match &spec {
            Some(_) => txn.set(&key::File(&path), &record),
            None => txn.set(&key::UnhashedFile(&path), &record),
        }
    }
    let is_changed = held.is_some_and(|held| held != record);
    Ok(Some((link_of(&path, file, spec.as_deref()), is_changed)))
}

fn link_of(path: &FilePath, file: &UpstreamFile, spec: Option<&str>) -> Link {
    let href = match spec {
        Some(spec) => format!("{path}#{spec}"),
        None => path.to_string(),
    };
    Link {
        name: file.name.clone(),
        href,
        requires_python: file.requires_python.clone(),
        yanked: file.yanked.clone(),
    }
}

fn record_of(
    held: Option<&Dict>,
    file: &UpstreamFile,
    spec: Option<&str>,
    project: &ProjectName,
) -> Dict {
    let mut record = held.cloned().unwrap_or_default();
    record.set("url", file.url.as_str());
    if held.is_none() {
        record.set("hash_spec", spec.unwrap_or_default());
        if let Some((kind, hex)) = &file.hash {
            record.set("hashes", Dict(vec![(kind.clone(), hex.as_str().into())]));
        }
        record.set("project", project.as_str());
        if let Some(version) = mirrored::version_of(&file.name, project) {
            record.set("version", version);
        }
    }
    // What was measured here beats what is said there.
    if let (Some(size), None) = (file.size_bytes, record.get("last_modified")) {
        record.set("size", Value::int(i64::try_from(size).unwrap_or(i64::MAX)));
    }
    if let Some(time) = &file.upload_time {
        record.set("upload_time", time.as_str());
    }
    if file.name.ends_with(".whl") {
        record.set("has_metadata", file.metadata.is_some());
    }
    if let Some(Some(sha256)) = &file.metadata {
        record.set("metadata_sha256", sha256.as_str());
    }
    match &file.provenance {
        Some(url) => record.set("provenance", url.as_str()),
        None => drop(record.remove("provenance")),
    }
    record
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::model::metadata::Submission;
    use crate::model::{index, links, setup, upload, walk};
    use crate::names::IndexName;
    use crate::serial::Serial;
    use crate::store::{self, Store, Writer};

    struct Scene {
        _dir: tempfile::TempDir,
        store: Arc<Store>,
        writer: Writer,
    }

    fn name(text: &str) -> IndexName {
        IndexName::parse(text).expect("valid")
    }

    fn project() -> ProjectName {
        ProjectName::new("pkg")
    }

    fn file(name: &str, digit: &str) -> UpstreamFile {
        UpstreamFile {
            name: name.to_owned(),
            url: format!("http://h/f/{name}"),
            hash: (!digit.is_empty()).then(|| ("sha256".to_owned(), digit.repeat(64))),
            requires_python: Some(">=3".to_owned()),
            yanked: Value::None,
            size_bytes: Some(7),
            upload_time: Some("2024-01-02T03:04:05Z".to_owned()),
            metadata: None,
            provenance: None,
        }
    }

    fn page(files: &[UpstreamFile]) -> UpstreamPage {
        UpstreamPage { files: files.to_vec(), status: None }
    }

    impl Scene {
        /// The stage `root/dev` over the mirrors `root/one` and `root/two`.
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder");
            let (store, writer) = store::open(dir.path(), 2).expect("opens");
            let scene = Self { _dir: dir, store, writer };
            let make = |txn: &mut WriteTxn<'_>, index: &str, fields: serde_json::Value| {
                index::create(txn, &name(index), fields.as_object().expect("an object")).map(drop)
            };
            let build = |txn: &mut WriteTxn<'_>| {
                setup::first(txn, "hash", None)?;
                for mirror in ["root/one", "root/two"] {
                    make(txn, mirror, json!({"type": "mirror", "mirror_url": "http://h/"}))?;
                }
                make(txn, "root/dev", json!({"bases": ["root/one", "root/two"]}))
            };
            scene.writer.write(build).expect("builds");
            scene
        }
        fn see(&self, mirror: &str, page: &UpstreamPage) -> Option<Serial> {
            let seen = Seen { upstream: "http://h/".into(), ..Seen::default() };
            let write = |txn: &mut WriteTxn<'_>| {
                let index = index::require(txn, &name(mirror))?;
                store(txn, &index, &project(), page, &seen)
            };
            self.writer.write(write).expect("writes").1
        }
        fn show(&self, start: &str) -> (links::Page, serde_json::Value) {
            let txn = self.store.read().expect("reads");
            let start = index::require(&txn, &name(start)).expect("there");
            let walk = walk::walk(&txn, start, &project(), |_| Ok(true)).expect("walks");
            let page = links::page(&txn, &walk, &project()).expect("reads").expect("known");
            let explained = links::explain(&txn, &walk, &project(), |_| None).expect("reads");
            (page, explained)
        }
    }

    #[test]
    fn only_what_differs_gets_a_serial() {
        let scene = Scene::new();
        let first = scene.see("root/one", &page(&[file("pkg-1.zip", "a"), file("pkg-2.zip", "")]));
        let again = scene.see("root/one", &page(&[file("pkg-1.zip", "a"), file("pkg-2.zip", "")]));
        assert_eq!(first, again);
        let mut revised = file("pkg-1.zip", "a");
        revised.size_bytes = Some(8);
        let third = scene.see("root/one", &page(&[revised, file("pkg-2.zip", "")]));
        assert!(first < third);
        // Pages are kept by the row of the links: it has to move with a file's record.
        let txn = scene.store.read().expect("reads");
        let key = key::SimpleLinks(&name("root/one"), &project());
        assert_eq!(txn.touched(&key::Key::path(&key)).expect("reads"), third);
        assert_eq!(scene.show("root/one").0.versions, ["1", "2"]);
    }

    #[test]
    fn the_first_of_a_name_is_shown_and_the_page_says_what_it_hides() {
        let scene = Scene::new();
        scene.see("root/one", &page(&[file("pkg-1.zip", "a")]));
        scene.see("root/two", &page(&[file("pkg-1.zip", "b"), file("pkg-2.zip", "c")]));
        let (shown, explained) = scene.show("root/dev");
        let owners: Vec<_> = shown.files.iter().map(|file| file.owner.to_string()).collect();
        assert_eq!(owners, ["root/one", "root/two"]);
        assert_eq!(explained["hidden"][0]["index"], "root/two");
        assert_eq!(explained["hidden"][0]["hidden_by"], "root/one");
    }

    #[test]
    fn a_page_says_which_stage_keeps_a_mirror_out() {
        let scene = Scene::new();
        scene.see("root/one", &page(&[file("pkg-1.zip", "a")]));
        let form = [("name", "pkg"), ("version", "9")].map(|(k, v)| (k.into(), v.into()));
        let register = |txn: &mut WriteTxn<'_>| {
            let index = index::require(txn, &name("root/dev"))?;
            upload::register(txn, &index, &Submission::parse(&form)?)
        };
        scene.writer.write(register).expect("registers");
        let (shown, explained) = scene.show("root/dev");
        assert!(shown.files.is_empty());
        assert_eq!(explained["indexes"][1]["share"], "blocked");
        assert_eq!(explained["indexes"][1]["known_files"], json!(["pkg-1.zip"]));
        assert!(explained["indexes"][1]["why"].as_str().expect("text").contains("root/dev"));
    }

    #[test]
    fn nothing_in_quarantine_is_offered() {
        let scene = Scene::new();
        let mut quarantined = page(&[file("pkg-1.zip", "a")]);
        quarantined.status = Some(("quarantined".to_owned(), Some("malware".to_owned())));
        scene.see("root/one", &quarantined);
        let shown = scene.show("root/one").0;
        assert!(shown.files.is_empty());
        assert_eq!(shown.status.expect("set").0, "quarantined");
    }

    #[test]
    fn another_hash_under_the_same_address_is_not_believed() {
        let scene = Scene::new();
        scene.see("root/one", &page(&[file("pkg-1.zip", "a")]));
        let mut other = file("pkg-1.zip", "a");
        other.hash = Some(("sha256".to_owned(), format!("{}{}", "a".repeat(16), "b".repeat(48))));
        scene.see("root/one", &page(&[other]));
        assert!(scene.show("root/one").0.files.is_empty());
    }
}
