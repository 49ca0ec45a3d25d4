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

use super::connections::{Connection, Key};
use super::dispatch::Engine;
use super::listen;
use super::os;
use super::sockets::{self, Found};
use super::watch::{Seen, Verdict, Watch};
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// Between two looks when nothing is suspicious.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The next look after new connections came or bytes were seen waiting: bursts are when tiny_http forgets some.
const LOOK_SOON: Duration = Duration::from_millis(15);
/// A look takes at most this part of the time: some 10 ms at 2,000 connections.
const LOAD_DIVISOR: u32 = 20;
/// A connection that is closed for so long without tiny_http letting go of it is lost.
const ZOMBIE_AFTER: Duration = Duration::from_secs(10);
/// How long a request that tiny_http had read before its connection was cut may be late.
const REMEMBER_CUT: Duration = Duration::from_secs(5);
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

    /// Sleeps for `pause`, or `LOOK_SOON` once somebody asks for it, but never less than `rest`; none on stop.
    fn sleep(&self, pause: Duration, rest: Duration) -> Option<HashSet<usize>> {
        let started = Instant::now();
        let mut end = started + pause.max(rest);
        let mut wanted = lock(&self.state);
        loop {
            if wanted.stop {
                return None;
            }
            if std::mem::take(&mut wanted.soon) {
                end = end.min((Instant::now() + LOOK_SOON).max(started + rest));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(std::mem::take(&mut wanted.broken));
            }
            wanted = wait_timeout(&self.wake, wanted, left);
        }
    }
}

/// The guard's thread; ends after `Signal::stop`.
pub(super) fn run(engine: &Arc<Engine>) {
    let mut guard = Guard::new(engine.clone());
    let (mut pause, mut rest) = (LOOK_EVERY, Duration::ZERO);
    while let Some(broken) = engine.guard.sleep(pause, rest) {
        let started = Instant::now();
        let look = catch_unwind(AssertUnwindSafe(|| {
            guard.mend_listeners(broken);
            guard.look()
        }));
        let is_suspicious = look.unwrap_or_else(|_| {
            log::error!("the connection guard panicked; it goes on");
            false
        });
        pause = if is_suspicious { LOOK_SOON } else { LOOK_EVERY };
        rest = started.elapsed() * LOAD_DIVISOR;
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
    /// Since when the socket of a connection that was cut has gone.
    cut_since: HashMap<Key, Instant>,
    stalled_since: HashMap<usize, Instant>,
    rebuilt_at: Option<Instant>,
    broken: HashSet<usize>,
}

impl Guard {
    fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            watches: HashMap::new(),
            spare: File::open("/dev/null").ok(),
            cut_since: HashMap::new(),
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
        self.forget_gone(before, &round);
        engine.clear_limbo();
        round.end_idle(&engine);
        for listener in &round.kicks {
            engine.counters.kicks.fetch_add(1, Ordering::Relaxed);
            engine.listeners[*listener].kick();
        }
        engine.counters.connections.store(round.count, Ordering::Relaxed);
        engine.counters.zombies.store(round.zombies, Ordering::Relaxed);
        round.has_pending
    }

    /// Forgets connections whose sockets have gone. Those that were cut are remembered for a while: what tiny_http had
    /// read before may still be in its queue.
    fn forget_gone(&mut self, before: Vec<Key>, round: &Round) {
        let gone: HashSet<Key> = before.into_iter().filter(|k| !round.keys.contains(k)).collect();
        let cut_since = &mut self.cut_since;
        cut_since.retain(|key, _| gone.contains(key));
        self.engine.connections.retain(|key, connection| {
            let mut is_late = || {
                let since = *cut_since.entry(*key).or_insert(round.now);
                round.now - since < REMEMBER_CUT
            };
            !gone.contains(key) || (connection.is_cut() && is_late())
        });
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
        if info.is_ended() && !seen.is_busy {
            return self.see_closed(watch);
        }
        seen.has_pending = !seen.is_busy
            && info.bytes_received != watch.quiet_bytes
            && sockets::has_pending(socket);
        self.has_pending |= seen.has_pending;
        if !seen.is_busy && watch.is_long(&seen) {
            seen.unread_bytes = os::unread(socket);
        }
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
