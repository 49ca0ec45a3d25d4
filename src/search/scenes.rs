//! Scenes over a real store: what is uploaded is found, what goes is not.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::query::Query;
use super::{Search, make_anew};
use crate::deadline::Deadline;
use crate::model::metadata::Submission;
use crate::model::{attach, delete, index, setup, upload};
use crate::names::{IndexName, ProjectName, UserName, Version};
use crate::store::txn::WriteTxn;
use crate::store::{self, Store, Writer};

fn name(text: &str) -> IndexName {
    IndexName::parse(text).expect("valid")
}

fn begin(dir: &Path) -> (Arc<Store>, Writer) {
    let (store, writer) = store::open(dir, 4).expect("opens");
    let make = |txn: &mut WriteTxn<'_>| {
        setup::first(txn, "hash", None)?;
        for index in ["root/one", "root/two", "root/Two", "root/three", "root/four"] {
            let fields = json!({"type": "stage"});
            index::create(txn, &name(index), fields.as_object().expect("an object"))?;
        }
        Ok(())
    };
    writer.write(make).expect("commits");
    (store, writer)
}

fn register(writer: &Writer, index: &str, fields: &[(&str, &str)]) {
    let fields: Vec<_> = fields.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let submission = Submission::parse(&fields).expect("valid");
    writer
        .write(|txn| upload::register(txn, &index::require(txn, &name(index))?, &submission))
        .expect("commits");
}

fn settle(search: &Search, store: &Store) {
    let deadline = Deadline::after(Duration::from_secs(20));
    while search.serial() < store.clock().now() {
        assert!(!deadline.is_past(), "the index does not come to the end of the log");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn found(search: &Search, query: &str) -> Vec<String> {
    let found = search.find(&Query::parse(query), 0..10, &|_| Ok(true)).expect("searches");
    found.hits.into_iter().map(|hit| format!("{}/{}", hit.index, hit.project)).collect()
}

#[test]
fn what_is_uploaded_is_found_and_what_goes_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = begin(dir.path());
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    let plotter = [
        ("name", "Plotter"),
        ("version", "1.0"),
        ("summary", "draws quokkas"),
        ("author", "Ann Archer"),
        ("keywords", "graphs,charts"),
        ("description", "All about marsupials."),
    ];
    register(&writer, "root/one", &plotter);
    register(
        &writer,
        "root/two",
        &[("name", "grid-tools"), ("version", "2"), ("summary", "for a plotter")],
    );
    settle(&search, &store);
    for (query, wanted) in [
        ("plotter", &["root/one/plotter", "root/two/grid-tools"][..]),
        ("plot", &["root/one/plotter", "root/two/grid-tools"]),
        ("otter", &["root/one/plotter"]),
        ("quokka", &["root/one/plotter"]),
        ("marsup", &["root/one/plotter"]),
        ("archer", &["root/one/plotter"]),
        ("keywords:charts", &["root/one/plotter"]),
        ("keywords:chart", &[]),
        ("name:grid_tools", &["root/two/grid-tools"]),
        ("name:grid", &[]),
        ("grid tools", &["root/two/grid-tools"]),
        ("plotter index:two", &["root/two/grid-tools"]),
        ("plotter AND path:/root/one/*", &["root/one/plotter"]),
        ("plotter AND path:/nobody/*", &[]),
        ("plotter NOT quokkas", &["root/two/grid-tools"]),
        ("quokkas OR grid", &["root/two/grid-tools", "root/one/plotter"]),
        ("wombat", &[]),
        ("", &[]),
    ] {
        assert_eq!(found(&search, query), wanted, "{query}");
    }
    let plotter = ProjectName::new("plotter");
    writer
        .write(|txn| {
            let index = index::require(txn, &name("root/one"))?;
            delete::project(txn, &index, &plotter)
        })
        .expect("commits");
    settle(&search, &store);
    assert_eq!(found(&search, "quokka"), Vec::<String>::new());
    assert_eq!(found(&search, "plotter"), ["root/two/grid-tools"]);
    search.stop();
}

#[test]
fn closed_indexes_are_neither_shown_nor_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = begin(dir.path());
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    for index in ["root/one", "root/two", "root/Two", "root/three", "root/four"] {
        register(
            &writer,
            index,
            &[("name", "secret-thing"), ("version", "1"), ("summary", "quokka")],
        );
    }
    settle(&search, &store);
    for query in ["secret", "secret-thing", "quokka", "NOT wombat", "name:secret-thing"] {
        let only = |index: &IndexName| Ok(*index == name("root/two"));
        let found = search.find(&Query::parse(query), 0..10, &only).expect("searches");
        assert_eq!((found.total, found.hits.len(), found.has_more), (1, 1, false), "{query}");
        assert_eq!(found.hits[0].index, name("root/two"));
        let nothing = search.find(&Query::parse(query), 0..10, &|_| Ok(false)).expect("searches");
        assert_eq!(nothing, super::Found::default(), "{query}");
    }
    // The names of indexes are told apart by case, and one that is closed takes nothing from one that is not.
    let most = |index: &IndexName| Ok(*index != name("root/Two"));
    let found = search.find(&Query::parse("quokka"), 0..10, &most).expect("searches");
    assert_eq!(found.total, 4);
    let only = |index: &IndexName| Ok(*index == name("root/one"));
    let suggested = search.suggest("sec", 5, &only).expect("suggests");
    assert_eq!(suggested, [(name("root/one"), "secret-thing".to_owned())]);
}

#[test]
fn an_index_of_another_history_is_made_anew() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("one"));
    let (store, writer) = begin(one.path());
    let search = Search::start(one.path(), store.clone()).expect("starts");
    register(&writer, "root/one", &[("name", "former"), ("version", "1")]);
    settle(&search, &store);
    search.stop();
    drop(search);
    let (store, writer) = begin(other.path());
    register(&writer, "root/one", &[("name", "present"), ("version", "1")]);
    std::fs::copy(one.path().join("search.sqlite"), other.path().join("search.sqlite"))
        .expect("copies");
    let search = Search::start(other.path(), store.clone()).expect("starts");
    settle(&search, &store);
    assert_eq!(found(&search, "former"), Vec::<String>::new());
    assert_eq!(found(&search, "present"), ["root/one/present"]);
    search.stop();
    drop(search);
    let mut count = 0;
    make_anew(other.path(), store.clone(), &mut |more| count += more).expect("makes it");
    assert_eq!(count, 1);
    let search = Search::start(other.path(), store.clone()).expect("starts");
    settle(&search, &store);
    assert_eq!(found(&search, "present"), ["root/one/present"]);
}

#[test]
fn no_query_is_an_error_to_the_database() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = begin(dir.path());
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    register(&writer, "root/one", &[("name", "a-b"), ("version", "1"), ("summary", "c d")]);
    settle(&search, &store);
    for query in [
        "a\0b",
        "a\u{1}*",
        "\"a",
        "'",
        "a:b",
        "NEAR(a b)",
        "{a}:b",
        "a -b",
        "+a",
        "a.b",
        "^a",
        "a^b",
        "NOT",
        "NOT NOT a",
        "a AND",
        "OR a",
        "(a",
        "a)",
        "()",
        "*",
        "**",
        "a**",
        "name:*",
        "path:",
        "type:nothing",
        "type:title a",
        "text:",
        "a ANDMAYBE b ANDMAYBE c",
        "(a ANDMAYBE b) ANDMAYBE (c OR d)",
        "NOT a NOT b",
        "a ANDNOT (b OR NOT c)",
        "\u{4e2d}",
        "\u{202e}a",
        "a\nb",
        "--",
        "a;b",
        "rowid",
        "marks:all",
        "\u{7f}",
        "' '",
        "'a' 'b'^3",
    ] {
        let found = search.find(&Query::parse(query), 0..10, &|_| Ok(true));
        assert!(found.is_ok(), "{query:?}: {found:?}");
    }
}

#[test]
fn an_index_that_is_damaged_while_it_is_used_is_made_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = begin(dir.path());
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    register(&writer, "root/one", &[("name", "former"), ("version", "1")]);
    settle(&search, &store);
    search.stop();
    drop(search);
    let file = dir.path().join("search.sqlite");
    let mut bytes = std::fs::read(&file).expect("reads");
    // All but the first pages, which tell that it is a database with these tables.
    let start = bytes.len() / 3;
    bytes[start..].fill(0xa5);
    std::fs::write(&file, bytes).expect("writes");
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    register(&writer, "root/one", &[("name", "present"), ("version", "1")]);
    let deadline = Deadline::after(Duration::from_secs(20));
    let is_whole = || {
        let query = Query::parse("former OR present");
        search.find(&query, 0..10, &|_| Ok(true)).is_ok_and(|found| found.total == 2)
    };
    while !is_whole() {
        assert!(!deadline.is_past(), "it is not made anew");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn documentation_is_found_by_its_pages() {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = begin(dir.path());
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    let fields = [("name", "plotter"), ("version", "1")];
    register(&writer, "root/one", &fields);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, text) in [
        ("index.html", "<title>Start</title><p>Welcome, wombats</p>"),
        ("api/draw.html", "<title>Drawing whales</title><p>How to draw a whale with wombats</p>"),
        ("_static/x.js", "wombats"),
    ] {
        zip.start_file(path, zip::write::SimpleFileOptions::default()).expect("begins");
        zip.write_all(text.as_bytes()).expect("writes");
    }
    let bytes = zip.finish().expect("ends").into_inner();
    let version = Version::parse("1").expect("valid");
    let staged = store
        .blobs()
        .stage(&mut bytes.as_slice(), crate::digest::Hasher::new(), 1 << 20)
        .expect("stages");
    writer
        .write(|txn| {
            let index = index::require(txn, &name("root/one"))?;
            attach::store_doc(txn, &index, ("plotter", &version), staged, Some(&UserName::root()))
        })
        .expect("commits");
    settle(&search, &store);
    let shown = search.find(&Query::parse("whale"), 0..10, &|_| Ok(true)).expect("searches");
    assert_eq!(shown.total, 1);
    let page = &shown.hits[0].pages[0];
    assert_eq!((page.path.as_str(), page.title.as_str()), ("api/draw.html", "Drawing whales"));
    assert!(page.excerpt.iter().any(|piece| piece.is_found && piece.text == "whale"));
    let both = search.find(&Query::parse("wombats"), 0..10, &|_| Ok(true)).expect("searches");
    assert_eq!((both.total, both.hits[0].pages.len()), (1, 2), "scripts are no pages");
}
