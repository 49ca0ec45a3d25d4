//! Mirrors: indexes that show what another server has, and keep what was asked for.
//!
//! On a master the other server is the index's `mirror_url`; on a replica it is the master, so that all nodes see one
//! log. What was learnt goes into the log only if it is new; when it was looked at last is known to this node alone.
//! Whatever waits for another server runs on threads of its own, once for any number of requests that wait for it.

pub mod files;
pub mod flights;
pub mod lists;
pub mod names;
pub mod pages;
pub mod parse;
pub mod record;
#[cfg(test)]
mod scenes;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::http::lanes::{Lane, Size};
use crate::replication::Replica;
use crate::store::growing::Arrivals;
use crate::store::{Store, Writer};

use flights::Flights;
use lists::Lists;
use pages::{Asked, Times};
use upstream::Upstream;

/// Threads that ask for pages.
const PAGES: Size = Size { threads_min: 0, threads_max: 16, queue_max: 1024 };
/// Threads that ask for lists of projects, which may take minutes.
const LISTS: Size = Size { threads_min: 0, threads_max: 4, queue_max: 64 };
/// Threads that bring files.
const FILES: Size = Size { threads_min: 0, threads_max: 16, queue_max: 256 };
/// How long a stop waits for what is under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Work on a lane of its own.
pub type Work = Box<dyn FnOnce() + Send>;

/// Where mirrors learn from.
pub enum Source {
    /// The upstream itself; what is learnt is committed here.
    Upstream(Arc<Writer>),
    /// The master, which commits what it learns; it comes back in the log.
    Master(Arc<Replica>),
}

/// All mirrors of a node.
pub struct Mirrors {
    store: Arc<Store>,
    source: Source,
    upstream: Arc<Upstream>,
    /// How long a page counts as fresh where its index does not say.
    expiry: Duration,
    is_offline: bool,
    times: Times,
    asking: Flights<Asked>,
    arrivals: Arrivals,
    lists: Lists,
    pages: Lane<Work>,
    list_lane: Lane<Work>,
    files: Lane<Work>,
}

impl Mirrors {
    /// Prepares them; nothing is asked yet.
    ///
    /// # Errors
    /// `Kind::Invalid` if certificates cannot be read.
    pub fn new(config: &Config, store: Arc<Store>, source: Source) -> Result<Arc<Self>> {
        let run = |work: Work| work();
        Ok(Arc::new(Self {
            store,
            source,
            upstream: Arc::new(Upstream::new(config.request_timeout)?),
            expiry: config.mirror_cache_expiry,
            is_offline: config.offline_mode,
            times: Times::default(),
            asking: Flights::default(),
            arrivals: Arrivals::default(),
            lists: Lists::new(config),
            pages: Lane::new("mirror", PAGES, run),
            list_lane: Lane::new("mirror-list", LISTS, run),
            files: Lane::new("mirror-file", FILES, run),
        }))
    }

    /// The store that they write to.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where they learn from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The way out to other servers.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The way out, for work that goes on by itself.
    fn upstream_handle(&self) -> Arc<Upstream> {
        self.upstream.clone()
    }

    /// Files on their way in.
    fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Whether nothing may be asked for (`--offline-mode`).
    pub fn is_offline(&self) -> bool {
        self.is_offline
    }

    /// Runs work that asks for a page.
    ///
    /// # Errors
    /// `Kind::Unavailable` if too much of it waits.
    pub fn run_page(&self, work: Work) -> Result<()> {
        self.pages.submit(work).map_err(|_| too_much())
    }

    /// Runs work that asks for a list.
    ///
    /// # Errors
    /// `Kind::Unavailable` if too much of it waits.
    pub fn run_list(&self, work: Work) -> Result<()> {
        self.list_lane.submit(work).map_err(|_| too_much())
    }

    /// Runs work that brings a file.
    ///
    /// # Errors
    /// `Kind::Unavailable` if too much of it waits.
    pub fn run_file(&self, work: Work) -> Result<()> {
        self.files.submit(work).map_err(|_| too_much())
    }

    /// Ends what is under way.
    pub fn stop(&self) {
        self.upstream.shutdown();
        let deadline = Deadline::after(STOP_WAIT);
        for lane in [&self.pages, &self.list_lane, &self.files] {
            lane.close();
            if !lane.join(deadline) {
                log::warn!("a thread still waits for an upstream; it is left behind");
            }
        }
    }
}

fn too_much() -> Error {
    Error::unavailable("too many requests wait for upstream indexes")
}
