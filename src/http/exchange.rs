//! One request under way, until its answer is written and the connection is ready for the next.
//!
//! Whatever becomes of an exchange, its client gets an answer or the end of the connection: dropping one answers 503.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::body::{Settled, SharedBody};
use super::connections::{Connection, Next, Phase};
use super::dispatch::{Engine, Task};
use super::response::{Body, Response};
use super::sockets;
use super::writer::{self, Manner};

/// How long a client may go on sending after an answer that ends the connection. Closing at once would reset the
/// connection and take the answer away from a client that still sends.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How much it may send meanwhile.
const LINGER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a client should wait after a refusal for lack of room, in seconds.
const RETRY_AFTER: &str = "2";

/// Which pool runs a piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneName {
    /// Small answers from local state.
    Local,
    /// Requests with a body.
    Body,
    /// Work that waits for another machine, and the writing of what it brings.
    Remote,
    /// The writing of large answers.
    Bulk,
}

/// The request of an exchange, as far as it is still ours.
pub(super) enum Wire {
    /// It had no body.
    Plain(tiny_http::Request),
    /// Its body is read elsewhere.
    Shared(Arc<SharedBody>),
    /// Answered.
    Taken,
}

/// One request under way.
pub(super) struct Exchange {
    pub engine: Arc<Engine>,
    pub connection: Arc<Connection>,
    pub wire: Wire,
    pub manner: Manner,
    pub expects_continue: bool,
}

impl Exchange {
    /// Writes the answer, here or in the lane for bulk.
    pub(super) fn answer(mut self, response: Response, lane: LaneName) {
        let is_small_lane = matches!(lane, LaneName::Local | LaneName::Body);
        if is_small_lane && !self.manner.is_head && writer::is_bulk(&response.body) {
            let engine = self.engine.clone();
            if let Err(Task::Write(exchange, _)) = engine.bulk().submit(Task::Write(self, response))
            {
                exchange.answer(busy(), lane);
            }
            return;
        }
        let response = prepare(response);
        self.manner.closes |= response.close
            || self.engine.is_stopping()
            || writer::needs_close(&response.body, self.manner);
        let must_cut = response.close
            || self.engine.is_stopping()
            || writer::needs_close(&response.body, self.manner);
        let phase = match lane {
            LaneName::Local | LaneName::Body => Phase::WritingSmall,
            LaneName::Remote | LaneName::Bulk => Phase::WritingBulk,
        };
        match self.take_request() {
            Some(Settled::Clean(request)) => self.write(request, response, phase, must_cut),
            Some(Settled::Dirty(request)) => self.write_last(request, response, phase),
            None => {}
        }
        self.finish();
    }

    /// Answers a request of which no more is read, and ends the connection.
    pub(super) fn refuse(mut self, response: Response) {
        if let Some(Settled::Clean(request) | Settled::Dirty(request)) = self.take_unsettled() {
            self.write_last(request, response, Phase::WritingBulk);
        }
        self.finish();
    }

    /// Gives up a request whose client has gone.
    pub(super) fn abandon(mut self) {
        if let Some(Settled::Clean(request) | Settled::Dirty(request)) = self.take_unsettled() {
            self.engine.cut(&self.connection);
            self.engine.discard(request);
        }
        self.finish();
    }

    fn take_request(&mut self) -> Option<Settled> {
        match std::mem::replace(&mut self.wire, Wire::Taken) {
            Wire::Plain(request) => Some(Settled::Clean(request)),
            Wire::Shared(body) => body.settle(self.expects_continue),
            Wire::Taken => None,
        }
    }

    /// Takes the request without reading more of it.
    fn take_unsettled(&mut self) -> Option<Settled> {
        self.expects_continue = true; // keeps a body that was never touched from being drained
        self.take_request()
    }

    /// Writes through tiny_http, which then goes on to the connection's next request.
    fn write(&self, request: tiny_http::Request, response: Response, phase: Phase, must_cut: bool) {
        let writer = request.into_writer();
        let mut marked = Marked { inner: writer, connection: &self.connection, phase };
        let result = writer::write(&mut marked, response, self.manner);
        let is_broken = result.is_err();
        if let Err(e) = result {
            log::debug!("an answer was not written whole: {e}");
        }
        if is_broken || must_cut {
            if self.engine.cut(&self.connection) {
                return;
            }
            if is_broken && self.connection.key.is_none() {
                // Behind a unix socket nothing can be cut. As long as the writer lives, nothing follows on this
                // connection, and the proxy in front gives it up.
                self.engine.keep_in_limbo(marked.inner);
            }
        }
    }

    /// Writes past tiny_http and ends the connection: what is left of the request is not read.
    fn write_last(&mut self, request: tiny_http::Request, response: Response, phase: Phase) {
        self.manner.closes = true;
        self.connection.mark_cut();
        let Some(mut socket) = self.engine.find_socket(&self.connection) else {
            return self.write_last_unix(request, response);
        };
        {
            let mut marked = Marked { inner: &mut socket, connection: &self.connection, phase };
            if let Err(e) = writer::write(&mut marked, response, self.manner) {
                log::debug!("a last answer was not written whole: {e}");
            }
        }
        sockets::linger(&socket, LINGER_MAX, LINGER_BYTES_MAX);
        sockets::cut(&socket);
        self.engine.discard(request);
    }

    /// Behind a unix socket the rest of the body is read by tiny_http when it is short, and the request is given up
    /// for good when not; the proxy in front has limits of its own, so that it hardly ever comes to this.
    fn write_last_unix(&self, request: tiny_http::Request, response: Response) {
        if self.connection.key.is_some() {
            return self.engine.discard(request); // a TCP connection that is gone already
        }
        let code = tiny_http::StatusCode(response.status);
        let bytes = match response.body {
            Body::Owned(bytes) => bytes,
            Body::Shared(bytes) => bytes.to_vec(),
            _ => Vec::new(),
        };
        if sockets::can_drain(&request) {
            let answer = tiny_http::Response::from_data(bytes).with_status_code(code);
            let _ = request.respond(answer);
        } else {
            self.engine.discard(request);
        }
    }

    fn finish(&self) {
        self.engine.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        match self.connection.finish() {
            Next::Idle => {}
            Next::Start(request) => Engine::start(&self.engine, self.connection.clone(), request),
            Next::Discard(requests) => {
                for request in requests {
                    self.engine.discard(request);
                }
            }
        }
    }
}

impl Drop for Exchange {
    /// An exchange that nobody answered, such as one in a queue that is thrown away on stop.
    fn drop(&mut self) {
        if let Some(Settled::Clean(request) | Settled::Dirty(request)) = self.take_unsettled() {
            self.write_last(request, busy(), Phase::WritingBulk);
            self.finish();
        }
    }
}

/// The answer when there is no room for a request.
pub(super) fn busy() -> Response {
    Response::text(503, "the server has too much to do at present; try again")
        .with_header("Retry-After", RETRY_AFTER)
}

/// Reads small files before the head is written, while their failure can still be told.
fn prepare(mut response: Response) -> Response {
    let body = std::mem::replace(&mut response.body, Body::Empty);
    match writer::load_small(body) {
        Ok(body) => response.with_body(body),
        Err(e) => {
            log::error!("a file cannot be read for an answer: {e}");
            Response::text(500, "internal error")
        }
    }
}

/// A writer that lets the guard see when its client holds it up.
struct Marked<'a, W> {
    inner: W,
    connection: &'a Connection,
    phase: Phase,
}

impl<W: Write> Write for Marked<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.connection.set_phase(self.phase);
        let result = self.inner.write(buf);
        self.connection.set_phase(Phase::Ours);
        result
    }
    fn flush(&mut self) -> io::Result<()> {
        self.connection.set_phase(self.phase);
        let result = self.inner.flush();
        self.connection.set_phase(Phase::Ours);
        result
    }
}

/// When a writer in limbo is let go: every proxy has given up a silent connection by then.
pub(super) fn limbo_end() -> Instant {
    const LIMBO: Duration = Duration::from_secs(180);
    Instant::now() + LIMBO
}
