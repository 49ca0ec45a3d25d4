//! Masters and replicas whose histories are not the same, and how it is told.

use std::sync::{Arc, Mutex};

use twinpi::http::response::{Reply, Response};
use twinpi::replication::State;
use twinpi::replication::handshake::WirePosition;
use twinpi::replication::wire;
use twinpi::serial::{Serial, SerialClock};
use twinpi::store::codec::encode_serial;

use super::rig::{
    Home, MASTER, MasterNode, Mini, REPLICA, ReplicaNode, eventually, serial, serve_master,
};

/// The uuid of another master.
const OTHER: &str = "00000000000000000000000000000000";

/// A store with the entries of another one, up to a serial.
fn copy_of(home: &Home, to: Serial) -> Home {
    let copy = Home::new();
    let entries = home.store.entries(Serial::FIRST, to, usize::MAX).expect("reads");
    copy.writer.apply(&entries, None, &|_| false).expect("applies");
    copy.writer.adopt_timelines(&home.store.timelines()).expect("in order");
    copy
}

/// A master's store with some users.
fn with_users(count: u64) -> Home {
    let home = Home::new();
    home.writer.begin_timeline().expect("begins");
    for n in 0..count {
        home.commit(&format!("user{n}"));
    }
    home
}

fn becomes(replica: &ReplicaNode, state: State) -> String {
    let known = || replica.replica.status().expect("readable").known;
    eventually(|| (known().state == state).then_some(()), state.as_str());
    known().trouble.unwrap_or_default()
}

#[test]
fn a_replica_follows_whoever_has_its_history_whatever_its_uuid() {
    let old = MasterNode::of(with_users(5), MASTER);
    let replica = ReplicaNode::start(&old.url());
    replica.reaches(serial(4));
    becomes(&replica, State::Following);
    assert_eq!(replica.home.store.timelines(), old.home.store.timelines());
    // Another replica was promoted.
    let new = copy_of(&old.home, serial(4));
    new.writer.begin_timeline().expect("begins");
    let new = MasterNode::of(new, OTHER);
    new.home.commit("ann");
    let ReplicaNode { home, replica, .. } = replica;
    replica.stop();
    drop(replica);
    let replica = ReplicaNode::with(home, &new.url(), |o| o.master_uuid = Some(MASTER.into()));
    replica.reaches(serial(5));
    becomes(&replica, State::Following);
    assert_eq!(
        replica.home.store.position().expect("reads"),
        new.home.store.position().expect("reads")
    );
    assert_eq!(replica.home.store.timelines(), new.home.store.timelines());
    assert_eq!(replica.home.store.epoch(), 2);
    assert_eq!(*replica.recorded.lock().expect("whole"), [OTHER]);
    assert!(replica.foreign.lock().expect("whole").is_empty());
}

#[test]
fn a_master_restored_from_an_older_backup_is_noticed_and_nothing_is_dropped() {
    let whole = with_users(9);
    let backup = MasterNode::of(copy_of(&whole, serial(5)), MASTER);
    let replica = ReplicaNode::with(copy_of(&whole, serial(8)), &backup.url(), |o| {
        o.master_uuid = Some(MASTER.into());
    });
    let told = becomes(&replica, State::Ahead);
    assert!(told.contains("up to 8") && told.contains("same history up to 5"), "{told}");
    let known = replica.replica.status().expect("readable").known;
    assert_eq!(known.common, Some(Some(serial(5))));
    assert!(!replica.replica.is_current());
    // It goes on another way than before: now the histories differ.
    for name in ["ann", "bob", "cyd", "dan", "eve"] {
        backup.home.commit(name);
    }
    let told = becomes(&replica, State::Forked);
    assert!(told.contains("same history up to 5"), "{told}");
    assert_eq!(replica.home.now(), Some(serial(8)));
    let seen = backup.master.replicas().all();
    assert_eq!((seen.len(), seen[0].1.refusal), (1, Some("forked")));
}

#[test]
fn histories_with_nothing_in_common_are_told_apart() {
    let master = MasterNode::of(with_users(3), MASTER);
    let own = Home::new();
    own.commit("ann");
    let replica = ReplicaNode::with(own, &master.url(), |_| {});
    becomes(&replica, State::Forked);
    assert_eq!(replica.replica.status().expect("readable").known.common, Some(None));
    assert_eq!(replica.home.now(), Some(serial(0)));
}

#[test]
fn entries_that_the_master_keeps_no_longer_are_gone() {
    let master = MasterNode::of(with_users(6), MASTER);
    let trim =
        |sql: &rusqlite::Connection| Ok(sql.execute("DELETE FROM changelog WHERE serial < 4", [])?);
    master.home.writer.local(trim).expect("trims");
    let replica = ReplicaNode::start(&master.url());
    assert!(becomes(&replica, State::Gone).contains("snapshot"));
    assert_eq!(replica.home.now(), None);
    let late = ReplicaNode::with(copy_of(&with_users(2), serial(1)), &master.url(), |_| {});
    becomes(&late, State::Gone);
}

#[test]
fn a_master_that_meets_a_replica_of_a_newer_one_commits_no_more() {
    let home = with_users(3);
    let newer = copy_of(&home, serial(2));
    newer.writer.begin_timeline().expect("begins");
    let fenced = Arc::new(Mutex::new(Vec::new()));
    let (_, handler) = {
        let (fenced, writer) = (fenced.clone(), home.writer.clone());
        super::rig::serve_master_that(
            &home,
            MASTER,
            Box::new(move |fence| {
                fenced.lock().expect("whole").push(fence.clone());
                writer.set_fence(fence).expect("sets");
            }),
        )
    };
    let server = Mini::start(home.store.clock().clone(), handler);
    let replica = ReplicaNode::with(newer, &server.url(), |o| o.master_uuid = Some(MASTER.into()));
    becomes(&replica, State::Outdated);
    let fence = fenced.lock().expect("whole").first().cloned().expect("told");
    assert_eq!((fence.epoch, fence.uuid.as_str()), (2, REPLICA));
    assert!(home.writer.write(|_| Ok(())).is_err());
    assert_eq!(replica.home.now(), Some(serial(2)));
}

#[test]
fn a_master_of_a_lower_epoch_is_not_followed_even_if_it_does_not_notice() {
    let home = with_users(3);
    let newer = copy_of(&home, serial(2));
    newer.writer.begin_timeline().expect("begins");
    let own = WirePosition::of(&home.store).expect("reads").to_string();
    let answer = move || {
        Reply::Now(
            Response::bytes(202, wire::STREAM_TYPE, b"")
                .with_header(wire::MASTER_UUID, MASTER)
                .with_header(wire::PRIMARY_UUID, MASTER)
                .with_header(wire::POSITION, own.clone())
                .with_header(wire::SERIAL, "2"),
        )
    };
    let clock = Arc::new(SerialClock::new(None));
    let server = Mini::start(clock, Arc::new(move |_| answer()));
    let replica = ReplicaNode::with(newer, &server.url(), |_| {});
    assert!(becomes(&replica, State::Outdated).contains("epoch 1"));
}

#[test]
fn a_batch_with_another_chain_than_the_master_named_is_not_applied() {
    let home = with_users(4);
    let good = super::follow::with_plain_stream(serve_master(&home, MASTER).1);
    let lies = Arc::new(Mutex::new(2));
    let handler = {
        let (lies, store) = (lies.clone(), home.store.clone());
        move |request: twinpi::http::request::Request| {
            let is_poll = request.path().starts_with(wire::CHANGELOG);
            let mut lies = lies.lock().expect("whole");
            if !is_poll || *lies == 0 || !request.headers.has("authorization") {
                return good(request);
            }
            *lies -= 1;
            let mut body = Vec::new();
            for (at, mut entry) in store.entries(serial(0), serial(3), usize::MAX).expect("reads") {
                if at == serial(2) {
                    // Still well formed: one letter of a name.
                    let letter = entry.windows(5).position(|w| w == b"user2").expect("is named");
                    entry[letter] ^= 1;
                }
                body.extend(encode_serial(at));
                body.extend(entry);
            }
            let Reply::Now(mut answer) = good(request) else { panic!("nothing waits") };
            answer.body = twinpi::http::response::Body::Owned(body);
            Reply::Now(answer)
        }
    };
    let server = Mini::start(home.store.clock().clone(), Arc::new(handler));
    let replica = ReplicaNode::start(&server.url());
    replica.reaches(serial(3));
    becomes(&replica, State::Following);
    assert_eq!(
        replica.home.store.position().expect("reads"),
        home.store.position().expect("reads")
    );
    assert_eq!(replica.replica.status().expect("readable").known.rejected, 2);
}
