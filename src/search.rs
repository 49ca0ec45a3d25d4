//! Search: an index of its own in the server's folder, filled behind the log, and the questions to it.
//!
//! The index has what stages hold: names, metadata, documentation. Names of mirrors' projects are not in it: they are
//! in memory, sorted, and asked there. Who may read what is not in it either: each question says which indexes count.

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

use crossbeam_channel::{Sender, bounded};
use r2d2_sqlite::SqliteConnectionManager;

use crate::error::Result;
use crate::serial::Serial;
use crate::stop::spawn;
use crate::store::Store;
use crate::sync::{Mutex, lock};

pub use find::{Found, Hit, MayRead, PageHit};
use indexer::Indexer;
use schema::Stand;

/// Where the index stands, for those who ask while it is being written.
#[derive(Default)]
pub struct State(Mutex<Option<Serial>>);

impl State {
    fn set(&self, stand: Option<Stand>) {
        *lock(&self.0) = stand.map(|stand| stand.serial);
    }
    fn serial(&self) -> Option<Serial> {
        *lock(&self.0)
    }
}

/// The index of a running node.
pub struct Search {
    readers: r2d2::Pool<SqliteConnectionManager>,
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
        let readers = schema::readers(dir)?;
        let thread = spawn("search", move || indexer.run())?;
        Ok(Self { readers, state, stop, thread: Mutex::new(Some(thread)) })
    }
    /// All up to this serial can be found; `None` while the index is made for the first time.
    pub fn serial(&self) -> Option<Serial> {
        self.state.serial()
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
