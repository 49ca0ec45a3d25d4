//! A replica that takes over some indexes: what it is sent, what it has, and who may follow it.

use twinpi::digest::Digest;
use twinpi::http::request::Method;
use twinpi::http::response::{Reply, Response};
use twinpi::names::{IndexName, UserName};
use twinpi::replication::auth::Gate;
use twinpi::replication::filter::Filter;
use twinpi::replication::{Master, State, wire};
use twinpi::serial::Serial;
use twinpi::store::changelog::empty_entry;
use twinpi::store::codec::RawEntry;
use twinpi::store::key;
use twinpi::store::record::{Dict, NameSet};
use twinpi::store::txn::{Read as _, WriteTxn};

use super::rig::{
    Fault, Home, MASTER, MasterNode, REPLICA, ReplicaNode, body_of, eventually, keys, proof,
    request, secret, serial, signer,
};

/// What must not leave the master.
const PRIVATE: &str = "not-for-everybody";

fn filter(names: &[&str]) -> Filter {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Filter::of_names(&names).expect("names")
}

fn index(name: &str) -> IndexName {
    IndexName::parse(name).expect("valid")
}

/// Commits a change of the projects of each of these indexes, with a name that nobody gave before.
fn projects(home: &Home, indexes: &[&str], name: &str) -> Serial {
    let change = |txn: &mut WriteTxn<'_>| {
        for index_name in indexes {
            let index = index(index_name);
            let mut names = txn.get(&key::Projects(&index))?.unwrap_or_default().0;
            names.push(format!("{name}-of-{index_name}"));
            txn.set(&key::Projects(&index), &NameSet(names));
        }
        Ok(())
    };
    home.writer.write(change).expect("commits").1.expect("something changed")
}

/// A master with changes of two indexes, of both at once, and of users.
fn master() -> MasterNode {
    let home = Home::new();
    home.writer.begin_timeline().expect("begins");
    for n in 0..40 {
        match n % 8 {
            0 => drop(home.commit(&format!("user{n}"))),
            1 => drop(projects(&home, &["ann/dev", "bob/x"], &format!("{PRIVATE}-both-{n}"))),
            2 => drop(projects(&home, &["ann/dev"], &format!("own-{n}"))),
            _ => drop(projects(&home, &["bob/x"], &format!("{PRIVATE}-{n}"))),
        }
    }
    MasterNode::of(home, MASTER)
}

pub fn follow(home: Home, url: &str, names: &[&str]) -> ReplicaNode {
    let asked = filter(names);
    let settled = Filter::settle(&home.writer, Some(asked)).expect("is empty, or the same");
    ReplicaNode::with(home, url, |options| {
        options.filter = settled;
        options.master_uuid = Some(MASTER.into());
    })
}

fn becomes(replica: &ReplicaNode, state: State) -> String {
    let known = || replica.replica.status().expect("readable").known;
    eventually(|| (known().state == state).then_some(()), state.as_str());
    known().trouble.unwrap_or_default()
}

/// Here is what the master has of an index and of users, nothing of another one, and the master's position.
fn check(master: &MasterNode, replica: &ReplicaNode) {
    let (theirs, own) = (&master.home.store, &replica.home.store);
    assert_eq!(theirs.position().expect("reads"), own.position().expect("reads"));
    let (all, here) = (theirs.read().expect("reads"), own.read().expect("reads"));
    let names = |txn: &twinpi::store::txn::ReadTxn, name: &str| {
        txn.get(&key::Projects(&index(name))).expect("reads")
    };
    assert_eq!(names(&all, "ann/dev"), names(&here, "ann/dev"));
    assert!(names(&all, "bob/x").is_some() && names(&here, "bob/x").is_none());
    let user = UserName::parse("user8").expect("valid");
    let record = |txn: &twinpi::store::txn::ReadTxn| -> Option<Dict> {
        txn.get(&key::User(&user)).expect("reads")
    };
    assert!(record(&here).is_some());
    assert_eq!(record(&all), record(&here));
    let last = own.clock().now().expect("not empty");
    for (_, entry) in own.entries(Serial::FIRST, last, usize::MAX).expect("reads") {
        let entry = RawEntry::parse(&entry).expect("an entry");
        assert!(entry.changes().all(|change| !change.path.starts_with("bob/x/")));
    }
    let connection = own.pool().get().expect("a connection");
    let mut check = twinpi::store::check::LogCheck::begin(&connection).expect("reads");
    let check = check.as_mut().expect("not empty");
    let mut said = Vec::new();
    while check.step(&connection, &mut |line| said.push(line)).expect("reads") {}
    assert_eq!(said, [""; 0]);
    assert_eq!(check.serials, last.get() + 1);
    assert!(0 < check.elided && check.entries < check.serials);
}

/// The answer to a poll for all from `from` on, as a replica with this filter asks.
pub fn poll(master: &MasterNode, from: u64, part: Option<&str>, accept: &str) -> Response {
    let signer = signer(REPLICA);
    let part = part.map(|part| format!("?replicate={part}")).unwrap_or_default();
    let target = format!("{}{from}-{part}", wire::CHANGELOG);
    let ask = |headers: &[(&str, &str)]| {
        let request = request(Method::Get, &target, headers, b"");
        match master.master.changelog(&request, from, true) {
            Reply::Now(response) => response,
            _ => panic!("there is something"),
        }
    };
    let usual = [
        (wire::REPLICA_UUID, REPLICA),
        (wire::EXPECTED_PRIMARY, MASTER),
        (wire::TWINPI_VERSION, "0"),
        ("Accept", accept),
    ];
    let first = ask(&usual);
    let nonce = first.header(wire::NONCE).expect("a nonce").to_owned();
    let mut lent = twinpi::http::request::Headers::default();
    lent.push(wire::NONCE, nonce);
    signer.learn(&lent);
    let proof = proof(&signer, &target);
    ask(&[&usual[..], &[(proof.0.as_str(), proof.1.as_str())]].concat())
}

#[test]
fn what_is_left_out_is_never_sent_and_the_position_is_the_masters() {
    let master = master();
    let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
    replica.reaches(serial(39));
    check(&master, &replica);
    // As they come, one by one. Where this node once was, it knows the chain.
    let before = replica.home.store.position().expect("reads").expect("not empty");
    for n in 0..5 {
        replica.reaches(projects(&master.home, &["bob/x"], &format!("{PRIVATE}-later-{n}")));
    }
    let known = replica.home.store.chain_at(before.serial).expect("reads");
    assert_eq!(known, Some(before.chain));
    replica.reaches(projects(&master.home, &["ann/dev"], "own-later"));
    check(&master, &replica);
    assert_eq!(replica.replica.status_json().expect("reads")["replicate"][0], "ann/dev");
    let seen = &master.master.replicas_json()[REPLICA];
    assert_eq!(seen["replicate"], serde_json::json!(["ann/dev"]));
    assert_eq!(seen["state"], "follows");

    let all = poll(&master, 40, None, wire::ACCEPT_PIECES);
    assert_eq!(all.header(wire::REPLICATE), None);
    // So few serials that they are not compressed.
    let part = poll(&master, 40, Some("ann/dev"), wire::ACCEPT_PIECES);
    assert_eq!(part.header(wire::REPLICATE), Some("ann/dev"));
    let part = body_of(part).expect("whole");
    let is_in = |text: &str| part.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(is_in("own-later") && !is_in(&format!("{PRIVATE}-later")) && !is_in("bob/x"));
    for (part, accept, status) in [
        (Some("ann/dev"), wire::ACCEPT_STREAM, 400),
        (Some("ann/dev"), "application/octet-stream", 400),
        (Some("ann"), wire::ACCEPT_PIECES, 400),
    ] {
        assert_eq!(poll(&master, 0, part, accept).status, status, "{part:?} {accept}");
    }
}

#[test]
fn a_long_run_of_what_is_left_out_costs_next_to_nothing() {
    let home = Home::new();
    home.commit("ann");
    for n in 0..3000 {
        let name = Digest::of(format!("{n}").as_bytes()).hex();
        projects(&home, &[&format!("bob/x{n}")], &format!("{PRIVATE}-{name}"));
    }
    let master = MasterNode::of(home, MASTER);
    let body = |part| {
        let answer = poll(&master, 0, part, wire::ACCEPT_PIECES);
        body_of(answer).expect("whole")
    };
    let (all, part) = (body(None), body(Some("ann/dev")));
    assert!(part.len() < 1000 && 100_000 < all.len(), "{} of {} bytes", part.len(), all.len());
    let is_in = |text: &str| part.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(is_in("USER") && !is_in(PRIVATE) && !is_in("bob"));
    let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
    replica.reaches(serial(3000));
    assert_eq!(master.home.chain(), replica.home.chain());
    let log = replica.home.store.entries(Serial::FIRST, serial(3000), usize::MAX).expect("reads");
    assert_eq!((log.len(), log[1].clone()), (2, (serial(3000), empty_entry())));
}

#[test]
fn it_goes_on_after_a_cut_and_a_changed_byte_anywhere() {
    let master = master();
    for (n, fault) in
        [Fault::CutAfter(100), Fault::EndAfter(700), Fault::Lie, Fault::CutAfter(0), Fault::Lie]
            .into_iter()
            .enumerate()
    {
        master.server.spoil("/+changelog/", fault);
        let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
        replica.reaches(projects(&master.home, &["ann/dev"], &format!("fault-{n}")));
        check(&master, &replica);
        replica.replica.stop();
        let dir = replica.home.dir.clone();
        drop(replica);
        projects(&master.home, &["bob/x"], &format!("{PRIVATE}-{n}"));
        let again = follow(Home::open(dir), &master.url(), &["ann/dev"]);
        again.reaches(master.home.now().expect("not empty"));
        check(&master, &again);
    }
}

#[test]
fn files_are_brought_of_what_is_taken_over() {
    let master = MasterNode::start();
    let path = master.home.upload("x-1.0.whl", b"some bytes");
    let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
    assert_eq!(replica.has_file(&path), b"some bytes");
    let other = follow(Home::new(), &master.url(), &["bob/x"]);
    other.reaches(serial(0));
    becomes(&other, State::Following);
    let counts = other.home.store.wanted_counts().expect("reads");
    assert_eq!((counts.wanted, other.home.bytes(&path)), (0, None));
}

#[test]
fn a_history_that_is_another_one_is_told_where_something_was_left_out() {
    let master = master();
    let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
    replica.reaches(serial(39));
    replica.replica.stop();
    let dir = replica.home.dir.clone();
    drop(replica);
    // The master was restored from a backup that ends within what was left out, and went on another way.
    let older = Home::new();
    let entries = master.home.store.entries(Serial::FIRST, serial(36), usize::MAX).expect("reads");
    older.writer.apply(&entries, None, &|_| false).expect("applies");
    older.writer.adopt_timelines(&master.home.store.timelines()).expect("in order");
    let older = MasterNode::of(older, MASTER);
    let again = follow(Home::open(dir), &older.url(), &["ann/dev"]);
    eventually(
        || again.replica.status().expect("reads").known.common.flatten().map(|_| ()),
        "the last common serial",
    );
    let common = again.replica.status().expect("reads").known.common.flatten();
    let held = again.home.store.position_up_to(serial(36)).expect("reads");
    assert_eq!(common, held.map(|at| at.serial));
    again.replica.stop();
    // It can go back to there, and on with the other one.
    let (dir, common) = (again.home.dir.clone(), common.expect("some"));
    again.home.writer.rewind(Some(common), &|_| true).expect("rewinds");
    drop(again);
    projects(&older.home, &["bob/x"], PRIVATE);
    let last = projects(&older.home, &["ann/dev"], "another way");
    let back = follow(Home::open(dir), &older.url(), &["ann/dev"]);
    back.reaches(last);
    check(&older, &back);
}

#[test]
fn nobody_follows_who_has_a_part() {
    let master = master();
    let replica = follow(Home::new(), &master.url(), &["ann/dev"]);
    replica.reaches(serial(39));
    let gate = Gate::new(&secret(), keys()).expect("random bytes");
    let below = Master::below(
        replica.home.store.clone(),
        gate,
        || MASTER.to_owned(),
        replica.replica.filter(),
    );
    let answering = below.clone();
    let handler = move |request: twinpi::http::request::Request| {
        let serial = request.path()[wire::CHANGELOG.len()..].trim_end_matches('-');
        let serial = serial.parse().expect("a number");
        let Reply::Now(mut response) = answering.changelog(&request, serial, true) else {
            panic!("nothing is parked")
        };
        answering.lend_nonce(&request, &mut response);
        let identity = wire::Identity { uuid: "b".repeat(32), master_uuid: MASTER.into() };
        wire::identify(&mut response, &identity, None);
        Reply::Now(response)
    };
    let clock = replica.home.store.clock().clone();
    let server = super::rig::Mini::start(clock, std::sync::Arc::new(handler));
    let chained = ReplicaNode::start(&server.url());
    let told = becomes(&chained, State::Refused);
    assert!(
        told.contains("replicates ann/dev only") && told.contains("follow its master"),
        "{told}"
    );

    // Promoted with the loss accepted, it serves those who need nothing that it lacks.
    let (store, writer) = (replica.home.store.clone(), replica.home.writer.clone());
    replica.replica.stop();
    let promoted = Home { store, writer, dir: replica.home.dir.clone() };
    promoted.writer.begin_timeline().expect("begins");
    let elided = promoted.store.last_elided().expect("reads").expect("some");
    let promoted = MasterNode::of(promoted, MASTER);
    let fresh = ReplicaNode::start(&promoted.url());
    becomes(&fresh, State::Gone);
    assert_eq!(poll(&promoted, 0, None, "application/octet-stream").status, 410);
    let copy = || {
        let copy = Home::new();
        let entries = master.home.store.entries(Serial::FIRST, elided, usize::MAX).expect("reads");
        copy.writer.apply(&entries, None, &|_| false).expect("applies");
        copy.writer.adopt_timelines(&master.home.store.timelines()).expect("in order");
        copy
    };
    let follow =
        |home| ReplicaNode::with(home, &promoted.url(), |o| o.master_uuid = Some(MASTER.into()));
    let sibling = follow(copy());
    sibling.reaches(promoted.home.commit("ann"));
    // The former master has changes of its own: what both share is found though the new one lacks most of it.
    let former = copy();
    former.commit("bob");
    let former = follow(former);
    let told = becomes(&former, State::Forked);
    assert!(told.contains(&format!("same history up to {elided}")), "{told}");
}

#[test]
fn a_master_that_leaves_nothing_out_is_not_followed() {
    let master = master();
    // A devpi-server, or an older twinpi, heeds no such parameter.
    let inner = master.master.clone();
    let handler = move |request: twinpi::http::request::Request| {
        let serial = request.path()[wire::CHANGELOG.len()..].trim_end_matches('-');
        let serial = serial.parse().expect("a number");
        let mut response = match inner.changelog(&request, serial, true) {
            Reply::Now(response) => response,
            _ => panic!("there is something"),
        };
        response.headers.retain(|(name, _)| name != wire::REPLICATE);
        inner.lend_nonce(&request, &mut response);
        let identity = wire::Identity { uuid: MASTER.into(), master_uuid: MASTER.into() };
        wire::identify(&mut response, &identity, None);
        Reply::Now(response)
    };
    let clock = master.home.store.clock().clone();
    let server = super::rig::Mini::start(clock, std::sync::Arc::new(handler));
    let replica = follow(Home::new(), &server.url(), &["ann/dev"]);
    let told = becomes(&replica, State::Refused);
    assert!(told.contains("--replicate ann/dev") && told.contains("devpi-server"), "{told}");
    assert_eq!(replica.home.now(), None);
}
