//! Pages in JSON (PEP 691, 700, 714, 740, 792).

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use url::Url;

use crate::error::Result;
use crate::store::codec::Value;

use super::{
    FILES_MAX, UpstreamFile, UpstreamPage, file_at, known_hash, known_status, nonsense, shortened,
};

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    meta: Meta<'a>,
    #[serde(borrow)]
    files: Vec<File<'a>>,
    #[serde(rename = "project-status", default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(rename = "api-version", borrow)]
    api_version: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    hashes: HashMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(rename = "requires-python", default)]
    requires_python: Option<String>,
    #[serde(default)]
    yanked: Option<Yanked>,
    #[serde(default)]
    size: Option<u64>,
    #[serde(rename = "upload-time", default)]
    upload_time: Option<String>,
    #[serde(rename = "core-metadata", default)]
    core_metadata: Option<Offer>,
    #[serde(rename = "dist-info-metadata", default)]
    dist_info_metadata: Option<Offer>,
    #[serde(default)]
    provenance: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Yanked {
    Is(bool),
    Because(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Offer {
    Is(bool),
    Hashes(HashMap<String, String>),
}

/// Reads a page.
pub(super) fn page(bytes: &[u8], url: &Url) -> Result<UpstreamPage> {
    let page: Page<'_> = serde_json::from_slice(bytes)
        .map_err(|e| nonsense("the upstream's JSON cannot be read").caused_by(e))?;
    if page.meta.api_version != "1" && !page.meta.api_version.starts_with("1.") {
        let version = &page.meta.api_version;
        return Err(nonsense(format!("the upstream's pages have the version {version:.20}")));
    }
    if FILES_MAX < page.files.len() {
        return Err(nonsense(format!("the upstream names over {FILES_MAX} files")));
    }
    let status = page.status.and_then(|status| known_status(&status.status, status.reason));
    let files = page.files.into_iter().filter_map(|file| read_file(file, url)).collect();
    Ok(UpstreamPage { files, status })
}

fn read_file(file: File<'_>, base: &Url) -> Option<UpstreamFile> {
    let mut read = file_at(&file.url, base)?;
    let hash = |kind: &str| known_hash(kind, file.hashes.get(kind)?);
    let any = || file.hashes.iter().filter_map(|(kind, hex)| known_hash(kind, hex)).min();
    if let Some(hash) = hash("sha256").or_else(any) {
        read.hash = Some(hash);
    }
    read.requires_python = file.requires_python.map(shortened);
    read.yanked = match file.yanked {
        Some(Yanked::Is(true)) => Value::Bool(true),
        Some(Yanked::Because(reason)) => Value::Str(shortened(reason)),
        _ => Value::None,
    };
    read.size_bytes = file.size;
    read.upload_time = file.upload_time.filter(|time| is_time(time));
    let offer = |offer: Option<Offer>| match offer? {
        Offer::Is(false) => None,
        Offer::Is(true) => Some(None),
        Offer::Hashes(hashes) => {
            Some(hashes.get("sha256").and_then(|hex| Some(known_hash("sha256", hex)?.1)))
        }
    };
    read.metadata = offer(file.core_metadata).or_else(|| offer(file.dist_info_metadata));
    read.provenance = file.provenance.filter(|url| url.starts_with("https://")).map(shortened);
    Some(read)
}

/// Whether a text could be a time of PEP 700; it is passed on as it stands.
fn is_time(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ+".contains(&b))
}
