//! What another server says of a project, in either form of the simple interface (PEP 503, 691, 700, 792).

mod html;
mod json;

use std::collections::HashMap;
use std::io::Read;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Error, Kind, Result};
use crate::names::{NAME_BYTES_MAX, ProjectName};
use crate::store::codec::Value;

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

/// The largest page in bytes, decoded; the largest known are some ten megabytes.
const PAGE_BYTES_MAX: u64 = 128 << 20;
/// Files of one project, at most.
const FILES_MAX: usize = 100_000;
/// The longest text of one field, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// JSON of the simple interface (PEP 691).
pub const JSON: &str = "application/vnd.pypi.simple.v1+json";

/// Ends of the names of files that are releases, as devpi takes them.
const ARCHIVES: [&str; 13] = [
    ".deb", ".dmg", ".doc.zip", ".egg", ".exe", ".msi", ".rpm", ".tar", ".tar.bz2", ".tar.gz",
    ".tgz", ".whl", ".zip",
];

/// Reads a page in the form that its media type names.
///
/// # Errors
/// `Kind::BadGateway` if it is no such page, breaks off, or is over a limit.
pub fn page(
    media_type: &str,
    body: &mut dyn Read,
    url: &Url,
    project: &ProjectName,
) -> Result<UpstreamPage> {
    let bytes = read_all(body)?;
    let mut page = match media_type {
        JSON => json::page(&bytes, url)?,
        "text/html" | "application/xhtml+xml" | "application/vnd.pypi.simple.v1+html" | "" => {
            html::page(&bytes, url)?
        }
        _ => return Err(nonsense(format!("the upstream sent a page of type {media_type:.60}"))),
    };
    page.files.retain(|file| is_release(&file.name, project));
    page.files = each_once(page.files);
    Ok(page)
}

fn read_all(body: &mut dyn Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(PAGE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| nonsense("the upstream's page broke off").caused_by(e))?;
    if bytes.len() as u64 > PAGE_BYTES_MAX {
        return Err(nonsense(format!("the upstream's page is over {PAGE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The error for what an upstream should not send.
pub(super) fn nonsense(message: impl Into<String>) -> Error {
    Error::new(Kind::BadGateway, message)
}

/// Whether a file's name is that of a release of the project.
fn is_release(name: &str, project: &ProjectName) -> bool {
    let lower = name.to_ascii_lowercase();
    ARCHIVES.iter().any(|suffix| lower.ends_with(suffix))
        && ProjectName::new(name).as_str().starts_with(project.as_str())
}

/// Files with each name once: one with a hash beats one without, else the first one stays.
fn each_once(files: Vec<UpstreamFile>) -> Vec<UpstreamFile> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(files.len());
    let mut kept: Vec<UpstreamFile> = Vec::with_capacity(files.len());
    for file in files {
        match places.get(&file.name) {
            Some(at) if kept[*at].hash.is_none() && file.hash.is_some() => kept[*at] = file,
            Some(_) => (),
            None => {
                places.insert(file.name.clone(), kept.len());
                kept.push(file);
            }
        }
    }
    kept
}

/// A file from its address, which may hold a hash in its fragment; none if it is no file that could be fetched.
fn file_at(href: &str, base: &Url) -> Option<UpstreamFile> {
    if href.is_empty() || TEXT_BYTES_MAX < href.len() {
        return None;
    }
    let mut url = base.join(href).ok()?;
    let hash = url.fragment().and_then(|fragment| {
        let (kind, hex) = fragment.split('&').find_map(|part| part.split_once('='))?;
        known_hash(kind, hex)
    });
    url.set_fragment(None);
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    let _ = url.set_username(""); // fails only for URLs that have none
    let _ = url.set_password(None);
    let last = url.path_segments()?.next_back()?;
    let name = percent_decode_str(last).decode_utf8().ok()?.into_owned();
    let is_plain = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(['/', '\\'])
        && !name.contains(char::is_control);
    is_plain.then(|| UpstreamFile {
        name,
        url: url.into(),
        hash,
        requires_python: None,
        yanked: Value::None,
        size_bytes: None,
        upload_time: None,
        metadata: None,
        provenance: None,
    })
}

/// A hash of a kind that can be checked, in small letters.
fn known_hash(kind: &str, hex: &str) -> Option<(String, String)> {
    let kind = kind.to_ascii_lowercase();
    let digits = match kind.as_str() {
        "md5" => 32,
        "sha1" => 40,
        "sha224" => 56,
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return None,
    };
    let is_hex = hex.len() == digits && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then(|| (kind, hex.to_ascii_lowercase()))
}

/// A status of a project, unless it is the usual one or unknown.
fn known_status(status: &str, reason: Option<String>) -> Option<(String, Option<String>)> {
    matches!(status, "archived" | "quarantined" | "deprecated")
        .then(|| (status.to_owned(), reason.map(shortened)))
}

/// A text cut at the limit of one field.
fn shortened(mut text: String) -> String {
    if TEXT_BYTES_MAX < text.len() {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media_type: &str, text: &str) -> Result<UpstreamPage> {
        let url = Url::parse("http://host:81/simple/pkg/").expect("valid");
        page(media_type, &mut text.as_bytes(), &url, &ProjectName::new("pkg"))
    }

    fn names(page: &UpstreamPage) -> Vec<&str> {
        page.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn both_forms_say_the_same() {
        let sha = "ab".repeat(32);
        let html = format!(
            "<!DOCTYPE html><meta name='pypi:project-status' content=archived><h1>pkg</h1>\
             <a href='../../f/Pkg-1.0-py3-none-any.whl#sha256={sha}' data-requires-python='&gt;=3.6' \
             data-yanked='bad &lt;x&gt;' data-core-metadata='sha256={sha}'>Pkg</a>\
             <a href='http://me:pw@other/pkg-1.0.tar.gz'>x</a>"
        );
        let json = format!(
            r#"{{"meta":{{"api-version":"1.4"}},"name":"pkg","project-status":{{"status":"archived"}},"files":[
            {{"filename":"Pkg-1.0-py3-none-any.whl","url":"../../f/Pkg-1.0-py3-none-any.whl","hashes":{{"md5":"00","sha256":"{sha}"}},
              "requires-python":">=3.6","yanked":"bad <x>","core-metadata":{{"sha256":"{sha}"}},"unknown":[1]}},
            {{"filename":"pkg-1.0.tar.gz","url":"http://me:pw@other/pkg-1.0.tar.gz","hashes":{{}},"yanked":false}}]}}"#
        );
        let (html, json) = (read("text/html", &html), read(JSON, &json));
        let page = html.expect("reads");
        assert_eq!(page, json.expect("reads"));
        assert_eq!(page.files[0].url, "http://host:81/f/Pkg-1.0-py3-none-any.whl");
        assert_eq!(page.files[0].yanked, Value::Str("bad <x>".into()));
        assert_eq!(page.files[0].metadata, Some(Some(sha)));
        assert_eq!(page.files[1].url, "http://other/pkg-1.0.tar.gz");
        assert_eq!(page.status, Some(("archived".to_owned(), None)));
    }

    #[test]
    fn what_json_alone_can_say_is_kept() {
        let text = r#"{"meta":{"api-version":"1.1"},"files":[{"filename":"pkg-1.zip","url":"pkg-1.zip","hashes":{},
            "size":12,"upload-time":"2024-01-02T03:04:05.678Z","yanked":true,"provenance":"https://h/p"}]}"#;
        let page = read(JSON, text).expect("reads");
        let file = &page.files[0];
        assert_eq!((file.size_bytes, file.yanked.clone()), (Some(12), Value::Bool(true)));
        assert_eq!(file.upload_time.as_deref(), Some("2024-01-02T03:04:05.678Z"));
        assert_eq!(file.provenance.as_deref(), Some("https://h/p"));
    }

    #[test]
    fn only_releases_of_the_project_count_and_a_hash_wins() {
        let md5 = "0".repeat(32);
        let html = format!(
            "<a href=README.txt>a</a><a href='other-1.0.zip'>b</a><a href='pkg-1.zip.asc'>c</a><a>d</a>\
             <a href=''>e</a><a href='mailto:pkg-1.zip'>f</a><a href='ftp://h/pkg-1.zip'>g</a>\
             <a href='pkg-1.zip'>h</a><a href='x/pkg-1.zip#md5={md5}'>i</a><a href='pkg-2%2Fx.zip'>j</a>\
             <a href='pkg-3.zip#sha256=zz'>k</a><a href='pkg-%00.zip'>l</a>"
        );
        let page = read("text/html", &html).expect("reads");
        assert_eq!(names(&page), ["pkg-1.zip", "pkg-3.zip"]);
        assert_eq!(page.files[0].hash, Some(("md5".to_owned(), md5)));
        assert_eq!(page.files[1].hash, None);
        let based = "<base href='http://cdn/x/'><a href='pkg-1.zip'>a</a>";
        assert_eq!(read("text/html", based).expect("reads").files[0].url, "http://cdn/x/pkg-1.zip");
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        for (media_type, text) in [
            (JSON, ""),
            (JSON, "{"),
            (JSON, "[]"),
            (JSON, r#"{"meta":{"api-version":"2.0"},"files":[]}"#),
            (JSON, r#"{"meta":{"api-version":"1.0"}}"#),
            (JSON, r#"{"meta":{"api-version":"1.0"},"files":[{"url":1}]}"#),
            ("application/json", "{}"),
            ("image/png", ""),
            ("text/html", "<html><form><input type=password></form>sign in"),
        ] {
            let error = read(media_type, text).expect_err(text);
            assert_eq!(error.kind, Kind::BadGateway, "{text}");
        }
        let whole = "<a href='pkg-1.zip' data-yanked>x</a>".repeat(3);
        for end in 0..whole.len() {
            drop(read("text/html", &whole[..end]));
        }
    }
}
