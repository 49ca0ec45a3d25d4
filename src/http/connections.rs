//! The connections that sent requests, as far as tiny_http lets them be told apart: by listener and peer address.
//!
//! Each has at most one request under way; what a client sends ahead waits here. The guard reads what a connection is
//! doing from here, and takes those out of the table that have gone.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::sync::{Mutex, lock};

/// Requests that a client may send ahead. No client of a package index does; browsers gave it up.
const AHEAD_MAX: usize = 16;

/// What tells connections apart. Two connections to one wildcard listener from the same address and port, but to
/// different addresses of this machine, would count as one; no client does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// The number of the listener.
    pub listener: usize,
    /// The other end.
    pub peer: SocketAddr,
}

/// What a connection with a request under way is doing, as far as its client can hold it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Not waiting for the client.
    Ours = 0,
    /// Waiting for bytes of the body.
    Reading = 1,
    /// Waiting for room to write a small answer.
    WritingSmall = 2,
    /// Waiting for room to write in the lane for bulk.
    WritingBulk = 3,
    /// Parked.
    Parked = 4,
}

/// One connection.
pub(super) struct Connection {
    /// None behind a unix socket, whose peers have no address.
    pub key: Option<Key>,
    /// The descriptor under which the guard saw it last; to be verified before use.
    pub descriptor: AtomicI32,
    phase: AtomicU8,
    /// How many requests it has sent.
    requests: AtomicU32,
    /// Bytes of the present request's body that were read.
    body_bytes: AtomicU64,
    is_cut: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_busy: bool,
    ahead: VecDeque<tiny_http::Request>,
    poll: Option<u64>,
}

/// What to do with a request that came in.
pub(super) enum Admission {
    /// Start it.
    Start(tiny_http::Request),
    /// It waits for the one before.
    Waits,
    /// It waits behind a parked poll, which should be answered now.
    WaitsBehindPoll(u64),
    /// The connection was cut: throw it away.
    Discard(tiny_http::Request),
    /// Too many wait: cut the connection.
    TooMany,
}

/// What follows a request that is finished.
pub(super) enum Next {
    /// Nothing yet.
    Idle,
    /// This one.
    Start(tiny_http::Request),
    /// The connection was cut; what waited is to be thrown away.
    Discard(VecDeque<tiny_http::Request>),
}

impl Connection {
    fn new(key: Option<Key>) -> Self {
        Self {
            key,
            descriptor: AtomicI32::new(-1),
            phase: AtomicU8::new(Phase::Ours as u8),
            requests: AtomicU32::new(0),
            body_bytes: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Takes a request in.
    pub(super) fn admit(&self, request: tiny_http::Request) -> Admission {
        let mut state = lock(&self.state);
        let is_cut = self.is_cut();
        if !state.is_busy {
            if is_cut {
                return Admission::Discard(request);
            }
            state.is_busy = true;
            self.begin();
            return Admission::Start(request);
        }
        // Dropping it here would wait for the answer of the one before it.
        state.ahead.push_back(request);
        match state.poll {
            _ if is_cut => Admission::Waits,
            _ if state.ahead.len() > AHEAD_MAX => Admission::TooMany,
            Some(poll) => Admission::WaitsBehindPoll(poll),
            None => Admission::Waits,
        }
    }

    /// Ends the request under way.
    pub(super) fn finish(&self) -> Next {
        let mut state = lock(&self.state);
        self.set_phase(Phase::Ours);
        if self.is_cut() {
            state.is_busy = false;
            return Next::Discard(std::mem::take(&mut state.ahead));
        }
        match state.ahead.pop_front() {
            Some(request) => {
                self.begin();
                Next::Start(request)
            }
            None => {
                state.is_busy = false;
                Next::Idle
            }
        }
    }

    fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.body_bytes.store(0, Ordering::Relaxed);
        self.set_phase(Phase::Ours);
    }

    /// Marks the request as parked under this number.
    pub(super) fn set_poll(&self, poll: u64) {
        lock(&self.state).poll = Some(poll);
        self.set_phase(Phase::Parked);
    }

    /// The request is parked no more.
    pub(super) fn clear_poll(&self, poll: u64) {
        let mut state = lock(&self.state);
        if state.poll == Some(poll) {
            state.poll = None;
            self.set_phase(Phase::Ours);
        }
    }

    /// The parked poll, if a request waits behind it.
    pub(super) fn poll_in_the_way(&self) -> Option<u64> {
        let state = lock(&self.state);
        state.poll.filter(|_| !state.ahead.is_empty())
    }

    /// The parked poll.
    pub(super) fn poll(&self) -> Option<u64> {
        lock(&self.state).poll
    }

    /// Says what the client holds up now.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// What the client holds up now.
    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            1 => Phase::Reading,
            2 => Phase::WritingSmall,
            3 => Phase::WritingBulk,
            4 => Phase::Parked,
            _ => Phase::Ours,
        }
    }

    /// Counts bytes of the body.
    pub(super) fn add_body_bytes(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the present body that were read.
    pub(super) fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// How many requests it has sent so far.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether a request is under way.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.state).is_busy
    }

    /// Whether it is to be used no more.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }

    /// From now on, no request of this connection is taken.
    pub(super) fn mark_cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    /// The same, unless a request is under way; says whether it was done.
    pub(super) fn mark_cut_if_idle(&self) -> bool {
        let state = lock(&self.state);
        if !state.is_busy {
            self.mark_cut();
        }
        !state.is_busy
    }
}

/// All connections that have a peer address.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<HashMap<Key, Arc<Connection>>>,
}

impl Connections {
    /// The connection of a request, and whether it was not known before.
    pub(super) fn of(&self, listener: usize, peer: Option<SocketAddr>) -> (Arc<Connection>, bool) {
        let Some(peer) = peer else { return (Arc::new(Connection::new(None)), false) };
        let key = Key { listener, peer };
        let mut table = lock(&self.table);
        match table.get(&key) {
            Some(connection) => (connection.clone(), false),
            None => {
                let connection = Arc::new(Connection::new(Some(key)));
                table.insert(key, connection.clone());
                (connection, true)
            }
        }
    }

    /// A new connection in place of one that was cut.
    pub(super) fn renew(&self, old: &Connection) -> Arc<Connection> {
        let connection = Arc::new(Connection::new(old.key));
        if let Some(key) = old.key {
            lock(&self.table).insert(key, connection.clone());
        }
        connection
    }

    /// The connection with this key.
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Connection>> {
        lock(&self.table).get(key).cloned()
    }

    /// Forgets connections without work unless `keeps` says otherwise.
    pub(super) fn retain(&self, mut keeps: impl FnMut(&Key, &Connection) -> bool) {
        lock(&self.table).retain(|key, connection| keeps(key, connection) || connection.is_busy());
    }

    /// All keys; taken before a scan, so that what came during the scan is not forgotten by it.
    pub(super) fn keys(&self) -> Vec<Key> {
        lock(&self.table).keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use tiny_http::TestRequest;

    use super::*;

    fn connection() -> (Connections, Arc<Connection>) {
        let all = Connections::default();
        let (connection, is_new) = all.of(0, Some("127.0.0.1:5".parse().unwrap()));
        assert!(is_new);
        (all, connection)
    }

    fn request() -> tiny_http::Request {
        TestRequest::new().into()
    }

    #[test]
    fn one_request_at_a_time_and_a_bounded_number_ahead() {
        let (_, connection) = connection();
        assert!(matches!(connection.admit(request()), Admission::Start(_)));
        for _ in 0..AHEAD_MAX {
            assert!(matches!(connection.admit(request()), Admission::Waits));
        }
        assert!(matches!(connection.admit(request()), Admission::TooMany));
        assert!(matches!(connection.finish(), Next::Start(_)));
        connection.mark_cut();
        assert!(matches!(connection.finish(), Next::Discard(left) if left.len() == AHEAD_MAX));
        assert!(matches!(connection.admit(request()), Admission::Discard(_)));
    }

    #[test]
    fn a_request_behind_a_poll_names_the_poll() {
        let (_, connection) = connection();
        assert!(matches!(connection.admit(request()), Admission::Start(_)));
        connection.set_poll(7);
        assert_eq!((connection.phase(), connection.poll_in_the_way()), (Phase::Parked, None));
        assert!(matches!(connection.admit(request()), Admission::WaitsBehindPoll(7)));
        assert_eq!(connection.poll_in_the_way(), Some(7));
        connection.clear_poll(6);
        assert_eq!(connection.poll(), Some(7));
        connection.clear_poll(7);
        assert!(matches!(connection.finish(), Next::Start(_)));
        assert!(matches!(connection.finish(), Next::Idle));
    }

    #[test]
    fn busy_connections_are_neither_forgotten_nor_cut_as_idle() {
        let (all, connection) = connection();
        assert!(matches!(connection.admit(request()), Admission::Start(_)));
        assert!(!connection.mark_cut_if_idle());
        all.retain(|_, _| false);
        assert_eq!(all.keys().len(), 1);
        assert!(matches!(connection.finish(), Next::Idle));
        assert!(connection.mark_cut_if_idle());
        all.retain(|_, _| false);
        assert!(all.keys().is_empty());
    }

    #[test]
    fn unix_peers_are_never_the_same() {
        let all = Connections::default();
        let (one, _) = all.of(0, None);
        let (two, _) = all.of(0, None);
        assert!(!Arc::ptr_eq(&one, &two) && all.keys().is_empty());
    }
}
