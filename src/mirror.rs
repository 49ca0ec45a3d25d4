//! Mirrors: indexes that show what another server has, and keep what was asked for.
//!
//! On a master the other server is the index's `mirror_url`; on a replica it is the master, so that all nodes see one
//! log. What was learnt goes into the log only if it is new; when it was looked at last is known to this node alone.
//! Whatever waits for another server runs on threads of its own, once for any number of requests that wait for it.

pub mod files;
pub mod flights;
pub mod lanes;
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
use crate::error::Result;
use crate::http::lanes::Size;
use crate::replication::Replica;
use crate::store::growing::Arrivals;
use crate::store::{Store, Writer};

use flights::Flights;
use lanes::Lanes;
use lists::Lists;
use pages::{Asked, Times};
use upstream::Upstream;

/// Threads of one upstream that ask for pages.
const PAGES: Size = Size { threads_min: 0, threads_max: 8, queue_max: 512 };
/// Threads of one upstream that ask for its list of projects, which may take minutes.
const LISTS: Size = Size { threads_min: 0, threads_max: 2, queue_max: 16 };
/// Threads of one upstream that bring files.
const FILES: Size = Size { threads_min: 0, threads_max: 16, queue_max: 256 };
/// How long a stop waits for what is under way.
const STOP_WAIT: Duration = Duration::from_secs(5);

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
    page_lanes: Lanes,
    list_lanes: Lanes,
    file_lanes: Lanes,
}

impl Mirrors {
    /// Prepares them; nothing is asked yet.
    ///
    /// # Errors
    /// `Kind::Invalid` if certificates cannot be read.
    pub fn new(config: &Config, store: Arc<Store>, source: Source) -> Result<Arc<Self>> {
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
            page_lanes: Lanes::new("mirror", PAGES),
            list_lanes: Lanes::new("mirror-list", LISTS),
            file_lanes: Lanes::new("mirror-file", FILES),
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

    /// Ends what is under way.
    pub fn stop(&self) {
        self.upstream.shutdown();
        let deadline = Deadline::after(STOP_WAIT);
        for lanes in [&self.page_lanes, &self.list_lanes, &self.file_lanes] {
            if !lanes.close(deadline) {
                log::warn!("a thread still waits for an upstream; it is left behind");
            }
        }
    }
}
