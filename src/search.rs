//! Search: an index of its own in the server's folder, filled behind the log, and the questions to it.
//!
//! The index has what stages hold: names, metadata, documentation. Names of mirrors' projects are not in it: they are
//! in memory, sorted, and asked there. Who may read what is not in it either: each question says which indexes count.

#[cfg(test)]
mod bench;
mod fill;
mod find;
mod gather;
mod indexer;
pub mod query;
#[cfg(test)]
mod scenes;
mod schema;
pub mod text;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use r2d2_sqlite::SqliteConnectionManager;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::serial::Serial;
use crate::stop::spawn;
use crate::store::Store;
use crate::sync::{Mutex, lock};

pub use find::{Found, Hit, MayRead, PageHit};
use indexer::Indexer;
use schema::Stand;

/// Where the index stands, for those who ask while it is being written.
pub struct State {
    serial: Mutex<Option<Serial>>,
    readers: Mutex<Option<Readers>>,
    damaged: (Sender<()>, Receiver<()>),
}

/// Connections that search.
type Readers = r2d2::Pool<SqliteConnectionManager>;

impl Default for State {
    fn default() -> Self {
        let (serial, readers) = (Mutex::default(), Mutex::default());
        Self { serial, readers, damaged: bounded(1) }
    }
}

impl State {
    fn set(&self, stand: Option<Stand>) {
        *lock(&self.serial) = stand.map(|stand| stand.serial);
    }
    fn serial(&self) -> Option<Serial> {
        *lock(&self.serial)
    }
    fn set_readers(&self, readers: Readers) {
        *lock(&self.readers) = Some(readers);
    }
    /// Where it is said that a search met damage.
    fn damage(&self) -> Receiver<()> {
        self.damaged.1.clone()
    }
}

/// The index of a running node.
pub struct Search {
    state: Arc<State>,
    stop: Sender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Search {
    /// Opens the index of a folder, made anew if it cannot be used, and begins to bring it up to date.
    ///
    /// # Errors
    /// `Kind::Internal` if the folder cannot be written to.
    pub fn start(dir: &Path, store: Arc<Store>) -> Result<Self> {
        let (stop, stopped) = bounded(1);
        let state = Arc::new(State::default());
        let indexer = Indexer::open(dir, store, state.clone(), stopped)?;
        let thread = spawn("search", move || indexer.run())?;
        Ok(Self { state, stop, thread: Mutex::new(Some(thread)) })
    }
    /// All up to this serial can be found; `None` while the index is made for the first time.
    pub fn serial(&self) -> Option<Serial> {
        self.state.serial()
    }
    /// Runs `ask` on a connection of its own. An index that turns out to be damaged is made anew.
    fn with<T>(&self, ask: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let readers = lock(&self.state.readers).clone();
        let readers = readers.ok_or_else(|| Error::unavailable("there is no search yet"))?;
        let connection = readers.get()?;
        let txn = connection.unchecked_transaction()?;
        ask(&txn).map_err(|error| match indexer::is_damage(&error) {
            true => {
                // There is room for one word, and one is enough.
                self.state.damaged.0.try_send(()).unwrap_or_default();
                Error::unavailable("the search index is damaged and is made anew").caused_by(error)
            }
            false => error,
        })
    }
    /// Ends its thread. What it has written so far stays.
    pub fn stop(&self) {
        // There is room for one word, and one is enough.
        self.stop.try_send(()).unwrap_or_default();
        if let Some(thread) = lock(&self.thread).take() {
            drop(thread.join());
        }
    }
}

/// Makes the index of a folder anew; `tell` hears how many projects were put in since it was told last.
///
/// # Errors
/// `Kind::Internal` if a database fails.
pub fn make_anew(dir: &Path, store: Arc<Store>, tell: &mut dyn FnMut(u64)) -> Result<()> {
    let (_running, stopped) = bounded(1);
    schema::remove(dir)?;
    Indexer::open(dir, store, Arc::default(), stopped)?.make_anew(tell)
}
