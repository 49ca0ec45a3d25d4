//! What makes a request's head acceptable. tiny_http takes nearly everything; what two servers in a row could read
//! differently is refused here, or one request could be smuggled inside another (RFC 9112, 6.3 and 11.2).

use tiny_http::Request;

use super::request::Headers;

/// Header fields of one request; clients send some ten.
const FIELDS_MAX: usize = 100;
/// All header fields of one request together; the longest real ones are tokens and cookies.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Path and query.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// A refusal: status and what is wrong.
pub(super) type Refusal = (u16, &'static str);

/// What a head says that the server goes by.
#[derive(Debug)]
pub(super) struct Head {
    pub target: String,
    pub headers: Headers,
    /// Whether the client keeps the connection after the answer.
    pub keeps_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    pub body: BodyKind,
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    None,
    Sized(u64),
    Chunked,
}

/// A quick look whether a body may follow; `read` says it exactly.
pub(super) fn may_have_body(request: &Request) -> bool {
    request.headers().iter().any(|header| {
        let name = header.field.as_str().as_str();
        name.eq_ignore_ascii_case("transfer-encoding")
            || (name.eq_ignore_ascii_case("content-length") && header.value.as_str() != "0")
    })
}

/// Reads and checks a head.
pub(super) fn read(request: &Request) -> Result<Head, Refusal> {
    let is_http_11 = *request.http_version() >= (1, 1);
    let mut headers = Headers(Vec::with_capacity(request.headers().len()));
    let mut lines = Lines::default();
    for header in request.headers() {
        let (name, value) = (header.field.as_str().as_str(), header.value.as_str());
        lines.bytes += name.len() + value.len();
        lines.see(name, value)?;
        headers.0.push((name.to_owned(), value.to_owned()));
    }
    if headers.0.len() > FIELDS_MAX || lines.bytes > HEAD_BYTES_MAX {
        return Err((431, "too many or too long header fields"));
    }
    if is_http_11 && lines.hosts == 0 {
        return Err((400, "the Host field is missing"));
    }
    let body = lines.body(is_http_11)?;
    let keeps_alive = match (lines.closes, lines.keeps_alive) {
        (true, _) => false,
        (false, keeps_alive) => is_http_11 || keeps_alive,
    };
    Ok(Head {
        target: target(request.url())?,
        headers,
        keeps_alive,
        expects_continue: lines.expects_continue,
        body,
    })
}

/// What the fields that frame a request came to.
#[derive(Default)]
struct Lines {
    bytes: usize,
    hosts: usize,
    length: Option<u64>,
    encodings: usize,
    closes: bool,
    keeps_alive: bool,
    upgrades: bool,
    expects_continue: bool,
}

impl Lines {
    fn see(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err((400, "malformed name of a header field"));
        }
        if value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            return Err((400, "control character in a header field"));
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err((400, "more than one Host field"));
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                self.expects_continue = value.eq_ignore_ascii_case("100-continue");
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                // tiny_http looks for these words anywhere in the value; so it is done here.
                let value = value.to_ascii_lowercase();
                self.closes |= value.contains("close") || value.contains("upgrade");
                self.keeps_alive |= value.contains("keep-alive");
                self.upgrades |= value.contains("upgrade");
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                let length = digits(value).ok_or((400, "malformed Content-Length"))?;
                if self.length.is_some_and(|earlier| earlier != length) {
                    return Err((400, "contradicting Content-Length fields"));
                }
                self.length = Some(length);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                self.encodings += 1;
                if self.encodings > 1 || !value.eq_ignore_ascii_case("chunked") {
                    return Err((400, "unknown Transfer-Encoding"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self, is_http_11: bool) -> Result<BodyKind, Refusal> {
        match (self.encodings, self.length) {
            (0, None | Some(0)) => Ok(BodyKind::None),
            (0, Some(length)) => Ok(BodyKind::Sized(length)),
            (_, Some(_)) => Err((400, "both Content-Length and Transfer-Encoding")),
            (_, None) if !is_http_11 => Err((400, "Transfer-Encoding needs HTTP/1.1")),
            // tiny_http does not decode the body of a request that wants another protocol.
            (_, None) if self.upgrades => Err((400, "no chunked body with an upgrade")),
            (_, None) => Ok(BodyKind::Chunked),
        }
    }
}

/// Digits and nothing else; numbers that do not fit count as the largest, which is over any limit.
fn digits(value: &str) -> Option<u64> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(value.parse().unwrap_or(u64::MAX))
}

/// The path and query, without scheme and authority of an absolute form.
fn target(url: &str) -> Result<String, Refusal> {
    if url.len() > TARGET_BYTES_MAX {
        return Err((414, "the address is too long"));
    }
    if url.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Err((400, "malformed address"));
    }
    if url.starts_with('/') || url == "*" {
        return Ok(url.to_owned());
    }
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| {
            Some(url.split_at_checked(scheme.len())?)
                .filter(|(s, _)| s.eq_ignore_ascii_case(scheme))
        })
        .ok_or((400, "malformed address"))?
        .1;
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => Ok(rest[at..].to_owned()),
        Some(at) => Ok(format!("/{}", &rest[at..])),
        None => Ok("/".to_owned()),
    }
}

fn is_token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use tiny_http::{HTTPVersion, Header, TestRequest};

    use super::*;

    /// tiny_http's own requests for tests get a Content-Length whatever they say, so this goes below them.
    fn body(fields: &[(&str, &str)]) -> Result<BodyKind, u16> {
        let mut lines = Lines::default();
        let seen = fields.iter().try_for_each(|(name, value)| lines.see(name, value));
        seen.and_then(|()| lines.body(true)).map_err(|(status, _)| status)
    }

    fn head(version: HTTPVersion, fields: &[(&str, &str)]) -> Result<Head, u16> {
        let mut request = TestRequest::new().with_path("/x").with_http_version(version);
        for (name, value) in fields {
            request = request.with_header(Header::from_bytes(*name, *value).unwrap());
        }
        read(&request.into()).map_err(|(status, _)| status)
    }

    #[test]
    fn bodies_are_framed_in_one_way_only() {
        const CL: &str = "Content-Length";
        const TE: &str = "Transfer-Encoding";
        assert_eq!(body(&[]), Ok(BodyKind::None));
        assert_eq!(body(&[(CL, "0")]), Ok(BodyKind::None));
        assert_eq!(body(&[(CL, "5")]), Ok(BodyKind::Sized(5)));
        assert_eq!(body(&[(CL, "5"), ("content-length", "5")]), Ok(BodyKind::Sized(5)));
        assert_eq!(body(&[(CL, "99999999999999999999999")]), Ok(BodyKind::Sized(u64::MAX)));
        assert_eq!(body(&[(TE, "Chunked")]), Ok(BodyKind::Chunked));
        for bad in ["+5", "-5", "5, 5", "0x5", "abc", "", "5 5", "5;"] {
            assert_eq!(body(&[(CL, bad)]), Err(400), "{bad:?}");
        }
        for bad in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", ""] {
            assert_eq!(body(&[(TE, bad)]), Err(400), "{bad:?}");
        }
        assert_eq!(body(&[(CL, "5"), (CL, "50")]), Err(400));
        assert_eq!(body(&[(CL, "5"), (TE, "chunked")]), Err(400));
        assert_eq!(body(&[(CL, "0"), (TE, "chunked")]), Err(400));
        assert_eq!(body(&[(TE, "chunked"), (TE, "chunked")]), Err(400));
        assert_eq!(body(&[(TE, "chunked"), ("Connection", "Upgrade")]), Err(400));
    }

    #[test]
    fn hosts_names_and_values_are_checked() {
        let head = |fields: &[(&str, &str)]| head(HTTPVersion(1, 1), fields).map(|_| ());
        let with_host = |field| head(&[("Host", "h"), field]);
        assert_eq!(head(&[]), Err(400));
        assert_eq!(head(&[("Host", "a"), ("host", "a")]), Err(400));
        assert_eq!(with_host(("X\u{0}", "1")), Err(400));
        assert_eq!(with_host(("X(", "1")), Err(400));
        assert_eq!(with_host(("X", "a\nContent-Length: 5")), Err(400));
        assert_eq!(with_host(("X", "a\tb")), Ok(()));
        let mut many = vec![("Host", "h")];
        many.extend((0..FIELDS_MAX).map(|_| ("X", "1")));
        assert_eq!(head(&many), Err(431));
        assert_eq!(with_host(("X", &"x".repeat(HEAD_BYTES_MAX))), Err(431));
    }

    #[test]
    fn version_1_0_needs_no_host_and_closes_unless_asked() {
        let old = |fields: &[_]| head(HTTPVersion(1, 0), fields).unwrap().keeps_alive;
        let new = |fields: &[_]| head(HTTPVersion(1, 1), fields).unwrap().keeps_alive;
        assert!(!old(&[]));
        assert!(old(&[("Connection", "Keep-Alive")]));
        assert!(new(&[("Host", "h")]));
        assert!(!new(&[("Host", "h"), ("Connection", "close")]));
        let mut chunked = Lines::default();
        chunked.see("Transfer-Encoding", "chunked").unwrap();
        assert_eq!(chunked.body(false).unwrap_err().0, 400);
    }

    #[test]
    fn addresses_lose_their_authority() {
        let ok = |url: &str| target(url).unwrap();
        assert_eq!(ok("/a?b=http://c"), "/a?b=http://c");
        assert_eq!(ok("http://h:1/a?b"), "/a?b");
        assert_eq!(ok("HTTP://h?b"), "/?b");
        assert_eq!(ok("https://h"), "/");
        assert_eq!(ok("*"), "*");
        for bad in ["h:443", "a", "ftp://h/", "/a\u{1}b", ""] {
            assert_eq!(target(bad).unwrap_err().0, 400, "{bad:?}");
        }
        assert_eq!(target(&"/".repeat(TARGET_BYTES_MAX + 1)).unwrap_err().0, 414);
    }
}
