//! A request as handlers see it: nothing of tiny_http shows through.

use std::io::{self, Read};
use std::net::SocketAddr;

use crate::deadline::Deadline;

/// The methods that this server tells apart. `Push` is devpi's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// HEAD: handled as GET, sent without the body
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// PUSH (devpi-client's `push`)
    Push,
    /// OPTIONS and whatever else
    Other,
}

impl Method {
    /// Reads the word of the request line.
    pub fn parse(word: &str) -> Self {
        match word {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "PUSH" => Self::Push,
            _ => Self::Other,
        }
    }
    /// The word of the request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Push => "PUSH",
            Self::Other => "OTHER",
        }
    }
    /// Whether it reads only.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }
}

/// Header fields in the order of arrival; names compare without case.
#[derive(Clone, Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value under this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
    /// Adds a field at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }
    /// Takes all fields of this name out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
    }
}

/// A request with its unread body.
pub struct Request {
    /// The method.
    pub method: Method,
    /// Path and query as sent, starting with `/` (the authority of an absolute form is removed).
    pub target: String,
    /// All header fields.
    pub headers: Headers,
    /// The peer of the connection; `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    /// When this request is given up.
    pub deadline: Deadline,
    /// `Content-Length`, when it was given.
    pub body_length: Option<u64>,
    /// The body; ends with an error of kind `FileTooLarge` (`io::ErrorKind`) when a chunked body passes the limit.
    pub body: Box<dyn Read + Send>,
}

impl Request {
    /// The path without the query, as sent (percent-encoded).
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }
    /// The query without the `?`; empty when there is none.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
    /// Whether the query names this parameter, with or without a value.
    pub fn has_parameter(&self, name: &str) -> bool {
        self.query().split('&').any(|p| p.split('=').next() == Some(name))
    }
    /// The value of a parameter of the query as it stands there, nothing decoded; the first one if there are several.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self.query().split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
    /// The same request again, for one that has no body.
    #[must_use]
    pub fn without_body(&self) -> Self {
        Self {
            method: self.method,
            target: self.target.clone(),
            headers: self.headers.clone(),
            peer: self.peer,
            deadline: self.deadline,
            body_length: None,
            body: Box::new(io::empty()),
        }
    }
    /// The `Accept` header; absent counts as `*/*`.
    pub fn accept(&self) -> &str {
        self.headers.get("accept").unwrap_or("*/*")
    }
    /// Takes the body out, leaving an empty one.
    pub fn take_body(&mut self) -> Box<dyn Read + Send> {
        std::mem::replace(&mut self.body, Box::new(io::empty()))
    }
}
