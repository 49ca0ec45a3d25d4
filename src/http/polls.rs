//! The keeper of parked requests: hands each back to the lane for local work when its serial is committed, its deadline
//! is there, its connection sends another request, or the node stops. A parked request holds no thread of a lane.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::dispatch::{Engine, Task};
use super::exchange::{Exchange, LaneName, busy};
use super::response::{Job, Park};
use crate::deadline::Deadline;
use crate::serial::{Serial, SerialClock};
use crate::sync::{Mutex, lock};

/// How long to sleep when nothing is parked; any wake-up comes earlier.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// All parked requests.
pub(super) struct Polls {
    clock: Arc<SerialClock>,
    state: Mutex<State>,
    next: AtomicU64,
    wake: Sender<()>,
    woken: Receiver<()>,
}

#[derive(Default)]
struct State {
    parked: HashMap<u64, Parked>,
    by_serial: BTreeSet<(Serial, u64)>,
    by_deadline: BTreeSet<(Deadline, u64)>,
    is_stopping: bool,
}

struct Parked {
    exchange: Exchange,
    wanted: Option<Serial>,
    deadline: Deadline,
    resume: Job,
}

impl Polls {
    /// A keeper without work.
    pub(super) fn new(clock: Arc<SerialClock>) -> Self {
        let (wake, woken) = bounded(1);
        Self { clock, state: Mutex::default(), next: AtomicU64::new(0), wake, woken }
    }

    /// Puts a request aside.
    pub(super) fn park(&self, exchange: Exchange, park: Park) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = exchange.connection.clone();
        // Known to the connection first: a request that comes next must find it, or be seen below.
        connection.set_poll(id);
        let Park { wanted, bell, deadline, resume } = park;
        let engine = exchange.engine.clone();
        {
            let mut state = lock(&self.state);
            if state.is_stopping {
                drop(state);
                connection.clear_poll(id);
                return exchange.answer(busy(), LaneName::Local);
            }
            let is_nearest = state.by_deadline.first().is_none_or(|(first, _)| deadline < *first);
            state.by_serial.extend(wanted.map(|wanted| (wanted, id)));
            state.by_deadline.insert((deadline, id));
            state.parked.insert(id, Parked { exchange, wanted, deadline, resume });
            // A commit from here on is seen by the keeper; one before this line is seen here.
            if is_nearest || wanted.is_some_and(|wanted| Some(wanted) <= self.clock.now()) {
                self.wake();
            }
        }
        if let Some(bell) = bell {
            bell.hear(move || engine.polls.ripen(id));
        }
        if let Some(poll) = connection.poll_in_the_way() {
            self.ripen(poll);
        }
    }

    /// Answers this one now.
    pub(super) fn ripen(&self, id: u64) {
        if let Some(parked) = lock(&self.state).take(id) {
            resume(id, parked);
        }
    }

    /// Gives this one up: its client has gone.
    pub(super) fn abandon(&self, id: u64) {
        if let Some(parked) = lock(&self.state).take(id) {
            parked.exchange.connection.clear_poll(id);
            parked.exchange.abandon();
        }
    }

    /// How many are parked.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).parked.len()
    }

    /// Answers all, and parks no more.
    pub(super) fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.wake();
    }

    /// The keeper's thread; ends after `stop`.
    pub(super) fn run(&self) {
        let moved = self.clock.watch();
        loop {
            let (ripe, nearest, is_stopping) = {
                let mut state = lock(&self.state);
                let ripe = state.take_ripe(self.clock.now());
                (ripe, state.by_deadline.first().map(|(d, _)| *d), state.is_stopping)
            };
            for (id, parked) in ripe {
                resume(id, parked);
            }
            if is_stopping {
                return;
            }
            let sleep = nearest.map_or(SLEEP_MAX, Deadline::remaining);
            select! {
                recv(moved) -> _ => {}
                recv(self.woken) -> _ => {}
                default(sleep) => {}
            }
        }
    }

    fn wake(&self) {
        let _ = self.wake.try_send(()); // full: it is awake or about to be
    }
}

impl State {
    fn take(&mut self, id: u64) -> Option<Parked> {
        let parked = self.parked.remove(&id)?;
        if let Some(wanted) = parked.wanted {
            self.by_serial.remove(&(wanted, id));
        }
        self.by_deadline.remove(&(parked.deadline, id));
        Some(parked)
    }

    fn take_ripe(&mut self, now: Option<Serial>) -> Vec<(u64, Parked)> {
        let mut ripe = Vec::new();
        while let Some(id) = self.next_ripe(now) {
            ripe.extend(self.take(id).map(|parked| (id, parked)));
        }
        ripe
    }

    fn next_ripe(&self, now: Option<Serial>) -> Option<u64> {
        let by_serial = self.by_serial.first().filter(|(wanted, _)| Some(*wanted) <= now);
        let by_deadline = || self.by_deadline.first().filter(|(deadline, _)| deadline.is_past());
        let by_stop = || self.by_deadline.first().filter(|_| self.is_stopping);
        by_serial
            .map(|(_, id)| *id)
            .or_else(|| by_deadline().map(|(_, id)| *id))
            .or_else(|| by_stop().map(|(_, id)| *id))
    }
}

fn resume(id: u64, parked: Parked) {
    let Parked { exchange, resume, .. } = parked;
    exchange.connection.clear_poll(id);
    let engine: Arc<Engine> = exchange.engine.clone();
    // A closed lane gives the task back; dropping it answers 503.
    drop(engine.local().submit_admitted(Task::Resume(exchange, resume)));
}
