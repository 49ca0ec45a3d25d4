//! What a master answers: the three forms of the changelog byte for byte, the order of its checks, and who polls.

use std::path::PathBuf;
use std::time::Duration;

use twinpi::http::request::{Method, Request};
use twinpi::http::response::{Reply, Response};
use twinpi::replication::{Master, wire};
use twinpi::serial::Serial;
use twinpi::store::codec;

use super::rig::{self, Home, MASTER, REPLICA, body_of, serial, text_of};

fn data(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn entry(number: u64) -> Vec<u8> {
    data(&format!("vectors/changelog-{number:04}.bin"))
}

/// A master whose log is the one of the vectors up to this serial.
fn master(last: u64) -> (Home, Master) {
    let home = Home::new();
    let entries: Vec<_> = (0..=last).map(|n| (serial(n), entry(n))).collect();
    home.writer.apply(&entries, None, &|_| false).expect("a good log");
    let (master, _) = rig::serve_master(&home, MASTER);
    (home, master)
}

/// A replica's request with a good token.
fn poll(master: &Master, target: &str, headers: &[(&str, &str)]) -> Request {
    let signer = rig::signer(REPLICA);
    let ours =
        [(wire::TWINPI_VERSION, "1"), (wire::REPLICA_UUID, REPLICA), (wire::EXPECTED_MASTER, "")];
    let mut asked = rig::request(Method::Get, target, &ours, b"");
    let refusal = master.replica_of(&asked).expect_err("no proof yet");
    let nonce = refusal.header(wire::NONCE).expect("a nonce").to_owned();
    signer.learn(&twinpi::http::request::Headers(vec![(wire::NONCE.into(), nonce)]));
    let (name, value) = rig::proof(&signer, target);
    asked.headers.push(name, value);
    for (name, value) in headers {
        asked.headers.remove(name);
        asked.headers.push(*name, *value);
    }
    asked
}

fn ask(master: &Master, from: u64, is_range: bool, headers: &[(&str, &str)]) -> Reply {
    let target = format!("{}{from}{}", wire::CHANGELOG, if is_range { "-" } else { "" });
    master.changelog(&poll(master, &target, headers), from, is_range)
}

fn now(reply: Reply) -> Response {
    match reply {
        Reply::Now(response) => response,
        _ => panic!("not answered at once"),
    }
}

const STREAM: (&str, &str) = ("Accept", wire::ACCEPT_STREAM);

#[test]
fn the_three_forms_are_those_of_devpi_byte_for_byte() {
    let (_home, master) = master(43);
    let single = now(ask(&master, 5, false, &[]));
    assert_eq!(single.header("content-type"), Some(wire::BYTES_TYPE));
    assert_eq!(single.header(wire::SERIAL), Some("43"));
    assert_eq!(body_of(single).expect("whole"), data("replication/single-5.bin"));
    let list = now(ask(&master, 37, true, &[]));
    assert_eq!(list.header("content-type"), Some(wire::BYTES_TYPE));
    let list = body_of(list).expect("whole");
    assert_eq!(list.len(), 6439);
    assert_same_but_for_sets(&list[..6000], &data("replication/list-37.bin"));
    let stream = now(ask(&master, 37, true, &[STREAM]));
    assert_eq!(stream.header("content-type"), Some(wire::STREAM_TYPE));
    assert_eq!(stream.header(wire::SERIAL), Some("43"));
    let stream = body_of(stream).expect("whole");
    assert_eq!(stream.len(), 6595);
    assert_eq!(stream[..6000], data("replication/stream-37.bin"));
}

/// devpi decodes and encodes a list anew, which may change the order of the elements of its sets, and nothing else.
fn assert_same_but_for_sets(ours: &[u8], theirs: &[u8]) {
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    let differs = ours.iter().zip(theirs).filter(|(a, b)| a != b).count();
    assert!(differs < 200, "{differs} bytes differ");
    assert_eq!(sorted(ours), sorted(theirs));
}

#[test]
fn the_list_is_the_log_decoded() {
    let (_home, master) = master(49);
    let list =
        codec::load(&body_of(now(ask(&master, 0, true, &[]))).expect("whole")).expect("one value");
    let codec::Value::List(items) = list else { panic!("no list") };
    assert_eq!(items.len(), 50);
    for (number, item) in items.into_iter().enumerate() {
        let codec::Value::Tuple(whole) = codec::load(&entry(number as u64)).expect("an entry")
        else {
            panic!("no pair")
        };
        let number = codec::Value::Int(number as i32);
        assert_eq!(item, codec::Value::Tuple(vec![number, whole[0].clone()]));
    }
}

#[test]
fn a_long_stream_comes_in_pieces_and_whole() {
    let home = Home::new();
    for n in 0..40 {
        home.upload(&format!("f-{n}.zip"), format!("{n}").as_bytes());
    }
    let big = "x".repeat(100_000);
    for n in 0..20 {
        let mut record = twinpi::store::record::Dict::new();
        record.set("description", format!("{n}{big}"));
        let user = twinpi::names::UserName::parse("ann").expect("valid");
        let set = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
            txn.set(&twinpi::store::key::User(&user), &record);
            Ok(())
        };
        home.writer.write(set).expect("committed");
    }
    let (master, _) = rig::serve_master(&home, MASTER);
    let stream = now(ask(&master, 3, true, &[STREAM]));
    assert!(matches!(stream.body, twinpi::http::response::Body::Stream { length: None, .. }));
    let later = home.commit("bob");
    let mut expected = Vec::new();
    for (serial, entry) in home.store.entries(serial(3), serial(59), usize::MAX).expect("readable")
    {
        expected.extend(codec::encode_serial(serial));
        expected.extend(entry);
    }
    assert_eq!(later, serial(60));
    let [(_, open)] = master.replicas().all().try_into().expect("one");
    assert!(open.streams == 1 && open.requests == 1);
    assert!(
        body_of(stream).expect("whole") == expected,
        "the stream is the log as at its beginning"
    );
    let [(_, done)] = master.replicas().all().try_into().expect("one");
    assert_eq!((done.serial, done.streams, done.requests), (Serial::new(59), 0, 0));
}

#[test]
fn a_list_ends_after_the_entry_that_passes_the_limit() {
    let home = Home::new();
    let big = "x".repeat(1_500_000);
    for n in 0..6 {
        let user = twinpi::names::UserName::parse("ann").expect("valid");
        let mut record = twinpi::store::record::Dict::new();
        record.set("description", format!("{n}{big}"));
        let set = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
            txn.set(&twinpi::store::key::User(&user), &record);
            Ok(())
        };
        home.writer.write(set).expect("committed");
    }
    let (master, _) = rig::serve_master(&home, MASTER);
    let list = now(ask(&master, 0, true, &[]));
    assert_eq!(list.header(wire::SERIAL), Some("5"));
    let codec::Value::List(items) = codec::load(&body_of(list).expect("whole")).expect("one value")
    else {
        panic!("no list")
    };
    assert_eq!(items.len(), 4);
}

#[test]
fn the_form_follows_the_accept_header() {
    let (_home, master) = master(2);
    for (accept, expected) in [
        (wire::ACCEPT_STREAM, wire::STREAM_TYPE),
        (wire::STREAM_TYPE, wire::STREAM_TYPE),
        (wire::ACCEPT_PIECES, wire::PIECES_TYPE),
        ("application/x-twinpi-changes; q=0.5", wire::BYTES_TYPE),
        ("*/*", wire::BYTES_TYPE),
        ("application/x-devpi-replica-changes, application/octet-stream", wire::BYTES_TYPE),
        ("application/x-devpi-replica-changes; q=0.5", wire::BYTES_TYPE),
        ("text/html", wire::BYTES_TYPE),
    ] {
        let answer = now(ask(&master, 1, true, &[("Accept", accept)]));
        assert_eq!(answer.header("content-type"), Some(expected), "{accept}");
    }
}

#[test]
fn the_checks_come_in_devpis_order() {
    let (_home, master) = master(2);
    let refused = |request: &Request, from| {
        let response = now(master.changelog(request, from, true));
        (response.status, text_of(response))
    };
    let expect_nothing = rig::request(Method::Get, "/+changelog/9-", &[], b"");
    let (status, text) = refused(&expect_nothing, 9);
    assert!(
        status == 400 && text.contains("replica sent no X-DEVPI-EXPECTED-PRIMARY-ID"),
        "{text}"
    );
    let other = "0".repeat(32);
    let foreign =
        rig::request(Method::Get, "/+changelog/9-", &[(wire::EXPECTED_MASTER, &other)], b"");
    let (status, text) = refused(&foreign, 9);
    assert_eq!(status, 400);
    assert!(
        text.contains(&format!("expected {MASTER} as primary_uuid, replica sent {other}")),
        "{text}"
    );
    for headers in [
        &[(wire::EXPECTED_PRIMARY, "")][..],
        &[(wire::EXPECTED_PRIMARY, MASTER), ("Authorization", "Basic cm9vdDo=")],
    ] {
        let (status, text) = refused(&rig::request(Method::Get, "/+changelog/9-", headers, b""), 9);
        assert!(
            status == 403 && text.contains("Replication endpoint requires a replica identity."),
            "{text}"
        );
    }
    let ahead = poll(&master, "/+changelog/4-", &[]);
    let (status, text) = refused(&ahead, 4);
    assert!(status == 404 && text.contains("can only wait for next serial"), "{text}");
    let far = poll(&master, "/+changelog/99999999999-", &[]);
    assert_eq!(refused(&far, 99_999_999_999).0, 404);
    assert!(master.replicas().all().is_empty(), "who was refused is not listed");
}

#[test]
fn a_poll_for_the_next_serial_is_parked_and_answered_with_the_commit() {
    let (home, master) = master(2);
    for (headers, answer_is) in [(&[STREAM][..], wire::STREAM_TYPE), (&[], wire::BYTES_TYPE)] {
        let due = Serial::following(home.now());
        let Reply::Park(park) = ask(&master, due.get(), true, headers) else {
            panic!("not parked")
        };
        assert_eq!(park.wanted, Some(due));
        let left = park.deadline.remaining();
        assert!(Duration::from_secs(29) < left && left <= Duration::from_secs(30));
        let [(uuid, waiting)] = master.replicas().all().try_into().expect("one");
        assert_eq!((uuid.as_str(), waiting.serial, waiting.requests), (REPLICA, due.previous(), 1));
        home.commit("ann");
        let answer = now((park.resume)());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(answer_is)));
        assert_eq!(answer.header(wire::SERIAL), Some(due.to_string().as_str()));
        assert!(answer.header(wire::NONCE).is_some());
        assert!(!body_of(answer).expect("whole").is_empty());
    }
}

#[test]
fn a_poll_that_runs_out_names_the_serial() {
    let (_home, master) = master(2);
    let request = poll(&master, "/+changelog/3-?initial_fetch", &[STREAM]);
    let Reply::Park(park) = master.changelog(&request, 3, true) else { panic!("not parked") };
    assert!(park.deadline.remaining() <= Duration::from_secs(1));
    let answer = now((park.resume)());
    assert_eq!((answer.status, answer.header(wire::SERIAL)), (202, Some("2")));
    let [(_, replica)] = master.replicas().all().try_into().expect("one");
    assert_eq!((replica.requests, replica.serial), (0, Serial::new(2)));
}

#[test]
fn an_empty_master_has_a_next_serial_too() {
    let home = Home::new();
    let (master, _) = rig::serve_master(&home, MASTER);
    let Reply::Park(park) = ask(&master, 0, true, &[STREAM]) else { panic!("not parked") };
    let answer = now((park.resume)());
    assert_eq!((answer.status, answer.header(wire::SERIAL)), (202, Some("-1")));
}
