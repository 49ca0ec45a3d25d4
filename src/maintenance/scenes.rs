//! Whole servers in and out, and what a check says of them.

use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::digest::Digest;
use crate::error::Result;
use crate::store;

use super::export::{self, ExportOptions};
use super::import::{Import, ImportOptions, Imported};
use super::spool::INDEX_FILE;
use super::verify::{self, Verify, VerifyOptions};

const FILE: &str = "ann/dev/p-1/1.0/p_1-1.0.zip";

fn write_export(folder: &Path, bytes: &[u8]) {
    let path = folder.join(FILE);
    fs::create_dir_all(path.parent().expect("has a folder")).expect("made");
    fs::write(path, bytes).expect("written");
    let hashes = json!({"sha256": Digest::of(b"abc").hex()});
    let log =
        json!([{"what": "upload", "who": "ann", "when": [2026, 1, 2, 3, 4, 5], "dst": "ann/dev"}]);
    let file = json!({"type": "releasefile", "projectname": "p-1", "version": "1.0", "relpath": FILE, "log": log,
        "entrymapping": {"hashes": hashes, "last_modified": "Mon, 23 Nov 2026 00:00:36 GMT"}});
    let config = json!({"type": "stage", "bases": ["gone/dev"], "of_a_plugin": [1]});
    let index = json!({"dumpversion": "2", "users": {"ann": {"email": "x\u{e9}"}}, "indexes": {"ann/dev":
        {"indexconfig": config, "projects": {"p-1": {"1.0": {"name": "P.1", "version": "1.0"}}}, "files": [file]}}});
    fs::write(folder.join(INDEX_FILE), index.to_string()).expect("written");
}

fn import(source: &Path, dir: &Path) -> Result<Imported> {
    let options = ImportOptions {
        source: source.to_owned(),
        pwhash: "none".to_owned(),
        root_pypi: None,
        no_root_pypi: true,
        skip_types: Vec::new(),
        hard_links: true,
    };
    let (store, writer) = store::open(dir, 2)?;
    Import::read(options)?.run(&store, &writer)
}

#[test]
fn what_was_imported_comes_out_again_and_is_in_order_until_it_is_damaged() {
    let [source, dir, target] = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    write_export(source.path(), b"abc");
    let imported = import(source.path(), dir.path()).expect("imports");
    assert_eq!((imported.projects, imported.files), (1, 1));
    assert!(import(source.path(), dir.path()).is_err(), "the store is in use");

    let store = store::look(dir.path(), 2).expect("opens");
    assert_eq!(store.clock().now().map(crate::serial::Serial::get), Some(3));
    let target = target.path().join("new");
    let options = ExportOptions { target: target.clone(), mirrored_files: true, hard_links: false };
    export::export(&store, &options).expect("exports");
    assert!(export::export(&store, &options).is_err(), "the target is not empty");
    assert_eq!(fs::read(target.join(FILE)).expect("reads"), b"abc");
    let index = fs::read_to_string(target.join(INDEX_FILE)).expect("reads");
    let index: Json = serde_json::from_str(&index).expect("is JSON");
    assert_eq!(index["users"]["ann"]["email"], "x\u{e9}");
    let dev = &index["indexes"]["ann/dev"];
    assert_eq!(dev["indexconfig"]["bases"], json!(["gone/dev"]));
    assert_eq!(dev["indexconfig"]["of_a_plugin"], json!([1]));
    assert_eq!(dev["projects"]["p-1"]["1.0"]["name"], "P.1");
    assert_eq!(dev["files"][0]["log"][0]["when"], json!([2026, 1, 2, 3, 4, 5]));

    let options = VerifyOptions {
        checks_log: true,
        checks_files: true,
        checks_digests: true,
        asks_master: false,
        repairs: false,
    };
    let verify = Verify { store: &store, options, is_replica: false, link: None, writer: None };
    let report = verify::run(&verify).expect("checks");
    assert!(report.is_in_order(), "{report}");
    assert_eq!((report.entries, report.files), (4, 1));
    let hex = Digest::of(b"abc").hex();
    let place = format!("+files/ann/dev/+f/{}/{}/p_1-1.0.zip", &hex[..3], &hex[3..16]);
    let place = dir.path().join(place);
    fs::remove_file(&place).expect("removed");
    assert_eq!(verify::run(&verify).expect("checks").missing.count, 1);
    fs::write(&place, b"abd").expect("written");
    assert_eq!(verify::run(&verify).expect("checks").broken.count, 1);
}

#[test]
fn a_file_that_is_not_what_its_digest_says_ends_an_import() {
    let [source, dir] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    write_export(source.path(), b"abd");
    let error = import(source.path(), dir.path()).expect_err("is refused");
    assert!(error.message.contains("p_1-1.0.zip"), "{error}");
}
