//! File bytes: fetched, checked, tried again, streamed through, and gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use twinpi::error::Error;
use twinpi::http::client::Answer;
use twinpi::http::range::Wanted;
use twinpi::http::request::{Headers, Method, Request};
use twinpi::http::response::{Body, Reply, Response};
use twinpi::http::resume::Ask;
use twinpi::replication::{Wish, wire};
use twinpi::store::key::FilePath;
use twinpi::store::record::{Dict, Record as _};
use twinpi::store::txn::Read as _;

use super::rig::{
    Fault, Home, MASTER, MasterNode, Mini, ReplicaNode, body_of, eventually, request, serial,
    serve_master, text_of,
};

fn big(seed: u8) -> Vec<u8> {
    (0..300_000_u32).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

/// Asks for a file whose record is here and whose bytes are not.
fn stream(replica: &ReplicaNode, asked: &Request, path: &FilePath) -> Response {
    stream_or(replica, asked, path, None)
}

fn stream_or(
    replica: &ReplicaNode,
    asked: &Request,
    path: &FilePath,
    elsewhere: Option<Ask>,
) -> Response {
    let here = || Reply::Now(Response::text(299, "it is here"));
    let wish = Wish {
        path: path.clone(),
        record: record(replica, path),
        wanted: Wanted::of(asked),
        content_type: "application/zip",
        elsewhere,
        again: Box::new(here),
    };
    replica.run(replica.replica.stream_file(wish))
}

fn get(fields: &[(&str, &str)]) -> Request {
    request(Method::Get, "/", fields, b"")
}

fn record(replica: &ReplicaNode, path: &FilePath) -> Dict {
    let row = replica.home.store.read().expect("readable").row(path.as_str()).expect("readable");
    Dict::decode(&row.and_then(|row| row.value).expect("a record")).expect("a dict")
}

/// A replica that has the records and fetches nothing by itself.
fn without_files(master: &MasterNode) -> ReplicaNode {
    let replica = ReplicaNode::with(Home::new(), &master.url(), |o| o.fetchers = 0);
    replica.reaches(master.home.now().expect("not empty"));
    replica
}

#[test]
fn files_follow_their_records_and_go_with_them() {
    let master = MasterNode::start();
    let early = master.home.upload("early-1.zip", b"early");
    let replica = ReplicaNode::start(&master.url());
    assert_eq!(replica.has_file(&early), b"early");
    let late = master.home.upload("late 1+x.zip", &big(1));
    assert!(replica.has_file(&late) == big(1));
    master.home.delete(&early);
    replica.reaches(master.home.now().expect("not empty"));
    eventually(|| replica.home.bytes(&early).is_none().then_some(()), "the end of the file");
    let shown = eventually(
        || {
            Some(replica.replica.status().expect("readable"))
                .filter(|s| s.in_sync_at().is_some() && s.files.wanted == 0)
        },
        "files in sync",
    );
    assert!(shown.failures.is_empty());
}

#[test]
fn a_file_deleted_before_it_was_fetched_is_no_failure() {
    let master = MasterNode::start();
    let paths: Vec<_> = (0..20)
        .map(|n| master.home.upload(&format!("f-{n}.zip"), format!("{n}").as_bytes()))
        .collect();
    for path in &paths[..10] {
        master.home.delete(path);
    }
    let again = master.home.upload("f-3.zip", b"3");
    assert_eq!(again, paths[3], "the same bytes at the same path");
    let replica = ReplicaNode::start(&master.url());
    for path in &paths[10..] {
        replica.has_file(path);
    }
    replica.has_file(&again);
    for path in paths[..10].iter().filter(|path| **path != again) {
        assert!(replica.home.bytes(path).is_none());
    }
    assert_eq!(replica.replica.status().expect("readable").failures, []);
}

#[test]
fn wrong_bytes_are_never_stored_and_the_file_is_named_and_tried_again() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(2));
    let other = master.home.upload("y-1.zip", b"other");
    for (fault, says) in [
        (Fault::Lie, "digest"),
        (Fault::EndAfter(1000), "1000 bytes"),
        (Fault::TooLong(10), "over 300000 bytes"),
    ] {
        master.server.spoil("x-1.zip", fault);
        let replica = ReplicaNode::start(&master.url());
        let failure =
            eventually(|| replica.replica.status().expect("readable").failures.pop(), "a failure");
        assert_eq!((failure.path.clone(), failure.tries), (path.clone(), 1));
        assert!(failure.reason.contains(says), "{fault:?}: {}", failure.reason);
        assert_eq!(replica.has_file(&other), b"other", "others go on");
        assert!(replica.home.bytes(&path).is_none());
        let shown = replica.replica.status_json().expect("readable");
        let error = &shown["replication-errors"][path.as_str()];
        assert_eq!(error["relpath"], path.as_str());
        assert_eq!(error["url"], format!("{}/{path}", master.url()));
        assert!(shown["replica-files-in-sync-at"].is_null());
    }
}

#[test]
fn a_failed_file_comes_with_the_second_try() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(2));
    master.server.spoil("x-1.zip", Fault::Lie);
    let replica = ReplicaNode::start(&master.url());
    let since = Instant::now();
    assert!(replica.has_file(&path) == big(2));
    assert!(Duration::from_secs(9) < since.elapsed(), "after its pause");
    let failures = || replica.replica.status().expect("readable").failures;
    eventually(|| failures().is_empty().then_some(()), "no failure");
}

#[test]
fn the_queue_survives_a_restart() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    let first = without_files(&master);
    assert!(first.home.store.is_wanted(&path).expect("readable"));
    first.replica.stop();
    let dir = first.home.dir.clone();
    drop(first);
    let again = ReplicaNode::with(Home::open(dir), &master.url(), |_| {});
    assert_eq!(again.has_file(&path), b"bytes");
}

#[test]
fn a_master_that_is_away_is_no_fault_of_any_file() {
    let master = MasterNode::start();
    let paths: Vec<_> = (0..5)
        .map(|n| master.home.upload(&format!("f-{n}.zip"), format!("{n}").as_bytes()))
        .collect();
    let first = without_files(&master);
    first.replica.stop();
    let dir = first.home.dir.clone();
    drop(first);
    let address = master.server.address();
    master.server.stop();
    let replica = ReplicaNode::with(Home::open(dir), &format!("http://{address}"), |_| {});
    std::thread::sleep(Duration::from_millis(700));
    let status = replica.replica.status().expect("readable");
    assert_eq!((status.files.wanted, status.files.failed), (5, 0));
    let (_again, handler) = serve_master(&master.home, MASTER);
    let _server = Mini::start_at(&address, master.home.store.clock().clone(), handler);
    for path in &paths {
        replica.has_file(path);
    }
}

#[test]
fn indexes_can_be_left_out() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    for skip in ["ann/dev", "all"] {
        let replica =
            ReplicaNode::with(Home::new(), &master.url(), |o| o.skip_indexes = vec![skip.into()]);
        replica.reaches(serial(0));
        assert!(!replica.home.store.is_wanted(&path).expect("readable"), "{skip}");
    }
}

#[test]
fn metadata_beside_a_wheel_is_made_and_must_be_what_the_record_says() {
    let master = MasterNode::start();
    for (text, is_kept) in [("Name: x", true), ("Name: y", false)] {
        let home = Home::new();
        let blobs = home.store.blobs().clone();
        let replica = ReplicaNode::with(home, &master.url(), |o| {
            o.sidecar = Arc::new(move |path, staged| {
                assert!(path.name().ends_with(".whl") && staged.sums.size_bytes == 5);
                let hasher = twinpi::digest::Hasher::new();
                blobs.stage(&mut text.as_bytes(), hasher, 100).ok()
            });
        });
        let staged = master
            .home
            .store
            .blobs()
            .stage(&mut &b"wheel"[..], twinpi::digest::Hasher::new(), 99)
            .expect("staged");
        let index = twinpi::names::IndexName::new("ann", "dev").expect("valid");
        let name = format!("x-{}-py3-none-any.whl", u8::from(is_kept));
        let path = FilePath::of_digest(&index, &staged.sums.sha256.hex(), &name).expect("valid");
        let mut record = super::rig::file_record(b"wheel");
        record.set("metadata_sha256", twinpi::digest::Digest::of(b"Name: x").hex());
        let set = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
            txn.set(&twinpi::store::key::File(&path), &record);
            txn.add_file(path.clone(), staged);
            Ok(())
        };
        master.home.writer.write(set).expect("committed");
        replica.has_file(&path);
        let sidecar = path.sibling(&format!("{name}.metadata")).expect("valid");
        assert_eq!(replica.home.bytes(&sidecar).is_some(), is_kept);
    }
}

#[test]
fn a_file_that_is_asked_for_early_is_streamed_and_kept() {
    let master = MasterNode::start();
    for (n, bytes) in
        [Vec::new(), b"small".to_vec(), big(3), vec![7; 64 << 10], vec![7; (64 << 10) + 1]]
            .into_iter()
            .enumerate()
    {
        let path = master.home.upload(&format!("f-{n}.zip"), &bytes);
        let replica = without_files(&master);
        let response = stream(&replica, &get(&[]), &path);
        assert_eq!(response.status, 200);
        assert_eq!(response.header("content-type"), Some("application/octet-stream"));
        assert!(response.header("x-private").is_none());
        assert!(
            matches!(response.body, Body::Stream { length: Some(n), .. } if n == bytes.len() as u64)
        );
        assert!(body_of(response).expect("whole") == bytes);
        assert!(
            replica.home.bytes(&path) == Some(bytes),
            "it is in place before its last byte was out"
        );
        assert!(!replica.home.store.is_wanted(&path).expect("readable"));
    }
}

#[test]
fn a_streamed_file_with_wrong_bytes_is_cut_and_not_kept() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(4));
    let replica = without_files(&master);
    master.server.spoil("x-1.zip", Fault::Lie);
    let response = stream(&replica, &get(&[]), &path);
    match response.body {
        Body::Stream { mut reader, .. } => {
            let mut got = Vec::new();
            let end = std::io::Read::read_to_end(&mut reader, &mut got);
            assert!(end.is_err() && got.len() < 300_000, "{} bytes", got.len());
        }
        // All of it was here, and wrong, before the first byte had to go out.
        _ => assert_eq!(response.status, 502),
    }
    master.server.spoil("x-1.zip", Fault::EndAfter(299_999));
    assert_eq!(stream(&replica, &get(&[]), &path).status, 502, "known before the first byte");
    assert!(replica.home.bytes(&path).is_none());
    assert!(replica.home.store.is_wanted(&path).expect("readable"), "the queue brings it");
    let staging = replica.home.dir.path().join(".staging");
    eventually(
        || (std::fs::read_dir(&staging).expect("a folder").count() == 0).then_some(()),
        "nothing is left behind",
    );
}

#[test]
fn a_file_that_breaks_off_on_its_way_is_mended() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(4));
    let replica = without_files(&master);
    master.server.spoil("x-1.zip", Fault::CutAfter(200_000));
    let response = stream(&replica, &get(&[]), &path);
    assert!(body_of(response).expect("whole") == big(4));
    assert!(replica.home.bytes(&path) == Some(big(4)));
}

#[test]
fn a_part_of_a_file_that_is_not_here_is_a_part() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(4));
    let replica = without_files(&master);
    let part = stream(&replica, &get(&[("Range", "bytes=-10")]), &path);
    assert_eq!(
        (part.status, part.header("content-range")),
        (206, Some("bytes 299990-299999/300000"))
    );
    assert!(body_of(part).expect("whole") == big(4)[299_990..]);
    assert!(replica.home.bytes(&path) == Some(big(4)), "all of it came");
}

#[test]
fn clients_at_the_same_time_all_get_the_file_which_comes_once() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(5));
    let (_inner, handler) = serve_master(&master.home, MASTER);
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let counting = move |asked: Request| {
        if asked.target.ends_with("x-1.zip") {
            seen.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
        }
        handler(asked)
    };
    let server = Mini::start(master.home.store.clock().clone(), Arc::new(counting));
    let replica = ReplicaNode::with(Home::new(), &server.url(), |o| o.fetchers = 0);
    replica.reaches(serial(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let response = stream(&replica, &get(&[]), &path);
                let (status, body) = (response.status, body_of(response).expect("whole"));
                assert!(status == 299 || body == big(5));
            });
        }
    });
    assert!(replica.home.bytes(&path) == Some(big(5)));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn where_the_master_is_away_a_file_comes_from_elsewhere() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(6));
    let lie = master.home.upload("lie-1.zip", b"right");
    let replica = without_files(&master);
    master.server.stop();
    let elsewhere = |bytes: Vec<u8>| -> Ask {
        Box::new(move |_| {
            Ok(Answer {
                status: 200,
                reason: None,
                url: String::new(),
                headers: Headers::default(),
                body: Box::new(std::io::Cursor::new(bytes.clone())),
            })
        })
    };
    let response = stream_or(&replica, &get(&[]), &path, Some(elsewhere(big(6))));
    assert_eq!(response.header("content-type"), Some("application/zip"));
    assert!(body_of(response).expect("whole") == big(6));
    assert!(replica.home.bytes(&path) == Some(big(6)));
    let wrong = stream_or(&replica, &get(&[]), &lie, Some(elsewhere(b"wrong".to_vec())));
    assert_eq!(wrong.status, 502);
    assert!(replica.home.bytes(&lie).is_none());
}

#[test]
fn head_of_a_file_that_is_not_here_asks_nobody() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    let replica = without_files(&master);
    master.server.stop();
    let response = stream(&replica, &request(Method::Head, "/", &[], b""), &path);
    assert!(
        response.status == 200 && matches!(response.body, Body::Stream { length: Some(5), .. })
    );
}

#[test]
fn a_file_that_the_master_cannot_give_is_a_clear_answer() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    let replica = without_files(&master);
    master.home.store.blobs().remove(&path).expect("removed");
    let lost = stream(&replica, &get(&[]), &path);
    assert_eq!(lost.status, 404);
    let url = master.url();
    master.server.stop();
    let away = stream(&replica, &get(&[]), &path);
    assert_eq!(away.status, 502);
    let text = text_of(away);
    assert!(text.contains(&url) && text.contains("last contact"), "{text}");
}

#[test]
fn not_found_is_said_only_when_the_master_says_it() {
    let master = MasterNode::start();
    master.home.commit("ann");
    let replica = without_files(&master);
    let path = master.home.upload("new-1.zip", b"new");
    // As if the log had not come yet: the file is on the master and no record of it is here.
    let unknown = |path: &FilePath| {
        let error = Error::not_found("no such file here");
        replica.run(replica.replica.ask_master(&get(&[]), path, None, error))
    };
    assert_eq!(text_of(unknown(&path)), "new");
    assert!(replica.home.bytes(&path).is_none(), "no record here names it yet");
    let nowhere = FilePath::parse("ann/dev/+f/000/0000000000000/x.zip").expect("valid");
    let answer = unknown(&nowhere);
    assert_eq!((answer.status, text_of(answer).contains("no such file here")), (404, true));
    master.home.delete(&path);
    assert_eq!(unknown(&path).status, 410);
    let lied = master.home.upload("lie-1.zip", b"lie");
    master.server.spoil("lie-1.zip", Fault::Lie);
    assert_eq!(unknown(&lied).status, 502, "the path has the digest");
    master.server.stop();
    assert_eq!(unknown(&nowhere).status, 502);
}

#[test]
fn what_no_record_names_is_asked_for_as_the_client() {
    const ANN: (&str, &str) = ("Authorization", "Basic YW5uOng=");
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    let (answering, handler) = serve_master(&master.home, MASTER);
    let closed = move |asked: twinpi::http::request::Request| {
        let is_file = asked.headers.has(wire::FILE_REPLICATION);
        let is_let_in = asked.headers.get(ANN.0) == Some(ANN.1)
            || matches!(answering.replica_of(&asked), Ok(Some(_)));
        match is_file && !is_let_in {
            true => Reply::Now(Response::text(401, "closed")),
            false => handler(asked),
        }
    };
    let server = Mini::start(master.home.store.clock().clone(), Arc::new(closed));
    let replica = ReplicaNode::start(&server.url());
    let unknown = |fields: &[(&str, &str)]| {
        let error = Error::not_found("no such file here");
        replica.run(replica.replica.ask_master(&get(fields), &path, None, error))
    };
    let refused = unknown(&[]);
    assert_eq!(refused.status, 401);
    assert!(refused.header("WWW-Authenticate").is_some_and(|asks| asks.starts_with("Basic")));
    assert_eq!(text_of(unknown(&[ANN])), "bytes");
    assert_eq!(unknown(&[(ANN.0, "Basic ZXZlOng=")]).status, 401, "it was kept for nobody else");
}

#[test]
fn what_replicas_ask_for_goes_out_with_a_token() {
    let count = Arc::new(AtomicUsize::new(0));
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", b"bytes");
    let (answering, handler) = serve_master(&master.home, MASTER);
    let seen = count.clone();
    let watching = move |asked: twinpi::http::request::Request| {
        if asked.headers.get(wire::FILE_REPLICATION) == Some(wire::YES)
            && matches!(answering.replica_of(&asked), Ok(Some(_)))
        {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        handler(asked)
    };
    // Its nonces are those of the inner master, which answers: one gate checks both.
    let server = Mini::start(master.home.store.clock().clone(), Arc::new(watching));
    let replica = ReplicaNode::start(&server.url());
    assert_eq!(replica.has_file(&path), b"bytes");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
