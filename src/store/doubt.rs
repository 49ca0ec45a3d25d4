//! Whether this node may have been replaced while it was not looking: it was started, or everything in it stood still.
//!
//! A master that has replicas does not commit at once then. Whoever was promoted meanwhile knocks at least once a second
//! (`src/replication/herald.rs`), so a moment of patience is enough to learn of it before a change is answered for. What
//! stood still is known by a thread that looks at the clock a few times a second and finds that it came late.

use std::time::{Duration, Instant, SystemTime};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// The local value of a master that ever had replicas: who never had any was not replaced by one.
pub const HAD_REPLICAS: &str = "had-replicas";

/// How often `pulse` is to be called.
pub const PULSE: Duration = Duration::from_millis(250);
/// Whoever is later than this stood still.
const STILL: Duration = Duration::from_millis(1500);
/// How long changes wait then: longer than the longest pause of a herald.
const PATIENCE: Duration = Duration::from_millis(1400);

/// What is said to whoever changes something just then.
const RETIRED: &str =
    "this node stops being the master; nothing is known of what becomes of the request, try again";

/// The doubt of one node.
#[derive(Default)]
pub struct Doubt {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// When it was seen last that time goes on; none while nobody looks.
    seen: Option<(Instant, SystemTime)>,
    /// Until when changes wait.
    until: Option<Deadline>,
    is_over: bool,
    /// Nothing is answered for any more.
    is_retired: bool,
}

impl State {
    fn look(&mut self, (now, clock): (Instant, SystemTime)) {
        let Some((seen, seen_clock)) = self.seen.replace((now, clock)) else { return };
        // The one clock stands still with the machine, the other is set by people.
        let ago = now.saturating_duration_since(seen);
        let ago = ago.max(clock.duration_since(seen_clock).unwrap_or_default());
        if STILL < ago {
            log::warn!("everything stood still for {} s: changes wait for a moment", ago.as_secs());
            self.until = Some(Deadline::after(PATIENCE));
        }
    }
}

impl Doubt {
    /// Begins to look; if it `is_begun` in doubt, changes wait from now on.
    pub fn arm(&self, is_begun: bool) {
        let mut state = lock(&self.state);
        state.seen = Some((Instant::now(), SystemTime::now()));
        if is_begun {
            state.until = Some(Deadline::after(PATIENCE));
        }
    }

    /// Looks whether time went on as it should.
    pub fn pulse(&self) {
        let mut state = lock(&self.state);
        if state.seen.is_some() {
            state.look((Instant::now(), SystemTime::now()));
        }
    }

    /// Waits until there is no doubt.
    pub fn settle(&self) {
        let mut state = lock(&self.state);
        if state.seen.is_none() {
            return;
        }
        state.look((Instant::now(), SystemTime::now()));
        while let Some(until) = state.until.filter(|until| !until.is_past() && !state.is_over) {
            state = wait_timeout(&self.changed, state, until.remaining());
        }
    }

    /// Says that this node stops being the master, or stops before it knows whether it still is: whoever is under way is
    /// refused.
    pub fn retire(&self) {
        let mut state = lock(&self.state);
        (state.is_over, state.is_retired) = (true, true);
        self.changed.notify_all();
    }

    /// Whether changes wait at this moment.
    pub fn is_open(&self) -> bool {
        let state = lock(&self.state);
        state.until.is_some_and(|until| !until.is_past()) && !state.is_over
    }

    /// Refuses what is under way on a node that retired.
    ///
    /// # Errors
    /// `Kind::Unavailable` if it did.
    pub fn check(&self) -> Result<()> {
        match lock(&self.state).is_retired {
            true => Err(Error::new(Kind::Unavailable, RETIRED)),
            false => Ok(()),
        }
    }

    /// Ends all waits, now and later: it is known that this node was replaced, or it stops.
    pub fn end(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_late_doubts_for_a_moment() {
        let doubt = Doubt::default();
        doubt.pulse();
        doubt.settle();
        assert!(!doubt.is_open(), "nobody looks");
        doubt.arm(false);
        doubt.pulse();
        assert!(!doubt.is_open());
        let (now, clock) = (Instant::now(), SystemTime::now());
        lock(&doubt.state).look((now + STILL / 2, clock + STILL / 2));
        assert!(!doubt.is_open(), "a little late");
        lock(&doubt.state).look((now + STILL * 2, clock + STILL / 2));
        assert!(doubt.is_open(), "late");
        doubt.end();
        assert!(!doubt.is_open());
    }

    #[test]
    fn whoever_waits_when_the_node_retires_is_refused() {
        let doubt = Doubt::default();
        doubt.arm(true);
        assert!(doubt.check().is_ok() && doubt.is_open());
        doubt.retire();
        doubt.settle();
        assert_eq!(doubt.check().expect_err("refused").kind, Kind::Unavailable);
        assert!(!doubt.is_open());
    }

    #[test]
    fn a_machine_that_slept_is_seen_by_the_clock_on_the_wall() {
        let doubt = Doubt::default();
        doubt.arm(false);
        let (now, clock) = (Instant::now(), SystemTime::now());
        lock(&doubt.state).look((now, clock - Duration::from_secs(60)));
        assert!(!doubt.is_open(), "it was set back");
        lock(&doubt.state).look((now, clock));
        assert!(doubt.is_open());
        let begun = Instant::now();
        doubt.settle();
        assert!(PATIENCE / 2 < begun.elapsed());
        assert!(!doubt.is_open());
    }
}
