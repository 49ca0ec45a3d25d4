//! Uploads to other servers, by form as twine sends them: what a push to an outside index does.
//!
//! A file is sent from disk as it is read. No message shows a password, and none is sent to where a redirect points.

use std::fs::File;
use std::io::{Cursor, Read};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Url, form_urlencoded};

use crate::config::Config;
use crate::digest::hex;
use crate::error::{Error, Kind, Result};
use crate::http::client::{Client, ClientBody, ClientOptions, Timeouts};

/// How long the steps of an upload may take. A server may do much with a file before it answers.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    response_head: Duration::from_secs(120),
    per_read: Duration::from_secs(30),
};
/// How much of an answer is shown to whoever pushes.
const TEXT_BYTES_MAX: u64 = 16 << 10;
/// Random bytes in what separates the parts of a form.
const BOUNDARY_BYTES: usize = 16;

/// Where to send files, and as whom.
pub struct Outside {
    url: String,
    authorization: String,
}

impl Outside {
    /// An index that takes uploads at this address. User and password in the address itself count for nothing.
    ///
    /// # Errors
    /// `Kind::Invalid` if the address cannot be one.
    pub fn new(url: &str, user: &str, password: &str) -> Result<Self> {
        let wrong = || Error::invalid("posturl is not an address of http or https");
        let mut parsed = Url::parse(url).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(wrong());
        }
        parsed.set_fragment(None);
        parsed.set_password(None).and_then(|()| parsed.set_username("")).map_err(|()| wrong())?;
        let authorization = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Ok(Self { url: parsed.into(), authorization })
    }
}

/// The text fields of a form.
pub type Fields = Vec<(String, String)>;

/// What the other server said.
pub struct Answered {
    /// The status.
    pub status: u16,
    /// Why it refused, as far as it said.
    pub text: String,
}

impl Answered {
    /// Whether it took what was sent.
    pub fn is_taken(&self) -> bool {
        matches!(self.status, 200 | 201)
    }
}

/// Sends files to other servers.
pub struct Transfer {
    client: Client,
    is_offline: bool,
}

impl Transfer {
    /// Prepares; nothing is sent yet.
    ///
    /// # Errors
    /// `Kind::Invalid` if certificates cannot be read.
    pub fn new(config: &Config) -> Result<Self> {
        let user_agent = concat!("twinpi/", env!("CARGO_PKG_VERSION")).to_owned();
        let options = ClientOptions { user_agent, ..ClientOptions::default() };
        Ok(Self { client: Client::new(options)?, is_offline: config.offline_mode })
    }

    /// Sends a form without a file.
    ///
    /// # Errors
    /// `Kind::BadGateway` and `Kind::Timeout` if the other server cannot be reached or does not answer.
    pub fn register(&self, to: &Outside, fields: &Fields) -> Result<Answered> {
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let (length, content_type) = (text.len() as u64, "application/x-www-form-urlencoded");
        self.post(to, content_type.to_owned(), Box::new(Cursor::new(text)), length)
    }

    /// Sends a form with a file of this name and length.
    ///
    /// # Errors
    /// `Kind::BadGateway` and `Kind::Timeout` if the other server cannot be reached or does not answer;
    /// `Kind::Invalid` if the file cannot be read.
    pub fn upload(
        &self,
        to: &Outside,
        fields: &Fields,
        (name, file, size_bytes): (&str, File, u64),
    ) -> Result<Answered> {
        let boundary = boundary()?;
        let head = head(&boundary, fields, name);
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + size_bytes + tail.len() as u64;
        let body = Cursor::new(head).chain(file.take(size_bytes)).chain(Cursor::new(tail));
        self.post(to, format!("multipart/form-data; boundary={boundary}"), Box::new(body), length)
    }

    fn post(
        &self,
        to: &Outside,
        content_type: String,
        reader: Box<dyn Read + Send>,
        length: u64,
    ) -> Result<Answered> {
        if self.is_offline {
            return Err(Error::new(Kind::BadGateway, "this server is in offline mode"));
        }
        let headers = [
            ("Authorization".to_owned(), to.authorization.clone()),
            ("Content-Type".to_owned(), content_type),
            ("Accept".to_owned(), "*/*".to_owned()),
        ];
        let body = ClientBody::Reader { reader, length: Some(length) };
        let answer = self.client.request("POST", &to.url, &headers, body, TIMEOUTS)?;
        let mut answered = Answered { status: answer.status, text: String::new() };
        if !answered.is_taken() {
            let mut bytes = Vec::new();
            // What is missing of a refusal's text changes nothing about it.
            let _ = answer.body.take(TEXT_BYTES_MAX).read_to_end(&mut bytes);
            let text = String::from_utf8_lossy(&bytes).trim().to_owned();
            answered.text = if text.is_empty() { answer.reason.unwrap_or_default() } else { text };
        }
        Ok(answered)
    }

    /// Ends what is under way.
    pub fn shutdown(&self) {
        self.client.shutdown();
    }
}

fn boundary() -> Result<String> {
    let mut bytes = [0; BOUNDARY_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|_| Error::internal("the system gives no random numbers"))?;
    Ok(hex(&bytes))
}

/// All of a form that comes before the bytes of its file.
fn head(boundary: &str, fields: &Fields, file_name: &str) -> Vec<u8> {
    let mut head = String::new();
    for (name, value) in fields {
        head.push_str(&format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{value}\r\n",
            quoted(name)
        ));
    }
    head.push_str(&format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"content\"; filename=\"{}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n",
        quoted(file_name)
    ));
    head.into_bytes()
}

/// A name inside quotes, as browsers write it.
fn quoted(name: &str) -> String {
    name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A")
}

/// Kind of archive and Python of a release file, as upload forms name them.
pub fn kind_of(name: &str) -> (&'static str, String) {
    let lower = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end));
    if ends(&[".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tar.xz"]) {
        return ("sdist", "source".to_owned());
    }
    let python = || {
        let at = lower.rfind("-py")?;
        let version = lower[at + 3..].split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        Some(version.trim_matches('.').to_owned()).filter(|version| !version.is_empty())
    };
    let any = || python().unwrap_or_else(|| "any".to_owned());
    match lower.rsplit_once('.').map(|(_, end)| end) {
        Some("whl") => {
            let tag = lower.trim_end_matches(".whl").rsplit('-').nth(2).unwrap_or_default();
            ("bdist_wheel", python_of_tag(tag))
        }
        Some("egg") => ("bdist_egg", any()),
        Some("exe") => ("bdist_wininst", any()),
        Some("msi") => ("bdist_msi", any()),
        Some("rpm") => ("bdist_rpm", any()),
        Some("dmg") => ("bdist_dmg", any()),
        _ => ("bdist_dumb", "any".to_owned()),
    }
}

/// The Python of a wheel's tag: `3` of `py3`, `3.12` of `cp312`, `2.7` of `py2.py3`.
fn python_of_tag(tag: &str) -> String {
    if tag == "py2.py3" {
        return "2.7".to_owned();
    }
    let digits: String =
        tag.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    match digits.split_at_checked(1) {
        Some((major, minor)) if !minor.is_empty() => format!("{major}.{minor}"),
        Some((major, _)) => major.to_owned(),
        None => "any".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::multipart::Form;

    #[test]
    fn kinds_are_read_from_names() {
        for (name, kind, python) in [
            ("pkg-1.0.tar.gz", "sdist", "source"),
            ("pkg-1.0-py3-none-any.whl", "bdist_wheel", "3"),
            ("pkg-1.0-py2.py3-none-any.whl", "bdist_wheel", "2.7"),
            ("pkg-1.0-1-cp312-cp312-linux_x86_64.whl", "bdist_wheel", "3.12"),
            ("pkg-1.0-py3.9.egg", "bdist_egg", "3.9"),
            ("pkg-1.0.win32-py2.7.exe", "bdist_wininst", "2.7"),
            ("pkg-1.0.deb", "bdist_dumb", "any"),
        ] {
            assert_eq!(kind_of(name), (kind, python.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_form_is_read_as_it_was_written() {
        let fields = vec![
            (":action".to_owned(), "file_upload".to_owned()),
            ("description".to_owned(), "a\r\n--b\u{e9}".to_owned()),
        ];
        let mut form = head("abc", &fields, "x \"1\".whl");
        form.extend_from_slice(b"bytes\r\n--abc--\r\n");
        let mut body = form.as_slice();
        let mut form = Form::new("multipart/form-data; boundary=abc", &mut body).expect("a form");
        for (name, value) in &fields {
            let mut part = form.next().expect("well formed").expect("a part");
            assert_eq!((part.name(), part.filename()), (name.as_str(), None));
            assert_eq!(part.text().expect("text"), *value);
        }
        let mut part = form.next().expect("well formed").expect("a part");
        assert_eq!(part.name(), "content");
        let mut bytes = Vec::new();
        part.read_to_end(&mut bytes).expect("readable");
        assert_eq!(bytes, b"bytes");
        drop(part);
        assert!(form.next().expect("well formed").is_none());
    }

    #[test]
    fn an_address_loses_what_is_secret_in_it() {
        let to = Outside::new("https://ann:secret@example.org/legacy/#x", "bob", "pw").expect("ok");
        assert_eq!(to.url, "https://example.org/legacy/");
        assert_eq!(to.authorization, "Basic Ym9iOnB3");
        for bad in ["ftp://example.org/", "example.org", "", "file:///etc/passwd"] {
            assert!(Outside::new(bad, "", "").is_err(), "{bad}");
        }
    }
}
