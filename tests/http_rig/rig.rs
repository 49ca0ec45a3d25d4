//! A server with a handler for each way to answer, and a client that speaks in bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use twinpi::deadline::Deadline;
use twinpi::http::request::Request;
use twinpi::http::response::{Body, Park, Reply, Response};
use twinpi::http::{Handler, Server, ServerOptions, Stats};
use twinpi::serial::{Serial, SerialClock};

/// No wait in a test is longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Options with short times.
pub fn options() -> ServerOptions {
    ServerOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        body_bytes_max: 2_000_000,
        head_timeout: Duration::from_millis(700),
        idle_timeout: Duration::from_millis(1500),
        body_stall: Duration::from_millis(700),
        small_write_stall: Duration::from_millis(700),
        write_stall: Duration::from_millis(700),
        drain_time_max: Duration::from_secs(5),
        ..ServerOptions::default()
    }
}

pub struct Rig {
    pub server: Arc<Server>,
    pub clock: Arc<SerialClock>,
    site: Arc<Site>,
}

impl Rig {
    pub fn start() -> Self {
        Self::start_with(options())
    }

    pub fn start_with(options: ServerOptions) -> Self {
        let _ = env_logger::builder().is_test(true).try_init();
        let clock = Arc::new(SerialClock::new(None));
        let site = Arc::new(Site::new());
        let server = Server::start(options, site.clone(), clock.clone()).unwrap();
        Self { server: Arc::new(server), clock, site }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.addresses()[0]
    }

    pub fn client(&self) -> Client {
        self.try_client().unwrap()
    }

    pub fn try_client(&self) -> io::Result<Client> {
        let stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client { reader: BufReader::new(stream.try_clone()?), stream })
    }

    /// Waits until the numbers are as claimed.
    pub fn wait(&self, claim: &str, is_so: impl Fn(&Stats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(&self.server.stats()) {
            assert!(Instant::now() < end, "never: {claim}: {:?}", self.server.stats());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many requests were found inside of others.
    pub fn smuggled(&self) -> usize {
        thread::sleep(Duration::from_millis(50));
        self.site.smuggled.load(Ordering::Relaxed)
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub struct Client {
    pub stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).unwrap();
    }

    /// Whether the bytes could be sent.
    pub fn try_send(&mut self, bytes: &str) -> bool {
        self.stream.write_all(bytes.as_bytes()).is_ok()
    }

    pub fn send_get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send_get(path);
        self.read_answer()
    }

    pub fn read_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let n = self.reader.read_line(&mut head).unwrap();
            assert!(n > 0, "the connection ended in a head: {head:?}");
        }
        head
    }

    pub fn read_answer(&mut self) -> Answer {
        let head = self.read_head();
        let status = head[9..12].parse().unwrap();
        let field = |name: &str| {
            let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let mut body = Vec::new();
        if let Some(length) = field("content-length:") {
            body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut body).unwrap();
        } else if field("transfer-encoding:").is_some() {
            while self.read_chunk(&mut body) {}
        }
        Answer { status, head, body }
    }

    fn read_chunk(&mut self, body: &mut Vec<u8>) -> bool {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        body.extend_from_slice(&chunk[..size]);
        size > 0
    }

    /// All that comes until the connection's end, be it a reset.
    pub fn read_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// Waits for the connection's end, and says whether it came without another byte.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => rest.is_empty(),
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset && rest.is_empty(),
        }
    }

    /// Waits for the connection's end, whatever comes before it.
    pub fn is_closed_or_answered(&mut self) -> bool {
        match self.reader.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A handler for each way to answer.
struct Site {
    page: Arc<[u8]>,
    file: File,
    smuggled: AtomicUsize,
}

impl Site {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..3_000_000).map(|n: usize| (n % 251) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        Self { page: vec![b'p'; 10_000].into(), file, smuggled: AtomicUsize::new(0) }
    }

    fn file(&self) -> Response {
        let file = self.file.try_clone().unwrap();
        Response::new(200).with_body(Body::File { file, offset: 0, length: 3_000_000 })
    }
}

impl Handler for Site {
    fn handle(&self, mut request: Request) -> Reply {
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        Reply::Now(match request.path() {
            "/hello" => Response::text(200, "hello"),
            "/target" => Response::text(200, request.target),
            "/page" => Response::new(200).with_body(Body::Shared(self.page.clone())),
            "/file" => self.file(),
            "/reason" => Response::text(400, "no").with_reason("because\r\nso"),
            "/close" => Response { close: true, ..Response::text(200, "bye") },
            "/panic" => panic!("on purpose"),
            "/slow" => {
                thread::sleep(Duration::from_millis(100));
                Response::text(200, "slow")
            }
            "/stream" => stream(Box::new(io::repeat(7).take(1_000_000)), None),
            "/endless" => stream(Box::new(io::repeat(7)), None),
            "/bad-stream" => stream(Box::new(Failing(100_000)), None),
            "/bad-sized-stream" => stream(Box::new(Failing(100_000)), Some(200_000)),
            "/echo" => match io::copy(&mut request.body, &mut io::sink()) {
                Ok(n) => Response::text(200, n.to_string()),
                Err(e) if e.kind() == io::ErrorKind::FileTooLarge => Response::text(413, "long"),
                Err(e) => Response::text(400, e.to_string()),
            },
            "/remote-panic" => return Reply::Remote(Box::new(|| panic!("on purpose"))),
            "/remote" => {
                let ms = number(request.query());
                return Reply::Remote(Box::new(move || {
                    thread::sleep(Duration::from_millis(ms));
                    Reply::Now(Response::text(200, "remote"))
                }));
            }
            "/park" => {
                let (wanted, ms) =
                    request.query().split_once("&ms=").unwrap_or((request.query(), "60000"));
                return Reply::Park(Park {
                    bell: None,
                    wanted: Some(Serial::new(number(wanted)).unwrap()),
                    deadline: Deadline::after(Duration::from_millis(number(ms))),
                    resume: Box::new(|| Reply::Now(Response::text(200, "resumed"))),
                });
            }
            "/smuggled" => {
                self.smuggled.fetch_add(1, Ordering::Relaxed);
                Response::text(200, "smuggled")
            }
            _ => Response::text(404, "nothing here"),
        })
    }
}

fn stream(reader: Box<dyn Read + Send>, length: Option<u64>) -> Response {
    Response::new(200).with_body(Body::Stream { reader, length })
}

/// Gives so many bytes and then fails.
struct Failing(usize);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.0);
        self.0 -= n;
        if n == 0 { Err(io::Error::other("on purpose")) } else { Ok(n) }
    }
}
