//! Serials and the clock that counts them.

use std::fmt;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::deadline::Deadline;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// The number of a committed transaction. The first is 0; an empty store has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(u32);

impl Serial {
    /// The serial of the first transaction.
    pub const FIRST: Self = Self(0);

    /// The serial with this number; `None` above 2^31-2, which the wire cannot carry.
    pub fn new(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|n| *n < i32::MAX as u32).map(Self)
    }
    /// The number.
    pub fn get(self) -> u64 {
        u64::from(self.0)
    }
    /// The serial that follows `last`; the first one when there is none yet.
    pub fn following(last: Option<Self>) -> Self {
        last.map_or(Self::FIRST, Self::next)
    }
    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
    /// The one before; `None` before the first.
    pub fn previous(self) -> Option<Self> {
        self.0.checked_sub(1).map(Self)
    }
    /// As the wire and the headers write it: -1 stands for none.
    pub fn wire(serial: Option<Self>) -> i64 {
        serial.map_or(-1, |s| i64::from(s.0))
    }
    /// Reads back what `wire` wrote; `None` on the outside for numbers that are no serial.
    pub fn from_wire(number: i64) -> Option<Option<Self>> {
        if number == -1 { Some(None) } else { Self::new(u64::try_from(number).ok()?).map(Some) }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Knows the last committed serial, and wakes those who wait for one.
///
/// Only a commit moves it. Threads that relay wait on the condition; those who watch (the keeper of parked polls)
/// are told to look again through a channel of one place.
pub struct SerialClock {
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    now: Option<Serial>,
    at: SystemTime,
    watchers: Vec<Sender<()>>,
    is_stopped: bool,
}

impl SerialClock {
    /// A clock that stands at `now`.
    pub fn new(now: Option<Serial>) -> Self {
        let state = State { now, at: SystemTime::now(), watchers: Vec::new(), is_stopped: false };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }
    /// The last committed serial.
    pub fn now(&self) -> Option<Serial> {
        lock(&self.state).now
    }
    /// When the clock last moved (the start of the process before that).
    pub fn moved_at(&self) -> SystemTime {
        lock(&self.state).at
    }
    /// Moves on to `serial` after its commit; going back is ignored.
    pub fn advance(&self, serial: Serial) {
        let mut state = lock(&self.state);
        if state.now < Some(serial) {
            state.now = Some(serial);
            state.at = SystemTime::now();
            wake(&mut state, &self.moved);
        }
    }
    /// Waits until `wanted` is committed; false if the deadline or the stop came first.
    pub fn wait_for(&self, wanted: Serial, deadline: Deadline) -> bool {
        let mut state = lock(&self.state);
        while state.now < Some(wanted) && !state.is_stopped {
            let left = deadline.remaining();
            if left.is_zero() {
                break;
            }
            state = wait_timeout(&self.moved, state, left);
        }
        Some(wanted) <= state.now
    }
    /// Ends all waits, now and later: a node that stops keeps nobody.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.is_stopped = true;
        wake(&mut state, &self.moved);
    }
    /// A channel that says "look again" after each move; several moves may share one word.
    pub fn watch(&self) -> Receiver<()> {
        let (tell, told) = bounded(1);
        lock(&self.state).watchers.push(tell);
        told
    }
}

fn wake(state: &mut State, moved: &Condvar) {
    moved.notify_all();
    state.watchers.retain(|w| !matches!(w.try_send(()), Err(TrySendError::Disconnected(()))));
}
