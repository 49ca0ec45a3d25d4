//! A small HTTP server that can be told to misbehave.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use twinpi::deadline::Deadline;
use twinpi::http::request::{Headers, Method, Request};
use twinpi::http::response::{Body, Reply, Response};
use twinpi::serial::SerialClock;

use super::rig::body_of;

/// What answers requests.
pub type Handler = Arc<dyn Fn(Request) -> Reply + Send + Sync>;

/// How an answer is spoilt.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body as it is sent.
    CutAfter(usize),
    /// The stream ends properly after so many bytes, as if that were all.
    EndAfter(usize),
    /// The connection ends before the answer, after the request was carried out.
    NoAnswer,
    /// One bit of the body is another.
    Lie,
    /// So many bytes more come.
    TooLong(usize),
}

/// A small server: one thread per connection, no limits, faults on request.
pub struct Mini {
    address: SocketAddr,
    state: Arc<MiniState>,
    accepting: Mutex<Option<thread::JoinHandle<()>>>,
}

struct MiniState {
    handler: Handler,
    clock: Arc<SerialClock>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    streams: Mutex<Vec<TcpStream>>,
    is_stopped: AtomicBool,
    /// Bytes of bodies sent of what is below `+f`.
    file_bytes: AtomicUsize,
}

impl Mini {
    pub fn start(clock: Arc<SerialClock>, handler: Handler) -> Self {
        Self::start_at("127.0.0.1:0", clock, handler)
    }
    pub fn start_at(address: &str, clock: Arc<SerialClock>, handler: Handler) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(MiniState {
            handler,
            clock,
            faults: Mutex::default(),
            streams: Mutex::default(),
            is_stopped: AtomicBool::new(false),
            file_bytes: AtomicUsize::new(0),
        });
        let accepting = thread::spawn({
            let accepting = state.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if accepting.is_stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    stream.set_nodelay(true).expect("a socket");
                    accepting
                        .streams
                        .lock()
                        .expect("whole")
                        .push(stream.try_clone().expect("a socket"));
                    let state = accepting.clone();
                    thread::spawn(move || state.serve(stream));
                }
            }
        });
        Self { address, state, accepting: Mutex::new(Some(accepting)) }
    }
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    pub fn address(&self) -> String {
        self.address.to_string()
    }
    /// Spoils the next answer to a target that contains this.
    pub fn spoil(&self, target: &str, fault: Fault) {
        self.state.faults.lock().expect("whole").push_back((target.to_owned(), fault));
    }
    /// How many bytes of files were sent so far.
    pub fn file_bytes(&self) -> usize {
        self.state.file_bytes.load(Ordering::SeqCst)
    }
    /// Ends all connections and listens no more.
    pub fn stop(&self) {
        self.state.is_stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.lock().expect("whole").take() {
            accepting.join().expect("no panic"); // the port is closed after that
        }
        for stream in self.state.streams.lock().expect("whole").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Mini {
    fn drop(&mut self) {
        self.stop();
    }
}

impl MiniState {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        while let Some(request) = read_request(&mut reader) {
            let target = request.target.clone();
            let fault = self.take_fault(&target);
            let is_head = request.method == Method::Head;
            let response = self.answer((self.handler)(request));
            let (goes_on, sent) = match send(&stream, response, fault, is_head) {
                Ok(done) => done,
                Err(_) => break,
            };
            if target.contains("/+f/") {
                self.file_bytes.fetch_add(sent, Ordering::SeqCst);
            }
            if !goes_on {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn take_fault(&self, target: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("whole");
        let at = faults.iter().position(|(part, _)| target.contains(part.as_str()))?;
        faults.remove(at).map(|(_, fault)| fault)
    }

    fn answer(&self, reply: Reply) -> Response {
        match reply {
            Reply::Now(response) => response,
            Reply::Remote(job) => self.answer(job()),
            Reply::Park(park) => {
                if let Some(wanted) = park.wanted {
                    self.clock.wait_for(wanted, park.deadline);
                }
                self.answer((park.resume)())
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| 0 < *n)?;
    let mut words = line.split(' ');
    let (method, target) = (Method::parse(words.next()?), words.next()?.to_owned());
    let mut headers = Headers::default();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push(name.trim(), value.trim());
    }
    let length = headers.get("content-length").and_then(|n| n.parse::<usize>().ok());
    let body = match length {
        Some(length) => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            body
        }
        None if headers.has("transfer-encoding") => read_chunks(reader)?,
        None => Vec::new(),
    };
    Some(Request {
        method,
        target,
        headers,
        peer: reader.get_ref().peer_addr().ok(),
        deadline: Deadline::after(Duration::from_secs(30)),
        body_length: length.map(|n| n as u64),
        body: Box::new(io::Cursor::new(body)),
    })
}

fn read_chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..]).ok()?;
        reader.read_line(&mut String::new()).ok()?;
        if size == 0 {
            return Some(body);
        }
    }
}

/// Sends an answer; true if the connection can go on, and how many bytes the body had.
fn send(
    mut stream: &TcpStream,
    response: Response,
    fault: Option<Fault>,
    is_head: bool,
) -> io::Result<(bool, usize)> {
    if matches!(fault, Some(Fault::NoAnswer)) {
        return Ok((false, 0));
    }
    let is_chunked = matches!(response.body, Body::Stream { length: None, .. });
    let mut head = format!(
        "HTTP/1.1 {} {}\r\n",
        response.status,
        response.reason.as_deref().unwrap_or("Reason")
    );
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut body = body_of(response)?;
    let length = body.len();
    match fault {
        Some(Fault::EndAfter(n)) => body.truncate(n),
        Some(Fault::Lie) => body[length / 2] ^= 1,
        Some(Fault::TooLong(n)) => body.resize(length + n, 0),
        _ => {}
    }
    if is_chunked || matches!(fault, Some(Fault::EndAfter(_) | Fault::TooLong(_))) {
        head += "Transfer-Encoding: chunked\r\n\r\n";
        let mut chunks = Vec::new();
        for chunk in body.chunks(1000) {
            write!(chunks, "{:x}\r\n", chunk.len())?;
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        body = chunks;
    } else {
        head += &format!("Content-Length: {length}\r\n\r\n");
    }
    stream.write_all(head.as_bytes())?;
    if is_head {
        return Ok((true, 0));
    }
    if let Some(Fault::CutAfter(n)) = fault {
        let n = n.min(body.len());
        stream.write_all(&body[..n])?;
        return Ok((false, n));
    }
    stream.write_all(&body)?;
    Ok((true, body.len()))
}
