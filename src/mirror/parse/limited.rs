//! A body that may neither grow nor last without end, and what its failures mean.

use std::io::{self, Read};

use crate::deadline::Deadline;
use crate::error::{Error, Kind};

use super::nonsense;

/// A reader that fails after too many bytes or too long a time: an upstream may send a byte now and then for ever.
pub struct Limited<'a> {
    inner: &'a mut dyn Read,
    left: u64,
    deadline: Deadline,
}

impl<'a> Limited<'a> {
    /// At most `bytes_max` bytes of `inner`, until `deadline`.
    pub fn new(inner: &'a mut dyn Read, bytes_max: u64, deadline: Deadline) -> Self {
        Self { inner, left: bytes_max, deadline }
    }
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_past() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let count = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(nonsense("it is too long")))?;
        Ok(count)
    }
}

/// The failure of a body: our own where there is one inside, else the upstream's.
pub fn failure(e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Kind::Timeout,
        _ => Kind::BadGateway,
    };
    match e.downcast::<Error>() {
        Ok(ours) => ours,
        Err(e) => Error::new(kind, "the upstream's answer broke off").caused_by(e),
    }
}
