//! Answers: what a handler may say, and the one table from error kinds to statuses.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::error::Kind;
use crate::serial::Serial;

use super::bell::Bell;

/// What stands in `WWW-Authenticate` beside 401.
pub const CHALLENGE: &str = "Basic realm=\"pypi\"";

/// What a handler came to.
pub enum Reply {
    /// An answer.
    Now(Response),
    /// Ask again when what it waits for is there, or the deadline; holds no thread meanwhile.
    Park(Park),
    /// The rest waits for another machine: run it in the pool for that.
    Remote(Job),
}

/// The rest of a request.
pub type Job = Box<dyn FnOnce() -> Reply + Send>;

/// A request put aside.
pub struct Park {
    /// Ripe when this serial is committed.
    pub wanted: Option<Serial>,
    /// Ripe when this rings, too.
    pub bell: Option<Bell>,
    /// Ripe at the latest now; also when the node stops or the same connection sends another request.
    pub deadline: Deadline,
    /// Makes the answer; runs in the pool for local work.
    pub resume: Job,
}

/// The bytes of an answer.
pub enum Body {
    /// None.
    Empty,
    /// Bytes made for this answer.
    Owned(Vec<u8>),
    /// Bytes that others share, such as a cached page.
    Shared(Arc<[u8]>),
    /// A part of a file.
    File {
        /// Open for reading.
        file: File,
        /// Where the part begins, in bytes.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// Bytes as they come. Without a length they go out chunked. If the reader fails, the connection is cut so
    /// that the client sees an incomplete body, never a short one that looks whole.
    Stream {
        /// The source.
        reader: Box<dyn Read + Send>,
        /// Its length in bytes, when known.
        length: Option<u64>,
    },
}

/// One answer.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The reason phrase when it is not the standard one (upload errors say why in it).
    pub reason: Option<String>,
    /// Header fields; `Content-Length`, `Date` and `Connection` are added when it is sent.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The body.
    pub body: Body,
    /// Whether the connection must not be used again.
    pub close: bool,
}

impl Response {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self { status, reason: None, headers: Vec::new(), body: Body::Empty, close: false }
    }
    /// An answer with bytes of this content type.
    pub fn bytes(status: u16, content_type: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(status)
            .with_header("Content-Type", content_type)
            .with_body(Body::Owned(bytes.into()))
    }
    /// Plain text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::bytes(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }
    /// Adds a header field.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
    /// Sets the body.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
    /// Sets the reason phrase; control characters become spaces when it is sent.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_ref())
    }
}

/// The status for a kind of error.
pub fn status(kind: Kind) -> u16 {
    match kind {
        Kind::Invalid => 400,
        Kind::Unauthorized => 401,
        Kind::Forbidden => 403,
        Kind::NotFound => 404,
        Kind::Conflict => 409,
        Kind::Gone => 410,
        Kind::TooLarge => 413,
        Kind::Internal => 500,
        Kind::BadGateway => 502,
        Kind::Unavailable => 503,
        Kind::Timeout => 504,
    }
}
