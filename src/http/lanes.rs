//! Lanes: pools of worker threads, each with one bounded queue.
//!
//! A lane keeps a few threads and starts more while work waits, up to its maximum; what it started beyond the few goes
//! again after a while. Threads of a full-grown lane cost little memory, those that never ran none.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// Handlers parse JSON and run SQLite; small stacks are for tiny_http's threads only. Untouched pages cost nothing.
const STACK_BYTES: usize = 2 * 1024 * 1024;
/// How long a thread above the minimum waits for work before it goes.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How many threads and how much waiting work a lane may have.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Threads that stay.
    pub threads_min: usize,
    /// Threads at most.
    pub threads_max: usize,
    /// Work that waits for a thread, at most.
    pub queue_max: usize,
}

/// One pool.
pub struct Lane<T: Send + 'static> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    name: &'static str,
    size: Size,
    state: Mutex<State<T>>,
    wake: Condvar,
    run: Box<dyn Fn(T) + Send + Sync>,
}

struct State<T> {
    queue: VecDeque<T>,
    /// Threads that wait for work.
    idle: usize,
    /// Threads that live.
    live: usize,
    started: usize,
    is_closed: bool,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Lane<T> {
    /// A lane that runs `run` on each piece of work; starts its threads when work comes.
    pub fn new(name: &'static str, size: Size, run: impl Fn(T) + Send + Sync + 'static) -> Self {
        let state = State {
            queue: VecDeque::new(),
            idle: 0,
            live: 0,
            started: 0,
            is_closed: false,
            threads: Vec::new(),
        };
        let (state, wake) = (Mutex::new(state), Condvar::new());
        Self { shared: Arc::new(Shared { name, size, state, wake, run: Box::new(run) }) }
    }

    /// Queues a piece of work.
    ///
    /// # Errors
    /// The work, if the queue is full or the lane is closed.
    pub fn submit(&self, work: T) -> Result<(), T> {
        let mut state = lock(&self.shared.state);
        let queue_max = self.shared.size.queue_max.saturating_add(state.idle);
        if state.is_closed || state.queue.len() >= queue_max {
            return Err(work);
        }
        state.queue.push_back(work);
        if state.idle >= state.queue.len() {
            drop(state);
            self.shared.wake.notify_one();
        } else if state.live < self.shared.size.threads_max {
            self.grow(&mut state);
        }
        Ok(())
    }

    /// Starts one more thread. If the system gives none, the work waits for those that live.
    fn grow(&self, state: &mut State<T>) {
        state.threads.retain(|thread| !thread.is_finished());
        let shared = self.shared.clone();
        let name = format!("{}-{}", self.shared.name, state.started);
        let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
        match thread.spawn(move || shared.work()) {
            Ok(thread) => {
                state.threads.push(thread);
                state.live += 1;
                state.started += 1;
            }
            Err(e) => log::error!("cannot start a thread for lane {}: {e}", self.shared.name),
        }
    }

    /// How much work waits, and how many threads live.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = lock(&self.shared.state);
        (state.queue.len(), state.live)
    }

    /// Whether there is nothing to do and nothing under way.
    pub fn is_idle(&self) -> bool {
        let state = lock(&self.shared.state);
        state.queue.is_empty() && state.idle == state.live
    }

    /// Takes no more work; the threads end when the queue is empty.
    pub fn close(&self) {
        lock(&self.shared.state).is_closed = true;
        self.shared.wake.notify_all();
    }

    /// Waits for the threads of a closed lane; false if some still run at the deadline.
    pub fn join(&self, deadline: Deadline) -> bool {
        let threads = std::mem::take(&mut lock(&self.shared.state).threads);
        join_all(threads, deadline)
    }
}

/// Waits for threads that were told to end; false if some still run at the deadline.
pub(super) fn join_all(threads: Vec<JoinHandle<()>>, deadline: Deadline) -> bool {
    const LOOK_AGAIN: Duration = Duration::from_millis(2);
    for thread in threads {
        while !thread.is_finished() {
            if deadline.is_past() {
                return false;
            }
            thread::sleep(LOOK_AGAIN); // std joins without a limit only
        }
        if thread.join().is_err() {
            log::error!("a worker thread ended by a panic");
        }
    }
    true
}

impl<T> Shared<T> {
    fn work(&self) {
        while let Some(work) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| (self.run)(work))).is_err() {
                log::error!("a panic reached the worker of lane {}", self.name);
            }
        }
    }

    /// The next piece of work; none when this thread should end.
    fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let mut deadline = None;
        loop {
            if let Some(work) = state.queue.pop_front() {
                return Some(work);
            }
            let deadline = *deadline.get_or_insert_with(|| Deadline::after(IDLE_MAX));
            let may_go = state.live > self.size.threads_min && deadline.is_past();
            if state.is_closed || may_go {
                state.live -= 1;
                return None;
            }
            let span = if deadline.is_past() { IDLE_MAX } else { deadline.remaining() };
            state.idle += 1;
            state = wait_timeout(&self.wake, state, span);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

    use super::*;

    fn size(threads_max: usize, queue_max: usize) -> Size {
        Size { threads_min: 1, threads_max, queue_max }
    }

    fn held_lane(size: Size) -> (Lane<u32>, Sender<()>, Receiver<u32>) {
        let (release, held) = bounded::<()>(0);
        let (tell, told) = unbounded();
        let lane = Lane::new("test", size, move |n: u32| {
            let _ = tell.send(n);
            let _ = held.recv();
        });
        (lane, release, told)
    }

    #[test]
    fn a_lane_grows_to_its_maximum_and_then_queues_to_its_bound() {
        let (lane, release, told) = held_lane(size(2, 3));
        for n in 0..2 {
            lane.submit(n).unwrap();
            told.recv().unwrap(); // runs
        }
        for n in 2..5 {
            lane.submit(n).unwrap();
        }
        assert_eq!(lane.submit(5), Err(5));
        assert_eq!(lane.load(), (3, 2));
        drop(release);
        lane.close();
        assert_eq!(lane.submit(7), Err(7));
        assert!(lane.join(Deadline::after(Duration::from_secs(5))));
        assert_eq!(told.iter().take(3).count(), 3);
    }

    #[test]
    fn a_panic_costs_no_thread() {
        let (tell, told) = unbounded();
        let lane = Lane::new("test", size(1, 9), move |n: u32| {
            assert!(n != 1, "on purpose");
            let _ = tell.send(n);
        });
        for n in 0..3 {
            lane.submit(n).unwrap();
        }
        assert_eq!((told.recv().unwrap(), told.recv().unwrap()), (0, 2));
        assert_eq!(lane.load().1, 1);
    }

    #[test]
    fn join_gives_up_at_its_deadline() {
        let (lane, _release, told) = held_lane(size(1, 1));
        lane.submit(1).unwrap();
        told.recv().unwrap();
        lane.close();
        assert!(!lane.join(Deadline::after(Duration::from_millis(20))));
    }
}
