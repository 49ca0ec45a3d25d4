//! A change that arrives at a replica: sent to the master, and answered when its serial is here.
//!
//! So a client that wrote through this node reads its own write. Whatever goes wrong, the answer says what is known:
//! not carried out, committed and not yet visible, or unknown. Each change carries a receipt key. So if the connection
//! to the master breaks, what can be sent again is sent again, and of the rest the master is asked what became of it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::http::client::{self, Answer, ClientBody, Timeouts};
use crate::http::forward;
use crate::http::request::{Headers, Method, Request};
use crate::http::response::{self, Body, Response};
use crate::serial::Serial;
use crate::store::Store;
use crate::sync::{Mutex, lock};

use super::link::{CONNECT, Link};
use super::receipts::{self, Fate, Key, Memory};
use super::wire;

/// How long an answer to a reader waits until this node is as far as the master was: what is read next here should
/// not be older. A node that is further behind than this passes it on all the same: it is what the reader asked for.
const READ_WAIT: Duration = Duration::from_secs(1);

/// So much of an answer is read before the wait for its serial, so that the connection is free again. Answers to
/// changes are small.
const ANSWER_BYTES: u64 = 1 << 20;

/// A body up to here is read before it is sent, so that it can be sent again.
const RESENT_BYTES_MAX: u64 = 1 << 20;
/// Where logins are sent.
const LOGIN: &str = "/+login";
/// The pauses before a change is sent again, or its receipt asked for, after the connection broke.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(30), Duration::from_millis(250), Duration::from_secs(1)];

/// Fields of the master's answer that are its own, or made anew.
const NOT_PASSED: [&str; 14] = [
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
    wire::RECEIPT,
    wire::PATH,
    wire::STALE,
];

/// Sends changes to the master.
pub struct Relay {
    link: Arc<Link>,
    store: Arc<Store>,
    /// From the end of the client's body: how long the answer and its serial may take. Before it: the longest pause.
    timeout: Duration,
    outside_url: Option<String>,
    memory: Memory,
}

/// A request as it goes to the master.
struct Outgoing {
    method: Method,
    target: String,
    headers: Headers,
    /// Names a change; reading has none.
    key: Option<Key>,
    /// The URL under which the client knows this node.
    own_url: String,
}

/// The body of a request.
enum Content {
    None,
    /// All of it: it can be sent again.
    Whole(Arc<[u8]>),
    /// As it comes from the client.
    Once(Option<ClientBody>),
}

impl Content {
    fn next(&mut self) -> ClientBody {
        match self {
            Self::None => ClientBody::None,
            Self::Whole(bytes) => {
                let length = Some(bytes.len() as u64);
                ClientBody::Reader { reader: Box::new(io::Cursor::new(bytes.clone())), length }
            }
            Self::Once(body) => body.take().unwrap_or(ClientBody::None),
        }
    }
}

/// An answer, with the start of its body.
struct Whole {
    answer: Answer,
    start: Vec<u8>,
}

/// Why there is no answer.
enum Broken {
    /// None came.
    Unanswered(Error),
    /// It broke off in its body.
    Within(io::Error, Box<Answer>),
}

impl Broken {
    /// Whether the connection broke, rather than the time ran out or nothing was sent.
    fn is_cut(&self) -> bool {
        match self {
            Self::Unanswered(error) => error.kind == Kind::BadGateway && !client::is_unsent(error),
            Self::Within(error, _) => error.kind() != io::ErrorKind::TimedOut,
        }
    }
}

/// How far the body of a request got.
#[derive(Default)]
struct Progress {
    is_touched: bool,
    ended_at: Option<Instant>,
}

impl Relay {
    /// Sends over `link`, waits on the clock of `store`.
    pub fn new(
        link: Arc<Link>,
        store: Arc<Store>,
        timeout: Duration,
        outside_url: Option<String>,
    ) -> Self {
        Self { link, store, timeout, outside_url, memory: Memory::default() }
    }

    /// What is known here of a request that was relayed.
    pub fn known_fate(&self, key: &Key) -> Fate {
        self.memory.find(key)
    }

    /// Sends a request to the master and answers for it; takes as long as that takes.
    pub fn run(&self, mut request: Request) -> Response {
        if let Some(refusal) = self.refusal(&request) {
            return refusal;
        }
        let outgoing = match self.outgoing(&request) {
            Ok(outgoing) => outgoing,
            Err(error) => return failure(response::status(error.kind), &error.message),
        };
        let progress = Arc::new(Mutex::new(Progress::default()));
        let started = Instant::now();
        let mut content = match content(&mut request, &progress) {
            Ok(content) => content,
            Err(error) => return self.explain(&error, &progress, false, &outgoing),
        };
        if let Some(key) = &outgoing.key {
            self.memory.note(key, Fate::UnderWay);
        }
        let result = self.send(&outgoing, &mut content, started);
        let has_body = !matches!(content, Content::None);
        let ended_at = if has_body { lock(&progress).ended_at } else { Some(started) };
        match result {
            Ok(whole) => self.answer(whole, ended_at.unwrap_or(started), &outgoing),
            Err(broken) => {
                if let (Some(key), Some(ended_at), true) =
                    (&outgoing.key, ended_at, broken.is_cut())
                    && let Some(response) = self.by_receipt(key, ended_at, &outgoing)
                {
                    return response;
                }
                self.give_up(broken, &progress, ended_at, &outgoing)
            }
        }
    }

    /// Sends a request that only reads. What is in the answer is to be asked of this node again, so the master is told
    /// where the client sees it.
    ///
    /// # Errors
    /// `Kind::BadGateway` or `Kind::Timeout` with `why`, which says why this node does not answer itself.
    pub fn read(&self, mut request: Request, why: &str) -> Result<Response> {
        if let Some(refusal) = self.refusal(&request) {
            return Ok(refusal);
        }
        let own_url = self.own_url(&request.headers);
        if !request.headers.has(wire::OUTSIDE_URL) && !own_url.is_empty() {
            request.headers.push(wire::OUTSIDE_URL, own_url);
        }
        let (outgoing, started) = (self.outgoing(&request)?, Instant::now());
        let error = match self.send(&outgoing, &mut Content::None, started) {
            Ok(whole) => return Ok(self.answer(whole, started, &outgoing)),
            Err(Broken::Unanswered(error)) => error,
            Err(Broken::Within(error, _)) => {
                Error::new(Kind::BadGateway, "its answer broke off").caused_by(error)
            }
        };
        let kind = if error.kind == Kind::Timeout { Kind::Timeout } else { Kind::BadGateway };
        let message = format!("{why}, and no answer comes from {}: {error}", self.link.describe());
        log::warn!("a request was not answered: {message}");
        Err(Error::new(kind, message))
    }

    fn outgoing(&self, request: &Request) -> Result<Outgoing> {
        let key = match request.method.is_read() {
            true => None,
            false => Some(Key::of(&request.headers)?.map_or_else(Key::random, Ok)?),
        };
        Ok(Outgoing {
            method: request.method,
            target: request.target.clone(),
            headers: self.outgoing_headers(&request.headers, key.as_ref()),
            key,
            own_url: self.own_url(&request.headers),
        })
    }

    /// Sends a request, again if the connection broke and the master knows it by its key.
    fn send(
        &self,
        outgoing: &Outgoing,
        content: &mut Content,
        started: Instant,
    ) -> std::result::Result<Whole, Broken> {
        let mut result = self.send_once(outgoing, content);
        let may_repeat = outgoing.key.is_some() && !matches!(content, Content::Once(_));
        for pause in PAUSES {
            let Err(broken) = &result else { break };
            let is_late = self.timeout.saturating_sub(started.elapsed()) < pause;
            if !may_repeat || !broken.is_cut() || !self.link.is_twin() || is_late {
                break;
            }
            log::info!("a relayed request is sent again: the connection to the master broke");
            if !self.link.pause(pause) {
                break;
            }
            let again = self.send_once(outgoing, content);
            // Not sent this time: what is known is still that it was sent before.
            let is_unsent = matches!(&again, Err(Broken::Unanswered(e)) if client::is_unsent(e));
            if !is_unsent {
                result = again;
            }
        }
        result
    }

    fn send_once(
        &self,
        outgoing: &Outgoing,
        content: &mut Content,
    ) -> std::result::Result<Whole, Broken> {
        let timeouts =
            Timeouts { connect: CONNECT, response_head: self.timeout, per_read: self.timeout };
        let (method, headers) = (outgoing.method.as_str(), &outgoing.headers.0);
        let mut answer = self
            .link
            .send(method, &outgoing.target, headers, content.next(), timeouts)
            .map_err(Broken::Unanswered)?;
        let mut start = Vec::new();
        match answer.body.by_ref().take(ANSWER_BYTES).read_to_end(&mut start) {
            Ok(_) => Ok(Whole { answer, start }),
            Err(error) => Err(Broken::Within(error, Box::new(answer))),
        }
    }

    /// The answer by the master's receipt, if there is one. While the request is under way it is asked again.
    fn by_receipt(&self, key: &Key, ended_at: Instant, outgoing: &Outgoing) -> Option<Response> {
        if !self.link.is_twin() {
            return None;
        }
        let mut pauses = PAUSES.iter();
        let (serial, status) = loop {
            match receipts::ask(&self.link, key) {
                Some(Fate::Committed { serial, status }) => break (serial, status),
                Some(Fate::Unknown) => return None,
                Some(Fate::UnderWay) | None if self.link.pause(*pauses.next()?) => {}
                Some(Fate::UnderWay) | None => return None,
            }
        };
        self.memory.note(key, Fate::Committed { serial, status });
        let status = status.unwrap_or(200);
        if status < 400
            && let Err(failure) = self.wait(Some(serial), ended_at, outgoing)
        {
            return Some(*failure);
        }
        let message = format!(
            "the master carried the request out (serial {}), and the connection broke before its answer was here",
            Serial::wire(serial)
        );
        let mut response = wire::failure(status, &message).with_header(wire::REPEATED, "yes");
        wire::set_serial(&mut response, serial);
        Some(response.with_header(wire::PROXY, wire::BY_REPLICA))
    }

    /// What is known when there is no whole answer.
    fn give_up(
        &self,
        broken: Broken,
        progress: &Mutex<Progress>,
        ended_at: Option<Instant>,
        outgoing: &Outgoing,
    ) -> Response {
        self.note_done(outgoing, 502, None);
        let (error, answer) = match broken {
            Broken::Unanswered(error) => {
                return self.explain(&error, progress, ended_at.is_some(), outgoing);
            }
            Broken::Within(error, answer) => (error, answer),
        };
        let (status, serial) = (answer.status, wire::serial_of(&answer.headers));
        if status < 400 {
            self.note_done(outgoing, status, serial);
            if let Err(failure) = self.wait(serial, ended_at.unwrap_or_else(Instant::now), outgoing)
            {
                return *failure;
            }
        }
        let serial = Serial::wire(serial.flatten());
        let message = match status {
            400.. => {
                format!(
                    "the master refused the request ({status}), and its answer broke off: {error}"
                )
            }
            _ => format!(
                "the master carried the request out (serial {serial}), but its answer broke off: {error}"
            ),
        };
        failure(502, &message)
    }

    /// Remembers what became of a request.
    fn note_done(&self, outgoing: &Outgoing, status: u16, serial: Option<Option<Serial>>) {
        let Some(key) = &outgoing.key else { return };
        let fate = match (status, serial) {
            (400.., _) | (_, None) => Fate::Unknown,
            (_, Some(serial)) => Fate::Committed { serial, status: Some(status) },
        };
        self.memory.note(key, fate);
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

    fn outgoing_headers(&self, headers: &Headers, key: Option<&Key>) -> Headers {
        let mut passed = forward::request(headers);
        let chain = match headers.get(wire::RELAY) {
            Some(before) => format!("{before}, {}", self.link.uuid()),
            None => self.link.uuid().to_owned(),
        };
        passed.remove(wire::RELAY);
        passed.push(wire::RELAY, chain);
        let epoch = headers.get(wire::EPOCH).and_then(|epoch| epoch.trim().parse().ok());
        passed.remove(wire::EPOCH);
        passed.push(wire::EPOCH, self.store.epoch().max(epoch.unwrap_or(0)).to_string());
        if let Some(key) = key {
            passed.remove(wire::RECEIPT);
            passed.push(wire::RECEIPT, key.as_str());
        }
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
    fn explain(
        &self,
        error: &Error,
        progress: &Mutex<Progress>,
        is_sent: bool,
        outgoing: &Outgoing,
    ) -> Response {
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
                "the outcome is unknown: the request was sent and no answer came; look before repeating it{}: \
                 {master}: {error}",
                outgoing.receipt()
            );
            failure(status, &message)
        };
        response.close = lock(progress).is_touched && !is_sent;
        log::warn!("a relayed request failed: {master}: {error}");
        response
    }

    /// Answers with what the master said, once its serial is here.
    fn answer(&self, whole: Whole, ended_at: Instant, outgoing: &Outgoing) -> Response {
        let Whole { answer, start } = whole;
        let status = answer.status;
        let serial = wire::serial_of(&answer.headers);
        if let Some(serial) = serial {
            self.link.note_serial(serial);
        }
        self.note_done(outgoing, status, serial);
        let mut response = Response::new(status);
        response.reason =
            answer.headers.get(wire::REASON).map(str::to_owned).or_else(|| answer.reason.clone());
        self.pass_headers(&answer, &outgoing.own_url, &mut response);
        if status < 400
            && let Err(failure) = self.wait(serial, ended_at, outgoing)
        {
            return *failure;
        }
        if let Some(key) = &outgoing.key {
            response = response.with_header(wire::RECEIPT, key.as_str().to_owned());
        }
        let is_all = (start.len() as u64) < ANSWER_BYTES;
        response.body = match is_all {
            true => Body::Owned(start),
            false => Body::Stream {
                reader: Box::new(io::Cursor::new(start).chain(answer.body)),
                length: None,
            },
        };
        response.with_header(wire::PROXY, wire::BY_REPLICA)
    }

    /// Waits for the serial of an answer; the answer for when it does not come.
    fn wait(
        &self,
        serial: Option<Option<Serial>>,
        ended_at: Instant,
        outgoing: &Outgoing,
    ) -> std::result::Result<(), Box<Response>> {
        let master = self.link.describe();
        let Some(serial) = serial else {
            let message = format!(
                "the master accepted the request and named no serial, so it is unknown when it shows here: {master}"
            );
            return Err(Box::new(failure(502, &message)));
        };
        let Some(serial) = serial else { return Ok(()) };
        let patience = self.timeout.saturating_sub(ended_at.elapsed());
        let patience = if outgoing.method.is_read() { patience.min(READ_WAIT) } else { patience };
        if self.store.clock().wait_for(serial, Deadline::after(patience))
            || outgoing.method.is_read()
        {
            return Ok(());
        }
        let here = Serial::wire(self.store.clock().now());
        let message = match outgoing.may_change() {
            true => format!(
                "the change is committed on the master as serial {serial} and not yet visible on this replica, which \
                 is at serial {here}; do not repeat it{}; {master}",
                outgoing.receipt()
            ),
            false => format!(
                "the master answered, and what it answered by (serial {serial}) is not yet visible on this replica, \
                 which is at serial {here}; nothing was changed, so come again; {master}"
            ),
        };
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

impl Outgoing {
    /// Whether the request can have changed anything; a login is sent as a change is, and changes nothing.
    fn may_change(&self) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        !self.method.is_read() && path.trim_end_matches('/') != LOGIN
    }

    /// Where to ask what became of it, for messages.
    fn receipt(&self) -> String {
        match &self.key {
            Some(key) => {
                let key = key.as_str();
                format!("; its receipt is {key}, at {}{}{key}", self.own_url, wire::RECEIPTS)
            }
            None => String::new(),
        }
    }
}

/// The client's body on its way to the master.
fn content(request: &mut Request, progress: &Arc<Mutex<Progress>>) -> Result<Content> {
    let is_chunked = request.headers.has("transfer-encoding");
    let length = request.body_length;
    if length.is_none() && !is_chunked {
        return Ok(Content::None);
    }
    let mut reader =
        Metered { inner: request.take_body(), left: length, progress: progress.clone() };
    if length == Some(0) {
        lock(progress).ended_at = Some(Instant::now());
    }
    match length.filter(|length| *length <= RESENT_BYTES_MAX) {
        Some(length) => {
            let mut bytes = Vec::new();
            let read = reader.by_ref().take(length).read_to_end(&mut bytes);
            match read {
                Ok(read) if read as u64 == length => Ok(Content::Whole(bytes.into())),
                _ => Err(Error::invalid("the body broke off")),
            }
        }
        None => Ok(Content::Once(Some(ClientBody::Reader { reader: Box::new(reader), length }))),
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
