//! The connection guard: one thread that looks at all connections a few times a second and does what tiny_http does not.
//!
//! - It ends connections that send a head, send a body or take an answer too slowly, or are idle for too long.
//! - Above the limit of connections it ends those that are idle longest.
//! - It wakes tiny_http for connections that its pool of threads forgot (`Listener::kick`).
//! - It gives up parked requests whose client has gone.
//! - It starts another accept loop when one has ended.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::connections::{Connection, Key, Phase};
use super::dispatch::Engine;
use super::framing::HEAD_BYTES_MAX;
use super::listen::{self, ServerOptions};
use super::os::{self, ESTABLISHED, TcpInfo};
use super::sockets::{self, Found};
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// Between two looks when nothing is suspicious.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The next look after new connections came or bytes were seen waiting: bursts are when tiny_http forgets some.
const LOOK_SOON: Duration = Duration::from_millis(15);
/// A look takes at most this part of the time: some 10 ms at 2,000 connections.
const LOAD_DIVISOR: u32 = 20;
/// Bytes that wait longer than this, and no request is under way: the connection is stuck.
const KICK_AFTER: Duration = Duration::from_millis(12);
/// And again after this.
const KICK_AGAIN: Duration = Duration::from_millis(250);
/// A slow client must move so many bytes within the time for stalls.
const PROGRESS_BYTES: u64 = 16 * 1024;
/// A connection that is closed for so long without tiny_http letting go of it is lost.
const ZOMBIE_AFTER: Duration = Duration::from_secs(10);
/// Connections that wait to be accepted for so long: the accept loop has died without a word.
const ACCEPT_STALL: Duration = Duration::from_secs(1);
/// From one restart of an accept loop to the next.
const REBUILD_AFTER: Duration = Duration::from_millis(500);

/// Wakes the guard.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<Wanted>,
    wake: Condvar,
}

#[derive(Default)]
struct Wanted {
    soon: bool,
    stop: bool,
    /// Listeners whose accept loop reported its end.
    broken: HashSet<usize>,
}

impl Signal {
    /// Makes the guard look within a moment.
    pub(super) fn look_soon(&self) {
        let mut wanted = lock(&self.state);
        if !wanted.soon {
            wanted.soon = true;
            self.wake.notify_one();
        }
    }

    /// Says that a listener's accept loop has ended.
    pub(super) fn report_broken(&self, listener: usize) {
        lock(&self.state).broken.insert(listener);
        self.look_soon();
    }

    /// Ends the guard's thread.
    pub(super) fn stop(&self) {
        lock(&self.state).stop = true;
        self.wake.notify_one();
    }

    /// Sleeps for `span`, or `LOOK_SOON` once somebody asks for it; none on stop.
    fn sleep(&self, span: Duration) -> Option<HashSet<usize>> {
        let end = Instant::now() + span;
        let mut wanted = lock(&self.state);
        while !wanted.stop && !wanted.soon {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            wanted = wait_timeout(&self.wake, wanted, left);
        }
        if wanted.stop {
            return None;
        }
        if std::mem::take(&mut wanted.soon) {
            drop(wanted);
            std::thread::sleep(LOOK_SOON.min(end.saturating_duration_since(Instant::now())));
            wanted = lock(&self.state);
        }
        Some(std::mem::take(&mut wanted.broken))
    }
}

/// The guard's thread; ends after `Signal::stop`.
pub(super) fn run(engine: &Arc<Engine>) {
    let mut guard = Guard::new(engine.clone());
    let mut pause = LOOK_EVERY;
    while let Some(broken) = engine.guard.sleep(pause) {
        let started = Instant::now();
        let look = catch_unwind(AssertUnwindSafe(|| {
            guard.mend_listeners(broken);
            guard.look()
        }));
        let is_suspicious = look.unwrap_or_else(|_| {
            log::error!("the connection guard panicked; it goes on");
            false
        });
        let pace = if is_suspicious { LOOK_SOON } else { LOOK_EVERY };
        pause = pace.max(started.elapsed() * LOAD_DIVISOR);
    }
}

/// Ends all connections: those without a request under way, or really all.
pub(super) fn cut_all(engine: &Engine, also_busy: bool) {
    sockets::for_each(&engine.listeners, |_, socket, _, found| {
        let Found::Tcp(key) = found else { return };
        let may_cut = engine.connections.get(&key).is_none_or(|connection| {
            if also_busy {
                connection.mark_cut();
            }
            also_busy || connection.mark_cut_if_idle()
        });
        if may_cut {
            sockets::cut(socket);
        }
    });
}

struct Guard {
    engine: Arc<Engine>,
    watches: HashMap<u64, Watch>,
    /// Freed during a look, so that there is a descriptor to look with when all are used up.
    spare: Option<File>,
    stalled_since: HashMap<usize, Instant>,
    rebuilt_at: Option<Instant>,
    broken: HashSet<usize>,
}

/// What the guard remembers of a connection.
struct Watch {
    /// Since when it has no request under way.
    idle_since: Instant,
    requests: u32,
    /// Bytes that had come when the last request was done.
    quiet_bytes: u64,
    head_since: Option<Instant>,
    pending_since: Option<Instant>,
    kicked_at: Option<Instant>,
    phase: Phase,
    mark: (u64, Instant),
    closed_since: Option<Instant>,
}

/// What the guard sees of a connection now.
#[derive(Clone, Copy)]
struct Seen {
    info: TcpInfo,
    requests: u32,
    is_busy: bool,
    phase: Phase,
    body_bytes: u64,
    has_pending: bool,
}

/// What to do about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// It is idle since then; may go if there are too many.
    Idle(Instant),
    /// It was idle for too long.
    End,
    /// With what it did.
    Cut(&'static str),
    Kick,
    /// Give up what is parked.
    Abandon,
}

impl Guard {
    fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            watches: HashMap::new(),
            spare: File::open("/dev/null").ok(),
            stalled_since: HashMap::new(),
            rebuilt_at: None,
            broken: HashSet::new(),
        }
    }

    /// Looks at all connections; says whether it should look again soon.
    fn look(&mut self) -> bool {
        let engine = self.engine.clone();
        let before = engine.connections.keys();
        let mut round = Round::new(Instant::now());
        self.spare = None;
        sockets::for_each(&engine.listeners, |fd, socket, cookie, found| {
            round.alive.insert(cookie);
            let watch = self.watches.entry(cookie).or_insert_with(|| Watch::new(round.now));
            match found {
                Found::Tcp(key) => {
                    let connection = engine.connections.get(&key);
                    if let Some(connection) = &connection {
                        connection.descriptor.store(fd, Ordering::Relaxed);
                    }
                    round.see(&engine, socket, watch, key, connection);
                }
                Found::TcpClosed => round.see_closed(watch),
                Found::Unix(listener) => round.see_unix(socket, watch, listener),
            }
        });
        self.spare = File::open("/dev/null").ok();
        self.watches.retain(|cookie, _| round.alive.contains(cookie));
        let gone: HashSet<Key> = before.into_iter().filter(|k| !round.keys.contains(k)).collect();
        engine.connections.retain(|key| !gone.contains(key));
        round.end_idle(&engine);
        for listener in &round.kicks {
            engine.counters.kicks.fetch_add(1, Ordering::Relaxed);
            engine.listeners[*listener].kick();
        }
        engine.counters.connections.store(round.count, Ordering::Relaxed);
        engine.counters.zombies.store(round.zombies, Ordering::Relaxed);
        round.has_pending
    }

    /// Starts another accept loop where one has ended, once there are descriptors for it. Connections wait in the
    /// listener's backlog meanwhile.
    fn mend_listeners(&mut self, broken: HashSet<usize>) {
        let now = Instant::now();
        self.broken.extend(broken);
        for (number, listener) in self.engine.listeners.iter().enumerate() {
            if listener.backlog() == 0 {
                self.stalled_since.remove(&number);
            } else if now - *self.stalled_since.entry(number).or_insert(now) > ACCEPT_STALL {
                self.broken.insert(number);
            }
        }
        if self.broken.is_empty() || self.engine.is_stopping() {
            return;
        }
        let is_early = self.rebuilt_at.is_some_and(|at| now - at < REBUILD_AFTER);
        self.spare = None;
        if is_early || !sockets::has_free_descriptors() {
            return;
        }
        self.rebuilt_at = Some(now);
        for number in std::mem::take(&mut self.broken) {
            self.engine.counters.rebuilds.fetch_add(1, Ordering::Relaxed);
            log::error!("the accept loop of listener {number} has ended; starting another one");
            self.stalled_since.remove(&number);
            if let Err(e) = listen::accept_from(&self.engine, number) {
                log::error!("{e}");
                self.broken.insert(number);
            }
        }
    }
}

/// What came up in one look.
struct Round {
    now: Instant,
    alive: HashSet<u64>,
    keys: HashSet<Key>,
    count: usize,
    zombies: usize,
    has_pending: bool,
    kicks: Vec<usize>,
    idle: Vec<(Instant, Key)>,
    idle_too_long: Vec<Key>,
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            now,
            alive: HashSet::new(),
            keys: HashSet::new(),
            count: 0,
            zombies: 0,
            has_pending: false,
            kicks: Vec::new(),
            idle: Vec::new(),
            idle_too_long: Vec::new(),
        }
    }

    fn see(
        &mut self,
        engine: &Engine,
        socket: &Socket,
        watch: &mut Watch,
        key: Key,
        connection: Option<Arc<Connection>>,
    ) {
        let Ok(info) = os::tcp_info(socket) else { return };
        self.keys.insert(key);
        self.count += 1;
        let mut seen = Seen::new(info, connection.as_deref());
        seen.has_pending = !seen.is_busy
            && info.bytes_received != watch.quiet_bytes
            && sockets::has_pending(socket);
        self.has_pending |= seen.has_pending;
        match watch.judge(&seen, &engine.options, self.now) {
            Verdict::Keep => {}
            Verdict::Idle(since) => self.idle.push((since, key)),
            Verdict::Kick => self.kicks.push(key.listener),
            Verdict::Abandon => {
                if let Some(poll) = connection.and_then(|c| c.poll()) {
                    engine.polls.abandon(poll);
                }
            }
            Verdict::End => self.idle_too_long.push(key),
            Verdict::Cut(why) => {
                // A request that came since then saves an idle connection.
                let is_cut = match &connection {
                    Some(connection) if !seen.is_busy => connection.mark_cut_if_idle(),
                    Some(connection) => {
                        connection.mark_cut();
                        true
                    }
                    None => true,
                };
                if is_cut {
                    log::debug!("cutting the connection from {}: {why}", key.peer);
                    engine.counters.cut.fetch_add(1, Ordering::Relaxed);
                    sockets::reset(socket);
                }
            }
        }
    }

    fn see_closed(&mut self, watch: &mut Watch) {
        let since = *watch.closed_since.get_or_insert(self.now);
        self.zombies += usize::from(self.now - since > ZOMBIE_AFTER);
    }

    /// The proxy in front has its own limits; only what tiny_http forgets is looked for.
    fn see_unix(&mut self, socket: &Socket, watch: &mut Watch, listener: usize) {
        self.count += 1;
        if !sockets::has_pending(socket) {
            watch.pending_since = None;
            return;
        }
        self.has_pending = true;
        if watch.is_to_be_kicked(self.now) {
            self.kicks.push(listener);
        }
    }

    /// Ends those that were idle for too long, and if there are too many, those that are idle longest.
    fn end_idle(&mut self, engine: &Engine) {
        let left = self.count - self.idle_too_long.len();
        let excess = left.saturating_sub(engine.options.connections_max);
        if excess > 0 {
            log::warn!("{left} connections are too many; ending {excess} idle ones");
            self.idle.sort_unstable_by_key(|(since, _)| *since);
            self.idle_too_long.extend(self.idle.iter().take(excess).map(|(_, key)| *key));
        }
        for key in &self.idle_too_long {
            // A request that came since then saves it.
            let connection = engine.connections.get(key);
            let is_idle = connection.as_ref().is_none_or(|c| c.mark_cut_if_idle());
            let hint = connection.map_or(-1, |c| c.descriptor.load(Ordering::Relaxed));
            if is_idle && let Some(socket) = sockets::find(key, hint, &engine.listeners) {
                engine.counters.cut.fetch_add(1, Ordering::Relaxed);
                sockets::cut(&socket);
            }
        }
    }
}

impl Seen {
    fn new(info: TcpInfo, connection: Option<&Connection>) -> Self {
        Self {
            info,
            requests: connection.map_or(0, Connection::requests),
            is_busy: connection.is_some_and(Connection::is_busy),
            phase: connection.map_or(Phase::Ours, Connection::phase),
            body_bytes: connection.map_or(0, Connection::body_bytes),
            has_pending: false,
        }
    }
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self {
            idle_since: now,
            requests: 0,
            quiet_bytes: 0,
            head_since: None,
            pending_since: None,
            kicked_at: None,
            phase: Phase::Ours,
            mark: (0, now),
            closed_since: None,
        }
    }

    fn judge(&mut self, seen: &Seen, limits: &ServerOptions, now: Instant) -> Verdict {
        if seen.is_busy {
            self.requests = seen.requests;
            self.rest(seen, now);
            return self.judge_busy(seen, limits, now);
        }
        self.phase = Phase::Ours;
        if seen.has_pending && self.is_to_be_kicked(now) {
            return Verdict::Kick;
        }
        if !seen.has_pending {
            self.pending_since = None;
        }
        if seen.requests != self.requests {
            self.requests = seen.requests;
            self.rest(seen, now);
        } else if seen.info.bytes_received > self.quiet_bytes {
            let since = *self.head_since.get_or_insert(now);
            // Half of the limit again for what framing counts differently, and for a request of the next.
            if seen.info.bytes_received - self.quiet_bytes > 2 * HEAD_BYTES_MAX as u64 {
                return Verdict::Cut("its head is too long");
            }
            if now - since > limits.head_timeout {
                return Verdict::Cut("its head takes too long");
            }
        } else if now - self.idle_since > limits.idle_timeout {
            return Verdict::End;
        }
        Verdict::Idle(self.idle_since)
    }

    /// Between two requests.
    fn rest(&mut self, seen: &Seen, now: Instant) {
        self.idle_since = now;
        self.quiet_bytes = seen.info.bytes_received;
        self.head_since = None;
        self.pending_since = None;
    }

    fn judge_busy(&mut self, seen: &Seen, limits: &ServerOptions, now: Instant) -> Verdict {
        let (progress, span, why) = match seen.phase {
            Phase::Parked if seen.info.state != ESTABLISHED => return Verdict::Abandon,
            Phase::Parked | Phase::Ours => {
                self.phase = seen.phase;
                return Verdict::Keep;
            }
            Phase::Reading => (seen.body_bytes, limits.body_stall, "its body stalls"),
            Phase::WritingSmall => {
                (seen.info.bytes_acked, limits.small_write_stall, "it takes its answer too slowly")
            }
            Phase::WritingBulk => {
                (seen.info.bytes_acked, limits.write_stall, "it takes its answer too slowly")
            }
        };
        let (mark, at) = self.mark;
        if self.phase != seen.phase || progress < mark || progress - mark >= PROGRESS_BYTES {
            self.phase = seen.phase;
            self.mark = (progress, now);
        } else if now - at > span {
            self.mark = (progress, now);
            return Verdict::Cut(why);
        }
        Verdict::Keep
    }

    fn is_to_be_kicked(&mut self, now: Instant) -> bool {
        let since = *self.pending_since.get_or_insert(now);
        let is_due = now - since >= KICK_AFTER
            && self.kicked_at.is_none_or(|kicked| now - kicked >= KICK_AGAIN);
        if is_due {
            self.kicked_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS_MS: (u64, u64, u64) = (100, 1000, 200); // head, idle, stalls

    fn limits() -> ServerOptions {
        ServerOptions {
            head_timeout: Duration::from_millis(LIMITS_MS.0),
            idle_timeout: Duration::from_millis(LIMITS_MS.1),
            body_stall: Duration::from_millis(LIMITS_MS.2),
            write_stall: Duration::from_millis(LIMITS_MS.2),
            small_write_stall: Duration::from_millis(LIMITS_MS.2 / 2),
            ..ServerOptions::default()
        }
    }

    /// A connection that is looked at again and again.
    struct Scene {
        start: Instant,
        watch: Watch,
        seen: Seen,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            let info =
                TcpInfo { state: ESTABLISHED, bytes_received: 0, bytes_acked: 0, backlog: 0 };
            Self { start, watch: Watch::new(start), seen: Seen::new(info, None) }
        }

        fn at(&mut self, ms: u64) -> Verdict {
            let now = self.start + Duration::from_millis(ms);
            match self.watch.judge(&self.seen, &limits(), now) {
                Verdict::Idle(_) => Verdict::Keep,
                verdict => verdict,
            }
        }
    }

    #[test]
    fn a_head_has_its_time_however_it_drips() {
        let mut scene = Scene::new();
        for ms in (0..=100).step_by(10) {
            scene.seen.info.bytes_received += 1;
            assert_eq!(scene.at(ms), Verdict::Keep, "{ms}");
        }
        assert!(matches!(scene.at(101), Verdict::Cut(_)));
    }

    #[test]
    fn a_long_head_is_cut_at_once() {
        let mut scene = Scene::new();
        scene.seen.info.bytes_received = 2 * HEAD_BYTES_MAX as u64;
        assert_eq!(scene.at(1), Verdict::Keep);
        scene.seen.info.bytes_received += 1;
        assert!(matches!(scene.at(2), Verdict::Cut(_)));
    }

    #[test]
    fn each_request_starts_the_time_for_idleness_anew() {
        let mut scene = Scene::new();
        assert_eq!(scene.at(900), Verdict::Keep);
        (scene.seen.requests, scene.seen.info.bytes_received) = (1, 300);
        assert_eq!(scene.at(950), Verdict::Keep);
        assert_eq!(scene.at(1940), Verdict::Keep);
        assert_eq!(scene.at(1951), Verdict::End);
    }

    #[test]
    fn slow_bodies_and_slow_readers_are_cut_unless_they_get_on() {
        for phase in [Phase::Reading, Phase::WritingBulk] {
            let mut scene = Scene::new();
            (scene.seen.is_busy, scene.seen.phase) = (true, phase);
            for step in 0..10_u64 {
                let bytes = step * PROGRESS_BYTES;
                (scene.seen.body_bytes, scene.seen.info.bytes_acked) = (bytes, bytes);
                assert_eq!(scene.at(step * 190), Verdict::Keep, "{phase:?} {step}");
            }
            scene.seen.body_bytes += 1;
            scene.seen.info.bytes_acked += 1;
            assert_eq!(scene.at(9 * 190 + 200), Verdict::Keep);
            assert!(matches!(scene.at(9 * 190 + 201), Verdict::Cut(_)), "{phase:?}");
        }
        let mut small = Scene::new();
        (small.seen.is_busy, small.seen.phase) = (true, Phase::WritingSmall);
        assert_eq!(small.at(0), Verdict::Keep);
        assert!(matches!(small.at(101), Verdict::Cut(_)));
    }

    #[test]
    fn what_we_do_ourselves_is_not_held_against_a_client() {
        let mut scene = Scene::new();
        (scene.seen.is_busy, scene.seen.phase) = (true, Phase::Reading);
        assert_eq!(scene.at(0), Verdict::Keep);
        scene.seen.phase = Phase::Ours;
        assert_eq!(scene.at(5000), Verdict::Keep);
        scene.seen.phase = Phase::Reading;
        assert_eq!(scene.at(6000), Verdict::Keep);
        assert_eq!(scene.at(6100), Verdict::Keep);
    }

    #[test]
    fn parked_clients_may_wait_but_not_leave() {
        let mut scene = Scene::new();
        (scene.seen.is_busy, scene.seen.phase) = (true, Phase::Parked);
        assert_eq!(scene.at(100_000), Verdict::Keep);
        scene.seen.info.state = 8;
        assert_eq!(scene.at(100_001), Verdict::Abandon);
    }

    #[test]
    fn bytes_that_nobody_reads_bring_a_kick_now_and_then() {
        let mut scene = Scene::new();
        (scene.seen.info.bytes_received, scene.seen.has_pending) = (50, true);
        assert_eq!(scene.at(0), Verdict::Keep);
        assert_eq!(scene.at(15), Verdict::Kick);
        assert_eq!(scene.at(30), Verdict::Keep);
        scene.seen.has_pending = false;
        assert_eq!(scene.at(45), Verdict::Keep);
        scene.seen.has_pending = true;
        assert_eq!(scene.at(60), Verdict::Keep);
    }
}
