//! The work for one upload must not grow with what was uploaded before.
//!
//! Measured in CPU time of the thread that uploads, as the kernel counts it, over twenty uploads around the tenth and
//! around the thousandth file of one project. A measurement, so not part of the fast tests:
//! `cargo test --release --test growth -- --ignored --nocapture`

use std::fs;
use std::sync::Arc;

use serde_json::Map;
use twinpi::digest::Hasher;
use twinpi::error::Result;
use twinpi::model::metadata::Submission;
use twinpi::model::upload::{self, NewFile};
use twinpi::model::{index, setup, user};
use twinpi::names::{IndexName, UserName};
use twinpi::store::{self, Store, Writer};

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().expect("three fields").parse().expect("a number")
}

struct Site {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    writer: Writer,
    index: IndexName,
}

fn site() -> Site {
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = store::open(dir.path(), 2).expect("opens");
    let index = IndexName::new("ann", "dev").expect("valid");
    let ann = UserName::parse("ann").expect("valid");
    writer.write(|txn| setup::first(txn, "hash", None)).expect("first");
    writer.write(|txn| user::create(txn, &ann, "hash", Vec::new())).expect("user");
    writer.write(|txn| index::create(txn, &index, &Map::new())).expect("index");
    Site { _dir: dir, store, writer, index }
}

impl Site {
    fn upload(&self, project: &str, version: &str, file: &str) -> Result<()> {
        let form = [("name", project), ("version", version), ("requires_python", ">=3.8")];
        let form: Vec<_> = form.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let submission = Submission::parse(&form)?;
        let bytes = vec![7; 10_000];
        let mut body = file.as_bytes().to_vec();
        body.extend(bytes);
        let staged = self.store.blobs().stage(&mut body.as_slice(), Hasher::with_all(), 1 << 20)?;
        let file = NewFile { name: file.to_owned(), staged, metadata: None };
        self.writer.write(|txn| {
            let index = index::require(txn, &self.index)?;
            upload::store_file(txn, &index, &submission, file, None)
        })?;
        Ok(())
    }
    /// Microseconds of CPU per upload while the numbers `range` are uploaded.
    fn cost(&self, range: std::ops::Range<u32>, upload: impl Fn(&Self, u32) -> Result<()>) -> f64 {
        let (before, count) = (cpu_ns(), range.len());
        for n in range {
            upload(self, n).expect("stored");
        }
        (cpu_ns() - before) as f64 / 1000.0 / count as f64
    }
}

/// The site is given back: a folder that is deleted between two measurements makes the file system slow for seconds.
fn compare(
    what: &str,
    count: u32,
    upload: impl Fn(&Site, u32) -> Result<()> + Copy,
) -> (f64, Site) {
    let site = site();
    site.cost(0..5, upload);
    let early = site.cost(5..25, upload);
    site.cost(25..count - 10, upload);
    let late = site.cost(count - 10..count + 10, upload);
    println!(
        "{what}: {early:.0} us at the 10th, {late:.0} us at the {count}th: {:.2}x",
        late / early
    );
    (late / early, site)
}

#[test]
#[ignore = "a measurement"]
fn the_thousandth_file_costs_at_most_twice_the_tenth() {
    let (versions, _site_1) = compare("a version each", 1000, |site, n| {
        site.upload("pkg", &format!("1.{n}"), &format!("pkg-1.{n}.zip"))
    });
    let (one, _site_2) = compare("all in one version", 1000, |site, n| {
        site.upload("pkg", "1.0", &format!("pkg-1.0-{n}.zip"))
    });
    let (projects, _site_3) = compare("a project each", 10_000, |site, n| {
        site.upload(&format!("pkg{n}"), "1.0", &format!("pkg{n}-1.0.zip"))
    });
    assert!(versions <= 2.0, "{versions}");
    assert!(projects <= 2.0, "{projects}");
    // Rare: a thousand files of one version. Its record is one value of half a megabyte, which is hashed whole.
    assert!(one <= 8.0, "{one}");
}
