//! Changes through a replica: answered when they are visible here, and with what is known when they are not.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use twinpi::http::request::Method;
use twinpi::http::response::{Reply, Response};
use twinpi::replication::wire;
use twinpi::serial::Serial;

use super::manner::as_twin;
use super::rig::{
    Fault, Home, MASTER, MasterNode, Mini, REPLICA, ReplicaNode, request, serial, serve_master,
    text_of,
};

fn pair() -> (MasterNode, ReplicaNode) {
    let master = MasterNode::start();
    master.home.commit("ann");
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(0));
    (master, replica)
}

fn put(replica: &ReplicaNode, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
    replica.run(replica.replica.relay(request(Method::Put, target, headers, body)))
}

#[test]
fn a_change_is_visible_here_when_it_is_answered() {
    let (_master, replica) = pair();
    for n in 1..=20 {
        let response =
            put(&replica, "/bob", &[("Host", "replica"), ("X-Mine", "y")], &vec![7; 3 * n]);
        assert_eq!(response.status, 200);
        assert_eq!(response.header(wire::SERIAL), Some(n.to_string().as_str()));
        assert_eq!(replica.home.now(), Serial::new(n as u64), "already here");
        assert_eq!(response.header(wire::PROXY), Some("replica"));
        assert_eq!(response.header("x-custom"), Some("kept"));
        assert!(response.header(wire::UUID).is_none(), "this node puts its own");
        assert_eq!(text_of(response), format!("{} bytes for bob, relayed by {REPLICA}", 3 * n));
    }
}

#[test]
fn bodies_without_a_length_pass_and_so_do_none() {
    let (_master, replica) = pair();
    let mut chunked = request(Method::Put, "/bob", &[("Transfer-Encoding", "chunked")], b"hello");
    chunked.body_length = None;
    assert!(text_of(replica.run(replica.replica.relay(chunked))).starts_with("5 bytes"));
    assert!(text_of(put(&replica, "/bob", &[], b"")).starts_with("0 bytes"));
    let delete = request(Method::Delete, "/bob", &[], b"");
    assert_eq!(replica.run(replica.replica.relay(delete)).status, 404);
}

#[test]
fn what_changes_nothing_is_answered_at_once_and_refusals_keep_their_reason() {
    let (_master, replica) = pair();
    assert_eq!(put(&replica, "/bob/nothing", &[], b"x").status, 200);
    let refused = put(&replica, "/bob/refuse", &[], b"x");
    assert_eq!(refused.status, 409);
    assert_eq!(refused.reason.as_deref(), Some("x-1.0.whl already exists in non-volatile index"));
}

#[test]
fn a_redirect_to_the_master_becomes_one_to_this_node() {
    let (_master, replica) = pair();
    for (headers, base) in [
        (&[("Host", "replica:1234")][..], "http://replica:1234"),
        (&[("Host", "replica:1234"), ("X-Outside-Url", "https://out/side/")], "https://out/side"),
    ] {
        let moved = put(&replica, "/bob/moved", headers, b"");
        assert_eq!(moved.header("location"), Some(format!("{base}/elsewhere").as_str()));
    }
}

#[test]
fn a_serial_that_does_not_come_is_an_error_that_says_what_stands() {
    // Polls of this master are never answered, so its commits do not arrive.
    let home = Home::new();
    let (_master, handler) = serve_master(&home, MASTER);
    let clock = home.store.clock().clone();
    let blocked = move |asked: twinpi::http::request::Request| {
        if asked.path().starts_with(wire::CHANGELOG) {
            std::thread::sleep(Duration::from_secs(20));
        }
        handler(asked)
    };
    let server = Mini::start(clock, Arc::new(blocked));
    let replica = ReplicaNode::with(Home::new(), &server.url(), |o| {
        o.proxy_timeout = Duration::from_millis(400)
    });
    let since = Instant::now();
    let late = put(&replica, "/bob", &[], b"x");
    let took = since.elapsed();
    assert!(Duration::from_millis(300) < took && took < Duration::from_secs(2), "{took:?}");
    assert_eq!((late.status, late.header(wire::SERIAL)), (504, Some("0")));
    let text = text_of(late);
    for part in [
        "committed on the master as serial 0",
        "not yet visible on this replica",
        "serial -1",
        &server.url(),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn reading_and_logging_in_are_never_called_a_change() {
    // Whatever it is asked, this master answers as of a serial that it never hands out.
    let says = |asked: twinpi::http::request::Request| {
        let mut answer = match asked.path().starts_with(wire::CHANGELOG) {
            true => wire::failure(502, "not today"),
            false => Response::new(200),
        };
        wire::set_serial(&mut answer, Some(serial(7)));
        Reply::Now(answer)
    };
    let server = Mini::start(Home::new().store.clock().clone(), Arc::new(says));
    let replica = ReplicaNode::with(Home::new(), &server.url(), |o| {
        o.proxy_timeout = Duration::from_millis(200)
    });
    for method in [Method::Get, Method::Head] {
        let read = replica.run(replica.replica.relay(request(method, "/ann/dev", &[], b"x")));
        assert_eq!(read.status, 200, "{method:?}: what was read is passed on");
    }
    for (method, target, is_change) in [
        (Method::Post, "/+login", false),
        (Method::Post, "/+login?x=y", false),
        (Method::Post, "/ann/dev/", true),
    ] {
        let late = replica.run(replica.replica.relay(request(method, target, &[], b"x")));
        assert_eq!(late.status, 504, "{method:?} {target}");
        let text = text_of(late);
        assert_eq!(text.contains("committed"), is_change, "{text}");
        assert_eq!(text.contains("nothing was changed"), !is_change, "{text}");
    }
}

#[test]
fn a_master_that_is_away_is_named_with_its_last_contact() {
    let (master, replica) = pair();
    let url = master.url();
    master.server.stop();
    let since = Instant::now();
    let response = put(&replica, "/bob", &[], b"x");
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(response.status, 503);
    assert!(response.header("retry-after").is_some());
    let reason = response.reason.clone().expect("a reason");
    let text = text_of(response);
    for part in ["nothing was changed", &url, "last contact"] {
        assert!(text.contains(part) && reason.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_first_change_after_the_master_came_back_is_carried_out() {
    let (master, replica) = pair();
    let address = master.server.address();
    assert_eq!(put(&replica, "/bob", &[], b"x").status, 200);
    master.server.stop();
    for _ in 0..5 {
        // Connections to the old process are kept, and must not be taken for ones to the new.
        let (_master, handler) = serve_master(&master.home, MASTER);
        let server = Mini::start_at(&address, master.home.store.clock().clone(), handler);
        let response = put(&replica, "/bob", &[], b"x");
        assert_eq!(response.status, 200, "{:?}", response.reason);
        server.stop();
    }
}

#[test]
fn an_answer_that_does_not_come_leaves_the_outcome_open() {
    let (master, replica) = pair();
    master.server.spoil("/bob", Fault::NoAnswer);
    let response = put(&replica, "/bob", &[], b"x");
    assert_eq!(response.status, 502);
    let text = text_of(response);
    assert!(text.contains("the outcome is unknown"), "{text}");
    replica.reaches(serial(1)); // it was carried out, as it happens
}

/// A master that says that it is one of this program, commits once for a key, and loses its first answers.
fn forgetful(home: &Home, lost: usize) -> (Mini, Arc<Mutex<Vec<String>>>) {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let (_master, handler) = serve_master(home, MASTER);
    let seen = keys.clone();
    let answering = move |asked: twinpi::http::request::Request| {
        let Some(key) = asked.headers.get(wire::RECEIPT).map(str::to_owned) else {
            return as_twin((handler)(asked));
        };
        let mut keys = seen.lock().expect("whole");
        keys.push(key);
        match keys.len() {
            1 => (handler)(asked),
            _ => Reply::Now(Response::text(200, "again").with_header(wire::SERIAL, "1")),
        }
    };
    let server = Mini::start(home.store.clock().clone(), Arc::new(answering));
    for _ in 0..lost {
        server.spoil("/bob", Fault::NoAnswer);
    }
    (server, keys)
}

#[test]
fn a_change_is_sent_again_under_its_key_to_a_master_that_knows_keys() {
    let home = Home::new();
    home.commit("ann");
    let (server, keys) = forgetful(&home, 2);
    let replica = ReplicaNode::start(&server.url());
    replica.reaches(serial(0));
    let response = put(&replica, "/bob", &[], b"x");
    assert_eq!(response.status, 200, "{:?}", response.reason);
    assert_eq!(text_of(response), "again");
    let keys = keys.lock().expect("whole");
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(home.now(), Serial::new(1), "one change");
}

#[test]
fn what_cannot_be_sent_again_is_sent_once() {
    let home = Home::new();
    home.commit("ann");
    let (server, keys) = forgetful(&home, 1);
    let replica = ReplicaNode::start(&server.url());
    replica.reaches(serial(0));
    let mut long = request(Method::Put, "/bob", &[("Transfer-Encoding", "chunked")], b"hello");
    long.body_length = None;
    let response = replica.run(replica.replica.relay(long));
    assert_eq!(response.status, 502);
    let key = keys.lock().expect("whole").join(" ");
    let text = text_of(response);
    assert!(key.len() == 32 && text.contains(&format!("{}{key}", wire::RECEIPTS)), "{text}");
}

#[test]
fn a_master_of_another_program_gets_the_key_and_the_change_once() {
    let home = Home::new();
    let (_master, handler) = serve_master(&home, MASTER);
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = keys.clone();
    let counting = move |asked: twinpi::http::request::Request| {
        if asked.method == Method::Put {
            let key = asked.headers.get(wire::RECEIPT).expect("a key").to_owned();
            seen.lock().expect("whole").push(key);
        }
        (handler)(asked)
    };
    let server = Mini::start(home.store.clock().clone(), Arc::new(counting));
    let replica = ReplicaNode::start(&server.url());
    server.spoil("/bob", Fault::NoAnswer);
    let given = [(wire::RECEIPT, "my-own-key-0123456789"), ("Host", "replica:1")];
    let response = put(&replica, "/bob", &given, b"x");
    assert_eq!(response.status, 502);
    let text = text_of(response);
    assert!(text.contains("http://replica:1/+receipt/my-own-key-0123456789"), "{text}");
    assert_eq!(*keys.lock().expect("whole"), ["my-own-key-0123456789"]);
    assert_eq!(put(&replica, "/bob", &[(wire::RECEIPT, "short")], b"x").status, 400);
}

#[test]
fn an_answer_that_breaks_off_says_whether_the_change_stands() {
    let (master, replica) = pair();
    for (target, says) in [
        ("/bob", "carried the request out (serial 1)"),
        ("/bob/refuse", "refused the request (409)"),
    ] {
        master.server.spoil("/bob", Fault::CutAfter(1));
        let response = put(&replica, target, &[], b"x");
        assert_eq!(response.status, 502);
        let text = text_of(response);
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_slow_master_is_not_waited_for_without_end() {
    let slow = |_: twinpi::http::request::Request| {
        std::thread::sleep(Duration::from_secs(3));
        Reply::Now(Response::text(200, "late"))
    };
    let home = Home::new();
    let server = Mini::start(home.store.clock().clone(), Arc::new(slow));
    let replica = ReplicaNode::with(Home::new(), &server.url(), |o| {
        o.proxy_timeout = Duration::from_millis(300)
    });
    let since = Instant::now();
    let response = put(&replica, "/bob", &[], b"x");
    assert!(since.elapsed() < Duration::from_secs(2));
    assert_eq!(response.status, 504);
    assert!(text_of(response).contains("the outcome is unknown"));
}

#[test]
fn a_client_that_breaks_off_has_changed_nothing() {
    struct Broken(usize);
    impl std::io::Read for Broken {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            self.0 -= 1;
            buf[0] = b'x';
            Ok(1)
        }
    }
    let (master, replica) = pair();
    for length in [Some(100), None] {
        let mut broken = request(Method::Put, "/bob", &[("Transfer-Encoding", "chunked")], b"x");
        broken.body_length = length;
        broken.body = Box::new(Broken(10));
        let response = replica.run(replica.replica.relay(broken));
        assert!(response.status == 400 && response.close, "{}", response.status);
    }
    assert_eq!(master.home.now(), Serial::new(0));
}

#[test]
fn a_circle_is_seen() {
    let (_master, replica) = pair();
    let came_back = format!("{MASTER}, {REPLICA}");
    assert_eq!(put(&replica, "/bob", &[(wire::RELAY, &came_back)], b"x").status, 508);
    let passed = put(&replica, "/bob", &[(wire::RELAY, MASTER)], b"x");
    assert!(text_of(passed).ends_with(&format!("relayed by {MASTER}, {REPLICA}")));
}

#[test]
fn an_accepted_change_without_a_serial_is_not_called_done() {
    let deaf = |_: twinpi::http::request::Request| Reply::Now(Response::text(200, "done"));
    let home = Home::new();
    let server = Mini::start(home.store.clock().clone(), Arc::new(deaf));
    let replica = ReplicaNode::start(&server.url());
    let response = put(&replica, "/bob", &[], b"x");
    assert_eq!(response.status, 502);
    assert!(text_of(response).contains("named no serial"));
}
