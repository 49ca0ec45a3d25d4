//! Masters that are not what they should be.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use twinpi::http::request::Request;
use twinpi::http::response::{Reply, Response};
use twinpi::replication::wire;
use twinpi::serial::{Serial, SerialClock};
use twinpi::store::codec::{encode_entry, encode_serial};

use super::rig::{
    Fault, Home, MASTER, MasterNode, Mini, REPLICA, ReplicaNode, eventually, serial, serve_master,
};

/// A master that answers each poll with this.
fn fake(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> (Mini, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = count.clone();
    let handler = move |request: Request| {
        asked.fetch_add(1, Ordering::SeqCst);
        Reply::Now(answer(&request))
    };
    (Mini::start(Arc::new(SerialClock::new(None)), Arc::new(handler)), count)
}

fn good(status: u16, serial: i64, body: &[u8]) -> Response {
    Response::bytes(status, wire::STREAM_TYPE, body)
        .with_header(wire::MASTER_UUID, MASTER)
        .with_header(wire::PRIMARY_UUID, MASTER)
        .with_header(wire::SERIAL, serial.to_string())
}

fn trouble(replica: &ReplicaNode) -> String {
    eventually(|| replica.replica.status().expect("readable").known.trouble, "a trouble")
}

#[test]
fn another_master_than_the_recorded_one_is_fatal_and_nothing_of_it_is_applied() {
    // One that compares no histories, as Python's do, is known by its uuid alone.
    let mut stream = encode_serial(serial(0)).to_vec();
    stream.extend(encode_entry([("ann/.config", "USER", -1, Some(&b"J"[..]))]));
    for status in [200, 202] {
        let stream = stream.clone();
        let (server, _) = fake(move |_| {
            let mut answer = good(status, 0, &stream);
            answer
                .headers
                .retain(|(name, _)| name != wire::MASTER_UUID && name != wire::PRIMARY_UUID);
            answer.with_header(wire::PRIMARY_UUID, "00000000000000000000000000000000")
        });
        let replica =
            ReplicaNode::with(Home::new(), &server.url(), |o| o.master_uuid = Some(MASTER.into()));
        let told = eventually(
            || replica.foreign.lock().expect("whole").first().cloned(),
            "the fatal word",
        );
        assert_eq!(told, "0".repeat(32));
        let trouble = trouble(&replica);
        assert!(trouble.contains(MASTER) && trouble.contains(&told), "{trouble}");
        assert_eq!(replica.home.now(), None);
    }
}

#[test]
fn answers_without_uuid_or_serial_and_of_this_node_itself_are_not_taken() {
    let entry = encode_entry([("ann/.config", "USER", -1, Some(&b"J"[..]))]);
    let stream = [&encode_serial(serial(0))[..], &entry].concat();
    for (without, with, says) in [
        (wire::SERIAL, None, wire::SERIAL),
        (wire::MASTER_UUID, Some((wire::MASTER_UUID, "x")), "does not say which master"),
        (wire::MASTER_UUID, Some((wire::PRIMARY_UUID, "")), "does not say which master"),
        (wire::MASTER_UUID, Some((wire::PRIMARY_UUID, REPLICA)), "this node itself"),
    ] {
        let body = stream.clone();
        let (server, _) = fake(move |_| {
            let mut answer = good(200, 0, &body);
            answer
                .headers
                .retain(|(name, _)| name != without && (with.is_none_or(|(n, _)| n != name)));
            if let Some((name, value)) = with {
                answer = answer.with_header(name, value);
            }
            answer
        });
        let replica = ReplicaNode::start(&server.url());
        let told = trouble(&replica);
        assert!(told.contains(says), "{told}");
        assert_eq!(replica.home.now(), None);
    }
}

#[test]
fn a_serial_that_does_not_follow_is_not_applied_and_those_before_it_are() {
    let entry = |n: u8| encode_entry([("ann/.config", "USER", i64::from(n) - 1, Some(&b"J"[..]))]);
    for bad in [0_u64, 3] {
        let mut stream = Vec::new();
        for (number, n) in [(0, 0), (1, 1), (bad, 2)] {
            stream.extend(encode_serial(serial(number)));
            stream.extend(entry(n));
        }
        let (server, _) = fake(move |request| match request.path() {
            "/+changelog/0-" => good(200, 5, &stream),
            _ => wire::failure(500, "no more"),
        });
        let replica = ReplicaNode::start(&server.url());
        replica.reaches(serial(1));
        trouble(&replica);
        assert_eq!(replica.home.now(), Serial::new(1));
    }
}

#[test]
fn hostile_bytes_end_the_answer_and_not_the_node() {
    let entry = encode_entry([("ann/.config", "USER", -1, Some(&b"J"[..]))]);
    let first = [&encode_serial(serial(0))[..], &entry].concat();
    for garbage in
        [&b"Z"[..], b"F\0\0\0\x01QN\x7f\xff\xff\xff", b"F\0\0\0\x01QJJQ", b"F\0\0\0\x01QLQ", b"NQ"]
    {
        let stream = [&first[..], garbage].concat();
        let (server, _) = fake(move |request| match request.path() {
            "/+changelog/0-" => good(200, 5, &stream),
            _ => good(202, 0, b""),
        });
        let replica = ReplicaNode::start(&server.url());
        replica.reaches(serial(0));
        assert_eq!(replica.home.now(), Serial::new(0), "{garbage:?}");
    }
}

#[test]
fn a_stream_with_one_wrong_bit_changes_nothing_that_was_applied() {
    let master = MasterNode::start();
    master.home.commit("ann");
    master.server.spoil("+changelog/0-", Fault::Lie);
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(0));
}

#[test]
fn an_empty_answer_is_asked_again_at_once_but_not_in_a_storm() {
    let (server, count) = fake(|_| good(200, -1, b""));
    let replica = ReplicaNode::start(&server.url());
    eventually(|| (2 <= count.load(Ordering::SeqCst)).then_some(()), "a second request");
    std::thread::sleep(Duration::from_secs(1));
    assert!(count.load(Ordering::SeqCst) < 20, "{}", count.load(Ordering::SeqCst));
    drop(replica);
}

#[test]
fn refusals_are_asked_again_with_growing_pauses_and_named() {
    for status in [302, 403, 404, 500, 503] {
        let (server, count) = fake(move |_| {
            wire::failure(status, "the reason why").with_header(wire::API_VERSION, "2")
        });
        let replica = ReplicaNode::start(&server.url());
        let told = trouble(&replica);
        assert!(told.contains("the reason why"), "{told}");
        std::thread::sleep(Duration::from_millis(800));
        let asked = count.load(Ordering::SeqCst);
        assert!((2..6).contains(&asked), "{status}: {asked}");
    }
}

#[test]
fn a_master_that_comes_back_is_followed_within_seconds() {
    let master = MasterNode::start();
    master.home.commit("ann");
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(0));
    let address = master.server.address();
    master.server.stop();
    assert!(trouble(&replica).contains("refused") || !trouble(&replica).is_empty());
    let committed = master.home.commit("bob");
    let (_again, handler) = serve_master(&master.home, MASTER);
    let since = Instant::now();
    let _server = Mini::start_at(&address, master.home.store.clock().clone(), handler);
    replica.reaches(committed);
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    eventually(
        || replica.replica.status().expect("readable").known.trouble.is_none().then_some(()),
        "no trouble",
    );
}

#[test]
fn an_entry_of_a_kind_that_is_not_known_here_is_kept_and_passed_on() {
    // As a newer node or a plugin of another server may write it.
    let entry = encode_entry([
        ("ann/.config", "USER", -1, Some(&b"J"[..])),
        ("ann/dev/.novelty", "NOVELTY", -1, Some(&b"F\x00\x00\x00\x07"[..])),
    ]);
    let home = Home::new();
    home.writer.apply(&[(serial(0), entry)], None, &|_| false).expect("applies");
    let master = MasterNode::of(home, MASTER);
    let middle = ReplicaNode::start(&master.url());
    middle.reaches(serial(0));
    assert_eq!(middle.home.chain(), master.home.chain());
    // What follows it is applied too.
    let next = master.home.commit("bob");
    middle.reaches(next);
    let kept = middle.home.store.entries(serial(0), serial(0), usize::MAX).expect("reads");
    let sent = master.home.store.entries(serial(0), serial(0), usize::MAX).expect("reads");
    assert_eq!(kept, sent);
}
