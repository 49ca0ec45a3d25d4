//! Files that cannot get stuck: cut, wrong, lost, deleted, replaced, and nowhere to be had.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use twinpi::deadline::Deadline;
use twinpi::http::client::{Client, ClientBody, ClientOptions, Timeouts};
use twinpi::http::request::Request;
use twinpi::http::response::{Reply, Response};
use twinpi::names::UserName;
use twinpi::replication::{FilesWanted, SearchPath, wire};
use twinpi::serial::SerialClock;
use twinpi::store::key::{self, FilePath};
use twinpi::store::record::Dict;
use twinpi::store::wanted::Counts;

use super::rig::{
    Fault, Home, MASTER, MasterNode, Mini, ReplicaNode, eventually, file_record, serve_master,
};

fn big(seed: u8, length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(31) >> 3) as u8 ^ seed).collect()
}

fn counts(replica: &ReplicaNode) -> Counts {
    replica.home.store.wanted_counts().expect("reads")
}

fn in_sync(replica: &ReplicaNode) {
    let is_in_sync = || replica.replica.status().expect("readable").in_sync_at();
    eventually(is_in_sync, "files in sync");
}

/// A record of a file without its bytes.
fn record_of(home: &Home, name: &str, bytes: &[u8]) -> FilePath {
    let path = home.upload(name, bytes);
    home.store.blobs().remove(&path).expect("removes");
    path
}

#[test]
fn a_file_cut_at_64_kb_and_at_99_percent_is_resumed_and_hardly_sent_twice() {
    let bytes = big(1, 2_000_000);
    let master = MasterNode::start();
    for cut in [64 << 10, 1_980_000 - (64 << 10)] {
        master.server.spoil("x-1.zip", Fault::CutAfter(cut));
    }
    let path = master.home.upload("x-1.zip", &bytes);
    let replica = ReplicaNode::start(&master.url());
    assert!(replica.has_file(&path) == bytes);
    in_sync(&replica);
    let sent = master.server.file_bytes();
    assert!(bytes.len() <= sent && sent <= bytes.len() * 105 / 100, "{sent}");
}

#[test]
fn a_file_longer_than_its_record_is_never_put_in_place() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &big(2, 100_000));
    for extra in [1, 1_000_000] {
        master.server.spoil("x-1.zip", Fault::TooLong(extra));
        let replica = ReplicaNode::start(&master.url());
        eventually(|| (counts(&replica).failed == 1).then_some(()), "a failure");
        assert!(replica.home.bytes(&path).is_none());
        let left = std::fs::read_dir(replica.home.dir.path().join(".staging")).expect("a folder");
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn where_one_source_has_wrong_bytes_another_is_tried_and_the_first_is_suspect() {
    let bytes = big(3, 100_000);
    let master = MasterNode::start();
    let path = master.home.upload("x-1.zip", &bytes);
    // A folder with something else of the same length, then the master.
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join(path.as_str());
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("makes it");
    std::fs::write(&place, big(4, 100_000)).expect("writes");
    let search = SearchPath { folder: folder.path().to_owned(), links: false };
    let replica =
        ReplicaNode::with(Home::new(), &master.url(), |o| o.search_path = Some(search.clone()));
    assert!(replica.has_file(&path) == bytes);
    let suspects = replica.replica.status().expect("readable").suspects;
    assert_eq!(suspects, serde_json::json!({"search-path": 1}));
    // The right bytes there: the master is not asked.
    std::fs::write(&place, &bytes).expect("writes");
    let before = master.server.file_bytes();
    let replica = ReplicaNode::with(Home::new(), &master.url(), |o| o.search_path = Some(search));
    assert!(replica.has_file(&path) == bytes);
    assert_eq!(master.server.file_bytes(), before);
    // A master that lies, and an upstream that has it.
    let other = MasterNode::start();
    assert_eq!(other.home.upload("x-1.zip", &bytes), path);
    master.server.spoil("x-1.zip", Fault::Lie);
    let replica = ReplicaNode::with(Home::new(), &master.url(), |o| o.fetchers = 1);
    let (url, client) =
        (other.url(), Arc::new(Client::new(ClientOptions::default()).expect("one")));
    let open = move |path: &FilePath, _: &Dict| -> Option<twinpi::http::resume::Ask> {
        let (url, client) = (format!("{url}/{path}"), client.clone());
        Some(Box::new(move |_| {
            let second = std::time::Duration::from_secs(5);
            let timeouts = Timeouts { connect: second, response_head: second, per_read: second };
            client.request("GET", &url, &[], ClientBody::None, timeouts)
        }))
    };
    replica.replica.set_elsewhere(Box::new(open));
    assert!(replica.has_file(&path) == bytes);
}

#[test]
fn a_file_that_was_in_place_before_a_crash_is_found_and_not_sent_again() {
    let bytes = big(5, 200_000);
    let master = MasterNode::start();
    let (path, damaged) =
        (master.home.upload("x-1.zip", &bytes), master.home.upload("y-1.zip", &big(6, 1000)));
    let first = ReplicaNode::with(Home::new(), &master.url(), |o| o.fetchers = 0);
    first.reaches(master.home.now().expect("not empty"));
    first.replica.stop();
    // As a crash leaves it: in place, and still listed.
    for (path, bytes) in [(&path, bytes.as_slice()), (&damaged, b"half")] {
        let place = first.home.dir.path().join("+files").join(path.as_str());
        std::fs::create_dir_all(place.parent().expect("a folder")).expect("makes it");
        std::fs::write(&place, bytes).expect("writes");
    }
    let dir = first.home.dir.clone();
    drop(first);
    let again = ReplicaNode::with(Home::open(dir), &master.url(), |_| {});
    in_sync(&again);
    assert!(again.has_file(&path) == bytes && again.has_file(&damaged) == big(6, 1000));
    let sent = master.server.file_bytes(); // a request for a nonce may be among it
    assert!((1000..1500).contains(&sent), "{sent}");
}

#[test]
fn a_file_that_the_master_deleted_meanwhile_ends_in_gone_and_the_node_is_well() {
    let master = MasterNode::start();
    let path = record_of(&master.home, "x-1.zip", b"bytes");
    let other = master.home.upload("y-1.zip", b"other");
    let (_, handler) = serve_master(&master.home, MASTER);
    let gone = path.clone();
    let handler = move |request: Request| match request.path().ends_with(gone.name()) {
        true => Reply::Now(wire::failure(410, "file existed, deleted in later serial")),
        false => handler(request),
    };
    let server = Mini::start(master.home.store.clock().clone(), Arc::new(handler));
    let replica = ReplicaNode::start(&server.url());
    replica.has_file(&other);
    in_sync(&replica);
    let counts = counts(&replica);
    assert_eq!((counts.gone, counts.failed, counts.wanted), (1, 0, 0));
    assert!(replica.replica.status().expect("readable").failures.is_empty());
}

#[test]
fn a_name_with_other_content_never_mixes_with_what_came_before() {
    let master = MasterNode::start();
    let replica = ReplicaNode::start(&master.url());
    let mut paths = Vec::new();
    for seed in 0..12 {
        let path = master.home.upload("x-1.zip", &big(seed, 150_000 + u32::from(seed)));
        if let Some((before, _)) = paths.last() {
            master.home.delete(before);
        }
        paths.push((path, seed));
    }
    let (last, seed) = paths.pop().expect("one");
    assert!(replica.has_file(&last) == big(seed, 150_000 + u32::from(seed)));
    replica.reaches(master.home.now().expect("not empty"));
    in_sync(&replica);
    for (path, _) in paths {
        let is_away = || replica.home.bytes(&path).is_none().then_some(());
        eventually(is_away, "the end of an older file");
    }
    // A file is in its place before it is off the list.
    eventually(|| (counts(&replica) == Counts::default()).then_some(()), "an empty list");
}

#[test]
fn what_was_queued_for_a_deleted_index_is_dropped_and_its_successor_is_not_harmed() {
    let master = MasterNode::start();
    let old: Vec<_> =
        (0..50).map(|n| record_of(&master.home, &format!("f-{n}.zip"), &big(n, 5000))).collect();
    let queued = ReplicaNode::with(Home::new(), &master.url(), |o| o.fetchers = 0);
    queued.reaches(master.home.now().expect("not empty"));
    assert_eq!(counts(&queued).wanted, 50);
    for path in &old {
        master.home.delete(path);
    }
    // The same index again; one file is the same as before.
    let same = master.home.upload("f-7.zip", &big(7, 5000));
    let other = master.home.upload("f-8.zip", b"another");
    assert_eq!(same, old[7]);
    queued.reaches(master.home.now().expect("not empty"));
    assert_eq!(counts(&queued).wanted, 2);
    queued.replica.stop();
    let dir = queued.home.dir.clone();
    drop(queued);
    let replica = ReplicaNode::with(Home::open(dir), &master.url(), |_| {});
    assert!(replica.has_file(&same) == big(7, 5000) && replica.has_file(&other) == b"another");
    in_sync(&replica);
    assert_eq!(counts(&replica), Counts::default());
}

#[test]
fn ten_thousands_of_deletions_in_one_entry_are_one_transaction() {
    const COUNT: usize = 20_000;
    let master = MasterNode::start();
    let index = twinpi::names::IndexName::new("ann", "dev").expect("valid");
    let path = |n: usize| {
        let hex = twinpi::digest::Digest::of(&n.to_be_bytes()).hex();
        FilePath::of_digest(&index, &hex, &format!("f-{n}.zip")).expect("valid")
    };
    let record = file_record(b"");
    let set = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
        (0..COUNT).for_each(|n| txn.set(&key::File(&path(n)), &record));
        Ok(())
    };
    master.home.writer.write(set).expect("commits");
    let replica = ReplicaNode::with(Home::new(), &master.url(), |o| o.fetchers = 0);
    replica.reaches(master.home.now().expect("not empty"));
    assert_eq!(counts(&replica).wanted, COUNT as u64);
    let delete = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
        (0..COUNT).for_each(|n| txn.delete(&key::File(&path(n))));
        Ok(())
    };
    master.home.writer.write(delete).expect("commits");
    let last = master.home.now().expect("not empty");
    assert!(
        replica
            .home
            .store
            .clock()
            .wait_for(last, Deadline::after(std::time::Duration::from_secs(60)))
    );
    assert_eq!(counts(&replica), Counts::default());
}

#[test]
fn a_mirrors_file_that_nobody_has_any_more_is_unavailable_and_the_node_in_sync() {
    let master = MasterNode::start();
    let (mut config, mut indexes, mut user) = (Dict::new(), Dict::new(), Dict::new());
    config.set("type", "mirror");
    indexes.set("dev", config);
    user.set("indexes", indexes);
    let ann = UserName::parse("ann").expect("valid");
    let set = |txn: &mut twinpi::store::txn::WriteTxn<'_>| {
        txn.set(&key::User(&ann), &user);
        Ok(())
    };
    master.home.writer.write(set).expect("commits");
    let path = record_of(&master.home, "x-1.zip", b"bytes");
    let asked = Arc::new(AtomicUsize::new(0));
    let (upstream, count) = (asked.clone(), asked.clone());
    let nothing = move |_: Request| {
        upstream.fetch_add(1, Ordering::SeqCst);
        Reply::Now(Response::text(404, "removed"))
    };
    let server = Mini::start(Arc::new(SerialClock::new(None)), Arc::new(nothing));
    let replica = ReplicaNode::with(Home::new(), &master.url(), |_| {});
    let client = Arc::new(Client::new(ClientOptions::default()).expect("one"));
    let url = server.url();
    replica.replica.set_elsewhere(Box::new(move |_, _| {
        let (url, client) = (url.clone(), client.clone());
        Some(Box::new(move |_| {
            let second = std::time::Duration::from_secs(5);
            let timeouts = Timeouts { connect: second, response_head: second, per_read: second };
            client.request("GET", &url, &[], ClientBody::None, timeouts)
        }))
    }));
    in_sync(&replica);
    let found = counts(&replica);
    assert_eq!((found.unavailable, found.failed, found.wanted), (1, 0, 0));
    assert!(replica.replica.status().expect("readable").failures.is_empty());
    assert!(replica.home.bytes(&path).is_none());
    assert!(count.load(Ordering::SeqCst) <= 1, "asked once at most, and later again");
}

#[test]
fn a_replica_that_wanted_no_files_fetches_what_misses_once_it_wants_all() {
    let master = MasterNode::start();
    let paths: Vec<_> = (0..5).map(|n| master.home.upload(&format!("f-{n}.zip"), &[n])).collect();
    let mut dir = None;
    for choice in [FilesWanted::None, FilesWanted::OnDemand, FilesWanted::All] {
        let home = dir.take().map_or_else(Home::new, Home::open);
        let replica = ReplicaNode::with(home, &master.url(), |o| o.files = choice);
        replica.reaches(master.home.now().expect("not empty"));
        if choice == FilesWanted::All {
            paths.iter().for_each(|path| drop(replica.has_file(path)));
            return;
        }
        assert_eq!(counts(&replica), Counts::default());
        assert_eq!(replica.replica.status_json().expect("readable")["files"], choice.as_str());
        replica.replica.stop();
        dir = Some(replica.home.dir.clone());
    }
}
