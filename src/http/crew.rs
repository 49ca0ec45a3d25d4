//! The crew: the fixed pool for local work, whose threads also take requests from tiny_http.
//!
//! A thread that only hands requests over would cost two switches between threads for each, a third of all that a small
//! answer costs. So one member of the crew at a time, the lead, waits in tiny_http's queue. It admits what is there (one
//! thread at a time does, so that requests of one connection keep their order), and then does the work itself; when it
//! is done it leads again, and nobody was woken. Others are woken when there is more to do than one should do alone.
//!
//! A second thread, the relief, looks every millisecond while requests come: if nobody leads because the work takes
//! long, it wakes a member to lead; if all members are busy, it leads itself, since uploads must reach their lane,
//! requests sent ahead their bound, and what is too much its 503, whatever the crew is held up by.
#![expect(
    clippy::result_large_err,
    reason = "work that finds no room comes back whole, and rarely"
)]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::dispatch::{Engine, Task};
use super::exchange::LaneName;
use super::lanes;
use crate::deadline::Deadline;
use crate::error::Result;
use crate::stop::spawn;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// How often the relief looks while requests come.
const RELIEF_EVERY: Duration = Duration::from_millis(1);
/// After so many looks without a request the relief sleeps.
const RELIEF_LOOKS: u32 = 50;
/// Work that would take one thread longer than this is shared; waking another costs some 10 microseconds.
const ALONE_NANOS_MAX: u64 = 100_000;
/// How much the time of one piece of work counts in the mean: a sixteenth.
const MEAN_SHIFT: u32 = 4;

/// The pool for local work.
pub(super) struct Crew {
    members: usize,
    queue_max: usize,
    state: Mutex<State>,
    /// Tells idle members that there is work, or nobody leads.
    work: Condvar,
    /// Tells the relief that requests come.
    active: Condvar,
    server: OnceLock<Arc<tiny_http::Server>>,
    mean_nanos: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    /// Members that wait to be woken.
    idle: usize,
    /// Whether somebody waits in tiny_http's queue.
    has_lead: bool,
    /// How often somebody led.
    turns: u64,
    is_relief_asleep: bool,
    is_closed: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// A crew that waits for its server.
    pub(super) fn new(members: usize, queue_max: usize) -> Self {
        Self {
            members,
            queue_max,
            state: Mutex::default(),
            work: Condvar::new(),
            active: Condvar::new(),
            server: OnceLock::new(),
            mean_nanos: AtomicU64::new(0),
        }
    }

    /// Starts to take from this server; gives it back if the crew has one already.
    pub(super) fn take_from(
        engine: &Arc<Engine>,
        listener: usize,
        server: Arc<tiny_http::Server>,
    ) -> Result<Option<Arc<tiny_http::Server>>> {
        let crew = engine.local();
        if let Err(server) = crew.server.set(server.clone()) {
            return Ok(Some(server));
        }
        let source = Source { engine: engine.clone(), listener, server };
        let mut threads = Vec::new();
        for number in 0..crew.members {
            let source = source.clone();
            let run = move || source.engine.local().serve(&source);
            threads.push(spawn(format!("http-local-{number}"), run)?);
        }
        threads.push(spawn("http-relief", move || source.engine.local().relieve(&source))?);
        lock(&crew.state).threads = threads;
        Ok(None)
    }

    /// Queues work; gives it back if the queue is full or the crew has gone.
    pub(super) fn submit(&self, task: Task) -> std::result::Result<(), Task> {
        self.enqueue(task, self.queue_max)
    }

    /// Queues work that was admitted before, whatever the queue's length; gives it back if the crew has gone.
    pub(super) fn submit_admitted(&self, task: Task) -> std::result::Result<(), Task> {
        self.enqueue(task, usize::MAX)
    }

    fn enqueue(&self, task: Task, queue_max: usize) -> std::result::Result<(), Task> {
        let mut state = lock(&self.state);
        if state.is_closed || state.queue.len() >= queue_max.saturating_add(state.idle) {
            return Err(task);
        }
        state.queue.push_back(task);
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.has_lead
            && let Some(server) = self.server.get()
        {
            server.unblock(); // the lead is the only one that is free
        }
        Ok(())
    }

    /// How much work waits, and how many members there are.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.queue.len(), state.threads.len().min(self.members))
    }

    /// Takes no more work; the members end when the queue is empty.
    pub(super) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.work.notify_all();
        self.active.notify_all();
        if let Some(server) = self.server.get() {
            server.unblock();
        }
    }

    /// Waits for the members of a closed crew; false if some still run at the deadline.
    pub(super) fn join(&self, deadline: Deadline) -> bool {
        let threads = std::mem::take(&mut lock(&self.state).threads);
        lanes::join_all(threads, deadline)
    }

    /// A member's thread.
    fn serve(&self, source: &Source) {
        let mut state = lock(&self.state);
        loop {
            if let Some(task) = state.queue.pop_front() {
                drop(state);
                self.run(task);
                state = lock(&self.state);
            } else if state.is_closed {
                return;
            } else if state.has_lead {
                state.idle += 1;
                state = self.work.wait(state).unwrap_or_else(|e| e.into_inner());
                state.idle -= 1;
            } else {
                state = self.lead(state, source, 1);
            }
        }
    }

    /// Waits for requests and queues them; wakes others only if they are too much for the lead, who does `own` of them
    /// at once.
    fn lead<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        source: &Source,
        own: usize,
    ) -> MutexGuard<'a, State> {
        state.has_lead = true;
        drop(state);
        let exchanges = source.receive(self.queue_max);
        let mut state = lock(&self.state);
        state.has_lead = false;
        state.turns += 1;
        if state.is_relief_asleep {
            state.is_relief_asleep = false;
            self.active.notify_one();
        }
        for exchange in exchanges {
            if state.queue.len() < self.queue_max.saturating_add(own) {
                state.queue.push_back(Task::Handle(exchange));
            } else {
                source.engine.refuse_for_load(exchange);
            }
        }
        let nanos = self.mean_nanos.load(Ordering::Relaxed).max(1);
        let alone = usize::try_from(ALONE_NANOS_MAX / nanos).unwrap_or(usize::MAX).max(1);
        for _ in 0..state.queue.len().saturating_sub(alone).min(state.idle) {
            self.work.notify_one();
        }
        state
    }

    fn run(&self, task: Task) {
        let started = Instant::now();
        // Handlers are protected already; a panic here is a defect of ours, and costs no thread either.
        if catch_unwind(AssertUnwindSafe(|| task.run(LaneName::Local))).is_err() {
            log::error!("a panic reached the crew for local work");
        }
        let nanos = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX >> MEAN_SHIFT);
        let mean = self.mean_nanos.load(Ordering::Relaxed);
        let mean = mean - (mean >> MEAN_SHIFT) + (nanos >> MEAN_SHIFT);
        self.mean_nanos.store(mean, Ordering::Relaxed); // a lost update does no harm
    }

    /// The relief's thread.
    fn relieve(&self, source: &Source) {
        let mut seen = (u64::MAX, 0);
        loop {
            thread::sleep(RELIEF_EVERY);
            let mut state = lock(&self.state);
            if state.is_closed {
                return;
            }
            let looks = if seen.0 == state.turns { seen.1 + 1 } else { 0 };
            seen = (state.turns, looks);
            if state.has_lead && looks >= RELIEF_LOOKS {
                state.is_relief_asleep = true;
                while state.is_relief_asleep && !state.is_closed {
                    state = self.active.wait(state).unwrap_or_else(|e| e.into_inner());
                }
            } else if !state.has_lead && looks > 0 && state.idle > 0 {
                self.work.notify_one();
            } else if !state.has_lead && looks > 0 {
                drop(self.lead(state, source, 0));
                self.share();
            }
        }
    }

    /// After the relief led: wakes who has become free meanwhile.
    fn share(&self) {
        let state = lock(&self.state);
        for _ in 0..state.queue.len().min(state.idle) {
            self.work.notify_one();
        }
    }
}

/// Where a crew takes requests from.
#[derive(Clone)]
struct Source {
    engine: Arc<Engine>,
    listener: usize,
    server: Arc<tiny_http::Server>,
}

impl Source {
    /// Waits for a request or a word, and admits all that is there; gives back what is for the crew.
    fn receive(&self, at_most: usize) -> Vec<super::exchange::Exchange> {
        let mut exchanges = Vec::new();
        let mut received = self.server.recv().map(Some);
        loop {
            match received {
                Ok(Some(request)) => {
                    let took =
                        AssertUnwindSafe(|| Engine::take(&self.engine, self.listener, request));
                    exchanges.extend(catch_unwind(took).unwrap_or(None));
                }
                Ok(None) => return exchanges,
                Err(e) => {
                    self.engine.see_receive_error(self.listener, &e);
                    return exchanges;
                }
            }
            if exchanges.len() > at_most {
                return exchanges;
            }
            received = self.server.try_recv();
        }
    }
}
