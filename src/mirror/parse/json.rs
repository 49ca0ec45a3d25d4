//! JSON as PEP 691, 700 and 792 have it, read into what is kept of it and nothing else.
//!
//! What is needed must have its type; of what is optional another type is as good as nothing.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::error::{Error, Result};
use crate::names::ProjectName;
use crate::store::codec::Value;

use super::limited::{self, Limited};
use super::{
    Candidate, Gathering, UpstreamPage, best_hash, nonsense, reason_text, require_version,
};

/// Most keys of one small object whose content is kept.
const KEYS_MAX: usize = 16;

/// Reads a project's page.
///
/// # Errors
/// As `parse::page`.
pub fn page(mut body: Limited<'_>, url: &Url, project: &ProjectName) -> Result<UpstreamPage> {
    // All at once: serde_json takes a reader byte by byte, which costs four times as much as a slice.
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).map_err(limited::failure)?;
    let mut top = Top::new(Gathering::new(url, project));
    let mut source = serde_json::Deserializer::from_slice(&bytes);
    let read = TopSeed(&mut top).deserialize(&mut source).and_then(|()| source.end());
    if let Some(refusal) = top.refusal {
        return Err(refusal);
    }
    read.map_err(|e| unreadable(&e))?;
    require_version(&top.version.ok_or_else(|| nonsense("it tells no version"))?)?;
    if !top.has_files {
        return Err(nonsense("it has no list of files"));
    }
    Ok(top.files.finish(top.status.get("status"), top.status.get("reason")))
}

/// The failure of JSON that is none, or has another shape. What stood there is not repeated.
pub fn unreadable(e: &serde_json::Error) -> Error {
    nonsense(format!("its JSON fails at line {}, column {}", e.line(), e.column()))
}

/// What stands at the top.
struct Top<'a> {
    files: Gathering<'a>,
    has_files: bool,
    version: Option<String>,
    status: Loose,
    /// Why a file ended the reading.
    refusal: Option<Error>,
}

impl<'a> Top<'a> {
    fn new(files: Gathering<'a>) -> Self {
        Self { files, has_files: false, version: None, status: Loose::Nothing, refusal: None }
    }
}

/// `meta` of either answer.
#[derive(Deserialize)]
pub struct Meta {
    /// A server that tells none has the first.
    #[serde(rename = "api-version", default = "first_version")]
    pub api_version: String,
}

fn first_version() -> String {
    "1.0".to_owned()
}

struct TopSeed<'t, 'a>(&'t mut Top<'a>);

impl<'de> DeserializeSeed<'de> for TopSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a project's page")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "meta" => self.0.version = Some(map.next_value::<Meta>()?.api_version),
                "files" if self.0.has_files => return Err(A::Error::duplicate_field("files")),
                "files" => {
                    self.0.has_files = true;
                    map.next_value_seed(FilesSeed(self.0))?;
                }
                "project-status" => self.0.status = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct FilesSeed<'t, 'a>(&'t mut Top<'a>);

impl<'de> DeserializeSeed<'de> for FilesSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, source: D) -> std::result::Result<(), D::Error> {
        source.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FilesSeed<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<(), A::Error> {
        while let Some(file) = seq.next_element::<File>()? {
            if let Err(refusal) = file.add_to(&mut self.0.files) {
                self.0.refusal = Some(refusal);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// A file as it stands there.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    url: String,
    #[serde(default)]
    filename: Loose,
    #[serde(default)]
    hashes: Loose,
    #[serde(default)]
    requires_python: Loose,
    #[serde(default)]
    yanked: Loose,
    #[serde(default)]
    size: Loose,
    #[serde(default)]
    upload_time: Loose,
    #[serde(default)]
    core_metadata: Loose,
    #[serde(default)]
    dist_info_metadata: Loose,
    #[serde(default)]
    provenance: Loose,
}

impl File {
    fn add_to(self, files: &mut Gathering<'_>) -> Result<()> {
        files.add(Candidate {
            href: &self.url,
            filename: self.filename.text(),
            hash: best_hash(self.hashes.entries()),
            requires_python: self.requires_python.text(),
            yanked: match &self.yanked {
                Loose::True => Some(Value::Bool(true)),
                Loose::Text(reason) => Some(Value::Str(reason_text(reason))),
                _ => None,
            },
            size_bytes: match self.size {
                Loose::Number(size) => Some(size),
                _ => None,
            },
            upload_time: self.upload_time.text(),
            metadata: self.core_metadata.metadata().or_else(|| self.dist_info_metadata.metadata()),
            provenance: self.provenance.text(),
        })
    }
}

/// A value of which the type is not sure.
#[derive(Debug, Default, PartialEq)]
enum Loose {
    #[default]
    Nothing,
    True,
    Number(u64),
    Text(String),
    /// An object, as far as its values are texts.
    Map(Vec<(String, String)>),
}

impl Loose {
    fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }
    fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = if let Self::Map(entries) = self { entries.as_slice() } else { &[] };
        entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
    fn get(&self, key: &str) -> &str {
        self.entries().find(|(known, _)| *known == key).map_or("", |(_, value)| value)
    }
    /// Whether METADATA is offered, and its hash.
    fn metadata(&self) -> Option<Option<String>> {
        match self {
            Self::True => Some(None),
            Self::Map(_) => {
                let hash = best_hash(self.entries()).filter(|(kind, _)| kind == "sha256");
                Some(hash.map(|(_, hex)| hex))
            }
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(source: D) -> std::result::Result<Self, D::Error> {
        source.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> std::result::Result<Loose, E> {
        Ok(Loose::Nothing)
    }
    fn visit_bool<E>(self, flag: bool) -> std::result::Result<Loose, E> {
        Ok(if flag { Loose::True } else { Loose::Nothing })
    }
    fn visit_u64<E>(self, number: u64) -> std::result::Result<Loose, E> {
        Ok(Loose::Number(number))
    }
    fn visit_i64<E>(self, _: i64) -> std::result::Result<Loose, E> {
        Ok(Loose::Nothing)
    }
    fn visit_f64<E>(self, _: f64) -> std::result::Result<Loose, E> {
        Ok(Loose::Nothing)
    }
    fn visit_str<E>(self, text: &str) -> std::result::Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Loose, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose::Nothing)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Loose, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            // Values are read as loosely as what holds them; serde_json bounds the depth.
            if let Loose::Text(value) = map.next_value()?
                && entries.len() < KEYS_MAX
            {
                entries.push((key, value));
            }
        }
        Ok(Loose::Map(entries))
    }
}
