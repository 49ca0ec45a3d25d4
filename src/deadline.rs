//! One absolute end for a request or a job; no other timeout is passed around.

use std::time::{Duration, Instant};

/// The moment at which a piece of work is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// Ends `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }
    /// How long is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
    /// Whether it has passed.
    pub fn is_past(self) -> bool {
        self.remaining().is_zero()
    }
    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }
}
