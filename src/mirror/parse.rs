//! What another server says of a project, in either form of the simple interface (PEP 503, 691, 700, 792).
//!
//! Nothing of it is believed: a file counts if its name can be a part of a path here, is an archive's, and begins with
//! the project's; addresses lose their credentials; hashes are hex of the right length or nothing.

pub(super) mod html;
mod json;
pub(super) mod limited;
mod list;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::Read;
use std::time::Duration;

use url::Url;

use crate::deadline::Deadline;
use crate::error::{Error, Kind, Result};
use crate::names::ProjectName;
use crate::store::codec::Value;
use crate::store::key::FilePath;

use limited::Limited;

pub use list::names;

/// Largest page; the largest that are known have some 30 MB.
const PAGE_BYTES_MAX: u64 = 128 << 20;

/// How long a page may take to arrive.
const PAGE_TIME_MAX: Duration = Duration::from_secs(120);

/// Most files of one project; the largest that are known have some 50,000.
const FILES_MAX: usize = 200_000;

/// Longest address, reason or condition on Python; what is longer was not written for installers.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// What a release's files end in (spec/http-api.md 16.1); documentation zips end in `.zip`.
const SUFFIXES: [&str; 12] = [
    ".deb", ".dmg", ".egg", ".exe", ".msi", ".rpm", ".tar", ".tar.bz2", ".tar.gz", ".tgz", ".whl",
    ".zip",
];

/// Hashes that may stand beside a link and can be checked, best first, with the number of their hex digits.
const HASHES: [(&str, usize); 6] =
    [("sha256", 64), ("sha512", 128), ("sha384", 96), ("sha224", 56), ("sha1", 40), ("md5", 32)];

/// A project as another server shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamPage {
    /// Its files, each name once.
    pub files: Vec<UpstreamFile>,
    /// `archived`, `quarantined` or `deprecated` with a reason; `None` is active (PEP 792).
    pub status: Option<(String, Option<String>)>,
}

/// A file as another server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamFile {
    /// The file's name.
    pub name: String,
    /// Where it lies: absolute, `http` or `https`, without fragment and credentials.
    pub url: String,
    /// Type and hex of its hash; SHA-256 where there is a choice.
    pub hash: Option<(String, String)>,
    /// What Python it asks for.
    pub requires_python: Option<String>,
    /// `None`: not yanked; `True` or a text with the reason: yanked.
    pub yanked: Value,
    /// Its size (PEP 700).
    pub size_bytes: Option<u64>,
    /// When it was uploaded there, as it stands there (PEP 700).
    pub upload_time: Option<String>,
    /// Whether its METADATA is offered, and the SHA-256 of that where it is told (PEP 658, 714).
    pub metadata: Option<Option<String>>,
    /// Where its provenance lies (PEP 740).
    pub provenance: Option<String>,
}

/// Reads a project's page, whose last address is `url`.
///
/// # Errors
/// `Kind::BadGateway` if it is no page of a simple index, is over a limit or broken; the reader's own failure if it
/// fails with one of ours.
pub fn page(
    content_type: &str,
    body: &mut dyn Read,
    url: &Url,
    project: &ProjectName,
) -> Result<UpstreamPage> {
    let body = Limited::new(body, PAGE_BYTES_MAX, Deadline::after(PAGE_TIME_MAX));
    match Media::of(content_type)? {
        Media::Json => json::page(body, url, project),
        Media::Html => html::page(body, url, project),
    }
}

/// The two forms of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Media {
    Html,
    Json,
}

impl Media {
    /// Reads a `Content-Type`; a server that gives none has HTML. Parameters mean nothing.
    ///
    /// # Errors
    /// `Kind::BadGateway` for what is neither.
    pub fn of(content_type: &str) -> Result<Self> {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.as_str() {
            "application/vnd.pypi.simple.v1+json" => Ok(Self::Json),
            "" | "text/html" | "application/xhtml+xml" | "application/vnd.pypi.simple.v1+html" => {
                Ok(Self::Html)
            }
            _ => Err(nonsense("its type is neither HTML nor JSON of a simple index")),
        }
    }
}

/// The failure of an upstream whose answer is no page.
pub(super) fn nonsense(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::BadGateway, "the upstream's answer is no page of an index")
        .caused_by(Nonsense(what.to_string()))
}

/// What an upstream meant to say and nobody understands.
#[derive(Debug)]
struct Nonsense(String);

impl std::fmt::Display for Nonsense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Nonsense {}

/// Whether an upstream would say the same if it were asked again.
pub(super) fn is_nonsense(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<Nonsense>())
}

/// Checks a version of the interface (PEP 629).
///
/// # Errors
/// `Kind::BadGateway` for all but 1.x.
pub(super) fn require_version(version: &str) -> Result<()> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let is_number = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
    if major == "1" && is_number {
        return Ok(());
    }
    Err(nonsense("it is of another version than 1.x"))
}

/// What a link says before it is checked. Texts are as they stood there.
#[derive(Default)]
struct Candidate<'a> {
    href: &'a str,
    /// What the file is called where the address does not show it.
    filename: &'a str,
    hash: Option<(String, String)>,
    requires_python: &'a str,
    yanked: Option<Value>,
    size_bytes: Option<u64>,
    upload_time: &'a str,
    metadata: Option<Option<String>>,
    provenance: &'a str,
}

/// Gathers the files of a page.
struct Gathering<'a> {
    base: Url,
    project: &'a ProjectName,
    page: UpstreamPage,
    places: HashMap<String, usize>,
    seen: usize,
}

impl<'a> Gathering<'a> {
    fn new(url: &Url, project: &'a ProjectName) -> Self {
        let (page, places) = (UpstreamPage::default(), HashMap::new());
        Self { base: url.clone(), project, page, places, seen: 0 }
    }

    /// Takes a link if it is one to a file of the project. Of two with one name the first stands, unless only the
    /// second has a hash.
    fn add(&mut self, link: Candidate<'_>) -> Result<()> {
        self.seen += 1;
        if FILES_MAX < self.seen {
            return Err(nonsense("it has too many links"));
        }
        let Some(file) = self.check(link) else { return Ok(()) };
        match self.places.entry(file.name.clone()) {
            Entry::Vacant(place) => {
                place.insert(self.page.files.len());
                self.page.files.push(file);
            }
            Entry::Occupied(place) => {
                let known = &mut self.page.files[*place.get()];
                if known.hash.is_none() && file.hash.is_some() {
                    *known = file;
                }
            }
        }
        Ok(())
    }

    fn check(&self, link: Candidate<'_>) -> Option<UpstreamFile> {
        let texts = [link.href, link.filename, link.requires_python, link.provenance];
        if texts.iter().any(|text| TEXT_BYTES_MAX < text.len()) || link.href.is_empty() {
            return None;
        }
        let address = plain(link.href).or_else(|| Address::of(&self.base, link.href))?;
        let is_file = |name: &String| is_file_of(name, self.project);
        let name = address.name.filter(is_file).or_else(|| {
            let name = link.filename.to_owned();
            Some(name).filter(is_file)
        })?;
        let hash = link.hash.or_else(|| hash_of_fragment(&address.fragment));
        Some(UpstreamFile {
            name,
            url: address.url,
            hash,
            requires_python: Some(tidy(link.requires_python)).filter(|text| !text.is_empty()),
            yanked: link.yanked.unwrap_or(Value::None),
            size_bytes: link.size_bytes,
            upload_time: moment(link.upload_time),
            metadata: link.metadata,
            provenance: provenance(link.provenance),
        })
    }

    fn finish(mut self, status: &str, reason: &str) -> UpstreamPage {
        if ["archived", "quarantined", "deprecated"].contains(&status) {
            let reason = Some(reason_text(reason)).filter(|reason| !reason.is_empty());
            self.page.status = Some((status.to_owned(), reason));
        }
        self.page
    }
}

/// Where a link leads.
#[derive(Debug, PartialEq)]
struct Address<'a> {
    /// Absolute, without fragment and credentials.
    url: String,
    /// What its path ends in, decoded; `None` if that is not UTF-8.
    name: Option<String>,
    fragment: Cow<'a, str>,
}

impl Address<'_> {
    fn of(base: &Url, href: &str) -> Option<Self> {
        let mut url = base.join(href).ok().filter(is_http)?;
        let fragment = Cow::Owned(url.fragment().unwrap_or_default().to_owned());
        url.set_fragment(None);
        remove_credentials(&mut url);
        Some(Self { name: last_segment(&url), url: url.into(), fragment })
    }
}

/// The address of a link that is what it comes to already, as nearly all are; `None` if it takes a closer look. That
/// costs more than all else that is done with a link.
fn plain(href: &str) -> Option<Address<'_>> {
    let (url, fragment) = href.split_once('#').unwrap_or((href, ""));
    let (host, path) = url.strip_prefix("https://")?.split_once('/')?;
    let is_name = |b: u8| b.is_ascii_lowercase() || b == b'-';
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b"-_+.".contains(&b);
    let is_host = host.split('.').all(|part| !part.is_empty() && part.bytes().all(is_name));
    let is_part = |part: &str| !part.starts_with('.') && part.bytes().all(is_word);
    let is_fragment = fragment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'=');
    // A name in another alphabet is written in another way than it is shown in.
    let is_plain = is_host && !host.contains("xn--") && is_fragment && path.split('/').all(is_part);
    is_plain.then(|| Address {
        url: url.to_owned(),
        name: path.rsplit('/').next().map(str::to_owned),
        fragment: Cow::Borrowed(fragment),
    })
}

fn is_http(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme()) && url.has_host()
}

fn remove_credentials(url: &mut Url) {
    // Neither can fail: the address has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
}

/// The name at the end of an address, percent-decoded; `None` if that is not UTF-8.
pub(super) fn last_segment(url: &Url) -> Option<String> {
    let segment = url.path().rsplit('/').next()?;
    let name = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    Some(name.into_owned())
}

/// Whether a name can be one part of a path, is an archive's, and begins with the project's name.
fn is_file_of(name: &str, project: &ProjectName) -> bool {
    if !FilePath::is_part(name) || name.chars().any(|c| c.is_control() || c == '/') {
        return false;
    }
    let ends_in = |suffix: &&str| {
        let at = name.len().checked_sub(suffix.len());
        at.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let suffix = SUFFIXES.iter().filter(|suffix| ends_in(suffix)).max_by_key(|s| s.len());
    suffix.is_some_and(|suffix| begins_with(&name[..name.len() - suffix.len()], project.as_str()))
}

/// Whether the normal form of `text` begins with `normal`, without making it.
fn begins_with(text: &str, normal: &str) -> bool {
    let mut rest = normal.bytes();
    let mut is_in_run = false;
    for c in text.chars() {
        let normal = match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false if is_in_run => continue,
            false => '-',
        };
        is_in_run = normal == '-';
        match rest.next() {
            None => return true,
            Some(wanted) if char::from(wanted) != normal => return false,
            Some(_) => (),
        }
    }
    rest.len() == 0
}

/// The hash in a fragment like `sha256=<hex>&egg=name`.
fn hash_of_fragment(fragment: &str) -> Option<(String, String)> {
    best_hash(fragment.split('&').filter_map(|part| part.split_once('=')))
}

/// The best of some hashes; one that is not hex of its type's length is none.
fn best_hash<'a>(hashes: impl Iterator<Item = (&'a str, &'a str)>) -> Option<(String, String)> {
    let rank = |kind: &str| HASHES.iter().position(|(known, _)| *known == kind);
    let is_hex = |hex: &str| hex.bytes().all(|b| b.is_ascii_hexdigit());
    hashes
        .filter_map(|(kind, hex)| Some((rank(kind)?, hex)))
        .filter(|(rank, hex)| hex.len() == HASHES[*rank].1 && is_hex(hex))
        .min_by_key(|(rank, _)| *rank)
        .map(|(rank, hex)| (HASHES[rank].0.to_owned(), hex.to_ascii_lowercase()))
}

/// SHA-256 of METADATA out of `sha256=<hex>`.
fn sha256_of(spec: &str) -> Option<String> {
    hash_of_fragment(spec).filter(|(kind, _)| kind == "sha256").map(|(_, hex)| hex)
}

/// A text without control characters and without space around it.
fn tidy(text: &str) -> String {
    match text.contains(char::is_control) {
        true => text.replace(char::is_control, " ").trim().to_owned(),
        false => text.trim().to_owned(),
    }
}

/// A text for people, cut where it gets too long.
fn reason_text(text: &str) -> String {
    tidy(&text[..text.floor_char_boundary(TEXT_BYTES_MAX)])
}

/// A moment with its zone, as RFC 3339 writes it; installers refuse a page with another form.
fn moment(text: &str) -> Option<String> {
    const MOMENT_BYTES_MAX: usize = 40;
    let is_short = !text.is_empty() && text.len() <= MOMENT_BYTES_MAX;
    (is_short && text.parse::<jiff::Timestamp>().is_ok()).then(|| text.to_owned())
}

fn provenance(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    let mut url = Url::parse(text).ok().filter(is_http)?;
    remove_credentials(&mut url);
    Some(url.into())
}

#[cfg(test)]
mod tests;
