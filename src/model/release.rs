//! Releases: the record of one version and the links in it.

use crate::error::{Error, Result};
use crate::names::{IndexName, ProjectName, UserName, Version};
use crate::store::codec::{self, Value};
use crate::store::key::{self, FilePath};
use crate::store::record::Dict;
use crate::store::txn::Read;

/// Where a version's record keeps its links.
const LINKS: &str = "+elinks";

/// What a link is to its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rel {
    /// A file that installers take.
    ReleaseFile,
    /// A zip of documentation.
    DocZip,
    /// A test result of a release file.
    ToxResult,
}

impl Rel {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReleaseFile => "releasefile",
            Self::DocZip => "doczip",
            Self::ToxResult => "toxresult",
        }
    }
}

/// One link of a release.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseLink(pub Dict);

impl ReleaseLink {
    /// The file's path.
    pub fn path(&self) -> &str {
        self.0.text("entrypath").unwrap_or_default()
    }
    /// The file's name.
    pub fn name(&self) -> &str {
        self.path().rsplit('/').next().unwrap_or_default()
    }
    /// Whether it is this kind of link.
    pub fn is(&self, rel: Rel) -> bool {
        self.0.text("rel") == Some(rel.as_str())
    }
    /// The release file that a test result is for.
    pub fn for_path(&self) -> Option<&str> {
        self.0.text("for_entrypath")
    }
    /// How often the file was replaced so far.
    pub fn overwrites(&self) -> i32 {
        let logs = self.0.items("_log").iter().cloned().filter_map(Dict::from_value);
        let counts = logs.filter(|log| log.text("what") == Some("overwrite"));
        counts
            .filter_map(|log| match log.get("count") {
                Some(Value::Int(count)) => Some(*count),
                _ => None,
            })
            .max()
            .unwrap_or(0)
    }
}

/// The links of a version's record.
pub fn links(record: &Dict) -> Vec<ReleaseLink> {
    record.items(LINKS).iter().cloned().filter_map(Dict::from_value).map(ReleaseLink).collect()
}

/// Puts links into a version's record.
pub fn set_links(record: &mut Dict, links: Vec<ReleaseLink>) {
    record.set(LINKS, Value::List(links.into_iter().map(|link| link.0.into_value()).collect()));
}

/// A version's record without the links and other fields that are not metadata.
pub fn metadata(record: &Dict) -> Dict {
    Dict(record.0.iter().filter(|(key, _)| !key.starts_with('+')).cloned().collect())
}

/// The bytes of a version's record with the given fields written over its own and one encoded link more, and the
/// Python that it asks for. `None` if the record has no links yet, lacks a given field, or asks for another Python
/// than the given one: those cases change more than one record.
pub fn append_link(
    record: &[u8],
    given: &[(&'static str, Value)],
    link: &[u8],
) -> Option<(Vec<u8>, String)> {
    let items = codec::dict_items(record).ok()?;
    let span =
        |key: &str| items.iter().find(|(name, _)| *name == key).map(|(_, span)| span.clone());
    let mut edits = Vec::new();
    for (key, value) in given {
        let (span, value) = (span(key)?, codec::encode(value));
        if record[span.clone()] != value[..] {
            if *key == "requires_python" {
                return None;
            }
            edits.push((span, value));
        }
    }
    let links = span(LINKS)?;
    edits.push((links.clone(), codec::list_push_known(&record[links], link)?));
    edits.sort_by_key(|(span, _)| span.start);
    let python = span("requires_python").map(|span| codec::decode(&record[span]));
    let python = match python {
        Some(Ok(Value::Str(python))) => python,
        _ => return None,
    };
    Some((codec::replace(record, edits), python))
}

/// An item for a link's log.
pub fn log_item(what: &str, who: Option<&UserName>, when: Value, more: (&str, Value)) -> Value {
    let mut item = Dict::new();
    item.set("what", what);
    item.set("who", who.map_or(Value::None, |who| who.as_str().into()));
    item.set("when", when);
    item.set(more.0, more.1);
    item.into_value()
}

/// The versions that one index holds of a project.
///
/// # Errors
/// `Kind::Internal` if the database fails.
pub fn versions(txn: &impl Read, index: &IndexName, project: &ProjectName) -> Result<Vec<Version>> {
    let names = txn.get(&key::Versions(index, project))?.unwrap_or_default();
    Ok(names.0.iter().filter_map(|name| Version::parse(name).ok()).collect())
}

/// The file that a link names.
///
/// # Errors
/// `Kind::Internal` if the stored path is none.
pub fn file_path(text: &str) -> Result<FilePath> {
    FilePath::parse(text).ok_or_else(|| Error::internal(format!("'{text}' is no path of a file")))
}
