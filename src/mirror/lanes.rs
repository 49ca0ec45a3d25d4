//! Threads that wait for upstreams: some for each upstream, so that one that is slow holds up nobody but itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::lanes::{Lane, Size};
use crate::sync::{Mutex, lock};

/// Upstreams with threads of their own; those that come while so many are busy share some.
const UPSTREAMS_MAX: usize = 64;

/// Work on a thread of its own.
pub type Work = Box<dyn FnOnce() + Send>;

/// Threads for one sort of work, by upstream.
pub struct Lanes {
    name: &'static str,
    size: Size,
    lanes: Mutex<HashMap<String, Arc<Lane<Work>>>>,
}

impl Lanes {
    /// So many threads and so much waiting work for each upstream. No thread is started before there is work.
    pub fn new(name: &'static str, size: Size) -> Self {
        Self { name, size, lanes: Mutex::default() }
    }

    /// Has a thread of an upstream do something.
    ///
    /// # Errors
    /// `Kind::Unavailable` if too much waits for this upstream.
    pub fn submit(&self, upstream: &str, work: Work) -> Result<()> {
        let lane = self.lane(upstream);
        lane.submit(work)
            .map_err(|_| Error::unavailable("too many requests wait for upstream indexes"))
    }

    fn lane(&self, upstream: &str) -> Arc<Lane<Work>> {
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get(upstream) {
            return lane.clone();
        }
        if UPSTREAMS_MAX <= lanes.len() {
            // Whoever is about to submit something has a handle.
            lanes.retain(|_, lane| {
                let is_used = 1 < Arc::strong_count(lane) || !lane.is_idle();
                if !is_used {
                    lane.close();
                }
                is_used
            });
        }
        let upstream = if lanes.len() < UPSTREAMS_MAX { upstream } else { "" };
        let new = || Arc::new(Lane::new(self.name, self.size, |work: Work| work()));
        lanes.entry(upstream.to_owned()).or_insert_with(new).clone()
    }

    /// Ends all threads once they are through; false if some still run at the deadline. Nothing may be submitted then.
    pub fn close(&self, deadline: Deadline) -> bool {
        let lanes: Vec<_> = lock(&self.lanes).values().cloned().collect();
        for lane in &lanes {
            lane.close();
        }
        let late = lanes.iter().filter(|lane| !lane.join(deadline)).count();
        late == 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const SIZE: Size = Size { threads_min: 0, threads_max: 1, queue_max: 1 };

    #[test]
    fn a_slow_upstream_holds_up_itself_alone() {
        let lanes = Lanes::new("test", SIZE);
        let (free, stuck) = mpsc::channel::<()>();
        lanes.submit("slow", Box::new(move || assert!(stuck.recv().is_err()))).expect("room");
        while lanes.submit("slow", Box::new(|| ())).is_ok() {}
        for number in 0..2 * UPSTREAMS_MAX {
            let (done, was_done) = mpsc::channel();
            let work = move || done.send(()).expect("waited for");
            lanes.submit(&format!("fast-{number}"), Box::new(work)).expect("room");
            was_done.recv_timeout(Duration::from_secs(5)).expect("done");
        }
        assert!(lock(&lanes.lanes).len() <= UPSTREAMS_MAX + 1);
        assert!(lock(&lanes.lanes).contains_key("slow"));
        drop(free);
        assert!(lanes.close(Deadline::after(Duration::from_secs(5))));
    }
}
