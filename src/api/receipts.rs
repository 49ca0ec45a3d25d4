//! Changes that are carried out once, however often they are sent: requests with a receipt key, and `GET /+receipt/KEY`.
//!
//! A key is good for one request: the same method, address, credentials and body. The receipt is written in the
//! transaction of the change (`src/store/receipts.rs`); the answer is added to it when it is made.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::deadline::Deadline;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::{Body, Reply, Response};
use crate::replication::receipts::{Fate, Key};
use crate::replication::wire;
use crate::serial::Serial;
use crate::store::Writer;
use crate::store::receipts::{ANSWER_BYTES_MAX, Answer, Receipt, Ticket};
use crate::store::txn::WriteTxn;
use crate::sync::{Condvar, Mutex, lock, wait_timeout};

use super::route::{Route, Verb};
use super::{App, Node, ask, at, dispatch};

/// How long a request waits for another one with its key that is under way.
const SAME_WAIT: Duration = Duration::from_secs(30);
/// Bodies up to here are compared by digest, longer ones by length.
const COMPARED_BYTES_MAX: u64 = 1 << 20;
/// Where credentials stand: whoever sends others is another.
const CREDENTIALS: [&str; 2] = ["authorization", "x-devpi-auth"];

/// The keys of requests under way.
#[derive(Default)]
pub struct UnderWay {
    requests: Mutex<HashMap<Digest, Digest>>,
    done: Condvar,
}

impl UnderWay {
    /// Takes a key for a request; else the digest of the request that has it.
    fn claim(
        self: &Arc<Self>,
        key: Digest,
        request: Digest,
    ) -> std::result::Result<Arc<Claim>, Digest> {
        let mut requests = lock(&self.requests);
        if let Some(other) = requests.get(&key) {
            return Err(*other);
        }
        requests.insert(key, request);
        let ticket = Ticket::new(key, request);
        Ok(Arc::new(Claim { all: self.clone(), ticket, is_kept: AtomicBool::new(false) }))
    }

    /// Waits until nobody has a key.
    fn wait(&self, key: &Digest, deadline: Deadline) -> bool {
        let mut requests = lock(&self.requests);
        while requests.contains_key(key) {
            if deadline.is_past() {
                return false;
            }
            requests = wait_timeout(&self.done, requests, deadline.remaining());
        }
        true
    }

    fn has(&self, key: &Digest) -> bool {
        lock(&self.requests).contains_key(key)
    }
}

/// A key taken for a request; free again when it is dropped.
pub struct Claim {
    all: Arc<UnderWay>,
    ticket: Ticket,
    /// Whether its answer is kept also if it is a refusal and nothing was changed here.
    is_kept: AtomicBool,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.all.requests).remove(&self.ticket.key);
        self.all.done.notify_all();
    }
}

/// A request on its way to its handler: the node, and the right to one receipt if it carries a key.
#[derive(Clone)]
pub struct Call {
    app: Arc<App>,
    claim: Option<Arc<Claim>>,
}

impl Deref for Call {
    type Target = Arc<App>;
    fn deref(&self) -> &Arc<App> {
        &self.app
    }
}

impl Call {
    /// The right to write, for this request.
    ///
    /// # Errors
    /// `Kind::Unavailable` on a replica.
    pub fn writer(&self) -> Result<Pen<'_>> {
        match &self.app.node {
            Node::Master { writer, .. } => Ok(Pen { writer, claim: self.claim.as_deref() }),
            Node::Replica(_) => {
                Err(Error::unavailable("this node is a replica and takes no changes itself"))
            }
        }
    }

    /// Has the answer kept whatever it is: the request does something elsewhere that no transaction here tells of.
    pub fn keep_answer(&self) {
        if let Some(claim) = &self.claim {
            claim.is_kept.store(true, Ordering::SeqCst);
        }
    }
}

/// The right to write, for one request.
pub struct Pen<'a> {
    writer: &'a Writer,
    claim: Option<&'a Claim>,
}

impl Pen<'_> {
    /// As `Writer::write`, with the request's receipt in the same transaction.
    ///
    /// # Errors
    /// Those of `Writer::write_once`.
    pub fn write<T>(
        &self,
        change: impl FnOnce(&mut WriteTxn<'_>) -> Result<T>,
    ) -> Result<(T, Option<Serial>)> {
        self.writer.write_once(self.claim.map(|claim| &claim.ticket), change)
    }
}

/// A request that carries a key.
struct Keyed {
    key: Digest,
    digest: Digest,
    request: Request,
    /// Whether the body of its answer is nobody else's business, not even the disk's.
    is_private: bool,
}

/// Dispatches a request; one that carries a key and was carried out before gets the answer that it got then.
///
/// # Errors
/// Those of `dispatch`; `Kind::Invalid` for a bad key.
pub fn dispatch_once(app: &Arc<App>, mut request: Request) -> Result<Reply> {
    let plain = Call { app: app.clone(), claim: None };
    if matches!(app.node, Node::Replica(_)) || request.method.is_read() {
        return dispatch(&plain, request);
    }
    let Some(key) = Key::of(&request.headers)? else { return dispatch(&plain, request) };
    let is_private = match Route::parse(request.method, request.path()) {
        // It changes nothing, and its answer is a secret.
        Ok(Route::Login) => return dispatch(&plain, request),
        Ok(Route::TokenCreate(_) | Route::User(Verb::Modify, _)) => true,
        _ => false,
    };
    let digest = digest_of(&key, &mut request)?;
    let keyed = Keyed { key: key.digest(), digest, request, is_private };
    match app.receipts.claim(keyed.key, digest) {
        Ok(claim) => carry_out(app, claim, keyed),
        Err(other) if other != digest => Ok(Reply::Now(misused())),
        Err(_) => {
            let app = app.clone();
            let is_json = ask::is_json(&keyed.request);
            Ok(Reply::Remote(Box::new(move || {
                wait_for_other(&app, keyed)
                    .unwrap_or_else(|error| Reply::Now(ask::failure(&error, is_json)))
            })))
        }
    }
}

/// Waits for the request that has the key, and takes its place.
fn wait_for_other(app: &Arc<App>, keyed: Keyed) -> Result<Reply> {
    let deadline = keyed.request.deadline.min(Deadline::after(SAME_WAIT));
    while app.receipts.wait(&keyed.key, deadline) {
        match app.receipts.claim(keyed.key, keyed.digest) {
            Ok(claim) => return carry_out(app, claim, keyed),
            Err(other) if other != keyed.digest => return Ok(Reply::Now(misused())),
            Err(_) => {}
        }
    }
    let message = "the same request is under way; ask for its receipt, or send it again later";
    Ok(Reply::Now(ask::failure(&Error::unavailable(message), true).with_header("Retry-After", "5")))
}

fn carry_out(app: &Arc<App>, claim: Arc<Claim>, mut keyed: Keyed) -> Result<Reply> {
    if let Some(receipt) = app.store.receipt(&keyed.key)? {
        if receipt.request != keyed.digest {
            return Ok(Reply::Now(misused()));
        }
        // A client that is still sending would not see the answer if the connection were closed on it.
        io::copy(&mut keyed.request.take_body(), &mut io::sink())
            .map_err(|e| Error::invalid("the body broke off").caused_by(e))?;
        return Ok(Reply::Now(again(receipt)));
    }
    let call = Call { app: app.clone(), claim: Some(claim.clone()) };
    let (is_json, is_private) = (ask::is_json(&keyed.request), keyed.is_private);
    let reply = dispatch(&call, keyed.request)
        .unwrap_or_else(|error| Reply::Now(ask::failure(&error, is_json)));
    drop(call);
    Ok(keep(app.clone(), claim, is_private, reply))
}

/// Keeps an answer, also one that comes later.
fn keep(app: Arc<App>, claim: Arc<Claim>, is_private: bool, reply: Reply) -> Reply {
    match reply {
        Reply::Now(response) => {
            keep_response(&app, &claim, is_private, &response);
            Reply::Now(response)
        }
        Reply::Park(mut park) => {
            let resume = park.resume;
            park.resume = Box::new(move || keep(app, claim, is_private, resume()));
            Reply::Park(park)
        }
        Reply::Remote(job) => Reply::Remote(Box::new(move || keep(app, claim, is_private, job()))),
    }
}

fn keep_response(app: &App, claim: &Claim, is_private: bool, response: &Response) {
    let is_kept = claim.ticket.is_used() || claim.is_kept.load(Ordering::SeqCst);
    let Node::Master { writer, .. } = &app.node else { return };
    // What was refused was not carried out: sent again, it is looked at again.
    if !is_kept && 400 <= response.status {
        return;
    }
    let body = match &response.body {
        _ if is_private => None,
        Body::Empty => Some(Vec::new()),
        Body::Owned(bytes) if bytes.len() <= ANSWER_BYTES_MAX => Some(bytes.clone()),
        _ => None,
    };
    let answer = Answer {
        status: response.status,
        reason: response.reason.clone(),
        content_type: response.header("content-type").map(str::to_owned),
        body,
    };
    if let Err(error) = writer.keep_answer(&claim.ticket, app.store.clock().now(), &answer) {
        log::warn!("an answer is not kept with its receipt: {error:?}");
    }
}

/// The answer to a request that was carried out before.
fn again(receipt: Receipt) -> Response {
    let serial = Serial::wire(receipt.serial);
    let lost = || {
        let message = format!(
            "the request was carried out before (serial {serial}); its answer was not kept"
        );
        ask::message(200, message)
    };
    let response = match receipt.answer {
        Some(Answer { status, reason, content_type, body: Some(body) }) => {
            let mut response = Response::new(status).with_body(Body::Owned(body));
            response.reason = reason;
            match content_type {
                Some(content_type) => response.with_header("Content-Type", content_type),
                None => response,
            }
        }
        Some(Answer { status, reason, body: None, .. }) => {
            let mut response = lost();
            (response.status, response.reason) = (status, reason);
            response
        }
        None => lost(),
    };
    at(receipt.serial, response).with_header(wire::REPEATED, "yes")
}

fn misused() -> Response {
    let message = "the receipt key was used for another request: each one needs a key of its own";
    ask::message(422, message).with_reason(message)
}

/// What makes a request the same: all that decides what it does. The key goes into it, so that credentials cannot be
/// found out from what is stored. A short body is read for it and put back.
fn digest_of(key: &Key, request: &mut Request) -> Result<Digest> {
    let mut all = Vec::new();
    let mut add = |part: &[u8]| {
        all.extend((part.len() as u64).to_be_bytes());
        all.extend(part);
    };
    add(key.as_str().as_bytes());
    add(request.method.as_str().as_bytes());
    add(request.target.as_bytes());
    for name in CREDENTIALS {
        add(request.headers.get(name).unwrap_or_default().as_bytes());
    }
    add(request.body_length.map_or_else(String::new, |n| n.to_string()).as_bytes());
    if let Some(length) = request.body_length.filter(|length| *length <= COMPARED_BYTES_MAX) {
        let mut bytes = Vec::new();
        let broken = |e| Error::invalid("the body broke off").caused_by(e);
        request.take_body().take(length).read_to_end(&mut bytes).map_err(broken)?;
        if (bytes.len() as u64) < length {
            return Err(Error::invalid("the body broke off"));
        }
        add(&Digest::of(&bytes).0);
        request.body = Box::new(io::Cursor::new(bytes));
    }
    Ok(Digest::of(&all))
}

/// `GET /+receipt/KEY`. On a replica the master is asked; when that is away, what is known here is told.
///
/// # Errors
/// `Kind::Invalid` for what is no key; `Kind::Internal` if the database fails.
pub fn show(app: &Arc<App>, key: &str) -> Result<Reply> {
    let key = Key::parse(key)?;
    let replica = match &app.node {
        Node::Master { .. } => return fate_here(app, &key).map(|fate| shown(app, fate, "here")),
        Node::Replica(replica) => replica.clone(),
    };
    let app = app.clone();
    Ok(Reply::Remote(Box::new(move || match replica.ask_fate(&key) {
        Some(fate) => shown(&app, fate, "master"),
        None => shown(&app, replica.known_fate(&key), "here, the master does not tell"),
    })))
}

fn fate_here(app: &App, key: &Key) -> Result<Fate> {
    // In this order: what ends between the two looks has its receipt by then.
    let is_under_way = app.receipts.has(&key.digest());
    Ok(match app.store.receipt(&key.digest())? {
        Some(receipt) => Fate::Committed {
            serial: receipt.serial,
            status: receipt.answer.map(|answer| answer.status),
        },
        None if is_under_way => Fate::UnderWay,
        None => Fate::Unknown,
    })
}

fn shown(app: &App, fate: Fate, known_from: &str) -> Reply {
    let mut shown = fate.to_json(app.store.clock().now());
    shown["known_from"] = known_from.into();
    Reply::Now(ask::json(200, &shown).with_header("Cache-Control", "no-store"))
}
