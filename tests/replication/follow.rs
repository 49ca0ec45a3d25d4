//! A replica follows: in order, at once, after a restart, from any byte, and many entries at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use twinpi::http::request::Request;
use twinpi::replication::wire;
use twinpi::store::codec::encode_serial;

use super::rig::{
    Fault, Handler, Home, MASTER, MasterNode, Mini, REPLICA, ReplicaNode, eventually, serial,
    serve_master,
};

#[test]
fn what_the_master_commits_is_here_at_once() {
    let master = MasterNode::start();
    master.home.commit("ann");
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(0));
    assert_eq!(*replica.recorded.lock().expect("whole"), [MASTER]);
    let mut delays = Vec::new();
    for _ in 0..20 {
        // The poll is parked by then: what is measured is the way of one commit.
        eventually(
            || master.master.replicas().all().first().filter(|(_, r)| 0 < r.requests).map(|_| ()),
            "a poll",
        );
        std::thread::sleep(Duration::from_millis(10));
        let committed = master.home.commit("ann");
        let since = Instant::now();
        replica.reaches(committed);
        delays.push(since.elapsed());
    }
    delays.sort();
    println!("propagation: median {:?}, worst {:?}", delays[10], delays[19]);
    assert!(delays[10] < Duration::from_millis(50), "{delays:?}");
    assert_eq!(master.home.chain(), replica.home.chain());
    let [(uuid, seen)] = master.master.replicas().all().try_into().expect("one");
    assert_eq!((uuid.as_str(), seen.remote_ip.as_deref()), (REPLICA, Some("127.0.0.1")));
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let master = MasterNode::start();
    for _ in 0..5 {
        master.home.commit("ann");
    }
    let first = ReplicaNode::start(&master.url());
    first.reaches(serial(4));
    first.replica.stop();
    let dir = first.home.dir.clone();
    drop(first);
    for _ in 0..5 {
        master.home.commit("bob");
    }
    let again =
        ReplicaNode::with(Home::open(dir), &master.url(), |o| o.master_uuid = Some(MASTER.into()));
    again.reaches(serial(9));
    assert_eq!(master.home.chain(), again.home.chain());
    assert!(again.recorded.lock().expect("whole").is_empty(), "it is recorded once");
}

#[test]
fn two_thousand_serials_are_caught_up_in_batches() {
    let master = MasterNode::start();
    for n in 0..2000 {
        master.home.commit(&format!("user-{}", n % 50));
    }
    let since = Instant::now();
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(1999));
    let took = since.elapsed();
    println!("2000 serials in {took:?}, {:.0} per second", 2000.0 / took.as_secs_f64());
    assert_eq!(master.home.chain(), replica.home.chain());
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[test]
fn a_stream_cut_at_any_byte_is_resumed() {
    let home = Home::new();
    let (master, handler) = serve_master(&home, MASTER);
    let server = Mini::start(home.store.clock().clone(), with_plain_stream(handler));
    let master = MasterNode { home, master, server };
    cut_anywhere(&master, encode_serial(serial(0)).len(), 1);
}

#[test]
fn pieces_cut_at_any_byte_are_resumed() {
    cut_anywhere(&MasterNode::start(), 100, 11);
}

/// Has a master answer as if nobody asked for pieces.
pub fn with_plain_stream(handler: Handler) -> Handler {
    Arc::new(move |mut request: Request| {
        if request.path().starts_with(wire::CHANGELOG) {
            request.headers.remove("accept");
            request.headers.push("Accept", wire::ACCEPT_STREAM);
        }
        handler(request)
    })
}

/// Cuts the answer with two entries, each with so many bytes besides its own, at every so many bytes.
fn cut_anywhere(master: &MasterNode, extra: usize, step: usize) {
    for user in ["ann", "bob"] {
        master.home.commit(user);
    }
    let entries = master.home.store.entries(serial(0), serial(1), usize::MAX).expect("readable");
    let whole: usize = entries.iter().map(|(_, entry)| extra + entry.len()).sum();
    for cut in (0..=whole).step_by(step) {
        // A broken connection, and one that ends as if the stream were whole there.
        for fault in [Fault::CutAfter(cut), Fault::EndAfter(cut)] {
            master.server.spoil("+changelog/0-", fault);
            let replica = ReplicaNode::start(&master.url());
            replica.reaches(serial(1));
            assert_eq!(replica.home.chain(), master.home.chain(), "{fault:?}");
            replica.replica.stop();
        }
    }
}

#[test]
fn status_tells_what_is_known_and_null_else() {
    let home = Home::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let replica = ReplicaNode::start(&format!("http://{address}/"));
    let shown = replica.replica.status_json().expect("readable");
    for word in ["master", "primary"] {
        assert_eq!(shown[format!("{word}-url")], format!("http://{address}"));
        for name in ["uuid", "serial", "serial-timestamp"] {
            assert!(shown[format!("{word}-{name}")].is_null(), "{name}");
        }
        assert!(shown[format!("update-from-{word}-at")].is_null());
    }
    for name in ["metadata-in-sync-at", "init-queue-finished-at", "files-in-sync-at", "in-sync-at"]
    {
        assert!(shown[format!("replica-{name}")].is_null(), "{name}");
    }
    assert!(shown["replica-started-at"].is_f64());
    assert!(!replica.replica.is_current());
    drop(silent);
    home.commit("ann");
    let (_master, handler) = serve_master(&home, MASTER);
    let server = Mini::start_at(&address, home.store.clock().clone(), handler);
    replica.reaches(serial(0));
    let shown = eventually(
        || {
            Some(replica.replica.status_json().expect("readable"))
                .filter(|s| !s["replica-in-sync-at"].is_null())
        },
        "being in sync",
    );
    assert_eq!(shown["primary-uuid"], MASTER);
    assert_eq!(shown["master-serial"], 0);
    assert_eq!(shown["replication-errors"], serde_json::json!({}));
    // The trouble before is forgotten a moment later.
    eventually(|| replica.replica.is_current().then_some(()), "being current");
    assert_eq!(replica.replica.master_uuid().as_deref(), Some(MASTER));
    server.stop();
    eventually(|| replica.replica.status().expect("readable").known.trouble, "the trouble");
    assert!(!replica.replica.is_current());
}

#[test]
fn a_stop_ends_a_parked_poll_at_once() {
    let master = MasterNode::start();
    master.home.commit("ann");
    let replica = ReplicaNode::start(&master.url());
    replica.reaches(serial(0));
    std::thread::sleep(Duration::from_millis(1200)); // the first poll is short; the next one is not
    let since = Instant::now();
    replica.replica.stop();
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
}
