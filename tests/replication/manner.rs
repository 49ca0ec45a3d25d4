//! How a replica shows a master who asks: by devpi's token only to one that was never known as one of this program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use twinpi::http::request::Request;
use twinpi::http::response::Reply;
use twinpi::replication::wire;

use super::rig::{Home, MASTER, Mini, ReplicaNode, eventually, serve_master};

/// Names the program on an answer, also on one that comes later.
pub fn as_twin(reply: Reply) -> Reply {
    match reply {
        Reply::Now(response) => {
            Reply::Now(response.with_header(wire::TWINPI_VERSION, wire::THIS_VERSION))
        }
        Reply::Park(mut park) => {
            let resume = park.resume;
            park.resume = Box::new(move || as_twin(resume()));
            Reply::Park(park)
        }
        Reply::Remote(job) => Reply::Remote(Box::new(move || as_twin(job()))),
    }
}

/// A master that answers as this program or as devpi-server, and keeps what it was shown.
struct Changing {
    home: Home,
    server: Mini,
    is_twin: Arc<AtomicBool>,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Changing {
    fn start(is_twin: bool) -> Self {
        let home = Home::new();
        let (_master, handler) = serve_master(&home, MASTER);
        let is_twin = Arc::new(AtomicBool::new(is_twin));
        let shown: Arc<Mutex<Vec<String>>> = Arc::default();
        let (twin, seen) = (is_twin.clone(), shown.clone());
        let answer = move |asked: Request| {
            let proof = asked.headers.get("authorization").unwrap_or("none");
            let scheme = proof.split(' ').next().unwrap_or_default();
            seen.lock().expect("whole").push(scheme.to_owned());
            let reply = handler(asked);
            if twin.load(Ordering::SeqCst) { as_twin(reply) } else { reply }
        };
        let server = Mini::start(home.store.clock().clone(), Arc::new(answer));
        Self { home, server, is_twin, shown }
    }

    /// What was shown from now on, once there were some requests.
    fn shown_next(&self) -> Vec<String> {
        self.shown.lock().expect("whole").clear();
        let is_asked = || (3 <= self.shown.lock().expect("whole").len()).then_some(());
        eventually(
            || {
                self.home.commit("more"); // answers a poll, so that there is another one
                is_asked()
            },
            "more requests",
        );
        self.shown.lock().expect("whole").clone()
    }

    fn replica(&self, home: Home, uuid: Option<&str>) -> ReplicaNode {
        let uuid = uuid.map(str::to_owned);
        ReplicaNode::with(home, &self.server.url(), |options| options.master_uuid = uuid)
    }
}

#[test]
fn devpi_is_shown_its_token_and_this_program_is_not() {
    for (is_twin, scheme, other) in [(false, "Bearer", "Twinpi"), (true, "Twinpi", "Bearer")] {
        let master = Changing::start(is_twin);
        let serial = master.home.commit("ann");
        let replica = master.replica(Home::new(), None);
        replica.reaches(serial);
        let shown = master.shown_next();
        let is = |word: &str| shown.iter().any(|shown| shown.eq_ignore_ascii_case(word));
        assert!(is(scheme) && !is(other), "{shown:?}");
    }
}

#[test]
fn a_master_that_turns_into_devpi_gets_no_token_of_devpis() {
    let master = Changing::start(true);
    let serial = master.home.commit("ann");
    let replica = master.replica(Home::new(), None);
    replica.reaches(serial);
    master.shown_next();
    master.is_twin.store(false, Ordering::SeqCst);
    assert!(!master.shown_next().contains(&"Bearer".to_owned()));
    let ReplicaNode { home, replica, .. } = replica;
    replica.stop();
    let again = master.replica(home, Some(MASTER));
    assert!(!master.shown_next().contains(&"Bearer".to_owned()), "nor after a restart");
    let home = Home::new();
    let other = "f".repeat(32);
    home.writer.set_local_value("twin-master", Some(other.as_bytes())).expect("written");
    drop(again);
    let _moved = master.replica(home, Some(MASTER));
    eventually(
        || master.shown_next().contains(&"Bearer".to_owned()).then_some(()),
        "the mark is for the master that it was made for",
    );
}
