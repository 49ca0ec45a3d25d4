//! Takes requests from tiny_http, lets one per connection through at a time, and sends each to the lane for its kind.
#![expect(
    clippy::result_large_err,
    reason = "work that finds no room comes back whole, and rarely"
)]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use socket2::Socket;

use super::Handler;
use super::body::{BodyReader, SharedBody};
use super::connections::{Admission, Connection, Connections};
use super::crew::Crew;
use super::exchange::{self, Exchange, LaneName, Wire};
use super::framing::{self, BodyKind, Head};
use super::guard::Signal;
use super::lanes::{Lane, Size};
use super::listen::{ServerOptions, Stats};
use super::polls::Polls;
use super::request::{Method, Request};
use super::response::{Job, Reply, Response};
use super::sockets::{self, Listener};
use super::writer::Manner;
use crate::deadline::Deadline;
use crate::serial::SerialClock;
use crate::sync::{Mutex, lock};

/// What lanes run.
pub(super) enum Task {
    /// A request that nobody has looked at.
    Handle(Exchange),
    /// The rest of a request.
    Resume(Exchange, Job),
    /// An answer that takes long to write.
    Write(Exchange, Response),
    /// An answer that ends the connection, since the request is not to be trusted or not to be read.
    Refuse(Exchange, Response),
}

/// Counts of what happened, and of what is under way.
#[derive(Default)]
pub(super) struct Counters {
    pub in_flight: AtomicUsize,
    pub requests: AtomicU64,
    pub refused: AtomicU64,
    pub busy: AtomicU64,
    pub panics: AtomicU64,
    pub leaked: AtomicU64,
    pub connections: AtomicUsize,
    pub zombies: AtomicUsize,
    pub cut: AtomicU64,
    pub kicks: AtomicU64,
    pub rebuilds: AtomicU64,
}

/// All that the threads of the server share.
pub(super) struct Engine {
    pub options: ServerOptions,
    pub counters: Counters,
    pub connections: Connections,
    pub listeners: Vec<Listener>,
    pub polls: Polls,
    pub guard: Signal,
    handler: Arc<dyn Handler>,
    local: Crew,
    body: Lane<Task>,
    remote: Lane<Task>,
    bulk: Lane<Task>,
    is_stopping: AtomicBool,
    is_over: AtomicBool,
    takers: Mutex<Vec<(Arc<tiny_http::Server>, JoinHandle<()>)>>,
    limbo: Mutex<Vec<(Instant, Box<dyn Write + Send>)>>,
}

impl Engine {
    /// An engine whose threads start when there is work.
    pub(super) fn new(
        options: ServerOptions,
        listeners: Vec<Listener>,
        handler: Arc<dyn Handler>,
        clock: Arc<SerialClock>,
    ) -> Self {
        let lane = |name, lane, size| Lane::new(name, size, move |task: Task| task.run(lane));
        let o = &options;
        let elastic =
            |threads| Size { threads_min: 1, threads_max: threads, queue_max: o.queue_max };
        let remote = Size { queue_max: o.remote_queue_max, ..elastic(o.workers_remote) };
        Self {
            counters: Counters::default(),
            connections: Connections::default(),
            listeners,
            polls: Polls::new(clock),
            guard: Signal::default(),
            handler,
            local: Crew::new(o.workers_local, o.queue_max),
            body: lane("http-body", LaneName::Body, elastic(o.workers_body)),
            remote: lane("http-remote", LaneName::Remote, remote),
            bulk: lane("http-bulk", LaneName::Bulk, elastic(o.workers_bulk)),
            is_stopping: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            takers: Mutex::default(),
            limbo: Mutex::default(),
            options,
        }
    }

    /// Takes a request from tiny_http. Gives back what the caller should do, if it is for the crew and has no one before
    /// it on its connection.
    pub(super) fn take(
        engine: &Arc<Self>,
        listener: usize,
        request: tiny_http::Request,
    ) -> Option<Exchange> {
        let connection = engine.connection_of(listener, request.remote_addr().copied());
        match connection.admit(request) {
            Admission::Start(request) => return Self::begin(engine, connection, request),
            Admission::Waits => {}
            Admission::WaitsBehindPoll(poll) => engine.polls.ripen(poll),
            Admission::Discard(request) => engine.discard(request),
            Admission::TooMany => {
                engine.counters.refused.fetch_add(1, Ordering::Relaxed);
                engine.reset(&connection);
            }
        }
        None
    }

    fn connection_of(&self, listener: usize, peer: Option<SocketAddr>) -> Arc<Connection> {
        let (connection, is_new) = self.connections.of(listener, peer);
        if is_new {
            self.guard.look_soon();
        }
        if !connection.is_cut() || connection.is_busy() {
            return connection;
        }
        // What tiny_http had read before its connection was cut comes late, and must not be served. Only if a new
        // connection from the same port stands already, the request may be its.
        match self.find_socket(&connection) {
            Some(socket) if !sockets::is_peer_gone(&socket) => self.connections.renew(&connection),
            _ => connection,
        }
    }

    /// Takes a request from tiny_http and sends it to the pool for its kind.
    pub(super) fn take_and_queue(engine: &Arc<Self>, listener: usize, request: tiny_http::Request) {
        if let Some(exchange) = Self::take(engine, listener, request) {
            engine.queue(exchange, |task| engine.local.submit(task));
        }
    }

    /// Goes on with the next request of a connection.
    pub(super) fn start(
        engine: &Arc<Self>,
        connection: Arc<Connection>,
        request: tiny_http::Request,
    ) {
        if let Some(exchange) = Self::begin(engine, connection, request) {
            engine.queue(exchange, |task| engine.local.submit(task));
        }
    }

    /// Counts a request that was let through, and sends it off if it has a body.
    fn begin(
        engine: &Arc<Self>,
        connection: Arc<Connection>,
        request: tiny_http::Request,
    ) -> Option<Exchange> {
        engine.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        engine.counters.requests.fetch_add(1, Ordering::Relaxed);
        let has_body = framing::may_have_body(&request);
        let manner = Manner {
            is_head: *request.method() == tiny_http::Method::Head,
            is_http_11: *request.http_version() >= (1, 1),
            closes: false,
        };
        let exchange = Exchange {
            engine: engine.clone(),
            connection,
            wire: Wire::Plain(request),
            manner,
            expects_continue: false,
        };
        if !has_body {
            return Some(exchange);
        }
        engine.queue(exchange, |task| engine.body.submit(task));
        None
    }

    fn queue(&self, exchange: Exchange, submit: impl FnOnce(Task) -> Result<(), Task>) {
        if let Err(Task::Handle(exchange)) = submit(Task::Handle(exchange)) {
            self.refuse_for_load(exchange);
        }
    }

    /// Refuses a request because too many wait.
    pub(super) fn refuse_for_load(&self, exchange: Exchange) {
        self.counters.busy.fetch_add(1, Ordering::Relaxed);
        self.refuse(exchange, exchange::busy());
    }

    /// Settles what kept a thread from receiving: a word to look elsewhere, or the end of the accept loop.
    pub(super) fn see_receive_error(&self, listener: usize, e: &io::Error) {
        let is_word = e.raw_os_error().is_none();
        if !is_word && !self.is_stopping() {
            log::error!("an accept loop ended: {e}");
            self.guard.report_broken(listener);
        }
    }

    /// Refuses a request where that may take its time.
    fn refuse(&self, exchange: Exchange, response: Response) {
        if let Err(Task::Refuse(exchange, _)) = self.bulk.submit(Task::Refuse(exchange, response)) {
            exchange.abandon();
        }
    }

    /// Refuses a request for what it is.
    fn refuse_for(&self, exchange: Exchange, status: u16, why: &'static str) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        self.refuse(exchange, Response::text(status, why));
    }

    /// The pool for small answers from local state.
    pub(super) fn local(&self) -> &Crew {
        &self.local
    }

    /// The lane for large answers.
    pub(super) fn bulk(&self) -> &Lane<Task> {
        &self.bulk
    }

    /// Ends all pools; says which did not end by the deadline.
    pub(super) fn end_lanes(&self, deadline: Deadline) -> Vec<&'static str> {
        let lanes = [("body", &self.body), ("remote", &self.remote), ("bulk", &self.bulk)];
        self.local.close();
        lanes.iter().for_each(|(_, lane)| lane.close());
        let mut running = Vec::new();
        if !self.local.join(deadline) {
            running.push("local");
        }
        running
            .extend(lanes.iter().filter(|(_, lane)| !lane.join(deadline)).map(|(name, _)| *name));
        running
    }

    fn loads(&self) -> Vec<(&'static str, usize, usize)> {
        let lanes = [("body", &self.body), ("remote", &self.remote), ("bulk", &self.bulk)];
        let lanes = lanes.map(|(name, lane)| (name, lane.load()));
        let all = [("local", self.local.load())].into_iter().chain(lanes);
        all.map(|(name, (queued, threads))| (name, queued, threads)).collect()
    }

    /// Whether the server is being stopped.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// From now on, each answer ends its connection.
    pub(super) fn set_stopping(&self) {
        self.is_stopping.store(true, Ordering::Release);
    }

    /// Whether no request is taken any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Remembers a server of tiny_http and the thread that takes from it.
    pub(super) fn add_taker(&self, server: Arc<tiny_http::Server>, thread: JoinHandle<()>) {
        lock(&self.takers).push((server, thread));
    }

    /// Ends the threads that take requests.
    pub(super) fn end_takers(&self) {
        self.is_over.store(true, Ordering::Release);
        for (server, thread) in std::mem::take(&mut *lock(&self.takers)) {
            server.unblock();
            if thread.join().is_err() {
                log::error!("a thread that takes requests ended by a panic");
            }
        }
    }

    /// What the server is doing.
    pub(super) fn stats(&self) -> Stats {
        let c = &self.counters;
        Stats {
            connections: c.connections.load(Ordering::Relaxed),
            in_flight: c.in_flight.load(Ordering::Relaxed),
            parked: self.polls.len(),
            requests: c.requests.load(Ordering::Relaxed),
            refused: c.refused.load(Ordering::Relaxed),
            busy: c.busy.load(Ordering::Relaxed),
            panics: c.panics.load(Ordering::Relaxed),
            leaked: c.leaked.load(Ordering::Relaxed),
            zombies: c.zombies.load(Ordering::Relaxed),
            cut: c.cut.load(Ordering::Relaxed),
            kicks: c.kicks.load(Ordering::Relaxed),
            rebuilds: c.rebuilds.load(Ordering::Relaxed),
            lanes: self.loads(),
        }
    }

    /// The socket of a connection.
    pub(super) fn find_socket(&self, connection: &Connection) -> Option<Socket> {
        let hint = connection.descriptor.load(Ordering::Relaxed);
        sockets::find(connection.key.as_ref()?, hint, &self.listeners)
    }

    /// Ends a connection at once, and takes no more requests from it; false if its socket was not found.
    pub(super) fn cut(&self, connection: &Connection) -> bool {
        self.end(connection, sockets::cut)
    }

    /// The same for a client that misbehaves.
    pub(super) fn reset(&self, connection: &Connection) -> bool {
        self.end(connection, sockets::reset)
    }

    fn end(&self, connection: &Connection, end: impl FnOnce(&Socket)) -> bool {
        connection.mark_cut();
        let socket = self.find_socket(connection);
        if let Some(socket) = &socket {
            self.counters.cut.fetch_add(1, Ordering::Relaxed);
            end(socket);
        }
        socket.is_some()
    }

    /// Throws a request of a dead connection away. One whose body is said to be longer than memory is leaked with its
    /// thread and descriptors, since tiny_http would end the process over it.
    pub(super) fn discard(&self, request: tiny_http::Request) {
        if sockets::can_drain(&request) {
            drop(request);
        } else {
            let leaked = self.counters.leaked.fetch_add(1, Ordering::Relaxed) + 1;
            log::warn!("{leaked} requests with absurd lengths hold a thread each until a restart");
            std::mem::forget(request);
        }
    }

    /// Holds a writer whose connection cannot be cut.
    pub(super) fn keep_in_limbo(&self, writer: Box<dyn Write + Send>) {
        lock(&self.limbo).push((exchange::limbo_end(), writer));
    }

    /// Lets go of writers that were held long enough.
    pub(super) fn clear_limbo(&self) {
        let now = Instant::now();
        lock(&self.limbo).retain(|(end, _)| *end > now);
    }
}

impl Task {
    /// Does the work.
    pub(super) fn run(self, lane: LaneName) {
        match self {
            Self::Handle(exchange) => handle(exchange, lane),
            Self::Resume(exchange, job) => {
                let reply = protected(&exchange.engine, job);
                conclude(exchange, reply, lane);
            }
            Self::Write(exchange, response) => exchange.answer(response, lane),
            Self::Refuse(exchange, response) => exchange.refuse(response),
        }
    }
}

/// Reads the head, asks the handler, and does what it says.
fn handle(mut exchange: Exchange, lane: LaneName) {
    let engine = exchange.engine.clone();
    let Wire::Plain(request) = &exchange.wire else { return };
    let head = match framing::read(request) {
        Ok(head) => head,
        Err((status, why)) => return engine.refuse_for(exchange, status, why),
    };
    if matches!(head.body, BodyKind::Sized(length) if length > engine.options.body_bytes_max) {
        return engine.refuse_for(exchange, 413, "the body is over the limit");
    }
    let method = Method::parse(request.method().as_str());
    let peer = request.remote_addr().copied();
    exchange.manner.closes = !head.keeps_alive;
    exchange.expects_continue = head.expects_continue;
    let request = into_request(&mut exchange, head, method, peer);
    let reply = protected(&engine, || engine.handler.handle(request));
    conclude(exchange, reply, lane);
}

/// The request as handlers see it; a body is shared with the exchange from here on.
fn into_request(
    exchange: &mut Exchange,
    head: Head,
    method: Method,
    peer: Option<SocketAddr>,
) -> Request {
    let options = &exchange.engine.options;
    let deadline = Deadline::after(options.request_time_max);
    let mut request = Request {
        method,
        target: head.target,
        headers: head.headers,
        peer,
        deadline,
        body_length: None,
        body: Box::new(io::empty()),
    };
    if head.body == BodyKind::None {
        return request;
    }
    if let BodyKind::Sized(length) = head.body {
        request.body_length = Some(length);
    }
    if let Wire::Plain(inner) = std::mem::replace(&mut exchange.wire, Wire::Taken) {
        let engine = exchange.engine.clone();
        let is_peer_gone = move |connection: &Connection| {
            let is_tcp = connection.key.is_some();
            is_tcp && engine.find_socket(connection).is_none_or(|s| sockets::is_peer_gone(&s))
        };
        let connection = exchange.connection.clone();
        let bytes_max = options.body_bytes_max;
        let body = SharedBody::new(inner, head.body, bytes_max, connection, is_peer_gone);
        request.body = Box::new(BodyReader(body.clone()));
        exchange.wire = Wire::Shared(body);
    }
    request
}

/// Runs a handler; a panic in it becomes an answer.
fn protected(engine: &Engine, run: impl FnOnce() -> Reply) -> Reply {
    // The panic hook has logged it.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        engine.counters.panics.fetch_add(1, Ordering::Relaxed);
        Reply::Now(Response::text(500, "internal error"))
    })
}

/// Does what a handler said.
fn conclude(exchange: Exchange, mut reply: Reply, lane: LaneName) {
    let engine = exchange.engine.clone();
    loop {
        match reply {
            Reply::Now(response) => return exchange.answer(response, lane),
            Reply::Park(park) => return engine.polls.park(exchange, park),
            Reply::Remote(job) if lane == LaneName::Remote => reply = protected(&engine, job),
            Reply::Remote(job) => {
                if let Err(Task::Resume(exchange, _)) =
                    engine.remote.submit(Task::Resume(exchange, job))
                {
                    engine.counters.busy.fetch_add(1, Ordering::Relaxed);
                    exchange.answer(exchange::busy(), lane);
                }
                return;
            }
        }
    }
}
