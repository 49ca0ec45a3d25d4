//! How fast a large index is made and asked; `make search-bench` runs it and prints.

use std::time::{Duration, Instant};

use serde_json::json;

use super::query::Query;
use super::{Search, make_anew};
use crate::deadline::Deadline;
use crate::model::metadata::Submission;
use crate::model::{index, setup, upload};
use crate::names::IndexName;
use crate::store;

/// As many projects are made, unless `TWINPI_PROJECTS` says otherwise.
const PROJECTS: usize = 100_000;
const AT_ONCE: usize = 500;
/// Words that stand in many descriptions.
const COMMON: [&str; 8] =
    ["python", "library", "package", "tool", "simple", "data", "web", "framework"];

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below
    }
    /// A word; some are far more frequent than others.
    fn word(&mut self) -> String {
        const PARTS: [&str; 16] = [
            "ka", "lo", "mi", "ter", "ban", "dor", "sel", "pri", "ne", "qua", "ru", "fin", "gos",
            "vel", "hy", "ex",
        ];
        if self.next(7) == 0 {
            return COMMON[self.next(COMMON.len())].to_owned();
        }
        let rank = self.next(20_000).min(self.next(20_000)).min(self.next(20_000));
        let (mut word, mut rest) = (String::new(), rank + 16);
        while 0 < rest {
            word.push_str(PARTS[rest % 16]);
            rest /= 16;
        }
        word
    }
    fn words(&mut self, count: usize) -> String {
        (0..count).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }
}

/// Processor time of this process so far.
fn spent() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("reads");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    // A tick is a hundredth of a second on Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[test]
#[ignore = "takes minutes; prints"]
fn a_hundred_thousand_projects() {
    let projects =
        std::env::var("TWINPI_PROJECTS").ok().and_then(|n| n.parse().ok()).unwrap_or(PROJECTS);
    let words = std::env::var("TWINPI_WORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    let dir = tempfile::tempdir().expect("a folder");
    let (store, writer) = store::open(dir.path(), 4).expect("opens");
    let name = IndexName::parse("root/dev").expect("valid");
    writer
        .write(|txn| {
            setup::first(txn, "hash", None)?;
            index::create(txn, &name, json!({"type": "stage"}).as_object().expect("an object"))
        })
        .expect("commits");
    let mut numbers = Numbers(7);
    for chunk in 0..projects / AT_ONCE {
        writer
            .write(|txn| {
                let index = index::require(txn, &name)?;
                for at in 0..AT_ONCE {
                    let project =
                        format!("{}-{}-{}", numbers.word(), numbers.word(), chunk * AT_ONCE + at);
                    let fields = [
                        ("name", project),
                        ("version", "1.0".to_owned()),
                        ("summary", numbers.words(8)),
                        ("author", numbers.words(2)),
                        ("keywords", numbers.words(3)),
                        ("description", numbers.words(words)),
                    ];
                    let fields: Vec<_> =
                        fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
                    upload::register(txn, &index, &Submission::parse(&fields)?)?;
                }
                Ok(())
            })
            .expect("commits");
    }
    let (began, before) = (Instant::now(), spent());
    make_anew(dir.path(), store.clone(), &mut |_| ()).expect("makes it");
    let (wall, used) = (began.elapsed(), spent() - before);
    let bytes: u64 = ["search.sqlite", "search.sqlite-wal"]
        .iter()
        .filter_map(|file| std::fs::metadata(dir.path().join(file)).ok())
        .map(|file| file.len())
        .sum();
    println!(
        "{projects} projects with descriptions of {words} words indexed in {:.1} s, {:.1} s of processor time: {:.0} a second of that; {} MB on disk",
        wall.as_secs_f64(),
        used.as_secs_f64(),
        projects as f64 / used.as_secs_f64(),
        bytes / 1_000_000
    );
    let search = Search::start(dir.path(), store.clone()).expect("starts");
    let deadline = Deadline::after(Duration::from_secs(60));
    while search.serial() < store.clock().now() {
        assert!(!deadline.is_past());
        std::thread::sleep(Duration::from_millis(5));
    }
    ask(&search, &mut numbers);
}

/// Questions as people type them: names, beginnings, one and several words, rare and common, with fields.
fn ask(search: &Search, numbers: &mut Numbers) {
    let mut times = Vec::new();
    for round in 0..400 {
        let (one, other) = (numbers.word(), numbers.word());
        let common = COMMON[numbers.next(COMMON.len())];
        let query = match round % 10 {
            0 => one.chars().take(2).collect(),
            1 => one.chars().take(3).collect(),
            2 => one,
            3 => common.to_owned(),
            4 => format!("{one} {other}"),
            5 => format!("{one} {common}"),
            6 => format!("{common} {}", COMMON[numbers.next(COMMON.len())]),
            7 => format!("{one} OR {other}"),
            8 => format!("{one} path:/root/dev/*"),
            _ => format!("{common} NOT {one}"),
        };
        let began = Instant::now();
        search.find(&Query::parse(&query), 0..10, &|_| Ok(true)).expect("searches");
        times.push((began.elapsed(), query));
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].0.as_secs_f64() * 1000.0;
    println!("queries: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms", at(50), at(95), at(99));
    for (time, query) in times.iter().rev().take(8) {
        println!("  {:.1} ms: {query}", time.as_secs_f64() * 1000.0);
    }
}
