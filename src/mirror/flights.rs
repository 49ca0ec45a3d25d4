//! One piece of work elsewhere for any number of requests that wait for it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// Work under way, by key.
pub struct Flights<T>(Arc<Mutex<HashMap<String, Arc<Flight<T>>>>>);

/// One piece of work, and its result once it has one.
pub struct Flight<T> {
    state: Mutex<State<T>>,
    landed: Condvar,
}

enum State<T> {
    Flying,
    Landed(T),
    /// It ended without a result: it could not start, or it panicked.
    Lost,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited<T> {
    /// With the result.
    Landed(T),
    /// Without one, for there will be none.
    Lost,
    /// The deadline came first; the work goes on.
    TooLate,
}

/// The duty to end a flight; dropped without a result, the flight is lost.
pub struct Landing<T> {
    flights: Arc<Mutex<HashMap<String, Arc<Flight<T>>>>>,
    key: String,
    flight: Arc<Flight<T>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }
}

impl<T: Clone> Flights<T> {
    /// The flight under `key`; if there is none, one is begun and `start` is given the duty to end it.
    pub fn join(&self, key: &str, start: impl FnOnce(Landing<T>)) -> Arc<Flight<T>> {
        let mut flying = lock(&self.0);
        if let Some(flight) = flying.get(key) {
            return flight.clone();
        }
        let flight = Arc::new(Flight { state: Mutex::new(State::Flying), landed: Condvar::new() });
        flying.insert(key.to_owned(), flight.clone());
        drop(flying);
        start(Landing { flights: self.0.clone(), key: key.to_owned(), flight: flight.clone() });
        flight
    }
    /// The flight under `key`, if there is one.
    pub fn find(&self, key: &str) -> Option<Arc<Flight<T>>> {
        lock(&self.0).get(key).cloned()
    }
    /// How many are under way.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

impl<T: Clone> Flight<T> {
    /// Waits for the result.
    pub fn wait(&self, deadline: Deadline) -> Waited<T> {
        let mut state = lock(&self.state);
        loop {
            match &*state {
                State::Landed(value) => return Waited::Landed(value.clone()),
                State::Lost => return Waited::Lost,
                State::Flying if deadline.is_past() => return Waited::TooLate,
                State::Flying => {
                    state = wait_timeout(&self.landed, state, deadline.remaining());
                }
            }
        }
    }
}

impl<T> Landing<T> {
    /// Ends the flight: who waits gets the value, who comes later begins a new one.
    pub fn land(self, value: T) {
        self.end(State::Landed(value));
    }
    fn end(&self, state: State<T>) {
        lock(&self.flights).remove(&self.key);
        *lock(&self.flight.state) = state;
        self.flight.landed.notify_all();
    }
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let is_flying = matches!(*lock(&self.flight.state), State::Flying);
        if is_flying {
            self.end(State::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    #[test]
    fn all_who_come_while_it_flies_share_one_flight() {
        let flights = Flights::<u32>::default();
        let begun = AtomicUsize::new(0);
        let mut landing = None;
        for _ in 0..3 {
            flights.join("a", |duty| {
                begun.fetch_add(1, Ordering::SeqCst);
                landing = Some(duty);
            });
        }
        let flight = flights.join("a", |_| unreachable!("one is under way"));
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert_eq!(flight.wait(Deadline::after(Duration::ZERO)), Waited::TooLate);
        let waiting = thread::spawn(move || flight.wait(soon()));
        landing.expect("begun").land(7);
        assert_eq!(waiting.join().expect("waits"), Waited::Landed(7));
        assert_eq!(flights.count(), 0);
    }

    #[test]
    fn work_that_was_dropped_keeps_nobody_waiting() {
        let flights = Flights::<u32>::default();
        assert_eq!(flights.join("a", drop).wait(soon()), Waited::Lost);
        let again = flights.join("a", |duty| duty.land(1));
        assert_eq!(again.wait(soon()), Waited::Landed(1));
    }
}
