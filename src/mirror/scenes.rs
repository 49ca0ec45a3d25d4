//! Scenes with an upstream that stumbles, lies and counts: what clients get of files, and what is kept.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Map, json};

use crate::config::Config;
use crate::config::file::Section;
use crate::config::options::Program;
use crate::config::settings::Settings;
use crate::digest::Digest;
use crate::error::{Kind, Result};
use crate::http::range::Wanted;
use crate::http::request::{Headers, Method, Request};
use crate::http::response::{Body, Response};
use crate::model::index::{self, Index};
use crate::model::{setup, user};
use crate::names::{IndexName, UserName};
use crate::store::key::{self, FilePath};
use crate::store::record::{Dict, Record as _};
use crate::store::txn::{Read as _, WriteTxn};
use crate::store::{self, Store, Writer};
use crate::sync::{Mutex, lock};

use super::files::Wish;
use super::{Mirrors, Source};

const LARGE: usize = 1 << 20;
const MODIFIED: &str = "Wed, 01 Jan 2020 00:00:00 GMT";

/// Answers a request by its number and its head.
type Play = Box<dyn Fn(usize, &str, &mut TcpStream) + Send + Sync>;

/// A server with one answer per connection, that remembers what it was asked.
struct Upstream {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    fn new(play: impl Fn(usize, &str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (seen, play): (_, Arc<Play>) = (heads.clone(), Arc::new(Box::new(play)));
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(std::result::Result::ok) {
                let (seen, play) = (seen.clone(), play.clone());
                thread::spawn(move || {
                    let head = read_head(&stream);
                    let number = {
                        let mut heads = lock(&seen);
                        heads.push(head.clone());
                        heads.len()
                    };
                    play(number, &head, &mut stream);
                });
            }
        });
        Self { url, heads }
    }
    fn asked(&self) -> Vec<String> {
        lock(&self.heads).clone()
    }
}

fn read_head(stream: &TcpStream) -> String {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|n| 0 < n) {}
    head.to_lowercase()
}

/// Sends a head and bytes, of which `length` are announced.
fn send(stream: &mut TcpStream, status: &str, length: usize, fields: &str, bytes: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nLast-Modified: {MODIFIED}\r\n\
         Connection: close\r\n{fields}\r\n"
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(bytes));
}

fn large() -> Vec<u8> {
    (0..LARGE).map(|n| ((n * 31) >> 7) as u8).collect()
}

/// A master with one mirror.
struct Scene {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    writer: Arc<Writer>,
    mirrors: Arc<Mirrors>,
    index: Index,
}

impl Scene {
    fn new(mirror_url: &str) -> Self {
        Self::with(mirror_url, &[])
    }
    fn with(mirror_url: &str, options: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (store, writer) = store::open(dir.path(), 8).expect("opens");
        let writer = Arc::new(writer);
        let name = IndexName::new("ann", "mir").expect("valid");
        let ann = UserName::parse("ann").expect("valid");
        writer.write(|txn| setup::first(txn, "hash", None)).expect("first");
        writer.write(|txn| user::create(txn, &ann, "hash", Vec::new())).expect("user");
        let fields = [("type", "mirror"), ("mirror_url", mirror_url)];
        let fields = Map::from_iter(fields.map(|(key, value)| (key.to_owned(), json!(value))));
        let (index, _) = writer.write(|txn| index::create(txn, &name, &fields)).expect("index");
        let path = dir.path().to_str().expect("text");
        let given = [("serverdir", path), ("request-timeout", "2")];
        let given =
            given.iter().chain(options).map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()]));
        let settings =
            Settings::new(Program::Serve, given.collect(), BTreeMap::new(), Section::default());
        let config = Config::new(&settings.expect("read")).expect("valid");
        let source = Source::Upstream(writer.clone());
        let mirrors = Mirrors::new(&config, store.clone(), source).expect("made");
        Self { _dir: dir, store, writer, mirrors, index }
    }
    fn write(&self, change: impl FnOnce(&mut WriteTxn<'_>) -> Result<()>) {
        self.writer.write(change).expect("written");
    }
    /// Writes the record of a file at `url`, whose hash is this one, or none.
    fn file(&self, url: &str, name: &str, hash: Option<(&str, &str)>) -> FilePath {
        let mut record = Dict::new();
        record.set("url", format!("{url}/files/{name}"));
        record
            .set("hash_spec", hash.map(|(kind, hex)| format!("{kind}={hex}")).unwrap_or_default());
        if let Some((kind, hex)) = hash {
            record.set("hashes", Dict(vec![(kind.to_owned(), hex.into())]));
        }
        record.set("project", "p");
        match hash {
            Some((_, hex)) => {
                let path = FilePath::of_digest(&self.index.name, hex, name).expect("valid");
                self.write(|txn| {
                    txn.set(&key::File(&path), &record);
                    Ok(())
                });
                path
            }
            None => {
                let path = FilePath::parse(&format!("ann/mir/+e/there/{name}")).expect("valid");
                self.write(|txn| {
                    txn.set(&key::UnhashedFile(&path), &record);
                    Ok(())
                });
                path
            }
        }
    }
    fn record(&self, path: &FilePath) -> Dict {
        let row = self.store.read().expect("reads").row(path.as_str()).expect("reads");
        Dict::decode(&row.and_then(|row| row.value).expect("a record")).expect("a dict")
    }
    /// Asks for a file as a client; `None` if it is here.
    fn ask(&self, path: &FilePath, range: Option<&str>) -> Result<Option<Response>> {
        let wanted = wanted(range);
        let record = self.record(path);
        let content_type = "application/zip";
        let wish =
            Wish { index: &self.index, path, record: &record, wanted: &wanted, content_type };
        self.mirrors.file(&wish)
    }
    /// The bytes that a client gets; what becomes of them here is settled then.
    fn get(&self, path: &FilePath) -> Result<std::io::Result<Vec<u8>>> {
        let got = self.ask(path, None).map(|response| body_of(response.expect("comes")));
        self.settle();
        got
    }
    fn is_here(&self, path: &FilePath) -> bool {
        self.store.blobs().size(path).is_some()
    }
    /// Waits until nothing is on its way.
    fn settle(&self) {
        while self.mirrors.arrivals().count() > 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn wanted(range: Option<&str>) -> Wanted {
    let mut headers = Headers::default();
    if let Some(range) = range {
        headers.push("Range", range);
    }
    Wanted::of(&Request {
        method: Method::Get,
        target: "/".to_owned(),
        headers,
        peer: None,
        deadline: crate::deadline::Deadline::after(Duration::from_secs(9)),
        body_length: None,
        body: Box::new(std::io::empty()),
    })
}

fn body_of(response: Response) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Body::Stream { mut reader, .. } = response.body else { panic!("no stream") };
    reader.read_to_end(&mut bytes).map(|_| bytes)
}

fn sha256(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

#[test]
fn fifty_who_ask_for_a_new_file_at_once_cause_one_request() {
    let upstream = Upstream::new(|_, _, stream| {
        let bytes = large();
        send(stream, "200 OK", LARGE, "", &bytes[..LARGE / 3]);
        thread::sleep(Duration::from_millis(150));
        let _ = stream.write_all(&bytes[LARGE / 3..]);
    });
    let scene = Scene::new(&upstream.url);
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(&large()))));
    let early = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                // Whoever comes when it is done already is served from its place.
                let Some(response) = scene.ask(&path, None).expect("no error") else { return };
                early.fetch_add(usize::from(!scene.is_here(&path)), Ordering::SeqCst);
                assert!(body_of(response).expect("whole") == large());
            });
        }
    });
    scene.settle();
    assert_eq!(upstream.asked().len(), 1);
    assert!(0 < early.load(Ordering::SeqCst), "nobody waited for the end");
    assert!(scene.is_here(&path));
    let record = scene.record(&path);
    assert_eq!(record.text("last_modified"), Some(MODIFIED));
    assert_eq!(record.integer("size"), Some(LARGE as i64));
    assert!(scene.ask(&path, None).expect("no error").is_none(), "it is here");
}

#[test]
fn what_passes_at_the_upstream_no_client_sees() {
    let upstream = Upstream::new(|number, head, stream| match number {
        1 => send(stream, "503 Busy", 0, "", b""),
        2 => send(stream, "200 OK", LARGE, "ETag: \"one\"\r\n", &large()[..LARGE / 2]),
        _ => {
            assert!(head.contains("\r\nif-range: \"one\"\r\n"), "{head}");
            let from = head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next());
            let from: usize = from.and_then(|from| from.parse().ok()).expect("a range");
            let field = format!("Content-Range: bytes {from}-{}/{LARGE}\r\n", LARGE - 1);
            send(stream, "206 Part", LARGE - from, &field, &large()[from..]);
        }
    });
    let scene = Scene::new(&upstream.url);
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(&large()))));
    assert!(scene.get(&path).expect("answered").expect("whole") == large());
    assert_eq!(upstream.asked().len(), 3);
    assert!(scene.is_here(&path));
}

#[test]
fn a_wrong_file_is_never_whole_and_never_kept() {
    let upstream = Upstream::new(|_, head, stream| match head.contains("small") {
        true => send(stream, "200 OK", 5, "", b"wrong"),
        false => send(stream, "200 OK", LARGE, "", &vec![7; LARGE]),
    });
    let scene = Scene::new(&upstream.url);
    let small = scene.file(&upstream.url, "small-1.zip", Some(("sha256", &sha256(b"right"))));
    let error = scene.get(&small).expect_err("known before the first byte");
    assert_eq!(error.kind, Kind::BadGateway);
    assert!(error.message.contains("sha256"), "{error}");
    assert_eq!(upstream.asked().len(), 1, "a lie is not asked for again");
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha512", &"0".repeat(128))));
    // Who is late learns it before the first byte.
    if let Ok(response) = scene.ask(&path, None) {
        let Body::Stream { mut reader, .. } = response.expect("comes").body else {
            panic!("no stream")
        };
        let mut got = Vec::new();
        assert!(reader.read_to_end(&mut got).is_err() && got.len() < LARGE);
    }
    let tail = scene.ask(&path, Some("bytes=-10")).map(|part| body_of(part.expect("comes")));
    assert!(tail.is_err() || tail.is_ok_and(|read| read.is_err()), "the end waits for the check");
    scene.settle();
    assert!(!scene.is_here(&small) && !scene.is_here(&path));
    assert!(scene.record(&path).get("last_modified").is_none());
}

#[test]
fn statuses_of_the_upstream_have_their_meaning_and_show_no_secret() {
    let upstream = Upstream::new(|_, head, stream| {
        let status = if head.contains("gone") { "404 No" } else { "403 No" };
        send(stream, status, 0, "", b"");
    });
    let index_url = upstream.url.replace("://", "://me:geheim@");
    let scene = Scene::new(&index_url);
    for (name, kind) in [("gone-1.zip", Kind::NotFound), ("p-1.zip", Kind::BadGateway)] {
        let path = scene.file(&upstream.url, name, Some(("sha256", &sha256(name.as_bytes()))));
        let error = scene.get(&path).expect_err("refused");
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(&format!("getting {}", upstream.url)), "{error}");
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 2, "an answer is not asked for again");
    assert!(asked.iter().all(|head| head.contains("\r\nauthorization: basic ")), "{asked:?}");
    let elsewhere = Scene::new("http://me:geheim@127.0.0.1:1/simple/");
    let path = elsewhere.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(b"x"))));
    elsewhere.get(&path).expect_err("refused");
    assert!(!upstream.asked()[2].contains("authorization"), "another server learns nothing");
}

#[test]
fn what_was_measured_goes_into_the_record() {
    let upstream = Upstream::new(|_, _, stream| send(stream, "200 OK", 3, "", b"abc"));
    let scene = Scene::new(&upstream.url);
    let plain = scene.file(&upstream.url, "plain-1.zip", None);
    assert_eq!(scene.get(&plain).expect("answered").expect("whole"), b"abc");
    let record = scene.record(&plain);
    let spec = format!("sha256={}", sha256(b"abc"));
    assert_eq!(record.text("hash_spec"), Some(spec.as_str()));
    assert_eq!(record.dict("hashes").expect("there").text("sha256"), Some(&spec[7..]));
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let old = scene.file(&upstream.url, "old-1.zip", Some(("md5", md5)));
    assert_eq!(scene.get(&old).expect("answered").expect("whole"), b"abc");
    let record = scene.record(&old);
    assert_eq!(record.text("hash_spec"), Some(format!("md5={md5}").as_str()));
    let hashes = record.dict("hashes").expect("there");
    assert_eq!((hashes.text("md5"), hashes.text("sha256")), (Some(md5), Some(&spec[7..])));
    assert!(scene.is_here(&plain) && scene.is_here(&old));
}

#[test]
fn a_file_that_was_deleted_while_it_came_is_handed_out_and_not_kept() {
    let (begun, has_begun) = crossbeam_channel::bounded(1);
    let (go, gone) = crossbeam_channel::bounded::<()>(0);
    let upstream = Upstream::new(move |_, _, stream| {
        begun.send(()).expect("heard");
        gone.recv().expect("told");
        send(stream, "200 OK", 3, "", b"abc");
    });
    let scene = Scene::new(&upstream.url);
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(b"abc"))));
    thread::scope(|scope| {
        let client = scope.spawn(|| scene.get(&path).expect("answered").expect("whole"));
        has_begun.recv().expect("asked");
        scene.write(|txn| {
            txn.delete(&key::File(&path));
            Ok(())
        });
        go.send(()).expect("heard");
        assert_eq!(client.join().expect("no panic"), b"abc");
    });
    scene.settle();
    assert!(!scene.is_here(&path));
}

#[test]
fn a_part_is_a_part_while_the_file_comes() {
    let (go, gone) = crossbeam_channel::bounded::<()>(0);
    let upstream = Upstream::new(move |_, _, stream| {
        send(stream, "200 OK", LARGE, "", &large()[..LARGE / 2]);
        gone.recv().expect("told");
        let _ = stream.write_all(&large()[LARGE / 2..]);
    });
    let scene = Scene::new(&upstream.url);
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(&large()))));
    let ask = |range| scene.ask(&path, Some(range)).expect("no error").expect("comes");
    let part = ask("bytes=100-199");
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), Some(format!("bytes 100-199/{LARGE}").as_str()));
    assert!(body_of(part).expect("is there") == large()[100..200], "before the rest has come");
    let tail = ask("bytes=-5");
    go.send(()).expect("heard");
    assert!(body_of(tail).expect("comes") == large()[LARGE - 5..]);
    scene.settle();
    assert!(scene.is_here(&path));
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn offline_nothing_is_asked() {
    let upstream = Upstream::new(|_, _, stream| send(stream, "200 OK", 3, "", b"abc"));
    let scene = Scene::with(&upstream.url, &[("offline-mode", "true")]);
    let path = scene.file(&upstream.url, "p-1.zip", Some(("sha256", &sha256(b"abc"))));
    assert_eq!(scene.get(&path).expect_err("offline").kind, Kind::NotFound);
    assert_eq!(upstream.asked().len(), 0);
}

#[test]
fn metadata_comes_from_beside_the_wheel_and_must_be_what_was_promised() {
    let upstream = Upstream::new(|_, head, stream| {
        assert!(head.starts_with("get /files/p-1-py3-none-any.whl.metadata "), "{head}");
        send(stream, "200 OK", 7, "", b"Name: p");
    });
    for (promised, is_right) in [(Some("Name: p"), true), (Some("Name: q"), false), (None, true)] {
        let scene = Scene::new(&upstream.url);
        let name = "p-1-py3-none-any.whl";
        let wheel = scene.file(&upstream.url, name, Some(("sha256", &sha256(b"wheel"))));
        let mut record = scene.record(&wheel);
        if let Some(text) = promised {
            record.set("metadata_sha256", sha256(text.as_bytes()));
            scene.write(|txn| {
                txn.set(&key::File(&wheel), &record);
                Ok(())
            });
        }
        let (wanted, content_type) = (wanted(None), "application/octet-stream");
        let wish = Wish {
            index: &scene.index,
            path: &wheel,
            record: &record,
            wanted: &wanted,
            content_type,
        };
        let answer = scene.mirrors.metadata(&wish).map(|answer| body_of(answer.expect("comes")));
        let sidecar = wheel.sibling(&format!("{name}.metadata")).expect("valid");
        scene.settle();
        assert_eq!(scene.is_here(&sidecar), is_right);
        if is_right {
            assert_eq!(answer.expect("answered").expect("whole"), b"Name: p");
            let known = scene.record(&wheel);
            assert_eq!(known.text("metadata_sha256"), Some(sha256(b"Name: p").as_str()));
        } else {
            assert_eq!(answer.expect_err("wrong").kind, Kind::BadGateway);
        }
        assert!(!scene.is_here(&wheel));
    }
}

#[test]
fn a_wheel_has_its_metadata_put_beside_it() {
    let mut wheel = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    wheel.start_file("p-1.dist-info/METADATA", options).expect("begun");
    wheel.write_all(b"Name: p").expect("written");
    let bytes = wheel.finish().expect("made").into_inner();
    let served = bytes.clone();
    let upstream =
        Upstream::new(move |_, _, stream| send(stream, "200 OK", served.len(), "", &served));
    let scene = Scene::new(&upstream.url);
    let name = "p-1-py3-none-any.whl";
    let path = scene.file(&upstream.url, name, Some(("sha256", &sha256(&bytes))));
    assert!(scene.get(&path).expect("answered").expect("whole") == bytes);
    let sidecar = path.sibling(&format!("{name}.metadata")).expect("valid");
    assert_eq!(scene.store.blobs().size(&sidecar), Some(7));
    assert_eq!(scene.record(&path).text("metadata_sha256"), Some(sha256(b"Name: p").as_str()));
}
