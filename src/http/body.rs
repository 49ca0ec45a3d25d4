//! Bodies of requests: read by handlers, and settled before the answer is written.
//!
//! tiny_http reads on from wherever a body was left. So a body is either read to its end, or its connection is cut: what
//! is left of it must never be taken for the next request.

use std::io::{self, Read};
use std::sync::Arc;

use super::connections::{Connection, Phase};
use super::framing::BodyKind;
use crate::sync::{Mutex, lock};

/// So much of a body that a handler left unread is read and thrown away to keep the connection. Errors to uploads end
/// up here; beyond this, a new connection is cheaper.
const DRAIN_BYTES_MAX: u64 = 256 * 1024;

/// How the body of a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It has not.
    Open,
    /// All of it was read.
    Clean,
    /// It cannot be read to its end.
    Broken,
}

/// A request with a body, shared by the handler that reads and the exchange that answers.
pub(super) struct SharedBody {
    state: Mutex<State>,
    connection: Arc<Connection>,
    is_peer_gone: Box<dyn Fn(&Connection) -> bool + Send + Sync>,
}

struct State {
    request: Option<tiny_http::Request>,
    kind: BodyKind,
    read: u64,
    bytes_max: u64,
    is_touched: bool,
    end: End,
}

/// What is left to do with a request after its body was settled.
pub(super) enum Settled {
    /// Its connection can be used again.
    Clean(tiny_http::Request),
    /// Its connection must be cut.
    Dirty(tiny_http::Request),
}

impl SharedBody {
    /// `is_peer_gone` looks whether the other end has closed: a chunked body that ends early looks whole otherwise.
    pub(super) fn new(
        request: tiny_http::Request,
        kind: BodyKind,
        bytes_max: u64,
        connection: Arc<Connection>,
        is_peer_gone: impl Fn(&Connection) -> bool + Send + Sync + 'static,
    ) -> Arc<Self> {
        let state = State {
            request: Some(request),
            kind,
            read: 0,
            bytes_max,
            is_touched: false,
            end: End::Open,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            connection,
            is_peer_gone: Box::new(is_peer_gone),
        })
    }

    /// Takes the request out, with its body read to the end if that is a short way.
    pub(super) fn settle(&self, expects_continue: bool) -> Option<Settled> {
        let mut state = lock(&self.state);
        // A client that waits for a word before it sends the body does not get that word now.
        let may_drain = state.is_touched || !expects_continue;
        let mut drained = 0;
        let mut scrap = [0; 8192];
        while may_drain && state.end == End::Open && drained < DRAIN_BYTES_MAX {
            match self.read_some(&mut state, &mut scrap) {
                Ok(n) => drained += n as u64,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let request = state.request.take()?;
        Some(match state.end {
            End::Clean => Settled::Clean(request),
            End::Open | End::Broken => Settled::Dirty(request),
        })
    }

    fn read_some(&self, state: &mut State, buf: &mut [u8]) -> io::Result<usize> {
        let room = match state.kind {
            BodyKind::None => 0,
            BodyKind::Sized(length) => {
                buf.len().min(usize::try_from(length - state.read).unwrap_or(usize::MAX))
            }
            BodyKind::Chunked => buf.len(),
        };
        if room == 0 || state.end == End::Clean {
            state.end = if buf.is_empty() { state.end } else { End::Clean };
            return Ok(0);
        }
        let (End::Open, Some(request)) = (state.end, state.request.as_mut()) else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the body can be read no more"));
        };
        state.is_touched = true;
        self.connection.set_phase(Phase::Reading);
        let result = request.as_reader().read(&mut buf[..room]);
        self.connection.set_phase(Phase::Ours);
        match result {
            Ok(0) => self.at_end(state),
            Ok(n) => {
                state.read += n as u64;
                self.connection.add_body_bytes(n as u64);
                if state.kind == BodyKind::Sized(state.read) {
                    state.end = End::Clean;
                }
                if state.read > state.bytes_max {
                    state.end = End::Broken;
                    let kind = io::ErrorKind::FileTooLarge;
                    return Err(io::Error::new(kind, "the body is over the limit"));
                }
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                state.end = End::Broken;
                Err(e)
            }
        }
    }

    fn at_end(&self, state: &mut State) -> io::Result<usize> {
        let is_whole = match state.kind {
            BodyKind::None => true,
            BodyKind::Sized(length) => state.read == length,
            BodyKind::Chunked => !(self.is_peer_gone)(&self.connection),
        };
        if is_whole {
            state.end = End::Clean;
            return Ok(0);
        }
        state.end = End::Broken;
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early"))
    }
}

/// What a handler reads from.
pub(super) struct BodyReader(pub Arc<SharedBody>);

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_some(&mut lock(&self.0.state), buf)
    }
}

#[cfg(test)]
mod tests {
    use tiny_http::TestRequest;

    use super::super::connections::Connections;
    use super::*;

    fn shared(body: &'static str, kind: BodyKind, bytes_max: u64) -> Arc<SharedBody> {
        let (connection, _) = Connections::default().of(0, None);
        let request = TestRequest::new().with_body(body).into();
        SharedBody::new(request, kind, bytes_max, connection, |_| true)
    }

    #[test]
    fn a_body_read_to_its_end_leaves_the_connection_clean() {
        let body = shared("hello", BodyKind::Sized(5), 10);
        let mut text = String::new();
        BodyReader(body.clone()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(matches!(body.settle(false), Some(Settled::Clean(_))));
        assert!(body.settle(false).is_none());
    }

    #[test]
    fn what_is_left_unread_is_drained_unless_the_client_waits_for_a_word() {
        let drained = shared("hello", BodyKind::Sized(5), 10);
        assert!(matches!(drained.settle(false), Some(Settled::Clean(_))));
        let waiting = shared("hello", BodyKind::Sized(5), 10);
        assert!(matches!(waiting.settle(true), Some(Settled::Dirty(_))));
        let mut late = BodyReader(waiting);
        assert_eq!(late.read(&mut [0; 9]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let body = shared("hel", BodyKind::Sized(5), 10);
        let error = io::read_to_string(BodyReader(body.clone())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(matches!(body.settle(false), Some(Settled::Dirty(_))));
    }

    #[test]
    fn a_body_over_the_limit_is_an_error() {
        let long = "x".repeat(100_000).leak();
        let body = shared(long, BodyKind::Chunked, 50_000);
        let error = io::copy(&mut BodyReader(body.clone()), &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(matches!(body.settle(false), Some(Settled::Dirty(_))));
    }
}
