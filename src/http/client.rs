//! Requests to other machines, over one ureq agent per way out (direct, or by proxy).
//!
//! Promises: what the caller gives goes out as it is, and comes back as it is: no redirect is followed unless asked for,
//! no status is an error, no body is decoded. `shutdown` ends what is under way. No message shows credentials.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use percent_encoding::percent_decode_str;
use ureq::config::RedirectAuthHeaders;
use ureq::http;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, ResponseExt as _, SendBody};

use super::proxy::Proxies;
use super::request::Headers;
use super::transport::{self, WatchConnector};
use super::trust::{self, Trust};
use crate::error::{Error, Kind, Result};

/// How long an unused connection is kept: shorter than any server keeps it, so that it rarely closes under a request.
const IDLE_AGE_MAX: Duration = Duration::from_secs(30);
/// Unused connections kept for each host; the relay has at most as many requests under way as threads.
const IDLE_PER_HOST_MAX: usize = 16;
/// A request without a body is sent again if a kept connection fails within this time: the other side had closed it.
const RETRY_WITHIN: Duration = Duration::from_secs(1);
/// An answer's head; upload errors put long texts into the reason phrase.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// What is read from and written to a socket at once.
const BUFFER_BYTES: usize = 64 * 1024;

/// How a client presents itself, and what it trusts.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// The value of `User-Agent` when a request has none.
    pub user_agent: String,
    /// A PEM file with a certificate and its key, shown to servers that ask for one.
    pub replica_cert: Option<PathBuf>,
    /// How many redirects to follow.
    pub redirects_max: u32,
}

/// How long the steps of one request may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until the connection stands, with TLS.
    pub connect: Duration,
    /// From the request's last byte to the end of the answer's head.
    pub response_head: Duration,
    /// Each wait for bytes of the answer's body, and each for room to send.
    pub per_read: Duration,
}

/// What to send after the head.
pub enum ClientBody {
    /// Nothing.
    None,
    /// What a reader gives, as it comes.
    Reader {
        /// The source.
        reader: Box<dyn Read + Send>,
        /// How many bytes it gives; chunked when not known.
        length: Option<u64>,
    },
}

/// An answer whose body is still to be read.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The reason phrase, if there is one.
    pub reason: Option<String>,
    /// The address that answered, after redirects; without user and password.
    pub url: String,
    /// All header fields, names in small letters.
    pub headers: Headers,
    /// The body as sent; fails if it ends early. `io::ErrorKind::TimedOut` is a stalled one.
    pub body: Box<dyn Read + Send>,
}

/// Sends requests; cheap to share, safe to use from many threads.
pub struct Client {
    direct: Agent,
    proxied: Vec<(String, Agent)>,
    proxies: Proxies,
    trust: Trust,
}

impl Client {
    /// Reads certificates and the proxy settings of the environment.
    ///
    /// # Errors
    /// `Kind::Invalid` if a file with certificates cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self> {
        let (tls, trust) = trust::tls_config(options.replica_cert.as_deref())?;
        let proxies = Proxies::from_env();
        let make = |proxy: Option<ureq::Proxy>| {
            let config = Agent::config_builder()
                .tls_config(tls.clone())
                .http_status_as_error(false)
                .max_redirects(options.redirects_max)
                .max_redirects_will_error(false)
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .allow_non_standard_methods(true)
                .accept_encoding("identity")
                .user_agent(options.user_agent.clone())
                .max_response_header_size(HEAD_BYTES_MAX)
                .input_buffer_size(BUFFER_BYTES)
                .output_buffer_size(BUFFER_BYTES)
                .max_idle_age(IDLE_AGE_MAX)
                .max_idle_connections_per_host(IDLE_PER_HOST_MAX)
                .proxy(proxy)
                .build();
            let connector = DefaultConnector::new().chain(WatchConnector);
            Agent::with_parts(config, connector, DefaultResolver::default())
        };
        let proxied = proxies.all().map(|(url, proxy)| (url.to_owned(), make(Some(proxy))));
        Ok(Self { proxied: proxied.collect(), direct: make(None), proxies, trust })
    }

    /// Sends one request and waits for the head of its answer. User and password in the URL become a header.
    ///
    /// # Errors
    /// `Kind::Timeout` if a step took too long, `Kind::BadGateway` if the other side could not be reached or answered
    /// nonsense, `Kind::Invalid` if the request cannot be sent or reading its body failed.
    pub fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: ClientBody,
        timeouts: Timeouts,
    ) -> Result<Answer> {
        let (url, authorization) = split_userinfo(url);
        let target = Target { method, url: &url, headers, authorization: authorization.as_deref() };
        let body = settle_body(method, body);
        let is_repeatable =
            matches!(body, ClientBody::None) && matches!(method, "GET" | "HEAD" | "OPTIONS");
        let started = Instant::now();
        let failed = Arc::new(AtomicBool::new(false));
        let mut result = self.send(&target, body, &failed, timeouts);
        if is_repeatable && started.elapsed() < RETRY_WITHIN && is_stale_connection(&result) {
            result = self.send(&target, ClientBody::None, &failed, timeouts);
        }
        result.map_err(|e| explain(e, &target, failed.load(Ordering::Relaxed), &self.trust))
    }

    fn send(
        &self,
        target: &Target<'_>,
        body: ClientBody,
        failed: &Arc<AtomicBool>,
        timeouts: Timeouts,
    ) -> std::result::Result<Answer, ureq::Error> {
        let mut request = http::Request::builder().method(target.method).uri(target.url);
        for (name, value) in target.headers {
            request = request.header(name.as_str(), value.as_bytes());
        }
        if let Some(authorization) = target.authorization {
            request = request.header(http::header::AUTHORIZATION, authorization);
        }
        let body = match body {
            ClientBody::None => SendBody::none(),
            ClientBody::Reader { reader, length } => {
                if let Some(length) = length {
                    request = request.header(http::header::CONTENT_LENGTH, length);
                }
                let failed = failed.clone();
                SendBody::from_owned_reader(OutgoingBody { reader, left: length, failed })
            }
        };
        let agent = self.agent_for(target.url);
        let request = agent
            .configure_request(request.body(body)?)
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.response_head))
            .timeout_per_read(Some(timeouts.per_read))
            .timeout_per_write(Some(timeouts.per_read))
            .build();
        transport::forget_reason();
        let response = agent.run(request)?;
        let reason = transport::take_reason();
        let url = response.get_uri().to_string();
        let (parts, body) = response.into_parts();
        let headers = parts.headers.iter().map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        });
        Ok(Answer {
            status: parts.status.as_u16(),
            reason,
            url,
            headers: Headers(headers.collect()),
            body: Box::new(AnswerBody(body.into_reader())),
        })
    }

    fn agent_for(&self, url: &str) -> &Agent {
        let proxy = self.proxies.for_url(url);
        let found = proxy.and_then(|proxy| self.proxied.iter().find(|(url, _)| url == proxy));
        found.map_or(&self.direct, |(_, agent)| agent)
    }

    /// What a page means with which a server refused a request to `url` for want of a certificate; `None` if it was no
    /// matter of certificates.
    pub fn explain_page(&self, url: &str, page: &str) -> Option<String> {
        self.trust.explain_page(origin(url), page)
    }

    /// Ends all requests and answers under way with an error, and refuses new ones.
    pub fn shutdown(&self) {
        for agent in self.proxied.iter().map(|(_, agent)| agent).chain([&self.direct]) {
            agent.clone().shutdown();
        }
    }
}

/// The line and fields of a request, and what the body's reader came to.
struct Target<'a> {
    method: &'a str,
    url: &'a str,
    headers: &'a [(String, String)],
    authorization: Option<&'a str>,
}

/// A method that has a body by its nature gets an empty one rather than none: servers refuse or wait for it otherwise.
fn settle_body(method: &str, body: ClientBody) -> ClientBody {
    match body {
        ClientBody::None if matches!(method, "POST" | "PUT" | "PATCH" | "PUSH") => {
            ClientBody::Reader { reader: Box::new(io::empty()), length: Some(0) }
        }
        body => body,
    }
}

/// A body on its way out; a source that gives fewer bytes than it promised is an error, more are not sent.
struct OutgoingBody {
    reader: Box<dyn Read + Send>,
    left: Option<u64>,
    failed: Arc<AtomicBool>,
}

impl Read for OutgoingBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.left.map_or(buf.len(), |left| buf.len().min(saturating(left)));
        if room == 0 {
            return Ok(0);
        }
        let result = match self.reader.read(&mut buf[..room]) {
            Ok(0) if self.left.is_some() => Err(io::ErrorKind::UnexpectedEof.into()),
            result => result,
        };
        match &result {
            Ok(n) => self.left = self.left.map(|left| left - *n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.failed.store(true, Ordering::Relaxed),
        }
        result
    }
}

fn saturating(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// The body of an answer, with ureq's errors turned into plain ones.
struct AnswerBody(ureq::BodyReader<'static>);

impl Read for AnswerBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| match ureq::Error::from(e) {
            ureq::Error::Timeout(_) => {
                io::Error::new(io::ErrorKind::TimedOut, "the other server stopped sending")
            }
            ureq::Error::Io(e) => e,
            e => io::Error::other(e.to_string()),
        })
    }
}

/// Whether a kept connection turned out to be closed by the other side.
fn is_stale_connection(result: &std::result::Result<Answer, ureq::Error>) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let Err(ureq::Error::Io(e)) = result else { return false };
    matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn explain(error: ureq::Error, target: &Target<'_>, body_failed: bool, trust: &Trust) -> Error {
    let doing = format!("{} {}", target.method, origin(target.url));
    if body_failed {
        return Error::invalid(format!("{doing}: the body of the request could not be read"));
    }
    if let Some(what) = trust.explain(origin(target.url), &error.to_string()) {
        return Error::new(Kind::BadGateway, doing).caused_by(Unsent(what));
    }
    let (kind, what) = match &error {
        ureq::Error::Timeout(step) => (Kind::Timeout, format!("no answer in time ({step})")),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (Kind::Invalid, "the request cannot be sent".to_owned())
        }
        ureq::Error::ConnectProxyFailed(_) => {
            (Kind::BadGateway, "the proxy refused the connection".to_owned())
        }
        error => (Kind::BadGateway, error.to_string()),
    };
    if is_before_sending(&error) {
        return Error::new(kind, doing).caused_by(Unsent(what));
    }
    Error::new(kind, format!("{doing}: {what}"))
}

/// Why nothing of a request was sent.
#[derive(Debug)]
struct Unsent(String);

impl std::fmt::Display for Unsent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unsent {}

/// Whether a failed request of a client was certainly not seen by the other side.
pub fn is_unsent(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Unsent>())
}

/// Whether there was no connection to send anything on.
fn is_before_sending(error: &ureq::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    match error {
        ureq::Error::Timeout(step) => {
            matches!(step, ureq::Timeout::Resolve | ureq::Timeout::Connect)
        }
        ureq::Error::Io(e) => matches!(
            e.kind(),
            ConnectionRefused | HostUnreachable | NetworkUnreachable | AddrNotAvailable
        ),
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_) => true,
        _ => false,
    }
}

/// Scheme, host and port of a URL: what messages may show. Paths and queries can carry secrets.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

/// The URL without user and password, and the header that says the same.
fn split_userinfo(url: &str) -> (String, Option<String>) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let Some(at) = origin(url)[start..].rfind('@') else { return (url.to_owned(), None) };
    let userinfo = percent_decode_str(&url[start..start + at]).collect::<Vec<u8>>();
    let bare = format!("{}{}", &url[..start], &url[start + at + 1..]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(userinfo);
    (bare, Some(format!("Basic {encoded}")))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::thread::{self, JoinHandle};

    use super::*;

    const SHORT: Timeouts = Timeouts {
        connect: Duration::from_secs(2),
        response_head: Duration::from_secs(5),
        per_read: Duration::from_millis(150),
    };

    fn client() -> Client {
        let options = ClientOptions { user_agent: "test/1".to_owned(), ..ClientOptions::default() };
        Client::new(options).unwrap()
    }

    /// A server for one connection; gives back what the thread returns.
    fn serve<T: Send + 'static>(
        answer: impl FnOnce(TcpStream) -> T + Send + 'static,
    ) -> (String, JoinHandle<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (url, thread::spawn(move || answer(listener.accept().unwrap().0)))
    }

    fn read_head(stream: &TcpStream) -> String {
        let mut reader = BufReader::with_capacity(1, stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        head
    }

    #[test]
    fn status_reason_fields_and_raw_body_come_back_as_they_are() {
        let (url, server) = serve(|mut stream| {
            let head = read_head(&stream);
            stream
                .write_all(
                    b"HTTP/1.1 409 x.whl already exists in non-volatile index\r\nX-One: 1\r\n\
                      x-one: 2\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
                )
                .unwrap();
            head
        });
        let headers = [("X-Mine".to_owned(), "yes".to_owned())];
        let mut answer =
            client().request("PUSH", &(url + "/a?b=c"), &headers, ClientBody::None, SHORT).unwrap();
        let mut body = String::new();
        answer.body.read_to_string(&mut body).unwrap();
        assert_eq!((answer.status, body.as_str()), (409, "abc"));
        assert_eq!(answer.reason.as_deref(), Some("x.whl already exists in non-volatile index"));
        assert_eq!(answer.headers.0.iter().filter(|(n, _)| n == "x-one").count(), 2);
        assert!(answer.headers.has("content-encoding"));
        let head = server.join().unwrap().to_lowercase();
        assert!(head.starts_with("push /a?b=c http/1.1\r\n"), "{head}");
        for line in
            ["x-mine: yes", "content-length: 0", "user-agent: test/1", "accept-encoding: identity"]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
        }
    }

    #[test]
    fn a_request_without_a_connection_is_known_to_be_unsent() {
        let (url, server) = serve(|stream| drop(read_head(&stream)));
        let send = |url: &str| client().request("DELETE", url, &[], ClientBody::None, SHORT);
        let cut = send(&url).err().unwrap();
        assert!(!is_unsent(&cut), "{cut}");
        server.join().unwrap();
        let closed = send(&url).err().unwrap();
        assert!(is_unsent(&closed), "{closed}");
        assert!(closed.to_string().contains("refused"), "{closed}");
    }

    #[test]
    fn bodies_go_out_with_their_length_or_chunked() {
        for (length, expected) in [(Some(5), "hello"), (None, "5\r\nhello\r\n0\r\n\r\n")] {
            let (url, server) = serve(move |mut stream| {
                let head = read_head(&stream);
                let mut body = vec![0; expected.len()];
                stream.read_exact(&mut body).unwrap();
                stream.write_all(b"HTTP/1.1 204 \r\n\r\n").unwrap();
                (head.to_lowercase(), String::from_utf8(body).unwrap())
            });
            let body = ClientBody::Reader { reader: Box::new(&b"hello"[..]), length };
            let answer = client().request("POST", &url, &[], body, SHORT).unwrap();
            assert_eq!((answer.status, answer.reason), (204, None));
            let (head, body) = server.join().unwrap();
            assert_eq!(body, expected);
            assert_eq!(head.contains("content-length: 5"), length.is_some());
            assert_eq!(head.contains("transfer-encoding: chunked"), length.is_none());
        }
    }

    #[test]
    fn a_source_shorter_than_promised_is_the_callers_fault() {
        let (url, server) = serve(|mut stream| {
            read_head(&stream);
            io::copy(&mut stream, &mut io::sink()).unwrap()
        });
        let body = ClientBody::Reader { reader: Box::new(&b"hello"[..]), length: Some(10) };
        let error = client().request("POST", &url, &[], body, SHORT).err().unwrap();
        assert_eq!(error.kind, Kind::Invalid);
        server.join().unwrap();
    }

    #[test]
    fn an_answer_that_comes_before_the_body_is_sent_is_seen() {
        let (url, server) = serve(|mut stream| {
            read_head(&stream);
            stream.write_all(b"HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            thread::sleep(Duration::from_millis(50)); // closes with unread bytes: a reset
        });
        let length = 64 << 20;
        let body = ClientBody::Reader {
            reader: Box::new(io::repeat(7).take(length)),
            length: Some(length),
        };
        let answer = client().request("POST", &url, &[], body, SHORT).unwrap();
        assert_eq!((answer.status, answer.reason.as_deref()), (403, Some("no")));
        server.join().unwrap();
    }

    #[test]
    fn a_stalled_body_ends_by_the_wait_for_each_read_but_a_head_may_take_longer() {
        let (url, server) = serve(|mut stream| {
            read_head(&stream);
            thread::sleep(SHORT.per_read * 2);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest); // until the client gives up
        });
        let mut answer = client().request("GET", &url, &[], ClientBody::None, SHORT).unwrap();
        let mut body = Vec::new();
        let error = answer.body.read_to_end(&mut body).unwrap_err();
        assert_eq!((error.kind(), &body[..]), (io::ErrorKind::TimedOut, &b"ab"[..]));
        drop(answer);
        server.join().unwrap();
    }

    #[test]
    fn a_body_that_is_cut_short_fails() {
        let (url, server) = serve(|mut stream| {
            read_head(&stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap();
        });
        let mut answer = client().request("GET", &url, &[], ClientBody::None, SHORT).unwrap();
        server.join().unwrap();
        assert!(answer.body.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn shutdown_ends_a_waiting_request() {
        let (url, server) = serve(|stream| {
            read_head(&stream);
            io::copy(&mut &stream, &mut io::sink()).ok();
        });
        let client = Arc::new(client());
        let waiting = {
            let client = client.clone();
            thread::spawn(move || client.request("GET", &url, &[], ClientBody::None, SHORT).err())
        };
        thread::sleep(Duration::from_millis(100));
        let asked = Instant::now();
        client.shutdown();
        let error = waiting.join().unwrap().expect("no answer");
        assert_eq!(error.kind, Kind::BadGateway, "{error:?}");
        assert!(asked.elapsed() < Duration::from_secs(1));
        server.join().unwrap();
    }

    #[test]
    fn errors_have_their_kind_and_show_no_credentials() {
        let closed = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let url = format!("http://ann:geheim@{closed}/secret-path?token=1");
        let error = client().request("GET", &url, &[], ClientBody::None, SHORT).err().unwrap();
        assert_eq!(error.kind, Kind::BadGateway);
        let shown = error.to_string();
        assert!(shown.contains(&closed.to_string()), "{shown}");
        assert!(!["ann", "geheim", "secret", "token"].iter().any(|w| shown.contains(w)), "{shown}");
    }

    #[test]
    fn user_and_password_of_a_url_become_a_header() {
        let (bare, header) = split_userinfo("http://ann:p%40ss@host:1/a@b");
        assert_eq!(
            (bare.as_str(), header.as_deref()),
            ("http://host:1/a@b", Some("Basic YW5uOnBAc3M="))
        );
        assert_eq!(split_userinfo("http://host/a@b"), ("http://host/a@b".to_owned(), None));
    }
}
