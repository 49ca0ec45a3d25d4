//! A bell for parked requests that wait for something else than a serial: whoever brings it about rings, once.

use std::sync::Arc;

use crate::sync::{Mutex, lock};

/// A bell; copies are the same one.
#[derive(Clone, Default)]
pub struct Bell(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    #[default]
    Silent,
    Heard(Box<dyn FnOnce() + Send>),
    Rung,
}

impl Bell {
    /// One that nobody has rung.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rings; the same again does nothing.
    pub fn ring(&self) {
        let before = std::mem::replace(&mut *lock(&self.0), State::Rung);
        if let State::Heard(wake) = before {
            wake();
        }
    }

    /// Whether it was rung.
    pub fn is_rung(&self) -> bool {
        matches!(*lock(&self.0), State::Rung)
    }

    /// Runs `wake` when it rings, at once if it has; for one listener.
    pub fn hear(&self, wake: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0);
        if !matches!(*state, State::Rung) {
            *state = State::Heard(Box::new(wake));
            return;
        }
        drop(state);
        wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn it_is_heard_once_whichever_comes_first() {
        for rings_first in [true, false] {
            let (bell, heard) = (Bell::new(), Arc::new(AtomicUsize::new(0)));
            let count = heard.clone();
            if rings_first {
                bell.ring();
            }
            assert_eq!(bell.is_rung(), rings_first);
            bell.hear(move || {
                count.fetch_add(1, Ordering::Relaxed);
            });
            bell.ring();
            bell.ring();
            assert_eq!(heard.load(Ordering::Relaxed), 1);
        }
    }
}
