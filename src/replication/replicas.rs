//! Which replicas poll this master, and where they are. In memory only: a replica that comes again is known again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use crate::http::bell::Bell;
use crate::http::request::Request;
use crate::serial::Serial;
use crate::store::wanted::FilesHere;
use crate::sync::{Mutex, lock};

use super::filter::Filter;
use super::handshake::WirePosition;
use super::twins::Starts;
use super::wire;

/// How many replicas are remembered; the one that was silent for longest is forgotten first. A uuid is only taken
/// from a request whose token was right, so this guards against replicas that are set up anew again and again.
const REPLICAS_MAX: usize = 1000;
/// How long a replica counts as following after its last request ended; it asks again at once.
pub const LIVE: Duration = Duration::from_secs(60);

/// What is known of one replica.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Where it polls from.
    pub remote_ip: Option<String>,
    /// The last serial that it has or was sent.
    pub serial: Option<Serial>,
    /// The last serial that it said to have; of two nodes with this uuid the smaller one.
    pub held: Option<Serial>,
    /// By which two nodes with this uuid are told apart.
    starts: Starts,
    /// How far its files have come, if it tells.
    pub files: Option<FilesHere>,
    /// How many requests of it are open.
    pub requests: usize,
    /// How many entries' streams to it are open.
    pub streams: usize,
    /// When it asked, or was answered, last.
    pub last_request: SystemTime,
    /// The URL that it says to have.
    pub outside_url: Option<String>,
    /// Its version, if it is a node of ours.
    pub version: Option<String>,
    /// Where its history stands, if it tells.
    pub position: Option<WirePosition>,
    /// Which indexes it takes over, as it says; `None` if all.
    pub replicate: Option<Filter>,
    /// Why it is not sent anything, in the wire's word; none if it follows.
    pub refusal: Option<&'static str>,
}

impl Replica {
    /// Whether it follows: it asks just now, or did a moment ago, and is answered with entries.
    pub fn is_live(&self) -> bool {
        self.refusal.is_none() && (0 < self.requests || self.silent_for() < LIVE)
    }
    /// How it stands with this node: `follows`, `away`, or why it is refused.
    pub fn state(&self) -> &'static str {
        let default = if self.is_live() { "follows" } else { "away" };
        self.refusal.unwrap_or(default)
    }
    /// Whether it has all up to a serial.
    pub fn has(&self, serial: Serial) -> bool {
        self.refusal.is_none() && Some(serial) <= self.held
    }
    /// Whether anything of it is another than `before` that lasts longer than a request.
    fn has_moved_since(&self, before: &Self) -> bool {
        let lasting = |replica: &Self| (replica.held, replica.files, replica.refusal);
        lasting(self) != lasting(before)
    }
    /// Whether two nodes take turns under its uuid.
    pub fn are_two(&self) -> bool {
        self.starts.are_two(SystemTime::now())
    }
    /// How long it has asked nothing.
    pub fn silent_for(&self) -> Duration {
        self.last_request.elapsed().unwrap_or_default()
    }
    /// As devpi shows it in the status of a master.
    pub fn to_json(&self) -> Json {
        let at = self.last_request.duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        json!({
            "remote-ip": self.remote_ip,
            "serial": Serial::wire(self.serial),
            "in-request": self.requests > 0,
            "is-streaming": self.streams > 0,
            "last-request": at,
            "outside-url": self.outside_url,
            "version": self.version,
            "state": self.state(),
            "twins": self.are_two(),
            "silent-seconds": self.silent_for().as_secs_f64(),
            "epoch": self.position.as_ref().map(|position| position.epoch),
            "position": self.position.as_ref().map(WirePosition::to_json),
            "replicate": self.replicate.as_ref().map(Filter::to_json),
            "files-serial": self.files.map(|files| Serial::wire(files.serial)),
            "files-missing": self.files.map(|files| files.missing),
        })
    }
}

/// The replicas by uuid.
#[derive(Clone, Default)]
pub struct Replicas {
    all: Arc<Mutex<BTreeMap<String, Replica>>>,
    waits: Arc<Waits>,
    moves: Arc<Moves>,
}

/// How often anything that is known of a replica moved, and those who wait for the next time.
#[derive(Default)]
struct Moves {
    count: AtomicU64,
    bells: Mutex<BTreeMap<u64, Bell>>,
}

/// A wait for the next move; ends when it is dropped.
pub struct Watch {
    moves: Arc<Moves>,
    id: u64,
    /// Rings once anything moves.
    pub bell: Bell,
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.moves.bells).remove(&self.id);
    }
}

/// Those who wait until all replicas that follow have a serial.
#[derive(Default)]
struct Waits {
    all: Mutex<BTreeMap<u64, (Serial, Bell)>>,
    next: AtomicU64,
}

/// A wait for all replicas; ends when it is dropped.
pub struct Wait {
    waits: Arc<Waits>,
    id: u64,
    /// Rings when a replica has come to the serial and no other that follows is known to lack it.
    pub bell: Bell,
}

impl Drop for Wait {
    fn drop(&mut self) {
        lock(&self.waits.all).remove(&self.id);
    }
}

impl Replicas {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of all, by uuid.
    pub fn all(&self) -> Vec<(String, Replica)> {
        lock(&self.all).iter().map(|(uuid, replica)| (uuid.clone(), replica.clone())).collect()
    }

    /// Notes that a replica asks for what follows `held`; the request ends when the result is dropped.
    pub fn begin(&self, uuid: &str, request: &Request, held: Option<Serial>) -> Polling {
        let mut all = lock(&self.all);
        let is_new = !all.contains_key(uuid);
        if is_new {
            make_room(&mut all);
        }
        let now = SystemTime::now();
        let replica = all.entry(uuid.to_owned()).or_insert_with(|| Replica {
            remote_ip: None,
            serial: held,
            held,
            starts: Starts::default(),
            files: None,
            requests: 0,
            streams: 0,
            last_request: now,
            outside_url: None,
            version: None,
            position: None,
            replicate: None,
            refusal: None,
        });
        let header = |name| request.headers.get(name).map(str::to_owned);
        let before = replica.clone();
        replica.remote_ip = header(wire::REAL_IP).or_else(|| Some(request.peer?.ip().to_string()));
        replica.outside_url = header(wire::REPLICA_OUTSIDE_URL);
        replica.version = header(wire::TWINPI_VERSION);
        replica.position = position_of(request).or_else(|| replica.position.take());
        let filter = request.parameter(wire::REPLICATE_PARAMETER);
        replica.replicate = filter.and_then(|text| Filter::of_wire(text).ok());
        replica.refusal = None;
        if replica.starts.meet(request.headers.get(wire::START), held, now) {
            log::warn!(
                "two replicas take turns under the uuid {uuid}, now from {}: one is a copy of the other; make it anew \
                 with init",
                replica.remote_ip.as_deref().unwrap_or("a socket")
            );
        }
        replica.serial = held;
        replica.held = replica.starts.all_have(held, now);
        replica.files = files_of(request);
        replica.requests += 1;
        replica.last_request = now;
        let has_moved = is_new || replica.has_moved_since(&before);
        let least = least_held(&all);
        drop(all);
        if has_moved {
            self.moved();
        }
        self.ring(least.flatten());
        Polling { all: self.clone(), uuid: uuid.to_owned(), is_streaming: false }
    }

    /// Notes that a replica asked and was refused, since the histories differ.
    pub fn refused(&self, uuid: &str, request: &Request, why: &'static str, held: Option<Serial>) {
        drop(self.begin(uuid, request, held));
        self.change(uuid, |replica| replica.refusal = Some(why));
    }

    /// Notes what a replica tells besides polling.
    pub fn hear(&self, uuid: &str, request: &Request) {
        let files = files_of(request);
        self.change(uuid, |replica| replica.files = files.or(replica.files));
    }

    /// Begins to wait until all replicas that follow have `serial`; they may have it already.
    pub fn wait_for(&self, serial: Serial) -> Wait {
        let (id, bell) = (self.waits.next.fetch_add(1, Ordering::Relaxed), Bell::new());
        lock(&self.waits.all).insert(id, (serial, bell.clone()));
        Wait { waits: self.waits.clone(), id, bell }
    }

    /// How often a replica came, confirmed a serial or files, or was refused or taken again.
    pub fn moves(&self) -> u64 {
        self.moves.count.load(Ordering::Acquire)
    }

    /// Begins to wait for the next move after `seen`; the bell is rung at once if there was one.
    pub fn watch(&self, seen: u64) -> Watch {
        let (id, bell) = (self.waits.next.fetch_add(1, Ordering::Relaxed), Bell::new());
        lock(&self.moves.bells).insert(id, bell.clone());
        // A move from here on finds the bell; one before is seen here.
        if self.moves() != seen {
            bell.ring();
        }
        Watch { moves: self.moves.clone(), id, bell }
    }

    fn moved(&self) {
        self.moves.count.fetch_add(1, Ordering::AcqRel);
        let due = std::mem::take(&mut *lock(&self.moves.bells));
        due.values().for_each(Bell::ring);
    }

    /// Tells those who wait for a serial up to `held`.
    fn ring(&self, held: Option<Serial>) {
        let waits = lock(&self.waits.all);
        let due = waits.values().filter(|(serial, _)| Some(*serial) <= held);
        let due: Vec<Bell> = due.map(|(_, bell)| bell.clone()).collect();
        drop(waits);
        due.iter().for_each(Bell::ring);
    }

    fn change(&self, uuid: &str, change: impl FnOnce(&mut Replica)) {
        let mut all = lock(&self.all);
        let Some(replica) = all.get_mut(uuid) else { return };
        let before = replica.clone();
        change(replica);
        replica.last_request = SystemTime::now();
        let has_moved = replica.has_moved_since(&before);
        drop(all);
        if has_moved {
            self.moved();
        }
    }
}

/// How a node tells how far its files have come.
pub fn files_word(files: &FilesHere) -> String {
    format!("{}:{}", Serial::wire(files.serial), files.missing)
}

fn position_of(request: &Request) -> Option<WirePosition> {
    WirePosition::parse(request.parameter(wire::POSITION_PARAMETER)?)
}

fn files_of(request: &Request) -> Option<FilesHere> {
    let (serial, missing) = request.headers.get(wire::FILES)?.split_once(':')?;
    let serial = Serial::from_wire(serial.parse().ok()?)?;
    Some(FilesHere { serial, missing: missing.parse().ok()? })
}

/// The serial that all replicas that follow have; none if there are no such.
fn least_held(all: &BTreeMap<String, Replica>) -> Option<Option<Serial>> {
    all.values().filter(|replica| replica.is_live()).map(|replica| replica.held).min()
}

fn make_room(all: &mut BTreeMap<String, Replica>) {
    while REPLICAS_MAX <= all.len() {
        let silent = all.iter().min_by_key(|(_, r)| (r.requests > 0, r.last_request));
        let Some(uuid) = silent.map(|(uuid, _)| uuid.clone()) else { return };
        all.remove(&uuid);
    }
}

/// One open request of a replica.
pub struct Polling {
    all: Replicas,
    uuid: String,
    is_streaming: bool,
}

impl Polling {
    /// Notes that entries go out on this request.
    pub fn stream(&mut self) {
        if !std::mem::replace(&mut self.is_streaming, true) {
            self.all.change(&self.uuid, |replica| replica.streams += 1);
        }
    }
    /// Notes the last serial that went out.
    pub fn sent(&self, serial: Serial) {
        self.all.change(&self.uuid, |replica| replica.serial = Some(serial));
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        self.all.change(&self.uuid, |replica| {
            replica.requests = replica.requests.saturating_sub(1);
            if self.is_streaming {
                replica.streams = replica.streams.saturating_sub(1);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::deadline::Deadline;
    use crate::http::request::{Headers, Method};

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            method: Method::Get,
            target: "/+changelog/0-".into(),
            headers: Headers(headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()),
            peer: Some("127.0.0.9:5".parse().expect("an address")),
            deadline: Deadline::after(Duration::from_secs(9)),
            body_length: None,
            body: Box::new(io::empty()),
        }
    }

    fn only(replicas: &Replicas) -> Replica {
        let [(_, replica)] = replicas.all().try_into().expect("one replica");
        replica
    }

    #[test]
    fn a_request_is_open_until_it_is_dropped() {
        let replicas = Replicas::new();
        let mut one = replicas.begin("a", &request(&[]), None);
        let two = replicas.begin("a", &request(&[("x-real-ip", "10.0.0.1")]), Serial::new(4));
        one.stream();
        one.stream();
        one.sent(Serial::new(6).expect("valid"));
        let seen = only(&replicas);
        assert_eq!((seen.requests, seen.streams, seen.serial), (2, 1, Serial::new(6)));
        assert_eq!(seen.remote_ip.as_deref(), Some("10.0.0.1"));
        drop((one, two));
        let seen = only(&replicas);
        assert_eq!((seen.requests, seen.streams, seen.serial), (0, 0, Serial::new(6)));
    }

    #[test]
    fn a_wait_ends_when_the_last_one_that_follows_has_the_serial() {
        let (replicas, four) = (Replicas::new(), Serial::new(4).expect("valid"));
        let ask = |uuid: &str, held| drop(replicas.begin(uuid, &request(&[]), Serial::new(held)));
        ask("a", 3);
        ask("b", 3);
        let wait = replicas.wait_for(four);
        let later = replicas.wait_for(four.next());
        ask("a", 4);
        assert!(!wait.bell.is_rung());
        ask("b", 5);
        assert!(wait.bell.is_rung() && !later.bell.is_rung());
        drop((wait, later));
        assert!(lock(&replicas.waits.all).is_empty());
    }

    #[test]
    fn whoever_watches_hears_of_a_move_and_of_nothing_else() {
        let replicas = Replicas::new();
        let ask = |held, headers: &[_]| {
            drop(replicas.begin("a", &request(headers), Serial::new(held)));
        };
        ask(3, &[]);
        let (seen, calm) = (replicas.moves(), replicas.watch(replicas.moves()));
        ask(3, &[]);
        assert!(!calm.bell.is_rung());
        for step in [(4, vec![]), (4, vec![(wire::FILES, "4:0")])] {
            let watch = replicas.watch(replicas.moves());
            ask(step.0, &step.1);
            assert!(watch.bell.is_rung());
        }
        assert!(calm.bell.is_rung() && replicas.watch(seen).bell.is_rung());
        replicas.refused("a", &request(&[]), "forked", Serial::new(4));
        assert!(seen + 2 < replicas.moves());
        drop(calm);
        assert!(lock(&replicas.moves.bells).is_empty());
    }

    #[test]
    fn the_most_silent_one_is_forgotten() {
        let replicas = Replicas::new();
        let open = replicas.begin("open", &request(&[]), None);
        for n in 0..REPLICAS_MAX {
            drop(replicas.begin(&format!("{n:05}"), &request(&[]), None));
        }
        let all = replicas.all();
        assert_eq!(all.len(), REPLICAS_MAX);
        assert!(all.iter().any(|(uuid, _)| uuid == "open"));
        assert!(!all.iter().any(|(uuid, _)| uuid == "00000"));
        drop(open);
    }
}
