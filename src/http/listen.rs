//! The server: opens listeners, starts the threads around tiny_http, and stops all in order.
//!
//! | thread | how many | waits on |
//! | --- | --- | --- |
//! | tiny_http's | one per connection and one per listener | sockets |
//! | http-local | by options | tiny_http's queue, for the first listener |
//! | http-relief | 1 | the crew being busy |
//! | http-take | one per further accept loop | tiny_http's queue |
//! | http-body, -remote, -bulk | by options | their lane's queue |
//! | http-polls | 1 | the clock, the nearest deadline |
//! | http-guard | 1 | a timer |

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::crew::Crew;
use super::dispatch::Engine;
use super::sockets::Listener;
use super::{Handler, guard, lanes, os};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::serial::SerialClock;
use crate::stop::spawn;
use crate::sync::{Mutex, lock};

/// Descriptors that connections leave to the database, files and other servers.
const DESCRIPTORS_RESERVED: u64 = 256;
/// Descriptors that one connection may use: two in tiny_http, one for a file or a look of the guard.
const DESCRIPTORS_PER_CONNECTION: u64 = 3;
/// How often a stop looks whether all is done.
const STOP_LOOKS: Duration = Duration::from_millis(20);
/// How long threads may take to end once their queues are closed and all connections are cut.
const JOIN_TIME_MAX: Duration = Duration::from_secs(2);

/// How a server listens, and its limits.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Addresses to listen on; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// A unix socket to listen on, for a proxy on the same machine.
    pub unix_socket: Option<PathBuf>,
    /// Its permissions.
    pub unix_socket_mode: u32,
    /// Threads that answer from local state; they never wait for a client, so that more would not be faster.
    pub workers_local: usize,
    /// Threads for requests with a body, at most: an upload holds one as long as its client sends.
    pub workers_body: usize,
    /// Threads for work that waits for another machine, at most.
    pub workers_remote: usize,
    /// Threads that write large answers, at most: a download holds one as long as its client reads.
    pub workers_bulk: usize,
    /// Requests that wait for a thread of each other lane; 503 beyond.
    pub queue_max: usize,
    /// Requests that wait for a thread for work on another machine; 503 beyond.
    pub remote_queue_max: usize,
    /// Connections, beyond which those that are idle longest are ended. Parked replicas count.
    pub connections_max: usize,
    /// The body of one request, in bytes.
    pub body_bytes_max: u64,
    /// From the first byte of a request's head to its last.
    pub head_timeout: Duration,
    /// How long a connection may stand unused.
    pub idle_timeout: Duration,
    /// How long a body may come slower than 16 KiB in that time.
    pub body_stall: Duration,
    /// How long a client may take a small answer slower than that; it holds a thread of the lane for local work.
    pub small_write_stall: Duration,
    /// How long a client may take a large answer slower than that.
    pub write_stall: Duration,
    /// The deadline that a request starts with.
    pub request_time_max: Duration,
    /// How long requests under way may take when the server stops.
    pub drain_time_max: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            unix_socket: None,
            unix_socket_mode: 0o660,
            workers_local: 8,
            workers_body: 32,
            workers_remote: 50,
            workers_bulk: 256,
            queue_max: 1000,
            remote_queue_max: 100,
            connections_max: 1000,
            body_bytes_max: 1 << 30,
            head_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(65),
            body_stall: Duration::from_secs(30),
            small_write_stall: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
            request_time_max: Duration::from_secs(300),
            drain_time_max: Duration::from_secs(10),
        }
    }
}

/// What the server is doing, for status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open connections, as of the guard's last look.
    pub connections: usize,
    /// Requests under way, parked ones too.
    pub in_flight: usize,
    /// Requests that are parked.
    pub parked: usize,
    /// Requests so far.
    pub requests: u64,
    /// Requests refused for their framing or size.
    pub refused: u64,
    /// Requests answered 503 because a queue was full.
    pub busy: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Requests given up with their thread, because tiny_http would end the process over them.
    pub leaked: u64,
    /// Connections that are closed, but held by tiny_http for good.
    pub zombies: usize,
    /// Connections that were ended by force.
    pub cut: u64,
    /// How often tiny_http had to be reminded of a connection.
    pub kicks: u64,
    /// How often an accept loop had to be started again.
    pub rebuilds: u64,
    /// For each lane its name, the work that waits and the threads that live.
    pub lanes: Vec<(&'static str, usize, usize)>,
}

/// A server that runs until it is stopped or dropped.
pub struct Server {
    engine: Arc<Engine>,
    helpers: Mutex<Vec<JoinHandle<()>>>,
    is_stopped: AtomicBool,
}

impl Server {
    /// Opens the listeners and starts to answer.
    ///
    /// # Errors
    /// `Kind::Unavailable` if an address cannot be listened to, `Kind::Internal` if the system gives no threads.
    pub fn start(
        mut options: ServerOptions,
        handler: Arc<dyn Handler>,
        clock: Arc<SerialClock>,
    ) -> Result<Self> {
        let mut listeners = Vec::new();
        for address in &options.listen {
            listeners.push(Listener::tcp(*address, options.write_stall)?);
        }
        if let Some(path) = &options.unix_socket {
            listeners.push(Listener::unix(path, options.unix_socket_mode)?);
        }
        if listeners.is_empty() {
            return Err(Error::invalid("there is no address to listen on"));
        }
        limit_connections(&mut options);
        let engine = Arc::new(Engine::new(options, listeners, handler, clock));
        let polls = engine.clone();
        let guard = engine.clone();
        let helpers = vec![
            spawn("http-polls", move || polls.polls.run())?,
            spawn("http-guard", move || guard::run(&guard))?,
        ];
        let server = Self { engine, helpers: Mutex::new(helpers), is_stopped: false.into() };
        for listener in 0..server.engine.listeners.len() {
            accept_from(&server.engine, listener)?;
        }
        Ok(server)
    }

    /// The addresses that are listened to, with their real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.engine.listeners.iter().filter_map(Listener::address).collect()
    }

    /// What the server is doing.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Asks for numbers without holding the server itself.
    pub fn watcher(&self) -> Watcher {
        Watcher(self.engine.clone())
    }

    /// Stops in order: no new connections, parked requests answered, requests under way finished (for the time that the
    /// options give them), connections ended, threads joined. Later calls do nothing.
    pub fn stop(&self) {
        self.stop_within(self.engine.options.drain_time_max, JOIN_TIME_MAX);
    }

    /// As `stop`, with other times: for requests under way, and for threads to end; what takes longer is left behind.
    pub fn stop_within(&self, drain_time_max: Duration, join_time_max: Duration) {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = &self.engine;
        engine.set_stopping();
        for listener in &engine.listeners {
            listener.shut();
        }
        engine.polls.stop();
        let drained = Deadline::after(drain_time_max);
        loop {
            guard::cut_all(engine, false);
            if engine.counters.in_flight.load(Ordering::Acquire) == 0 || drained.is_past() {
                break;
            }
            thread::sleep(STOP_LOOKS);
        }
        engine.end_takers();
        guard::cut_all(engine, true);
        engine.guard.stop();
        let joined = Deadline::after(join_time_max);
        for lane in engine.end_lanes(joined) {
            log::warn!("a request is still under way in lane {lane}; it is left behind");
        }
        let helpers = std::mem::take(&mut *lock(&self.helpers));
        if !lanes::join_all(helpers, joined) {
            log::warn!("a thread of the http server did not end in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Gives the numbers of a server to whom cannot hold it, such as its own handler.
#[derive(Clone)]
pub struct Watcher(Arc<Engine>);

impl Watcher {
    /// What the server is doing.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

/// Runs an accept loop for a listener. What comes from the first one is taken by the crew; each other one gets a thread
/// that does nothing else.
pub(super) fn accept_from(engine: &Arc<Engine>, listener: usize) -> Result<()> {
    let server = Arc::new(engine.listeners[listener].serve()?);
    let Some(server) = Crew::take_from(engine, listener, server)? else { return Ok(()) };
    let (taking, taken_for) = (server.clone(), engine.clone());
    let thread = spawn("http-take", move || take_from(&taken_for, listener, &taking))?;
    engine.add_taker(server, thread);
    Ok(())
}

/// Takes requests until the engine is over. The accept loop may end before that, and its connections live on.
fn take_from(engine: &Arc<Engine>, listener: usize, server: &tiny_http::Server) {
    while !engine.is_over() {
        match server.recv() {
            Ok(request) => Engine::take_and_queue(engine, listener, request),
            Err(e) => engine.see_receive_error(listener, &e),
        }
    }
}

/// Lowers the limit of connections to what the limit of open files allows.
fn limit_connections(options: &mut ServerOptions) {
    let descriptors = os::raise_open_files();
    let possible = descriptors.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_CONNECTION;
    let possible = usize::try_from(possible).unwrap_or(usize::MAX).max(16);
    if possible < options.connections_max {
        log::warn!("{descriptors} open files allow {possible} connections, not more");
        options.connections_max = possible;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::super::request::Request;
    use super::super::response::{Reply, Response};
    use super::*;

    struct Hello;

    impl Handler for Hello {
        fn handle(&self, _: Request) -> Reply {
            Reply::Now(Response::text(200, "hello"))
        }
    }

    fn options() -> ServerOptions {
        let listen = vec!["127.0.0.1:0".parse().unwrap()];
        ServerOptions { listen, ..ServerOptions::default() }
    }

    fn ask(stream: &mut TcpStream) -> bool {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        let mut answer = [0; 1000];
        let n = stream.read(&mut answer).unwrap();
        answer[..n].ends_with(b"\r\n\r\nhello")
    }

    #[test]
    fn an_accept_loop_that_fails_is_replaced_and_its_connections_live_on() {
        let clock = Arc::new(SerialClock::new(None));
        let server = Server::start(options(), Arc::new(Hello), clock).unwrap();
        let address = server.addresses()[0];
        let Listener::Tcp(listener, _) = &server.engine.listeners[0] else { panic!("no tcp") };
        let listener = socket2::SockRef::from(listener);
        let mut before = TcpStream::connect(address).unwrap();
        assert!(ask(&mut before));
        // With a time limit, the next accept fails as it does when descriptors run out.
        listener.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        drop(TcpStream::connect(address).unwrap());
        let end = Instant::now() + Duration::from_secs(10);
        while server.stats().rebuilds == 0 {
            assert!(Instant::now() < end, "no other loop was started");
            thread::sleep(Duration::from_millis(5));
        }
        listener.set_read_timeout(None).unwrap();
        assert!(ask(&mut TcpStream::connect(address).unwrap()));
        assert!(ask(&mut before));
    }

    #[test]
    fn an_accept_loop_that_died_without_a_word_is_replaced() {
        let listeners = vec![Listener::tcp(options().listen[0], Duration::from_secs(5)).unwrap()];
        let address = listeners[0].address().unwrap();
        let clock = Arc::new(SerialClock::new(None));
        let engine = Arc::new(Engine::new(options(), listeners, Arc::new(Hello), clock));
        let guarded = engine.clone();
        let guard = spawn("guard", move || guard::run(&guarded)).unwrap();
        let helpers = Mutex::new(vec![guard]);
        let server = Server { engine, helpers, is_stopped: false.into() };
        assert!(ask(&mut TcpStream::connect(address).unwrap()));
        assert_eq!(server.stats().rebuilds, 1);
    }

    #[test]
    fn a_port_that_is_taken_is_an_error() {
        let clock = || Arc::new(SerialClock::new(None));
        let first = Server::start(options(), Arc::new(Hello), clock()).unwrap();
        let same = ServerOptions { listen: first.addresses(), ..options() };
        let error = Server::start(same, Arc::new(Hello), clock()).err().unwrap();
        assert_eq!(error.kind, crate::error::Kind::Unavailable);
        let none = ServerOptions { listen: Vec::new(), ..options() };
        assert!(Server::start(none, Arc::new(Hello), clock()).is_err());
    }
}
