//! Asking another index: addresses, headers, credentials and decoding.

use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::http::client::{Answer, Client, ClientBody, ClientOptions, Timeouts};
use crate::http::request::Headers;

/// Which forms of a page are understood, in devpi's words: some caches tell clients apart by them.
pub const ACCEPT: &str = "application/vnd.pypi.simple.v1+html;q=0.2, application/vnd.pypi.simple.v1+json, text/html;q=0.01";
/// How many redirects are followed; a loop ends there.
const REDIRECTS_MAX: u32 = 8;
/// The longest wait for a connection: shorter than the wait for an answer may be.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Asks other indexes.
pub struct Upstream {
    client: Client,
    /// The longest silence, before an answer and within it.
    timeout: Duration,
}

/// An answer, decoded as it is read.
pub struct Fetched {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The address that answered, after redirects.
    pub url: String,
    /// The body, without transport codings.
    pub body: Box<dyn Read + Send>,
}

impl Fetched {
    /// The media type, without parameters and in small letters.
    pub fn media_type(&self) -> String {
        let value = self.headers.get("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }
    /// The entity tag.
    pub fn etag(&self) -> Option<&str> {
        self.headers.get("etag").map(str::trim).filter(|tag| !tag.is_empty())
    }
    /// `X-PyPI-Last-Serial`, when it is a number.
    pub fn last_serial(&self) -> Option<i64> {
        self.headers.get("x-pypi-last-serial")?.trim().parse().ok()
    }
}

impl From<Answer> for Fetched {
    fn from(answer: Answer) -> Self {
        let coding = answer.headers.get("content-encoding").unwrap_or_default().trim();
        let is_gzip = coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip");
        let body: Box<dyn Read + Send> = match is_gzip {
            true => Box::new(MultiGzDecoder::new(answer.body)),
            false => answer.body,
        };
        Self { status: answer.status, headers: answer.headers, url: answer.url, body }
    }
}

impl Upstream {
    /// A way out to other indexes.
    ///
    /// # Errors
    /// `Kind::Invalid` if certificates cannot be read.
    pub fn new(timeout: Duration) -> Result<Self> {
        // Servers of packages look for the name of a program that they know.
        let user_agent = format!("devpi-server/6.20.3 (twinpi {})", env!("CARGO_PKG_VERSION"));
        let options =
            ClientOptions { user_agent, replica_cert: None, redirects_max: REDIRECTS_MAX };
        Ok(Self { client: Client::new(options)?, timeout })
    }

    /// The longest silence, before an answer and within it.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Gets a page or a list: `url` may hold user and password, which go into a header.
    ///
    /// # Errors
    /// `Kind::Timeout` and `Kind::BadGateway`, without credentials in the message.
    pub fn page(&self, url: &str, etag: Option<&str>, timeout: Duration) -> Result<Fetched> {
        let mut headers = vec![
            ("accept".to_owned(), ACCEPT.to_owned()),
            ("accept-encoding".to_owned(), "gzip".to_owned()),
        ];
        if let Some(etag) = etag {
            headers.push(("if-none-match".to_owned(), etag.to_owned()));
        }
        let fetched = Fetched::from(self.get(url, &headers, timeout)?);
        if matches!(fetched.status, 301 | 302 | 303 | 307 | 308) {
            return Err(Error::new(Kind::BadGateway, "the upstream redirects in circles"));
        }
        Ok(fetched)
    }

    /// Gets anything as it is.
    ///
    /// # Errors
    /// `Kind::Timeout` and `Kind::BadGateway`, without credentials in the message.
    pub fn get(
        &self,
        url: &str,
        headers: &[(String, String)],
        timeout: Duration,
    ) -> Result<Answer> {
        let timeouts = Timeouts {
            connect: timeout.min(CONNECT_MAX),
            response_head: timeout,
            per_read: timeout,
        };
        self.client.request("GET", url, headers, ClientBody::None, timeouts)
    }

    /// Ends what is under way, and refuses more.
    pub fn shutdown(&self) {
        self.client.shutdown();
    }
}

/// The address of a project's page below that of an index; of the list itself without a project.
pub fn address(mirror_url: &str, project: Option<&str>) -> String {
    let base = mirror_url.trim_end_matches('/');
    match project {
        Some(project) => format!("{base}/{project}/"),
        None => format!("{base}/"),
    }
}

/// A URL without user, password and fragment, as it may be stored and shown.
pub fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return String::new() };
    let _ = parsed.set_username(""); // fails only for URLs that have none
    let _ = parsed.set_password(None);
    parsed.set_fragment(None);
    parsed.into()
}

/// The URL with the user and password of another one, if both are on the same host and port with the same scheme.
pub fn with_credentials_of(url: &str, other: &str) -> String {
    let (Ok(mut target), Ok(source)) = (Url::parse(url), Url::parse(other)) else {
        return url.to_owned();
    };
    if target.origin() != source.origin()
        || source.username().is_empty() && source.password().is_none()
    {
        return url.to_owned();
    }
    let is_set = target.set_username(source.username()).is_ok()
        && target.set_password(source.password()).is_ok();
    if is_set { target.into() } else { url.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_same_host_only() {
        let index = "https://me:s%20t@host/simple/";
        assert_eq!(
            with_credentials_of("https://host/f/x.whl", index),
            "https://me:s%20t@host/f/x.whl"
        );
        for other in ["https://host:8443/x", "http://host/x", "https://files.host/x"] {
            assert_eq!(with_credentials_of(other, index), other);
        }
        assert_eq!(without_credentials("https://me:st@host/x#sha256=1"), "https://host/x");
    }

    #[test]
    fn pages_lie_below_the_index() {
        assert_eq!(address("http://h/simple", Some("p")), "http://h/simple/p/");
        assert_eq!(address("http://h/simple/", None), "http://h/simple/");
    }
}
