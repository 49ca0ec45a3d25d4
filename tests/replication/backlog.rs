//! A replica that was away for long: what a large backlog costs it and its master, in processor time and memory.
//!
//! The measurements are left out of the usual run: they say something of a release build only. `make backlog` has them.

use std::fs;
use std::time::{Duration, Instant};

use twinpi::replication::wire;
use twinpi::serial::Serial;
use twinpi::store::codec::{self, FrameReader, Value};

use super::partial;
use super::rig::{Home, MASTER, MasterNode, ReplicaNode, body_of, serial};

/// How many small serials a second of processor time must bring, on either side.
const SERIALS_PER_SECOND: f64 = 20_000.0;
/// How many are brought.
const SERIALS: u64 = 100_000;

/// What a serial holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// A user's record: one key, some 300 bytes.
    User,
    /// A new version of a project by upload: a file, a release, the list of versions, the simple page; some 2 KB.
    Upload,
}

fn text(text: impl Into<String>) -> Value {
    Value::Str(text.into())
}

fn dict(items: &[(&str, Value)]) -> Value {
    Value::Dict(items.iter().map(|(name, value)| (text(*name), value.clone())).collect())
}

/// The entry of serial `n`. Keys are changed several times each, as in a real log.
fn entry(shape: Shape, n: u64) -> Vec<u8> {
    let changes = match shape {
        Shape::User => user(n),
        Shape::Upload => upload(n),
    };
    let changes = changes
        .iter()
        .map(|(path, name, value)| (path.as_str(), *name, -1, Some(value.as_slice())));
    codec::encode_entry(changes)
}

fn user(n: u64) -> Vec<(String, &'static str, Vec<u8>)> {
    let index = dict(&[
        ("type", text("stage")),
        ("bases", Value::Tuple(vec![text("root/pypi")])),
        ("volatile", Value::Bool(true)),
        ("acl_upload", Value::List(vec![text(format!("user{n}"))])),
    ]);
    let record = dict(&[
        ("created", text("2026-11-22T23:59:04Z")),
        ("email", text(format!("user{n}@example.com"))),
        ("indexes", dict(&[("dev", index)])),
        ("pwhash", text(format!("{n:0>97}"))),
    ]);
    vec![(format!("user{}/.config", n % 20_000), "USER", codec::encode(&record))]
}

fn upload(n: u64) -> Vec<(String, &'static str, Vec<u8>)> {
    let (project, version) = (n % 25_000, n / 25_000);
    let name = format!("package{project}");
    let file = format!("{name}-1.{version}-py3-none-any.whl");
    let hash =
        format!("{:064x}", u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    let path = format!("ann/dev/+f/{}/{}/{file}", &hash[61..], &hash[48..61]);
    let spec = text(format!("sha256={hash}"));
    let record = dict(&[
        ("hash_spec", spec.clone()),
        ("hashes", dict(&[("sha256", text(hash.clone()))])),
        ("last_modified", text("Sun, 22 Nov 2026 23:59:04 GMT")),
        ("project", text(name.clone())),
        ("version", text(format!("1.{version}"))),
        ("size", Value::Int(4711)),
    ]);
    let link = dict(&[
        ("_log", Value::List(vec![dict(&[("what", text("upload")), ("who", text("ann"))])])),
        ("entrypath", text(path.clone())),
        ("hash_spec", spec.clone()),
        ("rel", text("releasefile")),
    ]);
    let release = dict(&[
        ("name", text(name.clone())),
        ("version", text(format!("1.{version}"))),
        ("summary", text("A package that does one thing")),
        ("description", text("Reads what is there, and says so. ".repeat(20))),
        ("classifiers", Value::List(vec![text("Programming Language :: Python :: 3")])),
        ("+elinks", Value::List(vec![link])),
    ]);
    let page = (0..=version).map(|v| {
        Value::Tuple(vec![
            text(format!("{name}-1.{v}-py3-none-any.whl")),
            text(format!("{path}#{v}")),
        ])
    });
    let page = dict(&[("links", Value::List(page.collect())), ("requires_python", Value::None)]);
    let versions = Value::Set((0..=version).map(|v| text(format!("1.{v}"))).collect());
    vec![
        (path, "STAGEFILE", codec::encode(&record)),
        (format!("ann/dev/{name}/1.{version}/.config"), "PROJVERSION", codec::encode(&release)),
        (format!("ann/dev/{name}/.versions"), "PROJVERSIONS", codec::encode(&versions)),
        (format!("ann/dev/{name}/.simple"), "PROJSIMPLELINKS", codec::encode(&page)),
    ]
}

/// A master with this many serials.
fn master_home(shape: Shape, count: u64) -> Home {
    let home = Home::new();
    for from in (0..count).step_by(2000) {
        let batch: Vec<_> =
            (from..count.min(from + 2000)).map(|n| (serial(n), entry(shape, n))).collect();
        home.writer.apply(&batch, None, &|_| false).expect("a good log");
    }
    home
}

/// The processor time that this thread took by now.
fn thread_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("readable");
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// The processor time that this process took by now.
fn process_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("readable");
    let fields: Vec<&str> = text.rsplit(')').next().expect("a part").split(' ').collect();
    let ticks: u64 =
        [fields[12], fields[13]].iter().map(|n| n.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

fn rate(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

#[test]
#[ignore = "measures; make backlog"]
fn applying_small_serials() {
    for shape in [Shape::User, Shape::Upload] {
        let bytes = entry(shape, 77_777).len();
        let entries: Vec<_> = (0..SERIALS).map(|n| (serial(n), entry(shape, n))).collect();
        let home = Home::new();
        let (began, cpu) = (Instant::now(), thread_time());
        for batch in entries.chunks(4000) {
            home.writer.apply(batch, None, &|_| true).expect("a good log");
        }
        let (cpu, wall) = (thread_time() - cpu, began.elapsed());
        println!(
            "apply {shape:?} ({bytes} bytes): {:.0} serials/s of processor time, {:.0}/s by the clock",
            rate(SERIALS, cpu),
            rate(SERIALS, wall)
        );
        assert!(SERIALS_PER_SECOND < rate(SERIALS, cpu), "{shape:?} is applied too slowly");
        let mut stream = Vec::new();
        for (serial, entry) in &entries {
            stream.extend_from_slice(&codec::encode_serial(*serial));
            stream.extend_from_slice(entry);
        }
        let cpu = thread_time();
        let mut frames = FrameReader::new(&stream[..]);
        let mut seen = 0;
        while frames.next_entry().expect("whole").is_some() {
            seen += 1;
        }
        println!("frames {shape:?}: {:.0} serials/s", rate(seen, thread_time() - cpu));
        let cpu = thread_time();
        let mut at = 0;
        while at < SERIALS {
            let got =
                home.store.entries(serial(at), serial(SERIALS - 1), 256 << 10).expect("reads");
            at += got.len() as u64;
        }
        println!("log read {shape:?}: {:.0} serials/s", rate(SERIALS, thread_time() - cpu));
    }
}

#[test]
#[ignore = "measures; make backlog"]
fn following_a_backlog() {
    for shape in [Shape::User, Shape::Upload] {
        let home = master_home(shape, SERIALS);
        let master = MasterNode::of(home, MASTER);
        let (began, cpu) = (Instant::now(), process_time());
        let replica = ReplicaNode::with(Home::new(), &master.url(), |options| {
            options.skip_indexes = vec!["all".to_owned()];
        });
        replica.reaches(serial(SERIALS - 1));
        let (cpu, wall) = (process_time() - cpu, began.elapsed());
        println!(
            "backlog {shape:?}: {:.0} serials/s of processor time, {:.0}/s by the clock",
            rate(SERIALS, cpu),
            rate(SERIALS, wall),
        );
        assert_eq!(replica.home.chain(), master.home.chain());
    }
}

#[test]
#[ignore = "measures; make backlog"]
fn following_a_hundredth_of_a_backlog() {
    let home = Home::new();
    for from in (0..SERIALS).step_by(2000) {
        let entry = |n| {
            let changes = upload(n).into_iter().map(|(path, name, value)| match n % 100 {
                0 => (path.replacen("ann/dev", "bob/x", 1), name, value),
                _ => (path, name, value),
            });
            let changes: Vec<_> = changes.collect();
            let raw = changes.iter().map(|(p, name, v)| (p.as_str(), *name, -1, Some(&v[..])));
            (serial(n), codec::encode_entry(raw))
        };
        let batch: Vec<_> = (from..from + 2000).map(entry).collect();
        home.writer.apply(&batch, None, &|_| false).expect("a good log");
    }
    let master = MasterNode::of(home, MASTER);
    let sent = |part| {
        let cpu = thread_time();
        let answer = partial::poll(&master, 0, part, wire::ACCEPT_PIECES);
        let length = body_of(answer).expect("whole").len();
        (length, thread_time() - cpu)
    };
    for part in [None, Some("bob/x"), Some("cyd/y")] {
        let (length, took) = sent(part);
        println!("sent of {part:?}: {length} bytes, {:.0} serials/s", rate(SERIALS, took));
    }
    let began = Instant::now();
    let replica = partial::follow(Home::new(), &master.url(), &["bob/x"]);
    replica.reaches(serial(SERIALS - 1));
    println!(
        "a hundredth of the backlog: {:.0} serials/s by the clock",
        rate(SERIALS, began.elapsed())
    );
    assert_eq!(replica.home.chain(), master.home.chain());
}

/// Lengthens the log in the folder that `TWINPI_LONG_LOG` names, for `scripts/first-install`.
#[test]
#[ignore = "makes something; scripts/first-install"]
fn a_long_log_for_a_real_node() {
    let Some(folder) = std::env::var_os("TWINPI_LONG_LOG") else { return };
    let (store, writer) = twinpi::store::open(folder.as_ref(), 1).expect("a server's folder");
    let first = Serial::following(store.clock().now()).get();
    for from in (first..SERIALS).step_by(2000) {
        let batch: Vec<_> = (from..SERIALS.min(from + 2000))
            .map(|n| (serial(n), entry(Shape::Upload, n)))
            .collect();
        writer.apply(&batch, None, &|_| false).expect("a good log");
    }
}
