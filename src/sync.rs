//! Locks as this crate takes them: a poisoned lock is taken all the same, since what locks guard here is whole
//! between statements. Under the model checker (`--cfg shuttle`) the primitives are its own.

use std::time::Duration;

#[cfg(not(shuttle))]
pub use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(shuttle)]
pub use shuttle::sync::{Condvar, Mutex, MutexGuard};

/// Takes the lock, also after a thread panicked while holding it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for the condition at most `span`; the caller checks its predicate again.
pub fn wait_timeout<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    span: Duration,
) -> MutexGuard<'a, T> {
    condition.wait_timeout(guard, span).unwrap_or_else(std::sync::PoisonError::into_inner).0
}
