//! Opening a node's folder; a fresh replica of a master with a long log begins with a snapshot of it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use crate::config::{BootstrapOption, Config};
use crate::error::Result;
use crate::nodeinfo::{NodeInfo, Role};
use crate::replication::bootstrap::Bootstrap;
use crate::replication::filter::Filter;
use crate::store::{self, Store, Writer, snapshot};

use super::{End, READERS_EXTRA, change, upkeep};

/// A log with fewer entries is taken as it is: that is sooner done than a snapshot is made.
const ENTRIES_MIN: u64 = 500_000;

/// Opens the folder of a node, and settles what the node is.
///
/// # Errors
/// Those of `store::open` and `change::settle`; `Kind::Internal` if the disk fails under a snapshot.
pub(super) fn open(
    config: &Config,
    ended: &Receiver<End>,
) -> Result<(Arc<Store>, Writer, NodeInfo)> {
    let dir = &config.serverdir;
    let readers = u32::try_from(config.threads + READERS_EXTRA).unwrap_or(u32::MAX);
    let (store, writer) = store::open(dir, readers)?;
    let info = change::settle(config, &writer)?;
    let is_fresh = store.clock().now().is_none();
    let may_begin = info.role == Role::Replica
        && is_fresh
        && Filter::recorded(&store)?.is_none()
        && config.secretfile.is_some()
        && config.bootstrap != BootstrapOption::Log;
    if !may_begin {
        // The log was begun with, or a crash came after a snapshot was put in place.
        Bootstrap::sweep(dir)?;
        return Ok((store, writer, info));
    }
    let Some(link) = upkeep::link(config, &info)? else { return Ok((store, writer, info)) };
    let minimum = if config.bootstrap == BootstrapOption::Auto { ENTRIES_MIN } else { 1 };
    let sleep = |span: Duration| has_word(ended, span);
    let bootstrap = Bootstrap::new(&link, dir, minimum, &sleep);
    let Some(file) = bootstrap.take()? else { return Ok((store, writer, info)) };
    drop((store, writer));
    snapshot::install(dir, &file)?;
    bootstrap.forget()?;
    let (store, writer) = store::open(dir, readers)?;
    let info = change::settle(config, &writer)?;
    Ok((store, writer, info))
}

/// Waits for a word without taking it: it is for whoever waits for it next.
fn has_word<T>(words: &Receiver<T>, span: Duration) -> bool {
    let mut select = crossbeam_channel::Select::new();
    select.recv(words);
    !words.is_empty() || select.ready_timeout(span).is_ok()
}
