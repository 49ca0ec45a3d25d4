//! The flag that ends a node, and named threads that are joined.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

/// Said once, heard by all who hold a copy.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }
    /// Sets it for good.
    pub fn set(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        *lock(&self.0.0)
    }
    /// Sleeps for `span` or until the flag is set; true if it is set.
    pub fn sleep(&self, span: Duration) -> bool {
        let deadline = Deadline::after(span);
        let mut set = lock(&self.0.0);
        while !*set && !deadline.is_past() {
            set = wait_timeout(&self.0.1, set, deadline.remaining());
        }
        *set
    }
}

/// Named threads parse and run SQLite; the default may be set small for the sake of tiny_http's threads.
const STACK_BYTES: usize = 2 * 1024 * 1024;

/// Starts a thread with a name.
///
/// # Errors
/// `Kind::Internal` if the system gives no thread.
pub fn spawn(
    name: impl Into<String>,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    let name = name.into();
    thread::Builder::new()
        .name(name.clone())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(|e| Error::internal(format!("cannot start thread {name}")).caused_by(e))
}
