//! Watches the bytes of ureq's connections for what ureq does not pass on.
//!
//! - The reason phrase of an answer: devpi says in it why an upload was refused, and a relay must repeat it.
//! - An answer that comes before the request's body is sent: the other side may stop reading, and what it said is lost
//!   if the failing write ends the request.
//! - The wait for an answer's head is limited by its own timeout, not by the one for each read.

use std::cell::RefCell;

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

thread_local! {
    /// The reason phrase of the answer that came last on this thread; ureq reads heads on the asking thread.
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Forgets what an earlier answer said.
pub(super) fn forget_reason() {
    REASON.with_borrow_mut(|reason| *reason = None);
}

/// The reason phrase of the answer just received; none if it was empty.
pub(super) fn take_reason() -> Option<String> {
    REASON.take()
}

/// Puts a `Watch` around each connection.
#[derive(Debug)]
pub(super) struct WatchConnector;

impl<In: Transport> Connector<In> for WatchConnector {
    type Out = Watch<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Watch { inner, awaits_head: true, is_refused: false }))
    }
}

/// A connection whose bytes are looked at.
#[derive(Debug)]
pub(super) struct Watch<T> {
    inner: T,
    awaits_head: bool,
    /// The other side reads no more; what is still written is thrown away until it is asked what it said.
    is_refused: bool,
}

impl<T: Transport> Transport for Watch<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.is_refused {
            return Ok(());
        }
        let was_idle = !self.awaits_head;
        self.awaits_head = true;
        match self.inner.transmit_output(amount, timeout) {
            // The first write to a kept connection: the other side had closed it, and there is nothing to read.
            Err(Error::Io(e)) if is_reset(&e) && !was_idle => {
                self.is_refused = true;
                Ok(())
            }
            result => result,
        }
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        if self.awaits_head {
            timeout.per_read = None;
        }
        let made_progress = self.inner.await_input(timeout)?;
        if self.awaits_head
            && let Some(reason) = reason(self.inner.buffers().input())
        {
            self.awaits_head = false;
            REASON.set((!reason.is_empty()).then_some(reason));
        }
        Ok(made_progress)
    }

    fn is_open(&mut self) -> bool {
        !self.is_refused && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

fn is_reset(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

/// The reason phrase of the first final status line in `input`, once that line is whole.
fn reason(input: &[u8]) -> Option<String> {
    let mut rest = input;
    loop {
        let end = memchr::memmem::find(rest, b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]);
        let mut words = line.splitn(3, ' ');
        let (_version, status) = (words.next()?, words.next()?);
        if !status.starts_with('1') {
            return Some(words.next().unwrap_or("").trim().to_owned());
        }
        let head_end = memchr::memmem::find(rest, b"\r\n\r\n")?; // 100 Continue and its like
        rest = &rest[head_end + 4..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_that_of_the_final_answer() {
        assert_eq!(reason(b"HTTP/1.1 200 OK\r\n").as_deref(), Some("OK"));
        assert_eq!(reason(b"HTTP/1.1 400 a b  c\r\nX: y").as_deref(), Some("a b  c"));
        assert_eq!(reason(b"HTTP/1.1 204\r\n").as_deref(), Some(""));
        assert_eq!(reason(b"HTTP/1.1 200 O"), None);
        assert_eq!(reason(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        let both = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Made\r\n";
        assert_eq!(reason(both).as_deref(), Some("Made"));
    }
}
