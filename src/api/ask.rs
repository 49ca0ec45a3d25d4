//! What a request asks for besides its address: the form of the answer, who asks, and where the server is seen.

use crate::error::{Error, Kind, Result};
use crate::http::accept;
use crate::http::request::Request;
use crate::http::response::{Body, CHALLENGE, Response};
use crate::pages;

use serde_json::{Value as Json, json};

/// devpi's JSON.
pub const JSON: &str = "application/json";
/// The JSON of PEP 691.
pub const SIMPLE_JSON: &str = "application/vnd.pypi.simple.v1+json";
/// The HTML of PEP 691.
pub const SIMPLE_HTML: &str = "application/vnd.pypi.simple.v1+html";
/// HTML.
pub const HTML: &str = "text/html";

/// Whether the answer is to be devpi's JSON: its media type occurs in `Accept`.
pub fn is_json(request: &Request) -> bool {
    request.accept().contains(JSON)
}

/// Whether an installer asks: one word of the agent starts with `pip/`, `uv/` and the like
/// (spec/http-api.md 1.7).
pub fn is_installer(request: &Request) -> bool {
    const INSTALLERS: [&str; 5] = ["distribute/", "setuptools/", "pip/", "pex/", "uv/"];
    let agent = request.headers.get("user-agent").unwrap_or_default();
    agent.split(' ').any(|word| INSTALLERS.iter().any(|name| word.starts_with(name)))
}

/// A parameter of the query, decoded; the first one if it comes more than once.
pub fn parameter(request: &Request, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(request.query().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// A parameter of the query that is a whole number, not below zero.
///
/// # Errors
/// `Kind::Invalid` if it is something else.
pub fn number(request: &Request, name: &str) -> Result<Option<u64>> {
    let text = parameter(request, name);
    let parse = |text: String| {
        text.parse().map_err(|_| Error::invalid(format!("'{name}' is no whole number: '{text}'")))
    };
    text.map(parse).transpose()
}

/// The form of a simple page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// PEP 503
    Html,
    /// PEP 691
    Json,
}

impl Form {
    /// The best of the forms for this request; HTML on a tie and when nothing fits.
    pub fn of(request: &Request) -> Self {
        match accept::best(request.accept(), &[HTML, SIMPLE_HTML, SIMPLE_JSON]) {
            Some(SIMPLE_JSON) => Self::Json,
            _ => Self::Html,
        }
    }
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => SIMPLE_JSON,
        }
    }
}

/// Where this server is seen by the one who asks: scheme, host and path without a slash at the end.
pub fn base_url(request: &Request, outside_url: Option<&str>) -> String {
    let given = request.headers.get("x-outside-url").or(outside_url).filter(|url| !url.is_empty());
    match given {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", request.headers.get("host").unwrap_or("localhost")),
    }
}

/// The path part of an outside URL, which a proxy may have left in the address.
pub fn prefix(request: &Request, outside_url: Option<&str>) -> Option<String> {
    let url = request.headers.get("x-outside-url").or(outside_url)?;
    let path = url.split_once("://").map_or(url, |(_, rest)| rest).split_once('/')?.1;
    let path = path.trim_matches('/');
    (!path.is_empty()).then(|| format!("/{path}"))
}

/// An answer in devpi's JSON: two spaces, a newline at the end, no charset.
pub fn json(status: u16, value: &Json) -> Response {
    Response::bytes(status, JSON, json_text(value))
}

fn json_text(value: &Json) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values always have a text");
    text.push('\n');
    text
}

/// A result with its type.
pub fn result(status: u16, kind: &str, result: Json) -> Response {
    Response::bytes(status, JSON, result_text(kind, result))
}

/// The text of a result with its type, which comes last.
pub fn result_text(kind: &str, result: Json) -> String {
    json_text(&json!({"result": result, "type": kind}))
}

/// A message alone.
pub fn message(status: u16, message: impl Into<String>) -> Response {
    json(status, &json!({"message": message.into()}))
}

/// Seconds after which a client may try again when this node could not serve it.
const RETRY_AFTER: &str = "5";

/// The answer for a failure. What is internal is logged here, once, and not shown.
pub fn failure(error: &Error, wants_json: bool) -> Response {
    let text = if error.kind == Kind::Internal {
        log::error!("{error:?}");
        "internal error"
    } else {
        log::debug!("{error:?}");
        error.message.as_str()
    };
    let status = crate::http::response::status(error.kind);
    let mut response = if wants_json {
        match error.kind {
            Kind::Forbidden => json(
                status,
                &json!({"message": text, "code": "403 Forbidden", "title": "Forbidden"}),
            ),
            _ => message(status, text),
        }
    } else {
        html_page(status, text)
    };
    match error.kind {
        Kind::Unauthorized => response = response.with_header("WWW-Authenticate", CHALLENGE),
        Kind::Unavailable => response = response.with_header("Retry-After", RETRY_AFTER),
        _ => (),
    }
    response
}

/// A page with one sentence.
pub fn html_page(status: u16, text: &str) -> Response {
    let text = pages::escape(text);
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{text}</title></head>\
         <body><h1>{text}</h1></body></html>\n"
    );
    Response::bytes(status, "text/html; charset=utf-8", page)
}

/// A redirect.
pub fn redirect(location: String) -> Response {
    Response::new(302).with_header("Location", location).with_body(Body::Empty)
}
