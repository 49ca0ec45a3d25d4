//! Pages in HTML (PEP 503, 592, 658, 714, 740, 792), read tag by tag.

use html5gum::{HtmlString, StartTag, Token, Tokenizer};
use url::Url;

use crate::error::Result;
use crate::store::codec::Value;

use super::{
    FILES_MAX, UpstreamFile, UpstreamPage, file_at, known_hash, known_status, nonsense, shortened,
};

/// Reads a page. One that asks for a password and links to no file is somebody's page for logging in.
pub(super) fn page(bytes: &[u8], url: &Url) -> Result<UpstreamPage> {
    let (mut page, mut base, mut is_login) = (UpstreamPage::default(), url.clone(), false);
    let (mut status, mut reason) = (None, None);
    for Ok(token) in Tokenizer::new(bytes) {
        let Token::StartTag(tag) = token else { continue };
        match tag.name.as_slice() {
            b"a" => page.files.extend(file(&tag, &base)),
            b"base" => {
                if let Some(href) = text(&tag, "href").and_then(|href| url.join(&href).ok()) {
                    base = href;
                }
            }
            b"meta" => match text(&tag, "name").as_deref() {
                Some("pypi:project-status") => status = text(&tag, "content"),
                Some("pypi:project-status-reason") => reason = text(&tag, "content"),
                _ => (),
            },
            b"input" => is_login |= text(&tag, "type").as_deref() == Some("password"),
            _ => (),
        }
        if FILES_MAX < page.files.len() {
            return Err(nonsense(format!("the upstream names over {FILES_MAX} files")));
        }
    }
    if is_login && page.files.is_empty() {
        return Err(nonsense("the upstream sent a page that asks for a password"));
    }
    page.status = status.and_then(|status| known_status(&status, reason));
    Ok(page)
}

fn text(tag: &StartTag<()>, name: &str) -> Option<String> {
    let value: &HtmlString = tag.attributes.get(name.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn file(tag: &StartTag<()>, base: &Url) -> Option<UpstreamFile> {
    let mut file = file_at(text(tag, "href")?.trim(), base)?;
    file.requires_python =
        text(tag, "data-requires-python").filter(|text| !text.is_empty()).map(shortened);
    if let Some(reason) = text(tag, "data-yanked") {
        file.yanked = Value::Str(shortened(reason));
    }
    let offer = text(tag, "data-core-metadata").or_else(|| text(tag, "data-dist-info-metadata"));
    file.metadata = offer.filter(|offer| offer != "false").map(|offer| {
        let (kind, hex) = offer.split_once('=')?;
        (kind == "sha256").then(|| Some(known_hash(kind, hex)?.1))?
    });
    file.provenance =
        text(tag, "data-provenance").filter(|url| url.starts_with("https://")).map(shortened);
    Some(file)
}
