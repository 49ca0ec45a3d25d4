//! A change that arrives at a replica: sent to the master, and answered when its serial is here.
//!
//! So a client that wrote through this node reads its own write. Whatever goes wrong, the answer says what is known:
//! not carried out, committed and not yet visible, or unknown.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Error, Kind};
use crate::http::client::{self, Answer, ClientBody, Timeouts};
use crate::http::forward;
use crate::http::request::{Headers, Method, Request};
use crate::http::response::{Body, Response};
use crate::serial::{Serial, SerialClock};
use crate::sync::{Mutex, lock};

use super::link::{CONNECT, Link};
use super::wire;

/// So much of an answer is read before the wait for its serial, so that the connection is free again. Answers to
/// changes are small.
const ANSWER_BYTES: u64 = 1 << 20;

/// Fields of the master's answer that are its own, or made anew.
const NOT_PASSED: [&str; 11] = [
    "content-length",
    "date",
    "server",
    wire::API_VERSION,
    wire::SERVER_VERSION,
    wire::UUID,
    wire::MASTER_UUID,
    wire::PRIMARY_UUID,
    wire::TWINPI_VERSION,
    wire::NONCE,
    wire::REASON,
];

/// Sends changes to the master.
pub struct Relay {
    link: Arc<Link>,
    clock: Arc<SerialClock>,
    /// From the end of the client's body: how long the answer and its serial may take. Before it: the longest pause.
    timeout: Duration,
    outside_url: Option<String>,
}

/// How far the body of a request got.
#[derive(Default)]
struct Progress {
    is_touched: bool,
    ended_at: Option<Instant>,
}

impl Relay {
    /// Sends over `link`, waits on `clock`.
    pub fn new(
        link: Arc<Link>,
        clock: Arc<SerialClock>,
        timeout: Duration,
        outside_url: Option<String>,
    ) -> Self {
        Self { link, clock, timeout, outside_url }
    }

    /// Sends a request to the master and answers for it; takes as long as that takes.
    pub fn run(&self, mut request: Request) -> Response {
        if let Some(refusal) = self.refusal(&request) {
            return refusal;
        }
        let own_url = self.own_url(&request.headers);
        let progress = Arc::new(Mutex::new(Progress::default()));
        let body = outgoing(&mut request, &progress);
        let has_body = matches!(body, ClientBody::Reader { .. });
        let headers = self.outgoing_headers(&request.headers);
        let method = request.method.as_str();
        let timeouts =
            Timeouts { connect: CONNECT, response_head: self.timeout, per_read: self.timeout };
        let started = Instant::now();
        let result = self.link.send(method, &request.target, &headers.0, body, timeouts);
        let progress = lock(&progress);
        let ended_at = if has_body { progress.ended_at } else { Some(started) };
        match result {
            Err(error) => self.explain(&error, &progress, ended_at.is_some()),
            Ok(answer) => self.answer(answer, ended_at.unwrap_or(started), &own_url),
        }
    }

    /// The answer to a request that came around in a circle, or cannot be sent.
    fn refusal(&self, request: &Request) -> Option<Response> {
        if request.method == Method::Other {
            return Some(failure(501, "this method is not supported"));
        }
        let passed = request.headers.get(wire::RELAY)?;
        passed.split(',').any(|uuid| uuid.trim() == self.link.uuid()).then(|| {
            let message = format!(
                "the request came back to this replica: {} leads in a circle",
                self.link.describe()
            );
            failure(508, &message)
        })
    }

    fn outgoing_headers(&self, headers: &Headers) -> Headers {
        let mut passed = forward::request(headers);
        let chain = match headers.get(wire::RELAY) {
            Some(before) => format!("{before}, {}", self.link.uuid()),
            None => self.link.uuid().to_owned(),
        };
        passed.remove(wire::RELAY);
        passed.push(wire::RELAY, chain);
        passed
    }

    /// The URL under which the client knows this node.
    fn own_url(&self, headers: &Headers) -> String {
        let given = headers.get(wire::OUTSIDE_URL).or(self.outside_url.as_deref());
        let url = match (given, headers.get("host")) {
            (Some(url), _) => url.to_owned(),
            (None, Some(host)) => format!("http://{host}"),
            (None, None) => String::new(),
        };
        url.trim_end_matches('/').to_owned()
    }

    /// What is known when there was no answer.
    fn explain(&self, error: &Error, progress: &Progress, is_sent: bool) -> Response {
        if error.kind == Kind::Invalid {
            let mut response =
                failure(400, "the request broke off, or cannot be sent on; nothing was changed");
            response.close = true;
            return response;
        }
        let master = self.link.describe();
        let mut response = if client::is_unsent(error) {
            let message = format!("nothing was changed: no connection to {master}: {error}");
            failure(503, &message).with_header("Retry-After", "5")
        } else if !is_sent {
            let message = format!(
                "the master stopped taking the request, which it cannot have carried out: {master}: {error}"
            );
            failure(502, &message)
        } else {
            let status = if error.kind == Kind::Timeout { 504 } else { 502 };
            let message = format!(
                "the outcome is unknown: the request was sent and no answer came; look before repeating it: \
                 {master}: {error}"
            );
            failure(status, &message)
        };
        response.close = progress.is_touched && !is_sent;
        log::warn!("a relayed request failed: {master}: {error}");
        response
    }

    /// Answers with what the master said, once its serial is here.
    fn answer(&self, answer: Answer, ended_at: Instant, own_url: &str) -> Response {
        let status = answer.status;
        let serial = wire::serial_of(&answer.headers);
        if let Some(serial) = serial {
            self.link.note_serial(serial);
        }
        let mut response = Response::new(status);
        response.reason =
            answer.headers.get(wire::REASON).map(str::to_owned).or_else(|| answer.reason.clone());
        self.pass_headers(&answer, own_url, &mut response);
        let mut body = answer.body;
        let mut start = Vec::new();
        let read = body.by_ref().take(ANSWER_BYTES).read_to_end(&mut start);
        if status < 400
            && let Err(failure) = self.wait(serial, ended_at)
        {
            return *failure;
        }
        if let Err(error) = read {
            let serial = Serial::wire(serial.flatten());
            let message = match status {
                400.. => format!(
                    "the master refused the request ({status}), and its answer broke off: {error}"
                ),
                _ => format!(
                    "the master carried the request out (serial {serial}), but its answer broke off: {error}"
                ),
            };
            return failure(502, &message);
        }
        let is_all = (start.len() as u64) < ANSWER_BYTES;
        response.body = match is_all {
            true => Body::Owned(start),
            false => {
                Body::Stream { reader: Box::new(io::Cursor::new(start).chain(body)), length: None }
            }
        };
        response.with_header(wire::PROXY, wire::BY_REPLICA)
    }

    /// Waits for the serial of an answer; the answer for when it does not come.
    fn wait(&self, serial: Option<Option<Serial>>, ended_at: Instant) -> Result<(), Box<Response>> {
        let master = self.link.describe();
        let Some(serial) = serial else {
            let message = format!(
                "the master accepted the request and named no serial, so it is unknown when it shows here: {master}"
            );
            return Err(Box::new(failure(502, &message)));
        };
        let Some(serial) = serial else { return Ok(()) };
        let deadline = Deadline::after(self.timeout.saturating_sub(ended_at.elapsed()));
        if self.clock.wait_for(serial, deadline) {
            return Ok(());
        }
        let here = Serial::wire(self.clock.now());
        let message = format!(
            "the change is committed on the master as serial {serial} and not yet visible on this replica, which is at \
             serial {here}; do not repeat it; {master}"
        );
        log::warn!("a relayed request waited in vain: {message}");
        let mut response = failure(504, &message);
        wire::set_serial(&mut response, Some(serial));
        Err(Box::new(response))
    }

    fn pass_headers(&self, answer: &Answer, own_url: &str, response: &mut Response) {
        for (name, value) in forward::response(&answer.headers).0 {
            if NOT_PASSED.iter().any(|not| not.eq_ignore_ascii_case(&name))
                || name.eq_ignore_ascii_case(wire::PROXY)
            {
                continue;
            }
            let is_location = answer.status == 302 && name.eq_ignore_ascii_case("location");
            let value = match value.strip_prefix(self.link.url()) {
                Some(rest) if is_location && (rest.is_empty() || rest.starts_with(['/', '?'])) => {
                    format!("{own_url}{rest}")
                }
                _ => value,
            };
            response.headers.push((name.into(), value.into()));
        }
    }
}

/// A failure that says why in the reason phrase too: devpi's client shows nothing else of a refused upload.
fn failure(status: u16, message: &str) -> Response {
    wire::failure(status, message).with_reason(message)
}

/// The client's body on its way to the master.
fn outgoing(request: &mut Request, progress: &Arc<Mutex<Progress>>) -> ClientBody {
    let is_chunked = request.headers.has("transfer-encoding");
    match request.body_length {
        None if !is_chunked => ClientBody::None,
        length => {
            let reader =
                Metered { inner: request.take_body(), left: length, progress: progress.clone() };
            if length == Some(0) {
                lock(progress).ended_at = Some(Instant::now());
            }
            ClientBody::Reader { reader: Box::new(reader), length }
        }
    }
}

/// Notes how far a body was read.
struct Metered {
    inner: Box<dyn Read + Send>,
    left: Option<u64>,
    progress: Arc<Mutex<Progress>>,
}

impl Read for Metered {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        lock(&self.progress).is_touched = true;
        let n = self.inner.read(buf)?;
        self.left = self.left.map(|left| left.saturating_sub(n as u64));
        if self.left == Some(0) || self.left.is_none() && n == 0 && !buf.is_empty() {
            lock(&self.progress).ended_at.get_or_insert_with(Instant::now);
        }
        Ok(n)
    }
}
