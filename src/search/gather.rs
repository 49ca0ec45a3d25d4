//! What there is to be found of a project: read from the store, bounded.

use std::io::Read as _;

use crate::error::Result;
use crate::model::docs::Zip;
use crate::model::overview;
use crate::model::release::{self, Rel};
use crate::names::{IndexName, ProjectName, Version};
use crate::store::blobs::Blobs;
use crate::store::codec::Value;
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read;

use super::schema::PAGES_MAX;
use super::text::{self, PageText};

/// How much of a description is searched, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 64 << 10;
/// How much of any other text.
const FIELD_BYTES_MAX: usize = 4 << 10;
/// How much of one page is unpacked.
const HTML_BYTES_MAX: u64 = 4 << 20;
/// How much of all pages of one project is unpacked.
const UNPACKED_BYTES_MAX: u64 = 256 << 20;
/// How much text of one page is searched.
const PAGE_BYTES_MAX: usize = 128 << 10;
/// How much text of the documentation of one project.
const DOCS_BYTES_MAX: usize = 16 << 20;

/// A project with the newest release that an index holds of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The version.
    pub version: String,
    /// In one line.
    pub summary: String,
    /// Who made it.
    pub author: String,
    /// Words that it gives itself.
    pub keywords: Vec<String>,
    /// Its classifiers.
    pub classifiers: Vec<String>,
    /// Its description.
    pub description: String,
    /// Its newest documentation.
    pub docs: Option<Docs>,
}

/// Documentation, where it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct Docs {
    /// The zip.
    pub path: FilePath,
    /// What tells one zip from another.
    pub identity: String,
    /// The version that it is of.
    pub version: String,
}

/// Reads a project of a stage; `None` if the index holds nothing of it.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn project(txn: &impl Read, index: &IndexName, project: &ProjectName) -> Result<Option<Found>> {
    let mut versions = release::versions(txn, index, project)?;
    let Some(newest) = overview::newest(&versions).cloned() else { return Ok(None) };
    let record = txn.get(&key::Release(index, project, &newest))?.unwrap_or_default();
    let text = |name: &str| cut(record.text(name).unwrap_or_default(), FIELD_BYTES_MAX).to_owned();
    let authors: Vec<String> = ["author", "author_email", "maintainer", "maintainer_email"]
        .into_iter()
        .map(text)
        .filter(|text| !text.is_empty())
        .collect();
    versions.sort_by_cached_key(|version| std::cmp::Reverse(version.sort_key()));
    Ok(Some(Found {
        version: newest.to_string(),
        summary: text("summary"),
        author: authors.join(" "),
        keywords: words(&record, "keywords"),
        classifiers: words(&record, "classifiers"),
        description: cut(record.text("description").unwrap_or_default(), DESCRIPTION_BYTES_MAX)
            .to_owned(),
        docs: docs(txn, index, project, &versions)?,
    }))
}

fn docs(
    txn: &impl Read,
    index: &IndexName,
    project: &ProjectName,
    newest_first: &[Version],
) -> Result<Option<Docs>> {
    /// So many versions are looked at for documentation.
    const VERSIONS_MAX: usize = 20;
    for version in newest_first.iter().take(VERSIONS_MAX) {
        let record = txn.get(&key::Release(index, project, version))?.unwrap_or_default();
        let link = release::links(&record).into_iter().find(|link| link.is(Rel::DocZip));
        if let Some(link) = link
            && let Some(path) = FilePath::parse(link.path())
        {
            let identity = format!("{path} {}", link.0.text("hash_spec").unwrap_or_default());
            return Ok(Some(Docs { path, identity, version: version.to_string() }));
        }
    }
    Ok(None)
}

/// A field that is a list, or a text with commas or spaces between its words.
fn words(record: &Dict, name: &str) -> Vec<String> {
    let texts: Vec<String> = match record.get(name) {
        Some(Value::Str(text)) => {
            let text = cut(text, FIELD_BYTES_MAX);
            let separator = if text.contains(',') { "," } else { " " };
            text.split(separator).map(str::to_owned).collect()
        }
        Some(_) => record.texts(name).into_iter().map(str::to_owned).collect(),
        None => Vec::new(),
    };
    let mut left = FIELD_BYTES_MAX;
    let trimmed = texts.iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    trimmed
        .take_while(|text| {
            left = left.saturating_sub(text.len());
            0 < left
        })
        .collect()
}

/// The beginning of a text, at most so long, ending between two characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// The pages of documentation as text, each with its name in the zip; `None` if the zip is not here. What cannot be
/// read is left out.
///
/// # Errors
/// `Kind::Internal` if the disk fails.
pub fn pages(blobs: &Blobs, docs: &Docs) -> Result<Option<Vec<(String, PageText)>>> {
    let Some((file, _)) = blobs.get(&docs.path)? else { return Ok(None) };
    let zip = match Zip::open(file) {
        Ok(zip) => zip,
        Err(error) => {
            log::info!("{} is not searched: {error}", docs.path);
            return Ok(Some(Vec::new()));
        }
    };
    let is_page = |name: &&str| name.ends_with(".html") || name.ends_with(".htm");
    let mut names: Vec<&str> = zip.names().filter(is_page).collect();
    names.sort_unstable();
    names.truncate(PAGES_MAX as usize);
    let (mut pages, mut bytes, mut left) = (Vec::new(), 0, UNPACKED_BYTES_MAX);
    for name in names {
        let Some(page) = zip.page(name) else { continue };
        let read = zip.read(page).and_then(|reader| {
            text::of_html(reader.take(HTML_BYTES_MAX.min(left)), PAGE_BYTES_MAX)
        });
        left = left.saturating_sub(page.size_bytes.min(HTML_BYTES_MAX));
        match read {
            Ok(text) => {
                bytes += text.body.len();
                pages.push((name.to_owned(), text));
            }
            Err(error) => log::info!("{name} in {} is not searched: {error}", docs.path),
        }
        if DOCS_BYTES_MAX < bytes || left == 0 {
            log::info!("only the first {} pages of {} are searched", pages.len(), docs.path);
            break;
        }
    }
    Ok(Some(pages))
}
